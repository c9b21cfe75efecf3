"""`why` on public reports, as numbers: the verdicts that docs/why.md shows beside what people concluded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from numa_service.cli import why as command
from numa_service.machine.formats.mem_info import parse_mem_info
from numa_service.machine.verdict import judge

ROOT = Path(__file__).resolve().parents[2]
REPORTS = sorted((ROOT / "tests/testdata/public/reports").glob("*.txt"))
OURS = ROOT / "tests/testdata/mem_info/enough.txt"
UNEXPLAINED = {"01", "10", "11", "29", "enough"}
app = typer.Typer(pretty_exceptions_enable=False)
command.register(app)


def shown() -> dict[str, list[str]]:
    """Cells of the page's table by report."""
    text = (ROOT / "docs/why.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if re.match(r"\| \d\d \|", line)]
    return {row[0].removeprefix("| "): [*row[1:-1], row[-1].removesuffix(" |")] for row in rows}


def answer(path: Path, code: int) -> dict[str, Any]:
    result = CliRunner().invoke(app, [str(path), "--json"])
    assert result.exit_code == code, result.output
    tree: dict[str, Any] = json.loads(result.stdout)
    return tree


@pytest.mark.parametrize("path", [*REPORTS, OURS], ids=lambda path: path.stem)
def test_the_verdict_is_the_one_that_is_shown(path: Path) -> None:
    verdict = judge(parse_mem_info(path.read_text(), path.name))
    assert verdict.explained == (path.stem not in UNEXPLAINED)
    assert shown().get(path.stem, verdict.text[:1])[-1].rstrip(".") == verdict.text[0].rstrip(".")


@pytest.mark.parametrize("name", sorted(UNEXPLAINED - {"enough"}))
def test_the_numbers_do_not_explain_it(name: str) -> None:
    tree = answer(ROOT / f"tests/testdata/public/reports/{name}.txt", command.UNEXPLAINED)
    assert tree["claims"] == []
    assert tree["verdict"][0].startswith("The numbers do not explain it: ")


def test_every_report_is_shown() -> None:
    assert {*shown()} == {path.stem for path in REPORTS}
    assert len(shown()) >= 10
