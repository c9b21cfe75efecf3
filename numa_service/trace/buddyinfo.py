"""Free blocks of a captured machine, from a copy of its ``/proc/buddyinfo``."""

from __future__ import annotations

import re
from pathlib import Path

from numa_service.machine.files import read_text, split_lines
from numa_service.machine.spec import SpecError
from numa_service.mm.mmzone import NR_ORDERS
from numa_service.trace.events import TraceError

#: One line: the nid, the zone's name, and a count for each order.
BUDDYINFO_LINE = re.compile(r"Node (\d{1,4}), zone +(\w+)((?: +\d{1,12})+) *", re.ASCII)


def parse_buddyinfo(text: str) -> dict[tuple[int, str], tuple[int, ...]]:
    """Free blocks by order, of each (nid, zone) in file order (``frag_show_print``).

    TraceError names the line that is none of buddyinfo.
    """
    zones: dict[tuple[int, str], tuple[int, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (found := BUDDYINFO_LINE.fullmatch(line)):
            raise TraceError(f"buddyinfo line {number}: not 'Node N, zone NAME counts': {line[:80]!r}")
        key = (int(found[1]), found[2])
        if key in zones:
            raise TraceError(f"buddyinfo line {number}: node {key[0]} zone {key[1]} is there twice")
        zones[key] = parse_counts(found[3], f"buddyinfo line {number}")
    if not zones:
        raise TraceError("buddyinfo: empty")
    return zones


def parse_counts(text: str, where: str) -> tuple[int, ...]:
    """Numbers of free blocks, one for each order; TraceError if there are more or fewer."""
    counts = tuple(map(int, text.split()))
    if len(counts) != NR_ORDERS:
        raise TraceError(f"{where}: {len(counts)} orders, not {NR_ORDERS}")
    return counts


def read_captured(directory: Path, name: str) -> str:
    """A file of a capture, which lies within its directory; TraceError."""
    path = directory / name
    try:
        text = read_text(path, root=directory)
        split_lines(text, str(path))
    except SpecError as error:
        raise TraceError(str(error)) from None
    return text
