"""numa-service why: text, JSON, exit status; every claim is run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer
from skips import NO_MEM_INFO
from typer.testing import CliRunner

from numa_service.cli import why as command
from numa_service.machine import verdict as v
from numa_service.machine.formats.mem_info import parse_mem_info
from numa_service.machine.formats.mem_info_machine import machine_of
from numa_service.machine.spec import SpecError
from numa_service.node.occupy import too_large
from numa_service.sim.claims import run_as_it_was, run_remedies

REPORTS = Path(__file__).parents[1] / "testdata" / "mem_info"
CORPUS = Path(os.environ.get("NUMA_MEM_INFO", "/nonexistent"))
app = typer.Typer(pretty_exceptions_enable=False)
command.register(app)
run = CliRunner().invoke


def answer(name: str, *changes: tuple[str, str], code: int = 0) -> dict[str, Any]:
    text = (REPORTS / f"{name}.txt").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    result = run(app, ["-", "--json"], input=text)
    assert result.exit_code == code, result.stderr
    tree: dict[str, Any] = json.loads(result.stdout)
    return tree


def claims(tree: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    return {claim["text"].split("=")[0]: (claim["helps"], claim["result"]) for claim in tree["claims"]}


def test_text_for_a_tired_engineer() -> None:
    result = run(app, [str(REPORTS / "bound.txt")])
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "Node 1 Normal, the only zone that the request may use, is 656 pages (2.6 MiB) short of min; without "
        "the boost of 1024 pages it would pass; node 0 Normal, which is not allowed, had 1.5 GiB free."
    )
    assert lines[1] == (
        "What would have served it: policy and cpuset that allow nodes 0-1 (node 0 Normal); 2 more below."
    )
    assert lines[2].startswith(
        "The request: loader (Linux 6.1.90-1): OOM kill, order 0, 0x140cca(GFP_HIGHUSER"
    )
    assert lines[2].endswith("constraint memory policy; killed: loader.")
    assert "  node 0 Normal  free 400000: its node is not allowed" in lines
    assert (
        "  node 1 Normal  free 6000 against 6656 (min 6656 with a boost of 1024): 656 short "
        "(368 above without the boost)"
    ) in lines
    assert "Largest of the 2 tasks shown: loader 1.8 GiB, sshd 1.2 MiB." in lines


def test_where_memory_was_used_up_it_is_said_who_had_it() -> None:
    assert answer("bound")["used_up"] == []  # there was more on a node that was not allowed
    full = ("nodemask=1", "nodemask=0-1"), ("free:1600000kB", "free:22000kB")
    (said,) = answer("bound", *full)["used_up"]
    assert said == (
        "Memory was used up: anonymous 1.8 GiB of 3.8 GiB, loader 1.8 GiB of it. There was no swap."
    )


def test_claims_are_run_and_some_do_not_help() -> None:
    tree = answer("bound")
    assert (tree["explained"], tree["cause"], tree["disagree"]) == (True, "marks", False)
    assert tree["as_it_was"] == {"text": "the request as it was", "helps": False, "result": "still fails"}
    got = claims(tree)
    assert got["policy and cpuset that allow nodes 0-1"] == (True, "node 0 Normal")
    assert got["no boost of the marks (vm.watermark_boost_factor"] == (True, "node 1 Normal")
    assert got["vm.min_free_kbytes"] == (True, "node 1 Normal")
    assert got["the rules of linux-6.12"] == (False, "still fails")
    # those that help come first
    assert [claim["helps"] for claim in tree["claims"]] == sorted(got[0] for got in got.values())[::-1]


def test_a_smaller_order_is_served() -> None:
    tree = answer("pieces")
    assert tree["cause"] == "fragmentation"
    got = claims(tree)
    # there is no block of order 3 either
    assert got["order 2 (16 kB)"] == (True, "node 0 Normal")
    assert got["vm.min_free_kbytes"] == (False, "still fails")


def test_numbers_that_explain_nothing() -> None:
    tree = answer("enough", code=command.UNEXPLAINED)
    assert (tree["explained"], tree["cause"], tree["claims"]) == (False, "unknown", [])
    # asked again of a machine as full as that one, the request is served
    assert tree["as_it_was"]["result"] == "node 0 Normal"
    result = run(app, [str(REPORTS / "enough.txt")])
    assert result.exit_code == command.UNEXPLAINED
    assert "The numbers do not explain it: node 0 Normal is above its mark." in result.stdout
    assert "Run on a machine as full as this one, the request is served: node 0 Normal." in result.stdout


def test_the_verdict_stands_where_nothing_can_be_run() -> None:
    tree = answer("pieces", ("present:1048576kB", ""))
    assert (tree["cause"], tree["claims"]) == ("fragmentation", [])
    assert tree["not_run"] == "node 0 Normal: present is not printed: the zone's size is not known"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("hello\n", "no line of a zone"), ("Node 0 DMA free:1kB min:1kB\n" * 2, "a second time")],
)
def test_what_is_wrong_is_said(text: str, reason: str) -> None:
    result = run(app, ["-"], input=text)
    assert isinstance(result.exception, SpecError)
    assert reason in str(result.exception)


@pytest.mark.slow
def test_machines_of_public_reports_do_what_was_reported() -> None:
    if not (CORPUS / "index.tsv").is_file():
        pytest.skip(NO_MEM_INFO)
    run_ones = 0
    for path in sorted(CORPUS.glob("*.txt")):
        report = parse_mem_info(path.read_text(), path.name)
        verdict = v.judge(report)
        try:
            spec = machine_of(report, path.name, path.stem)
        except SpecError:
            continue  # sizes are not printed
        if too_large(spec) or verdict.cause in (v.CAUSE_MANUAL, v.CAUSE_ADDRESSES):
            continue
        run_ones += 1
        assert run_as_it_was(report, verdict, spec).helps is not verdict.explained, path.name
        if verdict.cause in v.FAILING:
            assert run_remedies(report, verdict, spec)
    assert run_ones >= 25
