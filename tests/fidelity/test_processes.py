"""Captured scripts of memory operations, done again: VMAs, their flags and sizes are as captured."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fidelity.processes import Replay
from groundtruth import GROUNDTRUTH

PROCESSES = GROUNDTRUTH / "processes"
#: By capture: steps, and what was compared in them.
COUNTS = {
    "2n2c-k61/basic": (65, 2670),
    "2n2c-k61/policy": (53, 1612),
    "2n2c-k61/sparse": (25, 709),
    "2n2c-k61/swap": (27, 725),
    "2n2c-k61/thp": (34, 1068),
    "2n2c-k612/basic": (65, 2670),
    "2n2c-k612/policy": (64, 2039),
    "2n2c-k612/thp": (34, 1068),
    "4n1c-k61/basic": (65, 2670),
    "4n1c-k61/policy": (53, 1612),
    "4n1c-k612/policy": (64, 2038),
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_step_is_as_captured(name: str) -> None:
    replay = Replay(PROCESSES / name)
    compared = replay.run()
    assert [one for one in compared if one.captured != one.computed] == []
    assert (len(replay.steps), len(compared)) == COUNTS[name]


def test_all_captures_are_compared() -> None:
    found = {str(path.parent.relative_to(PROCESSES)) for path in PROCESSES.glob("*/*/s.gps")}
    assert found == set(COUNTS)


def test_a_difference_is_seen(tmp_path: Path) -> None:
    shutil.copytree(PROCESSES / "2n2c-k61", tmp_path / "k61")
    step = tmp_path / "k61/basic/steps/step006.txt"
    step.write_text(step.read_text().replace("r--p 00000000 00:00 0", "r-xp 00000000 00:00 0"))
    different = [one for one in Replay(tmp_path / "k61/basic").run() if one.captured != one.computed]
    assert {one.step for one in different} == {"step 6"}
    assert {"maps", "VmFlags"} >= {one.what for one in different} >= {"maps"}
