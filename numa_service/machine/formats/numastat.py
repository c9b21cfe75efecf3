"""Importer for the text of ``numastat`` and ``numastat -m``: nodes, and with ``-m`` their memory."""

from __future__ import annotations

import re

from numa_service.machine.formats.draft import Draft, DraftNode, machine_name
from numa_service.machine.notation import MAX_NUMNODES
from numa_service.machine.spec import SpecError
from numa_service.mm.mmzone import PAGE_SIZE

_HEADER = re.compile(r"^ {2,}(?:(?:node\d{1,6}|Node \d{1,6}|Total) *)+$", re.ASCII)
_IS = re.compile(r"^ +node\d+(?: +node\d+)* *$|^Per-node system memory usage", re.ASCII | re.MULTILINE)
_NID = re.compile(r"node *(\d{1,6})", re.ASCII | re.IGNORECASE)
_TOTAL = re.compile(r"^MemTotal((?: +\d{1,12}(?:\.\d{1,3})?)+) *$", re.ASCII)
#: Who holds the pages that a line tells.
_HOLDERS = {
    "Active(anon)": "anonymous memory",
    "Inactive(anon)": "anonymous memory",
    "Active(file)": "page cache",
    "Inactive(file)": "page cache",
    "Slab": "slab",
    "PageTables": "page tables",
}
_OTHER = re.compile(
    rf"^(MemFree|{'|'.join(map(re.escape, _HOLDERS))})((?: +\d{{1,12}}(?:\.\d{{1,3}})?)+) *$", re.ASCII
)
_MAX_TEXT = 2 << 20
_MAX_LINE = 1 << 16


def is_numastat(text: str) -> bool:
    """Whether the text is that of ``numastat``."""
    return _IS.search(text) is not None


def read_numastat(text: str, source: str, name: str) -> Draft:
    """The draft of such a text, named `name`; SpecError names the line."""
    if len(text) > _MAX_TEXT:
        raise SpecError(f"{source}: {len(text)} characters, at most {_MAX_TEXT}")
    nodes: dict[int, DraftNode] = {}
    columns: list[int] = []
    told = False
    free: dict[int, int] = {}
    held: dict[int, dict[str, int]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > _MAX_LINE:
            raise SpecError(f"{source}:{number}: a line of {len(line)} characters")
        if _HEADER.fullmatch(line):
            columns = [int(nid) for nid in _NID.findall(line)]
            if columns and max(columns) >= MAX_NUMNODES:
                raise SpecError(f"{source}:{number}: node {max(columns)}: at most {MAX_NUMNODES} nodes")
            for nid in columns:
                nodes.setdefault(nid, DraftNode(nid))
        elif match := _TOTAL.fullmatch(line):
            values = match[1].split()
            if not columns or len(values) not in (len(columns), len(columns) + 1):
                raise SpecError(f"{source}:{number}: MemTotal: {len(values)} values for {len(columns)} nodes")
            for nid, value in zip(columns, values, strict=False):
                nodes[nid].managed = round(float(value) * (1 << 20) / PAGE_SIZE) * PAGE_SIZE
            told = True
        elif (match := _OTHER.fullmatch(line)) and len(values := match[2].split()) in (
            len(columns),
            len(columns) + 1,
        ):
            for nid, value in zip(columns, values, strict=False):
                pages = round(float(value) * (1 << 20) / PAGE_SIZE)
                if match[1] == "MemFree":
                    free[nid] = pages
                else:
                    own, who = held.setdefault(nid, {}), _HOLDERS[match[1]]
                    own[who] = own.get(who, 0) + pages
    if not nodes:
        raise SpecError(f"{source}: no line with node0: not the text of numastat, or cut off")
    draft = Draft(machine_name(name), [nodes[nid] for nid in sorted(nodes)])
    for at, node in enumerate(draft.nodes):
        node.cpus = (at,)
    if told:
        draft.free, draft.held = free, {nid: tuple(own.items()) for nid, own in held.items()}
        draft.note("numastat rounds memory to 0.01 MB: managed memory may be a few pages off")
    draft.note("CPUs and distances are not in numastat: one CPU on each node, and 20 between nodes")
    return draft
