"""The comparison, on excerpts of captures that are part of the tests and so are always there."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fidelity.compare import Field, compare
from fidelity.hotplug import compare_hotplug
from fidelity.table import row
from fidelity.workloads import compare_workload, machine_of_workload

HERE = Path(__file__).resolve().parent
CAPTURES = HERE.parent / "testdata" / "captures"
HOTPLUG = CAPTURES / "workloads" / "numa-4n-ring" / "i-hotremove"


@pytest.mark.parametrize("capture", sorted((CAPTURES / "topologies").iterdir()), ids=lambda path: path.name)
def test_every_number_of_a_boot_and_of_what_was_written_after_it_is_exact(capture: Path) -> None:
    fields = list(compare(capture))
    assert {field.kind for field in fields} >= {"min", "protection", "pageset batch", "zone extents"}
    assert [field for field in fields if not field.equal] == []
    assert not any(field.slack for field in fields)


def test_marks_stay_as_at_boot_until_something_makes_them_anew(tmp_path: Path) -> None:
    """With sysctls written in another order, the watermarks of the first files are not the captured ones."""
    capture = tmp_path / "capture"
    shutil.copytree(CAPTURES / "topologies" / "sysctls-one-by-one", capture)
    (capture / "guest.sh").write_text(
        "sc min_free_kbytes-9000\n"
        "sc lowmem_reserve_ratio-256_256_32_0_0\n"
        "sc percpu_pagelist_high_fraction-40\n"
    )
    wrong = {(field.file, field.kind) for field in compare(capture) if not field.equal}
    assert ("after-lowmem_reserve_ratio-256_256_32_0_0", "low") in wrong


def test_the_command_fails_on_a_number_that_is_one_off(tmp_path: Path) -> None:
    shutil.copytree(CAPTURES / "topologies" / "under-512m", tmp_path / "capture")
    zoneinfo = tmp_path / "capture" / "zoneinfo.txt"
    text = zoneinfo.read_text()
    low = next(line for line in text.splitlines() if line.startswith("        low "))
    command = [sys.executable, HERE / "table.py", tmp_path]

    right = subprocess.run(command, capture_output=True, text=True)
    assert right.returncode == 0, right.stdout
    zoneinfo.write_text(text.replace(low, f"        low      {int(low.split()[1]) + 1}"))
    wrong = subprocess.run(command, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "DIFFERENT" in wrong.stdout
    zoneinfo.write_text(text[:-100])
    cut = subprocess.run(command, capture_output=True, text=True)
    assert cut.returncode == 1
    assert "UNREADABLE capture: SpecError" in cut.stdout


def test_zones_are_computed_anew_when_a_block_goes() -> None:
    spec = machine_of_workload(HOTPLUG)
    assert spec is not None
    fields = list(compare_hotplug(HOTPLUG, spec))
    assert {field.kind for field in fields} >= {"min_free_kbytes", "managed", "low", "pageset high"}
    assert [field for field in fields if not field.equal] == []
    # capped at 5 % of what lies above the high marks of before: they are part of the result
    (captured,) = {field.captured for field in fields if field.kind == "min_free_kbytes"}
    assert captured == 87272


def test_a_step_that_is_left_out_is_named(tmp_path: Path) -> None:
    """A step whose policy is not modelled is listed as skipped, not left out silently."""
    workload = tmp_path / "workloads" / "numa-4n-ring" / "lottery"
    shutil.copytree(CAPTURES / "topologies" / "numa-4n-ring", tmp_path / "topologies" / "numa-4n-ring")
    workload.mkdir(parents=True)
    shutil.copy(HOTPLUG / "version.txt", workload)
    (workload / "steps.json").write_text(
        '[{"step": 0, "command": "policy lottery 0,1"}, {"step": 1, "command": "alloc W 8", "rc": 0}]'
    )
    skipped: list[str] = []
    assert list(compare_workload(workload, skipped)) == []
    assert skipped == ["numa-4n-ring/lottery step 1 alloc W 8: its policy is not modelled"]


def test_a_number_counts_once() -> None:
    first = Field("capture", "boot", "pageset batch", "0:DMA", captured=63, computed=63, cpu=0)
    later = dataclasses.replace(first, file="after-watermark_scale_factor-50", cpu=1)
    other = dataclasses.replace(first, where="0:Normal")
    assert first.number == later.number != other.number
    assert first.number != dataclasses.replace(later, captured=31, computed=31).number
    assert dataclasses.replace(first, computed_here=False).number is None
    assert dataclasses.replace(first, captured=0, computed=0).number is None
    # what differs is never left out
    assert dataclasses.replace(first, captured=0).number
    assert dataclasses.replace(first, captured=62, computed_here=False).number


def test_repeated_numbers_are_as_good_as_the_worst_of_them() -> None:
    field = Field("capture", "boot", "low", "0:DMA", captured=57, computed=57)
    assert row("x", [field, field]) == "| x | 2 | 1 | 1 | 0 | 0 |\n"
    off = dataclasses.replace(field, computed=58)
    assert row("x", [field, off]) == "| x | 2 | 1 | 0 | 0 | 1 |\n"
    assert row("x", [field, dataclasses.replace(off, slack=1)]) == "| x | 2 | 1 | 0 | 1 | 0 |\n"


def test_a_field_without_slack_is_explained_only_when_it_is_equal() -> None:
    field = Field("capture", "boot", "min", "0:DMA", captured=57, computed=58)
    assert not field.explained
    assert dataclasses.replace(field, computed=57).explained
    assert dataclasses.replace(field, slack=1).explained
