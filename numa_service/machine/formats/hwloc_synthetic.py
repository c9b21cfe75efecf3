"""Importer and exporter for hwloc's synthetic descriptions: ``pack:2 [numa(memory=16GiB)] core:4 pu:2``.

A description has the levels from the machine down, each with an arity. Nodes are a level of their own, or, in
brackets, memory attached to the level before. A description without nodes has one node with everything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from numa_service.machine.formats.draft import DEFAULT_NODE_BYTES, Draft, DraftNode, machine_name
from numa_service.machine.notation import MAX_NUMNODES, NR_CPUS
from numa_service.machine.spec import SpecError

_TYPES = {
    "machine": "machine",
    "group": "group",
    "package": "package",
    "pack": "package",
    "socket": "package",
    "die": "die",
    "core": "core",
    "pu": "pu",
    "numanode": "numa",
    "numa": "numa",
    "node": "numa",
    "cache": "cache",
    "tile": "group",
    "module": "group",
    "cluster": "group",
}
_CACHE = re.compile(r"l[1-5][idu]?(?:cache)?", re.ASCII | re.IGNORECASE)
_LEVEL = re.compile(r"(?:([A-Za-z][A-Za-z0-9]*):)?(\d{1,6})(?:\(([^()]*)\))?", re.ASCII)
_ATTACHED = re.compile(r"\[\s*([A-Za-z][A-Za-z0-9]*)(?::(\d{1,4}))?(?:\(([^()]*)\))?\s*\]", re.ASCII)
_ROOT = re.compile(r"(?:machine|root)?\(([^()]*)\)", re.ASCII | re.IGNORECASE)
_SIZE = re.compile(r"(\d{1,19})([kKMGT]i?B)?", re.ASCII)
_POWER = {"k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_MAX_LENGTH = 16384
_MAX_OBJECTS = 1 << 16


@dataclass(slots=True)
class _Numa:
    """One level of nodes, or one node attached to each object of a level."""

    #: Index, in the list of levels, of the level that they are attached to.
    below: int
    memory: int | None
    indexes: str


@dataclass(slots=True)
class _Level:
    """One level of objects."""

    kind: str
    arity: int
    #: Objects of the level in the whole machine.
    total: int
    indexes: str = ""


def is_synthetic(text: str) -> bool:
    """Whether the text may be a synthetic description: it begins like one, and is short."""
    start = text.strip()
    return (
        len(start) <= _MAX_LENGTH
        and re.match(
            r"(?:[A-Za-z]\w*:)?\d+(?:\s|\(|$)|\[\s*[A-Za-z]|(?:machine|root)?\(", start, re.IGNORECASE
        )
        is not None
    )


def read_synthetic(text: str, source: str, name: str) -> Draft:
    """The draft of a synthetic description, named `name`; SpecError names the part that is wrong."""
    draft = Draft(machine_name(name), [])
    levels, numas = _scan(" ".join(text.split()), source, draft)
    cpu_numbers = _indexes(levels[-1].indexes, levels[-1].total, levels, source)
    if not numas:
        numas = [_Numa(0, None, "")]
    count = sum(levels[numa.below].total for numa in numas)
    if count > MAX_NUMNODES:
        raise SpecError(f"{source}: {count} nodes, at most {MAX_NUMNODES}")
    nodes: list[DraftNode] = []
    # CPUs are on the innermost nodes; of several nodes attached to one object, on the first
    depth_order = sorted(range(len(numas)), key=lambda i: (-levels[numas[i].below].total, i))
    owner_of: dict[int, tuple[int, int]] = {}
    for i in depth_order:
        count = levels[numas[i].below].total
        span = levels[-1].total // count
        for k in range(count):
            for position in range(k * span, (k + 1) * span):
                owner_of.setdefault(position, (i, k))
    cpus: dict[tuple[int, int], list[int]] = {}
    for position, owner in owner_of.items():
        cpus.setdefault(owner, []).append(cpu_numbers[position])
    order = _node_order(levels, numas)
    explicit = [numa.indexes for numa in numas if numa.indexes]
    numbers = list(range(len(order)))
    if explicit:
        numbers = _indexes(explicit[0], len(order), levels, source)
    for nid, (i, k) in zip(numbers, order, strict=True):
        memory = numas[i].memory
        nodes.append(
            DraftNode(
                nid, tuple(sorted(cpus.get((i, k), []))), DEFAULT_NODE_BYTES if memory is None else memory
            )
        )
    if any(numa.memory is None for numa in numas):
        draft.note("memory of a node is 1GiB where the description has no memory=, as in hwloc")
    draft.nodes = nodes
    if len(nodes) > 1:
        draft.note("a synthetic description has no distances: 20 between all nodes was taken")
    return draft


def _scan(text: str, source: str, draft: Draft) -> tuple[list[_Level], list[_Numa]]:
    if len(text) > _MAX_LENGTH:
        raise SpecError(f"{source}: {len(text)} characters, at most {_MAX_LENGTH}")
    levels = [_Level("machine", 1, 1)]
    numas: list[_Numa] = []
    typed: list[bool] = []
    left = text
    root = _ROOT.match(left)
    if root:
        _attributes(root[1], source, draft)
        left = left[root.end() :].lstrip()
    while left:
        if match := _ATTACHED.match(left):
            kind = _kind(match[1], source)
            if kind == "numa":
                count = int(match[2] or 1)
                if len(numas) + count > MAX_NUMNODES:
                    raise SpecError(
                        f"{source}: {match[0]!r}: {len(numas) + count} nodes, at most {MAX_NUMNODES}"
                    )
                numas += [_numa(len(levels) - 1, match[3], source, draft)] * count
            elif match[1].lower() != "memcache":
                raise SpecError(f"{source}: [{match[1]}]: only nodes are attached in brackets")
        elif match := _LEVEL.match(left):
            word, arity = match[1], int(match[2])
            typed.append(word is not None)
            if not arity:
                raise SpecError(f"{source}: {match[0]!r}: an arity of 0")
            kind = "" if word is None else _kind(word, source)
            total = levels[-1].total * arity
            if total > _MAX_OBJECTS:
                raise SpecError(f"{source}: {match[0]!r}: {total} objects, at most {_MAX_OBJECTS}")
            memory, indexes = _attributes(match[3] or "", source, draft)
            levels.append(_Level(kind, arity, total, indexes))
            if kind == "numa":
                numas.append(_Numa(len(levels) - 1, memory, indexes))
            elif memory is not None:
                draft.note(f"memory= of {word} is left out: it is not a node")
        else:
            raise SpecError(
                f"{source}: {left[:30]!r} is not a level as core:4, or a node as [numa(memory=1GiB)]"
            )
        left = left[match.end() :].lstrip()
    return _checked(levels, numas, len(set(typed[:-1])) > 1, source, draft)


def _checked(
    levels: list[_Level], numas: list[_Numa], mixed: bool, source: str, draft: Draft
) -> tuple[list[_Level], list[_Numa]]:
    if mixed:
        raise SpecError(f"{source}: levels with and without a type: give all of them, as pack:2 core:4 pu:2")
    if len(levels) < 2:
        raise SpecError(f"{source}: no level: write one as pack:2 core:4 pu:2")
    if levels[-1].kind not in ("", "pu"):
        raise SpecError(f"{source}: the last level is PUs: end with pu:N")
    if any(level.kind == "pu" for level in levels[1:-1]):
        raise SpecError(f"{source}: pu is the last level")
    if levels[-1].total > NR_CPUS:
        raise SpecError(f"{source}: {levels[-1].total} PUs, at most {NR_CPUS} CPUs")
    if sum(bool(level.kind == "numa") for level in levels) > 1:
        raise SpecError(f"{source}: numa is a level only once")
    if not numas and not any(level.kind for level in levels[1:]) and len(levels) > 2:
        # for levels without types hwloc chooses packages, groups with a node each, caches and cores
        numas = [_Numa(min(2, len(levels) - 2), None, "")]
    if any(level.kind not in ("", "machine", "numa", "pu") for level in levels):
        draft.note("sockets, groups, caches and cores are not part of a machine here")
    return levels, numas


def _numa(below: int, attributes: str | None, source: str, draft: Draft) -> _Numa:
    memory, indexes = _attributes(attributes or "", source, draft)
    return _Numa(below, memory or 0, indexes)


def _kind(word: str, source: str) -> str:
    kind = _TYPES.get(word.lower()) or ("cache" if _CACHE.fullmatch(word) else "")
    if not kind and word.lower() == "memcache":
        return "memcache"
    if not kind:
        raise SpecError(
            f"{source}: unknown type {word[:30]!r}: {', '.join(sorted(set(_TYPES)))}, or L1 to L5"
        )
    return kind


def _attributes(text: str, source: str, draft: Draft) -> tuple[int | None, str]:
    """(bytes of ``memory=`` or None, value of ``indexes=`` or "")."""
    memory, indexes = None, ""
    for word in text.split():
        key, _, value = word.partition("=")
        if key == "memory":
            memory = _size(value, source)
        elif key == "indexes":
            indexes = value
        elif key == "memorysidecachesize":
            draft.note("memory-side caches are not modelled")
    return memory, indexes


def _size(text: str, source: str) -> int:
    """Bytes of a size; as in hwloc 2, GB is 10^9 and GiB is 2^30."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise SpecError(f"{source}: memory={text[:30]} is not a size as 16GiB or 16GB")
    if not match[2]:
        return int(match[1])
    base: int = 1024 if "i" in match[2] else 1000
    scale: int = base ** _POWER[match[2][0]]
    return int(match[1]) * scale


def _node_order(levels: Sequence[_Level], numas: Sequence[_Numa]) -> list[tuple[int, int]]:
    """(index in `numas`, number within it) of each node in hwloc's logical order.

    Nodes are ordered by their last PU, and those with the same last PU from the inside out.
    """
    order = [(i, k) for i, numa in enumerate(numas) for k in range(levels[numa.below].total)]
    total = levels[-1].total

    def place(item: tuple[int, int]) -> tuple[int, int, int]:
        count = levels[numas[item[0]].below].total
        return (item[1] + 1) * (total // count), -count, item[0]

    return sorted(order, key=place)


def _indexes(text: str, total: int, levels: Sequence[_Level], source: str) -> list[int]:
    """The os_index of each object in logical order, as ``indexes=`` gives it.

    Its forms are a list (``0,2,1``), loops (``2*2:1*2``) and types (``core:pack``); "" numbers in order.
    """
    if not text:
        return list(range(total))
    if re.fullmatch(r"\d{1,6}(?:,\d{1,6})*", text, re.ASCII):
        numbers = [int(word) for word in text.split(",")]
    else:
        numbers = _interleaved(_loops(text, levels, source), total, source)
    if len(numbers) != total or len(set(numbers)) != total:
        raise SpecError(f"{source}: indexes={text[:40]}: {len(set(numbers))} numbers for {total} objects")
    return numbers


def _loops(text: str, levels: Sequence[_Level], source: str) -> list[tuple[int, int]]:
    """(step, count) of each loop of ``indexes=``; the first loop varies fastest."""
    loops: list[tuple[int, int]] = []
    last = levels[-1].total
    for word in text.split(":"):
        if match := re.fullmatch(r"(\d{1,6})\*(\d{1,6})", word, re.ASCII):
            loops.append((int(match[1]), int(match[2])))
            continue
        kind = _kind(word, source)
        found = [i for i, level in enumerate(levels) if level.kind == kind]
        if not found:
            raise SpecError(f"{source}: indexes={text[:40]}: there is no level {word}")
        level = levels[found[0]]
        loops.append((last // level.total, level.total))
    if all("*" not in word for word in text.split(":")):
        loops = _nested(loops, last)
    return loops


def _nested(loops: Iterable[tuple[int, int]], total: int) -> list[tuple[int, int]]:
    """Loops made of types: the count of each becomes that within one object of the next larger type given."""
    given = list(loops)
    result = []
    for step, count in given:
        outer = [other for other in given if other[1] < count]
        parent = max((other[1] for other in outer), default=1)
        result.append((step, count // parent))
    done = math.prod(count for _, count in result)
    if done < total:
        smallest = min(step for step, _ in result)
        if smallest > 1:
            result.append((1, total // done))
    return result


def _interleaved(loops: Sequence[tuple[int, int]], total: int, source: str) -> list[int]:
    width = math.prod(count for _, count in loops)
    if width != total:
        raise SpecError(f"{source}: indexes: the loops make {width} numbers for {total} objects")
    numbers = [0] * total
    for number in range(total):
        rest, position = number, 0
        for step, count in loops:
            position += step * (rest % count)
            rest //= count
        if position >= total:
            raise SpecError(f"{source}: indexes: steps beyond the {total} objects")
        numbers[position] = number
    return numbers


def to_synthetic(draft: Draft) -> tuple[str, list[str]]:
    """(description, notes on what it cannot express) of a checked draft.

    SpecError unless all nodes with CPUs have the same number of CPUs and the same memory.
    """
    notes = ["a synthetic description has no distances, latencies, kernel or place of memory"]
    owners = [node for node in draft.nodes if node.cpus]
    counts = {len(node.cpus) for node in owners}
    if len(counts) > 1:
        raise SpecError(
            "a synthetic description has the same number of CPUs on every node: "
            f"{', '.join(f'node {node.nid} has {len(node.cpus)}' for node in owners[:4])}; "
            "write hwloc-xml instead"
        )
    cpus = [cpu for node in owners for cpu in node.cpus]
    memory = {node.bytes for node in owners}
    bare = [node for node in draft.nodes if not node.cpus]
    if len(memory) > 1:
        raise SpecError(
            "a synthetic description has the same memory on every node of a level: "
            f"{', '.join(f'node {node.nid} has {node.bytes} bytes' for node in owners[:4])}; "
            "write hwloc-xml instead"
        )
    # hwloc numbers the inner ones first
    nids = [node.nid for node in (*owners, *bare)]
    numbers = "" if nids == list(range(len(nids))) else f" indexes={','.join(map(str, nids))}"
    own = f"[NUMANode(memory={memory.pop()}{numbers})]"
    others = " ".join(f"[NUMANode(memory={node.bytes})]" for node in bare)
    text = f"{own} {others}" if len(owners) == 1 else f"{others} Group:{len(owners)} {own}"
    places = "" if cpus == list(range(len(cpus))) else f"(indexes={','.join(map(str, cpus))})"
    return f"{' '.join(text.split())} PU:{counts.pop()}{places}", notes
