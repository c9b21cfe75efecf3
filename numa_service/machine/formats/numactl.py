"""Importer for the text that ``numactl --hardware`` prints."""

from __future__ import annotations

import re

from numa_service.machine.formats.draft import Draft, DraftNode, machine_name
from numa_service.machine.notation import MAX_NUMNODES
from numa_service.machine.spec import SpecError
from numa_service.mm.mmzone import PAGE_SHIFT

_AVAILABLE = re.compile(r"^available: (\d{1,6}) nodes? \([^)\n]*\)", re.ASCII | re.MULTILINE)
_CPUS = re.compile(r"node (\d{1,6}) cpus:((?: +\d{1,6})*) *", re.ASCII)
_SIZE = re.compile(r"node (\d{1,6}) size: (\d{1,12}) MB", re.ASCII)
_FREE = re.compile(r"node (\d{1,6}) free: (\d{1,12}) MB", re.ASCII)
_NO_SIZE = re.compile(r"node (\d{1,6}) size: <not available>", re.ASCII)
_COLUMNS = re.compile(r"node((?: +\d{1,6})+) *", re.ASCII)
_ROW = re.compile(r" *(\d{1,6}):((?: +\d{1,6})+) *", re.ASCII)
#: Most lines of a text: numactl prints four for each node, and people copy others around them.
_MAX_LINES = 8 * MAX_NUMNODES
_MAX_LINE = 1 << 16
_MAX_TEXT = 6 << 20
_NO_DISTANCES = "No distance information available."


def is_numactl(text: str) -> bool:
    """Whether the text is that of ``numactl -H``."""
    return _AVAILABLE.search(text[:4096]) is not None


def read_numactl(text: str, source: str, name: str) -> Draft:
    """The draft of such a text, named `name`; SpecError names `source` and the line."""
    draft = Draft(machine_name(name), [])
    nodes: dict[int, DraftNode] = {}
    columns: list[int] | None = None
    rows: dict[int, list[float]] = {}

    def fail(line: int, reason: str) -> SpecError:
        return SpecError(f"{source}:{line}: {reason}")

    def node(text: str, line: int) -> DraftNode:
        nid = int(text)
        if nid >= MAX_NUMNODES:
            raise fail(line, f"node {nid}: there are at most {MAX_NUMNODES} nodes")
        return nodes.setdefault(nid, DraftNode(nid))

    if len(text) > _MAX_TEXT or text.count("\n") > _MAX_LINES:
        raise SpecError(
            f"{source}: more than {_MAX_LINES} lines, or {_MAX_TEXT >> 20} MiB: not of numactl -H alone"
        )
    number = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > _MAX_LINE:
            raise fail(number, f"a line of {len(line)} characters")
        if match := _CPUS.fullmatch(line):
            node(match[1], number).cpus = tuple(sorted({int(cpu) for cpu in match[2].split()}))
        elif match := _SIZE.fullmatch(line):
            node(match[1], number).managed = int(match[2]) << 20
        elif match := _FREE.fullmatch(line):
            draft.free[node(match[1], number).nid] = int(match[2]) << 20 >> PAGE_SHIFT
        elif match := _NO_SIZE.fullmatch(line):
            node(match[1], number)
        elif (match := _COLUMNS.fullmatch(line)) and "free" not in line:
            columns = [int(word) for word in match[1].split()]
        elif match := _ROW.fullmatch(line):
            rows[int(match[1])] = [float(word) for word in match[2].split()]
            if columns is None or len(rows[int(match[1])]) != len(columns):
                raise fail(
                    number, f"node {match[1]}: {len(rows[int(match[1])])} distances, not one per column"
                )
        elif line.startswith("node ") and "cpus:" in line:
            raise fail(number, f"not a list of CPUs: {line[:60]!r}")
        elif line.startswith("node ") and "size:" in line:
            raise fail(number, f"not a size in MB: {line[:60]!r}")
    if not nodes:
        raise fail(1, "no 'node 0 cpus:': not the text of numactl -H")
    available = _AVAILABLE.search(text)
    if available is not None and int(available[1]) != len(nodes):
        raise fail(number, f"{available[1]} nodes are available, {len(nodes)} are listed: it is cut off")
    draft.nodes = [nodes[nid] for nid in sorted(nodes)]
    if columns is not None and (set(columns) != set(nodes) or set(rows) != set(nodes)):
        raise fail(number, "distances are not between the nodes listed: it is cut off")
    if columns is not None:
        draft.set_distances(columns, [rows[nid] for nid in columns])
    elif len(nodes) > 1:
        reason = "numactl had none" if _NO_DISTANCES in text else "none in the text"
        draft.note(f"no distances ({reason}): 20 between all nodes was taken")
    return draft
