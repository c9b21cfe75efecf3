"""The section on NUMA balancing of ``make fidelity``."""

from __future__ import annotations

from pathlib import Path

from fidelity.balancing import balancing_captures, compare_balancing
from fidelity.compare import Field
from fidelity.rows import COLUMNS, row
from fidelity.slab_table import collected

_TEXT = """
## NUMA balancing

A process touches an area on one node, and then threads read or write it on other nodes. The same is done
here, tick by tick: after as many scans, entries that got a hint, hint faults, pages that moved, and where
pages are, are computed. Taken over is how long an access, a fault and a scan take: the kernels ran in an
emulator. So is how many of the area's last pages were still in the CPU's batch for the LRU lists: 6.1 gives
these no hint, 6.12 does and cannot move them, at every scan. "explained" is within 10 %, or 20 pages: the
program has as many of its own, which are in the counters. In `threads`, of pages that both threads use, it
is chance who comes first, and so where they end; those of one thread alone are compared by themselves.
`shared` is shared memory, which is never scanned.

"""


def balancing_section(root: Path, skipped: list[str], unreadable: list[str]) -> tuple[str, list[Field]]:
    """Text and fields."""
    everything: list[Field] = []
    numbers = ""
    lines = ""
    for capture in balancing_captures(root):
        name = f"balancing/{capture.parent.name}/{capture.name}"
        fields = collected(name, lambda at=capture: iter(compare_balancing(at)), skipped, unreadable)
        everything += fields
        lines += row(name, fields)
        for field in fields:
            if field.file == "end" and (field.captured or field.computed):
                why = "" if field.equal else field.cause
                numbers += f"| {name} | {field.kind} | {field.captured} | {field.computed} | {why} |\n"
    if not everything:
        return "", []
    head = "\n| capture | at the end | captured | computed | differs |\n|---|---|---|---|---|\n"
    return f"{_TEXT}| capture | {COLUMNS}{lines}{head}{numbers}", everything
