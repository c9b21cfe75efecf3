"""Rows of a benchmark that the host was too busy for are marked, and neither meet their goal nor miss it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def _load(name: str) -> ModuleType:
    """By its path: other folders have files of the same names as benchmarks/."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


host, table = _load("host"), _load("table")

IDLE = host.HostState(cpus=2, others=0.05, two_loops=1.98, spread=0.02, ticks=1000, stolen_ticks=0)
LATER = replace(IDLE, ticks=2000)


@pytest.mark.parametrize("unit", ["s", "ms", "ns", "µs/pair", "pages/s", "events/s"])
def test_what_takes_time_is_doubted_for_what_the_host_did(unit: str) -> None:
    assert host.doubt(unit, 2, IDLE, LATER) == ""
    assert host.doubt(unit, 2, IDLE, replace(LATER, two_loops=1.04)) == "two busy loops gave 1.0 × one"
    assert host.doubt(unit, 2, replace(IDLE, others=1.5), LATER) == "others kept 1.5 of 2 CPUs busy"
    assert "took 20 % of the time" in host.doubt(unit, 2, IDLE, replace(LATER, stolen_ticks=200))
    assert "took 30 % longer" in host.doubt(unit, 2, IDLE, replace(LATER, spread=0.3))


def test_one_cpu_is_enough_for_what_needs_one() -> None:
    one_taken = replace(IDLE, others=1.0, two_loops=1.1)
    assert host.doubt("ns", 1, one_taken, LATER) == ""
    assert host.doubt("ns", 2, one_taken, LATER)
    assert host.doubt("ns", 1, replace(IDLE, others=1.9), LATER)


@pytest.mark.parametrize("unit", ["MiB", "B/page", "B/event", "lookups", "CPU s", "calls/CPU s"])
def test_what_takes_no_time_is_not_doubted(unit: str) -> None:
    busy = host.HostState(cpus=2, others=2.0, two_loops=1.0, spread=3.0, ticks=2000, stolen_ticks=900)
    assert host.doubt(unit, 2, IDLE, busy) == ""


def test_a_row_in_doubt_neither_meets_its_goal_nor_misses_it(capsys: pytest.CaptureFixture[str]) -> None:
    missed = table.Row("two_nodes", 10.0, "pages/s", "one node", 10.0, 1.8)
    doubted = replace(missed, doubt="two busy loops gave 1.0 × one")
    assert (missed.met, doubted.met) == (False, None)
    table.show([missed])
    assert " NO " in capsys.readouterr().out
    table.show([doubted])
    said = capsys.readouterr().out
    assert " NO " not in said
    assert "? not to be trusted, as two busy loops gave 1.0 × one: two_nodes" in said
    assert doubted.as_json()["doubt"] == doubted.doubt


def test_a_host_that_others_keep_busy_is_seen() -> None:
    """As many busy programs as it takes: each CPU has two besides what is measured."""
    command = [sys.executable, "-I", "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(2 * len(os.sched_getaffinity(0)))]
    try:
        state = host.measure()
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert state.others > 0.5 * state.cpus
    assert "CPUs busy" in host.doubt("pages/s", state.cpus, state, state)


def test_a_part_can_be_measured_by_itself() -> None:
    command = [sys.executable, BENCHMARKS / "bench.py", "no-such-part"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "no part no-such-part: there are mm, slab, tasks, memory, " in done.stderr
