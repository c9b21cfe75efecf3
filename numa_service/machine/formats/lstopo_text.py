"""Importer for what ``lstopo`` prints on a terminal: objects, one or several a line, by indentation."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from numa_service.machine.formats.draft import Draft, DraftNode, machine_name
from numa_service.machine.notation import MAX_LISTED_CPUS, MAX_NUMNODES, NR_CPUS
from numa_service.machine.spec import SpecError

_IS = re.compile(r"^ *(?:Machine|Package|Socket|NUMANode|Group\d?) (?:L#\d+|\()", re.MULTILINE)
_OBJECT = re.compile(
    r"([A-Za-z][\w-]{0,20})(?:\(\w{1,20}\))? L#(\d{1,7})"
    r"(?: \(([^()]*(?:\([^()]*\)[^()]*)*)\))?",
    re.ASCII,
)
_MATRIX = re.compile(
    r"^Relative latency matrix [^\n]{0,200} between \d{1,4} NUMANodes[^\n]{0,60} by (logical|physical) "
    r"indexes:\n"
    r" *index((?: +\d{1,4})+)\n((?: +\d{1,4}(?: +\d{1,9})+\n?)+)",
    re.ASCII | re.MULTILINE,
)
_P = re.compile(r"P#(\d{1,7})", re.ASCII)
_SIZE = re.compile(r"(?:^|[ (=])(\d{1,9})(?:\.(\d{1,3}))?([KMGT])(?:i?B)\b", re.ASCII)
_LOCAL = re.compile(r"local=(\d{1,15})([KMGT]?)(?:i?B)", re.ASCII)
_MAX_TEXT = 2 << 20
_MAX_LINE = 4096
_NODE_TYPES = ("NUMANode", "Node")


@dataclass(slots=True)
class _Line:
    """One line of the tree."""

    indent: int
    parent: _Line | None
    #: PUs on this line and below it.
    pus: list[int] = field(default_factory=list)


def is_lstopo_text(text: str) -> bool:
    """Whether the text is what lstopo prints on a terminal."""
    return _IS.search(text) is not None and "L#" in text


def read_lstopo_text(text: str, source: str, name: str) -> Draft:
    """The draft of such a text, named `name`; SpecError names the line."""
    if len(text) > _MAX_TEXT:
        raise SpecError(f"{source}: {len(text)} characters, at most {_MAX_TEXT}")
    draft = Draft(machine_name(name), [])
    nodes: list[tuple[DraftNode, _Line]] = []
    groups: dict[str, list[_Line]] = {"package": [], "core": []}
    above: list[_Line] = []
    steps = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > _MAX_LINE:
            raise SpecError(f"{source}:{number}: a line of {len(line)} characters")
        found = list(_OBJECT.finditer(line))
        indent = len(line) - len(line.lstrip())
        if above and line.strip() and indent <= above[0].indent:
            break  # what lstopo -v prints behind the tree
        if not found and not line.lstrip().startswith("Machine"):
            continue
        while above and above[-1].indent >= indent:
            above.pop()
        here = _Line(indent, above[-1] if above else None)
        above.append(here)
        for match in found:
            kind, attributes = match[1], match[3] or ""
            p = _P.search(attributes)
            index = int(p[1] if p else match[2])
            if kind in _NODE_TYPES:
                nodes.append((_node(index, attributes, source, number), here))
            elif kind == "PU":
                if index >= 1 << 20 or steps > MAX_LISTED_CPUS * 8:
                    raise SpecError(f"{source}:{number}: PU P#{index}: too large, or too deep a tree")
                for line_above in above:
                    line_above.pus.append(index)
                    steps += 1
            elif kind in ("Package", "Socket"):
                groups["package"].append(here)
            elif kind == "Core":
                groups["core"].append(here)
        if len(nodes) > MAX_NUMNODES:
            raise SpecError(f"{source}:{number}: more than {MAX_NUMNODES} nodes")
    every = above[0].pus if above else []
    if not every:
        raise SpecError(f"{source}: no PU: not what lstopo prints, or cut off")
    if len(every) > NR_CPUS:
        raise SpecError(f"{source}: {len(every)} PUs, at most {NR_CPUS}")
    if not nodes:
        nodes = [(DraftNode(0), above[0])]
        draft.note("no NUMANode: one node with everything (UMA)")
    _place(draft, nodes, every)
    draft.packages = [tuple(sorted(line.pus)) for line in groups["package"]]
    draft.cores = [tuple(sorted(line.pus)) for line in groups["core"]]
    matrix = _MATRIX.search(text)
    if matrix:
        order = [int(word) for word in matrix[2].split()]
        known = [node.nid for node, _ in nodes]
        nids = [known[at] for at in order if at < len(known)] if matrix[1] == "logical" else order
        rows = [[float(word) for word in line.split()[1:]] for line in matrix[3].splitlines()]
        if (
            sorted(nids) != sorted(known)
            or any(len(row) != len(nids) for row in rows)
            or len(rows) != len(nids)
        ):
            raise SpecError(f"{source}: the latency matrix is not one of all {len(known)} nodes: cut off?")
        draft.set_distances(nids, rows)
    elif len(draft.nodes) > 1:
        draft.note("lstopo prints no distances: 20 between all nodes was taken")
    return draft


def _node(index: int, attributes: str, source: str, number: int) -> DraftNode:
    if index >= MAX_NUMNODES:
        raise SpecError(f"{source}:{number}: NUMANode P#{index}: there are at most {MAX_NUMNODES} nodes")
    local = _LOCAL.search(attributes)
    size = _SIZE.search(attributes)
    if local:
        memory = int(local[1]) << 10 * " KMGT".index(local[2] or " ")
    elif size:
        whole, part = int(size[1]), size[2] or ""
        unit = 1 << 10 * " KMGT".index(size[3])
        memory = whole * unit + (int(part) * unit // 10 ** len(part) if part else 0)
    else:
        memory = 0
    return DraftNode(index, managed=memory or None)


def _place(draft: Draft, nodes: list[tuple[DraftNode, _Line]], every: list[int]) -> None:
    """Give each PU to the node with the fewest PUs that has it; a node beside other objects has their PUs."""
    by_nid: dict[int, tuple[DraftNode, list[int]]] = {}
    for node, line in nodes:
        beside = line if line.pus or line.parent is None else line.parent
        if node.nid in by_nid:
            raise SpecError(f"NUMANode P#{node.nid} is there twice")
        by_nid[node.nid] = node, beside.pus
    ranked = sorted(by_nid.values(), key=lambda item: (len(item[1]), item[0].nid))
    owner: dict[int, int] = {}
    for node, pus in ranked:
        for pu in pus:
            owner.setdefault(pu, node.nid)
    for pu in every:
        owner.setdefault(pu, min(by_nid))
    for pu, nid in sorted(owner.items()):
        by_nid[nid][0].cpus += (pu,)
    draft.nodes = [by_nid[nid][0] for nid in sorted(by_nid)]
    draft.note("lstopo rounds sizes: memory is what the kernel manages, rounded")
