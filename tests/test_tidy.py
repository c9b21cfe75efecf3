"""House rules that a linter does not know."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRACKED = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
]
SOURCES = [p for p in TRACKED if p.suffix == ".py" and "_gen" not in p.parts and p.exists()]

MAX_LINES = 700


def test_files_fit_a_head() -> None:
    assert [p.name for p in SOURCES if len(p.read_text().splitlines()) > MAX_LINES] == []


def test_no_drawers() -> None:
    assert [p.name for p in SOURCES if re.search(r"util|helper|manager|misc|common", p.stem)] == []


def test_layers_are_kept() -> None:
    result = subprocess.run([ROOT / ".venv/bin/lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("folder", ["mm", "machine", "node", "workload"])
def test_the_model_has_no_clock_and_no_dice(folder: str) -> None:
    banned = re.compile(r"^\s*(import|from) (time|random|datetime|secrets|asyncio|threading)\b", re.M)
    files = (ROOT / "numa_service" / folder).glob("*.py")
    assert [p.name for p in files if banned.search(p.read_text())] == []


def test_every_package_says_what_it_is() -> None:
    empty = [p for p in (ROOT / "numa_service").glob("*/__init__.py") if '"""' not in p.read_text()]
    assert empty == []
