"""numa-service trace: formats, filters, files, errors. Of a machine that is up: tests/cluster."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from numa_service.cli import replay
from numa_service.cli import trace as command

app = typer.Typer(pretty_exceptions_enable=False)
command.register(app)
replay.register(app)
run = CliRunner().invoke


def test_text_is_what_replay_reads(tmp_path: Path) -> None:
    file = tmp_path / "emitted.trace"
    result = run(app, ["trace", "demo", "--fill", "0=10%:anon", "--fill", "1=100", "-o", str(file)])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    assert result.stderr.splitlines() == [f"{len(lines):,} events"]
    again = run(app, ["replay", str(file), "--machine", "demo", "--no-occupancy", "--json"])
    assert again.exit_code == 0, again.stderr
    report = json.loads(again.stdout)
    assert report["allocs"] == report["frees"] == sum(": mm_page_alloc: " in line for line in lines)
    assert report["matched"] == report["wanted"]
    assert report["live_blocks"] == 0


def test_filters_and_count() -> None:
    options = ["--fill", "0=3000", "--node", "0", "--zone", "DMA32", "--event", "kmem:mm_page_alloc"]
    result = run(app, ["trace", "demo", *options, "--order", "0", "--count", "5", "--json"])
    assert result.exit_code == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(events) == 5
    assert {(e["event"], e["node"], e["order"], e["comm"]) for e in events} == {
        ("mm_page_alloc", 0, 0, "node0")
    }
    assert result.stderr == "5 events\n"


def test_chrome_is_one_json_document() -> None:
    result = run(app, ["trace", "demo", "--fill", "0=100%:file", "--event", "vmscan:*", "--format", "chrome"])
    assert result.exit_code == 0, result.stderr
    entries = json.loads(result.stdout)["traceEvents"]
    kswapd = [e for e in entries if e["name"] == "kswapd" and e["ph"] in "BE"]
    assert [e["ph"] for e in kswapd] == ["B", "E"] * (len(kswapd) // 2)
    assert kswapd


def test_perf_names_the_system() -> None:
    result = run(app, ["trace", "demo", "--fill", "2=10", "--event", "mm_page_free", "--format", "perf"])
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 10
    assert all(" kmem:mm_page_free: page=0x" in line for line in result.stdout.splitlines())


def test_what_is_not_there_is_said() -> None:
    for options, words in (
        ([], "say SOURCE, or --name"),
        (["demo", "--name", "up"], "say SOURCE, or --name"),
        (["demo", "--event", "mm_compaction_begin"], "no event is called 'mm_compaction_begin'"),
        (["demo", "--node", "9"], "there is no node 9"),
        (["demo", "--zone", "HighMem"], "there is no zone 'HighMem'"),
        (["demo", "--seconds", "1"], "only with --name"),
        (["--name", "up", "--fill", "0=1"], "only with SOURCE"),
    ):
        result = run(app, ["trace", *options])
        assert result.exit_code == 2, options
        assert words in " ".join(result.stderr.replace("│", " ").split()), result.stderr
    result = run(app, ["trace", "demo", "-o", "/nowhere/trace"])
    assert result.exit_code == 1
    assert "/nowhere/trace: No such file or directory" in result.stderr
