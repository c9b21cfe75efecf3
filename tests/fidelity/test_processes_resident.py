"""Captured scripts with pages: what is mapped, how often, and smaps and numa_maps are as captured."""

from __future__ import annotations

import pytest
from fidelity.processes_resident import NOT_COMPARED, ResidentReplay
from groundtruth import GROUNDTRUTH

PROCESSES = GROUNDTRUTH / "processes"
#: By capture: what was compared.
COUNTS = {
    "2n2c-k61/basic": 10551,
    "2n2c-k61/policy": 4035,
    "2n2c-k61/sparse": 28,
    "2n2c-k61/thp": 3563,
    "2n2c-k612/basic": 10551,
    "2n2c-k612/policy": 6878,
    "2n2c-k612/thp": 3596,
    "4n1c-k61/basic": 8887,
    "4n1c-k61/policy": 4035,
    "4n1c-k612/policy": 6878,
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_step_is_as_captured(name: str) -> None:
    replay = ResidentReplay(PROCESSES / name)
    compared = replay.run()
    assert [one for one in compared if one.captured != one.computed] == []
    assert len(compared) == COUNTS[name]
    # and nothing is left but what is in memory of files on disks, and the huge page of zeros
    caches = [cache for (path, _), cache in replay.caches.items() if path.startswith("/mnt")]
    zeros = replay.frames.thp.shrink_zero_page() if replay.frames.thp is not None else 0
    assert zeros == (512 if replay.thp else 0)
    assert replay.source.out == sum(len(cache.all()) for cache in caches)
    assert replay.table_pages.out == 0


def test_all_captures_with_pages_are_compared() -> None:
    found = {str(path.parent.relative_to(PROCESSES)) for path in PROCESSES.glob("*/*/s.gps")}
    assert {name for name in found if name.split("/")[1] not in NOT_COMPARED} == set(COUNTS)
