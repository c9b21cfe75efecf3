"""numa-loadgen as a user runs it: in a process of its own, with a pipe as stdout, and signals."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process

import pytest
from numa_loadgen.display import progress_line, summary
from numa_loadgen.report import Recorder, Step
from reference_peer import ReferenceMachine
from rich.console import Console


async def start(*arguments: str) -> Process:
    program = "from numa_loadgen.cli import main; main()"
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "run", *arguments, stdout=PIPE, stderr=PIPE
    )


async def run(*arguments: str) -> tuple[int | None, str, str]:
    process = await start(*arguments)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_json_is_the_report(peer: ReferenceMachine) -> None:
    code, out, err = await run(
        "--target", peer.addresses[0], "--operations", "40", "--policy", "interleave:0-1", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert (report["operations"], report["workload"], report["clients"]) == (40, "mixed", 4)
    assert {"p50_ms", "p90_ms", "p99_ms", "max_ms", "operations"} == set(report["wall"])
    assert list(peer.calls["AllocPages"][0].policy.nodes) == [0, 1]


async def test_table_on_stdout_nothing_on_stderr(peer: ReferenceMachine) -> None:
    code, out, err = await run("--target", peer.addresses[0], "--operations", "40", "--no-progress")
    assert (code, err) == (0, "")
    assert "mixed: 4 clients" in out
    assert "virtual ns per page, mean" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_closes_the_sessions_and_prints_the_summary(
    peer: ReferenceMachine, number: signal.Signals, status: int
) -> None:
    process = await start("--target", peer.addresses[0], "--duration", "600", "--workload", "fill", "--json")
    await peer.wait_for_calls("AllocPages", 20)
    process.send_signal(number)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == status
    report = json.loads(out)
    assert report["interrupted"]
    assert report["operations"] >= 16
    assert peer.sessions == set()
    assert not peer.owner.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workload", "nonsense"), "choose from"),
        (("--policy", "bind:x"), "not a node"),
        (("--duration", "0"), "duration_seconds must be"),
        (("--cpu", "0", "--node", "0"), "not both"),
    ],
)
async def test_wrong_usage_is_2(arguments: tuple[str, ...], message: str) -> None:
    code, out, err = await run("--target", "127.0.0.1:1", *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())


async def test_a_refusal_is_1_and_one_line(peer: ReferenceMachine) -> None:
    code, out, err = await run("--target", peer.addresses[0], "--gfp", "BOGUS", "--workload", "fill")
    assert (code, out) == (1, "")
    assert err == f"numa-loadgen: {peer.addresses[0]}: unknown gfp flag 'BOGUS'\n"


async def test_nothing_done_is_1(peer: ReferenceMachine) -> None:
    arguments = ("--workload", "fill", "--count", "4096", "--operations", "3")
    code, out, err = await run("--target", peer.addresses[0], *arguments)
    assert code == 1
    assert "RESOURCE_EXHAUSTED 3" in out
    assert "no operation succeeded" in err


def test_plain_line_and_summary_say_the_numbers() -> None:
    recorder = Recorder()
    recorder.step(Step("alloc", pages={0: 3000, 1: 1000}, latency_ns=800), wall_seconds=0.002, home=0)
    recorder.error("RESOURCE_EXHAUSTED", "out of memory")
    recorder.error("RESOURCE_EXHAUSTED", "no more")
    line = progress_line(recorder.progress(2.0, 10.0))
    assert "2,000 pages/s  held 4,000  local 75.0%" in line
    assert line.endswith("errors RESOURCE_EXHAUSTED 2")
    console = Console(width=100)
    with console.capture() as captured:
        console.print(
            summary(
                recorder.report(
                    workload="fill", clients=2, elapsed_seconds=2.0, interrupted=True, open_loop=True
                )
            )
        )
    text = captured.get()
    assert "fill: 2 clients, 2.0 s, interrupted" in text
    assert "wall ms since each request was due" in text
    assert "on node 1" in text
    assert re.search(r"first RESOURCE_EXHAUSTED .* out of memory", text)
