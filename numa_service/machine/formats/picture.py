"""Exporters for pictures of a machine: a graph for graphviz, or an SVG that needs no other program.

A machine here has distances and no sockets. Nodes that are nearer to each other than REMOTE_DISTANCE are
drawn in one box, which is taken for a socket; a node without CPUs is in the box of the nearest one with CPUs.
"""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from numa_service.machine.formats.draft import Draft, DraftNode
from numa_service.machine.machinefile import REMOTE_DISTANCE
from numa_service.machine.notation import format_cpulist, format_size

_WIDTH, _HEIGHT, _GAP, _MARGIN = 190, 84, 26, 24
_CELL_WIDTH, _CELL_HEIGHT = 34, 20


def sockets(draft: Draft) -> list[list[DraftNode]]:
    """Groups of nodes; each node with CPUs is nearer than REMOTE_DISTANCE to another one of its group."""
    groups: list[list[DraftNode]] = []

    def between(a: DraftNode, b: DraftNode) -> int:
        return min(draft.distance(a.nid, b.nid), draft.distance(b.nid, a.nid))

    for node in (node for node in draft.nodes if node.cpus):
        near = [g for g in groups if any(between(node, other) < REMOTE_DISTANCE for other in g)]
        merged = [other for group in near for other in group] + [node]
        groups = [group for group in groups if group not in near] + [merged]
    for node in (node for node in draft.nodes if not node.cpus):
        home = min(groups, key=lambda group: min(between(node, other) for other in group if other.cpus))
        home.append(node)
    for group in groups:
        group.sort(key=lambda node: node.nid)
    return sorted(groups, key=lambda group: group[0].nid)


def size_text(size: int) -> str:
    """A number of bytes, rounded for people: ``16GiB``, ``23.5GiB``."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
        if size >= 1 << shift:
            number = size / (1 << shift)
            return f"{number:.0f}{unit}" if number == int(number) else f"{number:.1f}{unit}"
    return format_size(size) if size else "no memory"


def _lines(node: DraftNode) -> list[str]:
    count = len(node.cpus)
    cpus = format_cpulist(node.cpus)
    shown = cpus if len(cpus) <= 20 else cpus[:17] + "..."
    return [
        f"node {node.nid}",
        f"{count} CPU{'s' if count > 1 else ''}: {shown}" if count else "no CPUs",
        size_text(node.bytes),
    ]


def to_dot(draft: Draft) -> str:
    """A graph in graphviz's language: a cluster for each socket, an edge with the distance for each pair."""
    lines = [f"graph {_quoted(draft.name)} {{", "    layout = dot;", "    compound = true;"]
    lines.append(f"    label = {_quoted(draft.name)};")
    lines.append(
        '    node [shape = box, style = "filled,rounded", fillcolor = "#e8f0fe", fontname = "sans-serif"];'
    )
    lines.append('    edge [fontname = "sans-serif", fontsize = 10];')
    for i, group in enumerate(sockets(draft)):
        lines += [f"    subgraph cluster_{i} {{", f"        label = {_quoted(f'socket {i}')};"]
        for node in group:
            colour = "" if node.cpus else ', fillcolor = "#fef3e0"'
            label = "\\n".join(line.replace('"', "'") for line in _lines(node))
            lines.append(f'        node{node.nid} [label = "{label}"{colour}];')
        lines.append("    }")
    for i, a in enumerate(draft.nodes):
        for b in draft.nodes[i + 1 :]:
            there, back = draft.distance(a.nid, b.nid), draft.distance(b.nid, a.nid)
            label = str(there) if there == back else f"{there} / {back}"
            lines.append(f'    node{a.nid} -- node{b.nid} [label = "{label}", len = {there / 10:.1f}];')
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def to_svg(draft: Draft) -> str:
    """An SVG: boxes for sockets and nodes, and the matrix of distances below them."""
    groups = sockets(draft)
    columns = max(1, math.ceil(math.sqrt(len(groups))))
    parts: list[str] = []
    y, right = _MARGIN + 30, 0
    for start in range(0, len(groups), columns):
        x, deepest = _MARGIN, 0
        for offset, group in enumerate(groups[start : start + columns]):
            width, height = _socket(parts, start + offset, group, x, y)
            x += width + _GAP
            deepest = max(deepest, height)
        right, y = max(right, x), y + deepest + _GAP
    if len(draft.nodes) > 1:
        right, y = _matrix(parts, draft, y, right)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{right}" height="{y}" viewBox="0 0 {right} {y}" '
        'font-family="sans-serif" font-size="12">'
    )
    title = escape(draft.name)
    total = size_text(sum(node.bytes for node in draft.nodes))
    count = sum(len(node.cpus) for node in draft.nodes)
    words = f"{title}: {len(draft.nodes)} node{'s' if len(draft.nodes) > 1 else ''}, {count} CPUs, {total}"
    return "\n".join(
        [
            head,
            f"<title>{title}</title>",
            f'<rect width="{right}" height="{y}" fill="#ffffff"/>',
            _text(_MARGIN, _MARGIN + 8, words, 'font-size="15" font-weight="bold"'),
            *parts,
            "</svg>\n",
        ]
    )


def _socket(parts: list[str], index: int, group: list[DraftNode], x: int, y: int) -> tuple[int, int]:
    columns = max(1, math.ceil(math.sqrt(len(group))))
    rows = -(-len(group) // columns)
    width = columns * (_WIDTH + 10) + 10
    height = rows * (_HEIGHT + 10) + 30
    parts.append(_box(x, y, width, height, "#f4f5f7", "#8a94a6"))
    parts.append(_text(x + 10, y + 17, f"socket {index}", 'fill="#4a5568"'))
    for i, node in enumerate(group):
        left, top = x + 10 + i % columns * (_WIDTH + 10), y + 26 + i // columns * (_HEIGHT + 10)
        fill = "#e8f0fe" if node.cpus else "#fef3e0"
        parts.append(_box(left, top, _WIDTH, _HEIGHT, fill, "#3b5bdb" if node.cpus else "#c77700"))
        for k, line in enumerate(_lines(node)):
            weight = ' font-weight="bold"' if k == 0 else ""
            parts.append(_text(left + 10, top + 24 + k * 20, line, 'fill="#1a202c"' + weight))
    return width, height


def _matrix(parts: list[str], draft: Draft, y: int, right: int) -> tuple[int, int]:
    nids = [node.nid for node in draft.nodes]
    parts.append(_text(_MARGIN, y + 14, "distances, from row to column", 'fill="#4a5568"'))
    top, left = y + 24, _MARGIN
    middle = 'text-anchor="middle" font-size="11"'
    for i, nid in enumerate(nids):
        bold = f'{middle} font-weight="bold"'
        parts.append(_text(left + (i + 1) * _CELL_WIDTH + _CELL_WIDTH // 2, top + 14, str(nid), bold))
        parts.append(_text(left + _CELL_WIDTH // 2, top + (i + 1) * _CELL_HEIGHT + 14, str(nid), bold))
    highest = max(draft.distance(a, b) for a in nids for b in nids)
    for i, a in enumerate(nids):
        for j, b in enumerate(nids):
            value = draft.distance(a, b)
            shade = 255 - round(110 * (value - 10) / max(highest - 10, 1))
            cell_x, cell_y = left + (j + 1) * _CELL_WIDTH, top + (i + 1) * _CELL_HEIGHT
            parts.append(
                f'<rect x="{cell_x}" y="{cell_y}" width="{_CELL_WIDTH}" height="{_CELL_HEIGHT}" '
                f'fill="rgb(255,{shade},{shade - 25})" stroke="#cbd2dc"/>'
            )
            parts.append(_text(cell_x + _CELL_WIDTH // 2, cell_y + 14, str(value), middle))
    size = len(nids) + 1
    return max(right, left + size * _CELL_WIDTH + _MARGIN), top + size * _CELL_HEIGHT + _MARGIN


def _box(x: int, y: int, width: int, height: int, fill: str, stroke: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{stroke}"/>'


def _text(x: int, y: int, text: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>'
