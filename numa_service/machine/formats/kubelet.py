"""Importer for the state files of kubelet's memory manager and CPU manager (``memory_manager_state``)."""

from __future__ import annotations

import json
import re
from typing import Any

from numa_service.machine.formats.draft import Draft, DraftNode, machine_name
from numa_service.machine.notation import MAX_NUMNODES, format_size, one_line
from numa_service.machine.spec import SpecError

_IS = re.compile(r"\A\s*\{.*\"machineState\"", re.DOTALL)
_MAX_TEXT = 1 << 20
_MAX_BYTES = 1 << 50


def is_kubelet(text: str) -> bool:
    """Whether the text looks like the state of kubelet's memory manager."""
    return _IS.match(text) is not None


def read_kubelet(text: str, source: str, name: str) -> Draft:
    """The draft of a state, named `name`: nodes and their memory; SpecError names what is wrong."""
    if len(text) > _MAX_TEXT:
        raise SpecError(f"{source}: {len(text)} characters, at most {_MAX_TEXT}")
    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{source}: JSON: {one_line(str(error), 100)}") from None
    nodes = state.get("machineState") if isinstance(state, dict) else None
    if not isinstance(nodes, dict) or not nodes:
        raise SpecError(f"{source}: machineState: not a table of nodes")
    draft = Draft(machine_name(name), [])
    for key in sorted(nodes, key=lambda key: (len(key), key)):
        if not re.fullmatch(r"\d{1,4}", key, re.ASCII) or int(key) >= MAX_NUMNODES:
            raise SpecError(
                f"{source}: machineState: {key[:30]!r} is not a node from 0 to {MAX_NUMNODES - 1}"
            )
        where = f"{source}: machineState.{key}.memoryMap"
        memory = _table(_table(nodes[key], "memoryMap", where), "memory", where)
        total, free = _bytes(memory, "total", where), _bytes(memory, "free", where)
        kept, reserved = _bytes(memory, "systemReserved", where), _bytes(memory, "reserved", where)
        draft.nodes.append(DraftNode(int(key), (len(draft.nodes),), managed=total))
        draft.note(
            f"node {key}: of its memory {format_size(kept)} is reserved for the system, "
            f"{format_size(reserved)} given to pods, {format_size(free)} free for them"
        )
    draft.note("CPUs and distances are not in the state: one CPU on each node, and 20 between nodes")
    return draft


def _table(value: Any, key: str, where: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise SpecError(f"{where}: no table {key}")
    return found


def _bytes(memory: dict[str, Any], key: str, where: str) -> int:
    value = memory.get(key, 0)
    if type(value) is not int or not 0 <= value <= _MAX_BYTES:
        raise SpecError(f"{where}.memory.{key}: {one_line(str(value), 30)!r} is not a number of bytes")
    return value
