"""numa-service replay: report, JSON, defaults, errors, Ctrl-C."""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from groundtruth import GROUNDTRUTH
from replay.traced import PFNS, SPEC, Alloc, Free, render
from rich.console import Console
from typer.testing import CliRunner, Result

from numa_service.cli import convert_trace
from numa_service.cli import replay as command
from numa_service.cli.progress import file_progress
from numa_service.machine.boot import start_kernel
from numa_service.machine.source import load
from numa_service.machine.spec import SpecError
from numa_service.procfs import SHOW
from numa_service.sim.replay_tally import ReplayReport
from numa_service.sim.trace_replay import Replay
from numa_service.trace.events import TraceError

MACHINE = """
name = "small"
[[node]]
cpus = "0-1"
memory = "128MiB"
[[node]]
cpus = "2"
memory = "64MiB"
"""

app = typer.Typer(pretty_exceptions_enable=False)
command.register(app)
run = CliRunner().invoke


@pytest.fixture
def machine(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(MACHINE)
    return str(path)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace"
    path.write_text(render([Alloc(0, PFNS[0]), Alloc(2, PFNS[1], 3), Free(2, PFNS[0]), Free(0, 1)]))
    return str(path)


def test_report(machine: str, trace: str) -> None:
    result = run(app, [trace, "--machine", machine])
    assert result.exit_code == 0
    for text in (
        "small: 4 events",
        "issued 2 allocations and 1 frees: 75.00 %",
        "node 100.00 %, zone 100.00 % of 2 allocations",
        "frees of pages allocated before tracing began",
        "blocks still held at the end (8 pages)",
        "conservation: free + pagesets + held = managed in every zone",
        "Node 1, zone    DMA32",
    ):
        assert text in result.stdout
    assert "…" not in result.stdout


def test_json_has_the_keys_of_the_report(machine: str, trace: str) -> None:
    result = run(app, [trace, "--machine", machine, "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    own = {"trace", "interrupted", "seconds", "events_per_second", "matched"}
    assert set(report) == own | set(ReplayReport.__dataclass_fields__)
    assert (report["allocs"], report["frees"], report["wanted"], report["matched"]) == (2, 1, 4, 3)
    assert report["unmatched"]["free_of_page_allocated_before_trace"] == 1
    assert report["interrupted"] is False
    assert report["problems"] == []


def capture_beside(trace: str) -> None:
    snapshot = next(iter(Replay(SPEC).sim.nodes.values())).machine.snapshot()
    before = Path(trace).parent / "before"
    before.mkdir()
    (before / "zoneinfo.txt").write_text(SHOW["zoneinfo"](snapshot))
    empty = [" ".join([*line.split()[:4], *["0"] * 11]) for line in SHOW["buddyinfo"](snapshot).splitlines()]
    (before / "buddyinfo.txt").write_text("\n".join(empty) + "\n")


def test_what_lies_beside_the_trace_is_held(machine: str, trace: str) -> None:
    capture_beside(trace)
    full = json.loads(run(app, [trace, "--machine", machine, "--json"]).stdout)
    empty = json.loads(run(app, [trace, "--machine", machine, "--json", "--no-occupancy"]).stdout)
    assert full["unmatched"]["alloc_failed_here"] == 2
    assert sum(held["held"] for held in full["in_use"]) > 30_000
    assert empty["unmatched"]["alloc_failed_here"] == 0
    assert empty["in_use"] == []


def test_usage(machine: str, trace: str) -> None:
    result = run(app, [trace, "--machine", machine, "--occupancy", "x", "--no-occupancy"])
    assert result.exit_code == 2
    assert "not together with --no-occupancy" in result.stderr


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, TraceError, "No such file or directory"),
        (b"", TraceError, "trace"),
        (b"PERFILE2 and so on", TraceError, "perf.data"),
        (b"\x1f\x8b\x08\x00", TraceError, "truncated gzip"),
    ],
)
def test_a_bad_trace_is_one_line(
    machine: str, tmp_path: Path, content: bytes | None, error: type[Exception], message: str
) -> None:
    path = tmp_path / "bad"
    if content is not None:
        path.write_bytes(content)
    result = run(app, [str(path), "--machine", machine])
    assert isinstance(result.exception, error)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert result.stdout == ""


def test_a_machine_is_required_where_the_trace_has_none(trace: str) -> None:
    result = run(app, [trace])
    assert isinstance(result.exception, SpecError)
    assert str(result.exception).startswith("--machine SOURCE is required: there is no zoneinfo.txt in ")


def test_a_whole_capture_is_its_own_machine(trace: str) -> None:
    (Path(trace).parent / "zoneinfo.txt").write_text(SHOW["zoneinfo"](start_kernel(load("uma")).snapshot()))
    result = run(app, [trace, "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["allocs"] == 2


def test_ctrl_c_prints_the_report_so_far(machine: str, tmp_path: Path) -> None:
    """The trace is a pipe: the signal comes while the command waits for the first event."""
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)

    def interrupt_then_write() -> None:
        with fifo.open("w") as pipe:  # opens when the command does
            os.kill(os.getpid(), signal.SIGINT)
            pipe.write(render([Alloc(0, PFNS[0] + i) for i in range(100)]))

    writer = threading.Thread(target=interrupt_then_write)
    handler = signal.getsignal(signal.SIGINT)
    writer.start()
    result = run(app, [str(fifo), "--machine", machine, "--json"])
    writer.join()
    assert result.exit_code == 130
    report = json.loads(result.stdout)
    assert report["interrupted"] is True
    assert report["allocs"] == 0
    assert report["problems"] == []
    assert signal.getsignal(signal.SIGINT) is handler


# the columnar file


@pytest.fixture
def convert() -> Callable[..., Result]:
    converter = typer.Typer(pretty_exceptions_enable=False)
    convert_trace.register(converter)
    return functools.partial(run, converter)


def test_a_converted_trace_replays_alike(
    machine: str, trace: str, tmp_path: Path, convert: Callable[..., Result]
) -> None:
    output = tmp_path / "t.ntrace"
    result = convert([trace, str(output), "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["events"], found["lines"], found["skipped_lines"]) == (4, 6, 0)
    assert found["bytes"] == output.stat().st_size
    text, columnar = (
        json.loads(run(app, [source, "--machine", machine, "--json"]).stdout)
        for source in (trace, str(output))
    )
    for report in (text, columnar):
        for own in ("trace", "seconds", "events_per_second"):
            del report[own]
    assert columnar == text


def test_progress_is_said_where_it_is_wanted(
    machine: str, trace: str, tmp_path: Path, convert: Callable[..., Result]
) -> None:
    size = Path(trace).stat().st_size
    said = convert([trace, str(tmp_path / "a"), "--progress"])
    assert f"parsing: 100 % of {size} bytes" in said.stderr
    assert "parsing" not in said.stdout
    assert f"replaying: 100 % of {size} bytes" in run(app, [trace, "--machine", machine, "--progress"]).stderr
    assert convert([trace, str(tmp_path / "b")]).stderr == ""  # not a terminal
    assert run(app, [trace, "--machine", machine]).stderr == ""


def test_on_a_terminal_there_is_a_bar_unless_not_wanted(trace: str) -> None:
    for wanted, bar in ((None, True), (True, True), (False, False)):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=100)
        with file_progress(console, "parsing", Path(trace), wanted) as report:
            assert (report is not None) == bar
            if report:
                report(50, 100)
        assert ("parsing" in screen.getvalue()) == bar


def test_ctrl_c_leaves_no_columnar_file(tmp_path: Path, convert: Callable[..., Result]) -> None:
    """The trace is a pipe: the signal comes while the command reads it."""
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)

    def write_then_interrupt() -> None:
        with fifo.open("w") as pipe:
            pipe.write(render([Alloc(0, PFNS[0] + i) for i in range(100)]))
            pipe.flush()
            os.kill(os.getpid(), signal.SIGINT)

    writer = threading.Thread(target=write_then_interrupt)
    writer.start()
    result = convert([str(fifo), str(tmp_path / "t.ntrace")])
    writer.join()
    assert result.exit_code == 130
    assert "was not written" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_where_nothing_can_be_written(trace: str, tmp_path: Path, convert: Callable[..., Result]) -> None:
    result = convert([trace, str(tmp_path / "absent" / "t.ntrace")])
    assert isinstance(result.exception, TraceError)
    assert "name a file in a directory" in str(result.exception)


def test_a_captured_trace_on_another_machine() -> None:
    """As many pages are held as were in use, where there are zones of the same names."""
    trace = GROUNDTRUTH / "traces/numa-2n-big/forkmix"
    result = run(app, [str(trace), "--machine", "four-ring", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert sum(report["events"].values()) == 323_671
    assert report["allocs"] == report["agreement"]["compared"] == 93_145
    assert all(held["held"] == held["wanted"] > 0 for held in report["in_use"] if held["zone"] == "DMA32")
    assert all(zone["conserved"] for zone in report["zones"])
