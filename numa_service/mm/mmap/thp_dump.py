"""Huge pages of a machine as plain data, for snapshots and digests; processes are in ``dump.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import numpy as np

from numa_service.mm.mmap.thp import HugePage, KhugepagedScan, Mapper, Thp, ThpSettings


def dump_thp(thp: Thp, processes: Mapping[int, Mapper]) -> list[Any]:
    """All that decides a later answer; processes by their numbers."""
    number = {process: key for key, process in processes.items()}
    scan = thp.scan
    return [
        astuple(thp.settings),
        sorted(thp.events.items()),
        [
            (head, [(number[who], index) for who, index in page.pmds], _shared(thp, head).tobytes())
            for head, page in thp.huge.items()
        ],
        list(thp.deferred),
        (thp.zero, [number[who] for who in thp.zero_users]),
        (
            [number[who] for who in scan.slots],
            None if scan.current is None else number[scan.current],
            scan.address,
            scan.full_scans,
            scan.pages_collapsed,
            scan.slept,
            scan.paused,
            scan.last_target,
        ),
    ]


def load_thp(thp: Thp, dumped: list[Any], processes: Mapping[int, Mapper]) -> None:
    """Make a new Thp what :func:`dump_thp` was given; `processes` are those that were loaded, by number."""
    settings, events, huge, deferred, (zero, users), (slots, current, *rest) = dumped
    thp.settings = ThpSettings(*settings)
    thp.events = dict(events)
    for head, pmds, shared in huge:
        thp.adopt(head)
        thp.huge[head] = HugePage({(processes[key], index): None for key, index in pmds})
        _shared(thp, head)[:] = np.frombuffer(shared, np.bool_)
    thp.nr_anon = sum(bool(page.pmds) for page in thp.huge.values())
    thp.deferred = dict.fromkeys(deferred)
    thp.zero, thp.zero_users = zero, {processes[key]: None for key in users}
    address, full_scans, pages_collapsed, slept, paused, last_target = rest
    thp.scan = KhugepagedScan(
        {processes[key]: None for key in slots},
        None if current is None else processes[current],
        address,
        full_scans,
        pages_collapsed,
        None if slept is None else tuple(slept),
        None if paused is None else tuple(paused),
        last_target,
    )


def _shared(thp: Thp, head: int) -> Any:
    return thp.shared[head : head + thp.nr]
