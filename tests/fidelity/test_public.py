"""Marks, reserves and fallback orders of public reports and logs: as computed, or not for a named cause."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from fidelity.public import PUBLIC, public_section, read_rows
from skips import NO_CORPORA

ROOT = Path(__file__).resolve().parents[2]
CORPORA = Path(os.environ.get("NUMA_CORPORA", ROOT.parent / "shared/corpora"))


def test_the_document_has_every_row_and_none_is_different() -> None:
    text, fields = public_section()
    assert text in (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
    assert [str(field) for field in fields if not field.explained] == []
    assert len({field.capture for field in fields}) == 34  # 31 reports, one without sizes, and four logs
    assert all(field.cause for field in fields if not field.equal)


def test_fallback_orders_and_what_lies_above_min_are_nearly_all_exact() -> None:
    _, fields = public_section()
    orders = [field for field in fields if field.kind == "fallback order"]
    assert len(orders) == 47
    assert all(field.equal for field in orders)
    above = [field for field in fields if field.kind in ("low above min", "high above min")]
    assert sum(field.equal for field in above) >= 146
    assert len(above) == 160


def test_numbers_are_those_of_the_reports() -> None:
    if not (CORPORA / "mem-info/zones.tsv").is_file():
        pytest.skip(NO_CORPORA)
    with (CORPORA / "mem-info/zones.tsv").open() as file:
        there = {(row["id"], row["node"], row["zone"]): row for row in csv.DictReader(file, delimiter="\t")}
    here = {(row["id"], row["node"], row["zone"]): row for row in read_rows("mem-info.tsv")}
    assert here.keys() == there.keys()
    for key, row in here.items():
        assert {name: there[key][name] for name in ("min", "low", "high", "managed", "reserve")} == {
            name: row[name] for name in ("min", "low", "high", "managed", "reserve")
        }
    assert PUBLIC.is_dir()
