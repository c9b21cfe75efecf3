"""numa-service compare: the table, JSON, the report, and what is wrong with a command line."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from numa_service.cli import compare as command

app = typer.Typer(pretty_exceptions_enable=False)
command.register(app)
run = CliRunner().invoke

PROGRAM = """
[[regions]]
name = "heap"
kind = "anon"
pages = 1000
[[phases]]
name = "fill"
events = 1000
accesses = [{ region = "heap", pattern = "sequential", write = 1.0 }]
[[phases]]
name = "use"
events = 5000
accesses = [{ region = "heap", pattern = "zipf", theta = 0.9 }]
"""
PAIR = ["two-socket,policy=bind:1", "two-socket", "two-socket,vm.swappiness=60"]


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(PROGRAM)
    return str(path)


def test_a_table_with_error_bars(program: str) -> None:
    result = run(app, [*PAIR, "--program", program, "--seeds", "3", "--progress"])
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if "two-socket" in line]
    assert [row.split("│")[1].strip() for row in rows] == ["1", "1", "3"]
    assert "policy=bind:1" in rows[2]
    assert " ± " in rows[2]
    assert "100.00" in rows[2]
    assert "two-socket: 90 %" in result.stderr


def test_json_has_every_run(program: str) -> None:
    result = run(app, [*PAIR, "--program", program, "--seeds", "2", "--first-seed", "5", "--json"])
    found = json.loads(result.stdout)
    best, same, last = found["variants"]
    assert [run["seed"] for run in best["runs"]] == [5, 6]
    assert best["runs"] == same["runs"]
    assert last["placement"] == {"1": 1.0}
    assert last["behind_best_ns"]["mean"] > 0


class Resources(HTMLParser):
    """What a page asks of others, and the elements that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.asked += [value or "" for name, value in attrs if name in ("src", "href", "data", "xlink:href")]


def test_the_report_is_one_file_and_the_same_for_the_same_seeds(program: str, tmp_path: Path) -> None:
    texts = []
    for name in ("a.html", "b.html"):
        page = tmp_path / name
        result = run(app, [*PAIR, "--program", program, "--seeds", "2", "--html", str(page)])
        assert result.exit_code == 0, result.output
        texts.append(page.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    found = Resources()
    found.feed(texts[0])
    assert found.asked == []
    assert not re.search(r"@import|url\(|<script|https?://", texts[0])
    assert found.tags.count("svg") == 4, "runtime, placement, and latency of two kinds"
    assert texts[0].count("<tr>") == 4


def test_what_has_no_effect_stands_in_the_report(program: str, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    variants = ["two-socket", "two-socket,vm.zone_reclaim_mode=1"]
    result = run(app, [*variants, "--program", program, "--seeds", "2", "--html", str(page)])
    assert "note: two-socket,vm.zone_reclaim_mode=1: vm.zone_reclaim_mode = 1 is kept" in result.stderr
    assert "changes nothing else here" in page.read_text()


def test_names_are_no_markup(tmp_path: Path, program: str) -> None:
    bad = tmp_path / "<b>&x.toml"
    bad.write_text('[[node]]\ncpus = "0"\nmemory = "64MiB"\n')
    page = tmp_path / "r.html"
    result = run(app, [str(bad), "two-socket", "--program", program, "--seeds", "1", "--html", str(page)])
    assert result.exit_code == 0, result.output
    assert "<b>" not in page.read_text()
    assert "&lt;b&gt;&amp;x.toml" in page.read_text()


def test_a_trace(tmp_path: Path) -> None:
    trace = tmp_path / "t.trace"
    trace.write_text(
        "        a-1 [000] ..... 1.000000: mm_page_alloc: page=0x1 pfn=0x1000 order=0 migratetype=1 "
        "gfp_flags=GFP_KERNEL\n"
    )
    result = run(app, ["two-socket", "demo", "--trace", str(trace), "--json"])
    assert result.exit_code == 0, result.output
    assert [len(one["runs"]) for one in json.loads(result.stdout)["variants"]] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["two-socket", "demo"], "give either --program or --trace"),
        (["two-socket", "--program", "stream"], "give 2 to 16 variants"),
        (["two-socket", "demo", "--trace", "x", "--cpu", "1"], "a trace has CPUs of its own"),
        (["two-socket", "demo", "--program", "stream", "--html", "/no/such/folder/x.html"], "is no file in"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str) -> None:
    result = run(app, arguments)
    assert result.exit_code == 2
    assert said in re.sub(r"\s+│?\s*│?\s*", " ", result.stderr)


def test_a_program_that_is_wrong_on_a_machine() -> None:
    result = run(app, ["two-socket,policy=bind:7", "demo", "--program", "stream", "--seeds", "1"])
    assert result.exit_code == 1
    assert result.stderr.strip().count("\n") == 0
    assert "numa-service: " in result.stderr
    assert "7" in result.stderr


def test_a_program_that_is_not_there() -> None:
    result = run(app, ["two-socket", "demo", "--program", "no-such"])
    assert result.exit_code == 1
    assert "no-such is no program of the library" in result.stderr
