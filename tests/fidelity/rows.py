"""Rows of the tables of ``make fidelity``: how many numbers were compared, and how many agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from fidelity.compare import Field

#: Columns of :func:`row` behind the first.
COLUMNS = "compared | numbers | exact | explained | different |\n|---|---|---|---|---|---|\n"


def row(name: str, fields: list[Field]) -> str:
    """One row of a table: comparisons made, distinct numbers in them, and how many agree."""
    numbers: dict[tuple[str, str, str, str], list[Field]] = {}
    for field in fields:
        if field.number:
            numbers.setdefault(field.number, []).append(field)
    exact = sum(all(field.equal for field in same) for same in numbers.values())
    different = sum(not all(field.explained for field in same) for same in numbers.values())
    explained = len(numbers) - exact - different
    return f"| {name} | {len(fields)} | {len(numbers)} | {exact} | {explained} | {different} |\n"


def rows(what: str, everything: list[Field], key: Callable[[Field], str]) -> str:
    """A table with a row for each value of `key`."""
    text = f"\n| {what} | {COLUMNS}"
    for name in dict.fromkeys(map(key, everything)):
        text += row(name, [field for field in everything if key(field) == name])
    return text


def kinds(everything: list[Field]) -> str:
    """A table with a row for each kind of number."""
    return rows("kind", everything, lambda field: field.kind)


def causes(everything: list[Field]) -> str:
    """A table of why numbers within a tolerance differ."""
    text = (
        "\n| cause of what is explained | kind | numbers | largest difference | of | allowed there |\n"
        "|---|---|---|---|---|---|\n"
    )
    explained = [field for field in everything if field.explained and not field.equal]
    for cause, kind in Counter((field.cause, field.kind) for field in explained):
        fields = [field for field in explained if (field.cause, field.kind) == (cause, kind)]
        largest = max(fields, key=lambda field: abs(_number(field.captured) - _number(field.computed)))
        off = _number(largest.computed) - _number(largest.captured)
        text += f"| {cause} | {kind} | {len(fields)} | {off:+} | {largest.captured} | {largest.slack} |\n"
    return text


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value
