"""Importers for ``/proc/zoneinfo`` and ``/proc/buddyinfo`` as a text alone, without the rest of a capture."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from numa_service.machine.capture import read_capture
from numa_service.machine.captured_tree import Archive
from numa_service.machine.captured_zoneinfo import parse_zoneinfo
from numa_service.machine.formats.draft import Draft, DraftNode, draft_of, machine_name
from numa_service.machine.input_files import split_lines
from numa_service.machine.notation import MAX_NUMNODES, format_cpulist
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.mm.mmzone import PAGE_SIZE, ZONE_NAMES

_ZONEINFO = re.compile(r"^Node (\d{1,6}), zone +\w{1,16}$", re.ASCII | re.MULTILINE)
_BUDDYINFO = re.compile(
    r"^Node (\d{1,6}), zone +(\w{1,16})((?: +\d{1,12}){1,20}) *$", re.ASCII | re.MULTILINE
)
_PATH = "proc/zoneinfo"
_NODES = "sys/devices/system/node"


def is_zoneinfo(text: str) -> bool:
    """Whether the text is that of /proc/zoneinfo."""
    return _ZONEINFO.search(text) is not None


def is_buddyinfo(text: str) -> bool:
    """Whether the text is that of /proc/buddyinfo."""
    return _BUDDYINFO.search(text) is not None


def read_zoneinfo(text: str, source: str, name: str) -> Draft:
    """The draft of a zoneinfo, named `name`."""
    return draft_of(zoneinfo_machine(text, source, name))


def zoneinfo_machine(text: str, source: str, name: str) -> MachineSpec:
    """The machine of a zoneinfo, named `name`: a capture without distances, and without CPUs by node."""
    nid, count = Counter(_ZONEINFO.findall(text)).most_common(1)[0]
    most = len(ZONE_NAMES["x86_64"])
    if count > most:
        # said before the text is parsed, which takes long then
        raise SpecError(f"{source}: node {nid} has {count} zones of {most}")
    tree = Archive(source, name)
    tree.add(_PATH, memoryview(text.encode()))
    zones = parse_zoneinfo(tree, _PATH)
    nids = sorted({zone.nid for zone in zones})
    online = sorted({cpu for zone in zones for cpu in zone.cpus}) or list(range(len(nids)))
    if len(nids) > 1:
        for at, nid in enumerate(nids):
            own = online[at * len(online) // len(nids) : (at + 1) * len(online) // len(nids)]
            row = " ".join("10" if other == nid else "20" for other in nids)
            tree.add(f"{_NODES}/node{nid}/cpulist", memoryview(f"{format_cpulist(own)}\n".encode()))
            tree.add(f"{_NODES}/node{nid}/distance", memoryview(f"{row}\n".encode()))
    spec = read_capture(tree)
    if len(nids) == 1:
        return spec
    note = "whose the CPUs are is not in zoneinfo: equal shares; no distances: 20 between all nodes"
    return replace(spec, notes=(*spec.notes, note))


def read_buddyinfo(text: str, source: str, name: str) -> Draft:
    """The draft of a buddyinfo, named `name`; SpecError names the line that is wrong."""
    split_lines(text, source)
    free: dict[int, int] = {}
    for match in _BUDDYINFO.finditer(text):
        nid = int(match[1])
        if nid >= MAX_NUMNODES:
            raise SpecError(f"{source}: node {nid}: there are at most {MAX_NUMNODES} nodes")
        pages = sum(int(count) << order for order, count in enumerate(match[3].split()))
        free[nid] = free.get(nid, 0) + pages
    draft = Draft(machine_name(name), [])
    for at, nid in enumerate(sorted(free)):
        draft.nodes.append(DraftNode(nid, (at,), managed=free[nid] * PAGE_SIZE))
    draft.note("buddyinfo has free memory only: it was taken to be all that there is")
    draft.note("CPUs and distances are not in buddyinfo: one CPU on each node, and 20 between nodes")
    return draft
