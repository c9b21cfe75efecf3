"""python -m lab: what it adds to numa-service replay and diff-profiles, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from groundtruth import GROUNDTRUTH
from replay.traced import PFNS, SPEC, Alloc, Free, render
from typer.testing import CliRunner

from lab.__main__ import app
from lab.tally import ExactReport
from numa_service.machine.spec import SpecError
from numa_service.procfs import SHOW
from numa_service.sim.replay_tally import ReplayReport
from numa_service.sim.trace_replay import Replay

ROOT = Path(__file__).resolve().parents[2]
MACHINE = """
name = "small"
distances = [[10, 20, 17], [20, 10, 28], [17, 28, 10]]
[[node]]
cpus = "0-1"
memory = "128MiB"
[[node]]
cpus = "2"
memory = "64MiB"
[[node]]
memory = "32MiB"
"""

run = CliRunner().invoke


@pytest.fixture
def machine(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(MACHINE)
    return str(path)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Between two captures of the idle machine."""
    path = tmp_path / "trace"
    path.write_text(render([Alloc(0, PFNS[0]), Alloc(2, PFNS[1], 3), Free(2, PFNS[0])]))
    snapshot = next(iter(Replay(SPEC).sim.nodes.values())).machine.snapshot()
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        for file in ("zoneinfo", "buddyinfo", "pagetypeinfo"):
            (tmp_path / name / f"{file}.txt").write_text(SHOW[file](snapshot))
    return str(path)


def test_report(machine: str, trace: str) -> None:
    result = run(app, ["replay", trace, "--machine", machine])
    assert result.exit_code == 0
    for text in (
        "issued 2 allocations and 1 frees: 100.00 %",
        "same page as in the traced kernel: ",
        "0 allocations followed a policy that the trace shows; the nodes of the other 2 were computed",
        "free pages minus those of the traced kernel, over time",
        "beside the capture made after tracing, pages",
    ):
        assert text in result.stdout
    assert "…" not in result.stdout


def test_json_is_that_of_replay_and_more(machine: str, trace: str) -> None:
    result = run(app, ["replay", trace, "--machine", machine, "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    own = {"trace", "interrupted", "seconds", "events_per_second", "matched", "exact_start", "divergence"}
    assert set(report) == own | set(ExactReport.__dataclass_fields__)
    assert set(ExactReport.__dataclass_fields__) > set(ReplayReport.__dataclass_fields__)
    assert report["exact_start"] is True
    assert report["agreement"]["same_node"] == report["agreement"]["compared"] == 2
    assert {len(sample["traced_free"]) for sample in report["samples"]} == {len(report["divergence"])} == {4}
    after = {(zone["nid"], zone["zone"]): zone for zone in report["divergence"]}
    assert after[1, "DMA32"]["traced_free"] - after[1, "DMA32"]["free"] >= 8


def test_without_pagetypeinfo_as_many_pages_are_held_as_were_in_use(machine: str, trace: str) -> None:
    (Path(trace).parent / "before" / "pagetypeinfo.txt").unlink()
    report = json.loads(run(app, ["replay", trace, "--machine", machine, "--json"]).stdout)
    assert report["exact_start"] is False
    assert report["divergence"][0]["traced_free_then"] is None


def test_another_machine_is_refused(trace: str) -> None:
    result = run(app, ["replay", trace, "--machine", "two-socket"])
    assert isinstance(result.exception, SpecError)
    assert str(result.exception).startswith("two-socket is not the machine of ")


def test_a_capture_is_required(machine: str, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "trace").write_text(render([Alloc(0, PFNS[0])]))
    result = run(app, ["replay", str(tmp_path / "alone" / "trace"), "--machine", machine])
    assert isinstance(result.exception, SpecError)
    assert "no directory before/" in str(result.exception)


def test_an_error_of_the_users_is_one_line(trace: str) -> None:
    command = [sys.executable, "-m", "lab", "replay", trace, "--machine", "two-socket"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 1
    assert done.stderr.startswith("lab: two-socket is not the machine of ")
    assert done.stderr.count("\n") == 1


def test_a_trace_under_each_kernel_starts_from_the_captured_memory(machine: str, trace: str) -> None:
    result = run(app, ["diff-profiles", trace, "--machine", machine, "--json", "--all"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    values = {(row["group"], row["what"]): row["values"] for row in report["differences"]}
    assert values["allocations", "served"] == dict.fromkeys(report["profiles"], "2")
    # the captured memory under every kernel
    free = {values["free at the end", "2:DMA32"][profile] for profile in report["profiles"]}
    captured = json.loads(run(app, ["replay", trace, "--machine", machine, "--json"]).stdout)
    assert free == {str(zone["free"]) for zone in captured["zones"] if zone["nid"] == 2}


def test_a_captured_trace_on_its_topology() -> None:
    trace = GROUNDTRUTH / "traces/numa-2n-big/forkmix"
    machine = GROUNDTRUTH / "topologies/numa-2n-big"
    result = run(app, ["replay", str(trace), "--machine", str(machine), "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["exact_start"]
    assert sum(report["events"].values()) == 323_671
    assert report["agreement"]["same_node"] == report["agreement"]["compared"] == report["allocs"]
    assert all(zone["conserved"] for zone in report["zones"])
