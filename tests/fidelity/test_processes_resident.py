"""Captured scripts with pages: what is mapped, how often, and smaps and numa_maps are as captured."""

from __future__ import annotations

import pytest
from fidelity.processes_resident import NOT_COMPARED, ResidentReplay
from groundtruth import GROUNDTRUTH

PROCESSES = GROUNDTRUTH / "processes"
#: By capture: what was compared.
COUNTS = {
    "2n2c-k61/basic": 9744,
    "2n2c-k61/policy": 3728,
    "2n2c-k612/basic": 9744,
    "2n2c-k612/policy": 6353,
    "4n1c-k61/basic": 8208,
    "4n1c-k61/policy": 3728,
    "4n1c-k612/policy": 6353,
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_step_is_as_captured(name: str) -> None:
    replay = ResidentReplay(PROCESSES / name)
    compared = replay.run()
    assert [one for one in compared if one.captured != one.computed] == []
    assert len(compared) == COUNTS[name]
    # and nothing is left but what is in memory of files on disks
    caches = [cache for (path, _), cache in replay.caches.items() if path.startswith("/mnt")]
    assert replay.source.out == sum(len(cache.all()) for cache in caches)
    assert replay.table_pages.out == 0


def test_all_captures_with_pages_are_compared() -> None:
    found = {str(path.parent.relative_to(PROCESSES)) for path in PROCESSES.glob("*/*/s.gps")}
    assert {name for name in found if name.split("/")[1] not in NOT_COMPARED} == set(COUNTS)
