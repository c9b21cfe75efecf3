"""A replayed trace against the capture made after it, and the page that `make fidelity` writes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fidelity.traces import TraceResult, replay_trace, trace_fields
from groundtruth import ARCHIVES, GROUNDTRUTH, ROOT, unpacked


@pytest.fixture(scope="module")
def forkmix() -> TraceResult:
    result = replay_trace(GROUNDTRUTH / "traces" / "numa-2n-big" / "forkmix")
    assert result is not None
    return result


def test_free_pages_after_a_trace_are_those_captured(forkmix: TraceResult) -> None:
    fields = list(trace_fields(forkmix))
    assert [field for field in fields if not field.explained] == []
    assert sum(field.equal for field in fields if field.number) == 4


def test_what_is_misplaced_here_is_not_allowed_for_it(forkmix: TraceResult) -> None:
    seen = replace(forkmix.report.agreement, same_node=0, same_zone=0, same_pfn=0)
    report = replace(forkmix.report, agreement=seen)
    *others, last = forkmix.zones
    moved = [*others[:-1], *(replace(zone, free=zone.free - 500) for zone in others[-1:])]
    moved.append(replace(last, free=last.free + 500))
    before, after = (
        {(field.kind, field.where): field for field in trace_fields(result)}
        for result in (forkmix, replace(forkmix, report=report, zones=moved))
    )
    assert {key: field.slack for key, field in after.items()} == {
        key: field.slack for key, field in before.items()
    }
    wrong = {(field.kind, field.where) for field in after.values() if not field.explained}
    assert wrong == {("free and on pagesets after trace", where) for where in ("0:Normal", "1:Normal")}


@pytest.mark.slow
def test_the_page_is_what_the_comparison_gives(tmp_path: Path) -> None:
    page = tmp_path / "fidelity.md"
    command = [sys.executable, ROOT / "tests" / "fidelity" / "table.py", "--write", page]
    packed = unpacked(ARCHIVES, ROOT / "build")
    done = subprocess.run([*command, packed], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:]
    assert page.read_text() == (ROOT / "docs" / "fidelity.md").read_text(), "make fidelity"
