"""``numa-loadgen program`` as a user runs it, against a machine that is served."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from loopback import Loopback
from numa_client import list_programs, program_text

ENDLESS = """
name = "endless"
[[phases]]
events = 4_000_000_000
[[phases.mixes]]
lifetime = { kind = "fixed", mean = 0.0001 }
"""


async def start(*arguments: str) -> asyncio.subprocess.Process:
    program = "from numa_loadgen.cli import main; main()"
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "program", *arguments, stdout=PIPE, stderr=PIPE
    )


async def run(*arguments: str) -> tuple[int | None, str, str]:
    process = await start(*arguments)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_list_and_show() -> None:
    code, out, _ = await run("list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == list(list_programs())
    assert await run("show", "stream") == (0, program_text("stream"), "")
    assert (await run("show", "nonsense"))[0] == 2


async def test_run_prints_what_came_of_it(demo: Loopback) -> None:
    code, out, err = await run("run", "stream", "--target", demo.address, "--node", "1", "--no-progress")
    assert (code, err) == (0, "")
    assert "triad, node 2" in out
    assert "pages accessed" in out
    assert "\x1b" not in out
    assert demo.node(1).sessions == {}


async def test_json(demo: Loopback) -> None:
    code, out, err = await run(
        "run", "fork-storm", "--target", demo.address, "--seed", "9", "--json", "--no-progress"
    )
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["program"], report["seed"]) == ("fork-storm", 9)
    assert [phase["name"] for phase in report["phases"]] == ["calm", "storm"]
    assert report["allocated_pages"] == report["freed_pages"]


async def test_a_refusal_is_1_and_names_the_field(demo: Loopback, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(ENDLESS.replace("events = 4_000_000_000", "name = 'endless'"))
    code, out, err = await run("run", str(file), "--target", demo.address)
    assert (code, out) == (1, "")
    assert "phases[0].seconds: the phase has no end" in err


async def test_wrong_usage_is_2(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("length = 3")
    for program in ("nonsense", str(file)):
        code, out, err = await run("run", program, "--target", "127.0.0.1:1")
        assert (code, out) == (2, "")
        assert "no program of" in err or "unknown key" in err


async def test_ctrl_c_ends_the_program(demo: Loopback, tmp_path: Path) -> None:
    demo.servers[0].node.observer = None
    file = tmp_path / "mine.toml"
    file.write_text(ENDLESS)
    process = await start("run", str(file), "--target", demo.address)
    async with asyncio.timeout(60):
        while not demo.node(0).held_pages():
            await asyncio.sleep(0.05)
        process.send_signal(2)
        await process.communicate()
    assert process.returncode == 130
    assert demo.node(0).sessions == {}
    assert demo.node(0).held_pages() == 0
