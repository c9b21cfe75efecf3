"""Events of kmem in a captured trace, in columns: objects and pages that were allocated and freed.

A capture has the trace itself or, in the archives, `WORKLOAD.kmem` made from it: a line of JSON, then one
array after the other.
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from numa_service.mm.slab.pages import page_address

#: Kinds of events, as numbers in the first column.
KMALLOC, CACHE_ALLOC, KFREE, CACHE_FREE, PAGE_ALLOC, PAGE_FREE = range(6)
_KINDS = {
    "kmalloc": KMALLOC,
    "kmem_cache_alloc": CACHE_ALLOC,
    "kfree": KFREE,
    "kmem_cache_free": CACHE_FREE,
    "mm_page_alloc": PAGE_ALLOC,
    "mm_page_free": PAGE_FREE,
}
_LINE = re.compile(r".*\[(\d+)\] \S+ +[\d.]+: (\w+): (.*)", re.ASCII)
_FIELD = re.compile(r"\b(ptr|pfn|order|bytes_req|bytes_alloc|name)=(\S+)")
#: Addresses are stored from the start of the direct map.
_BASE = page_address(0)
_COLUMNS = (
    ("kind", "u1"),
    ("cpu", "u1"),
    ("name", "u1"),
    ("asked", "<u4"),
    ("given", "<u4"),
    ("place", "<u4"),
)


@dataclass(frozen=True, slots=True)
class KmemEvent:
    """One event. Of pages, `address` is that of the first in the direct map and `given` the order."""

    kind: int
    cpu: int
    #: The cache, which only a free prints: of an allocation it is that of the next free there, or "".
    name: str
    #: Bytes that were asked for.
    asked: int
    #: Bytes that were given.
    given: int
    address: int


def pack_events(trace: Path) -> bytes:
    """A trace as it stands in an archive. Events without an address (NULL) are left out."""
    names = {"": 0}
    rows = []
    with gzip.open(trace, "rt") as lines:
        for line in lines:
            found = _LINE.match(line)
            if not found or found[2] not in _KINDS:
                continue
            fields = dict(_FIELD.findall(found[3]))
            kind = _KINDS[found[2]]
            if kind >= PAGE_ALLOC:
                row = (0, int(fields["order"]), int(fields["pfn"], 16) << 12)
            elif fields["ptr"].startswith("ffff"):
                sizes = int(fields.get("bytes_req", 0)), int(fields.get("bytes_alloc", 0))
                row = (*sizes, int(fields["ptr"], 16) - _BASE)
            else:
                continue
            name = fields.get("name", "")
            rows.append((kind, int(found[1]), names.setdefault(name, len(names)), *row))
    head = json.dumps({"events": len(rows), "names": list(names)})
    columns = [np.array([row[at] for row in rows], dtype).tobytes() for at, (_, dtype) in enumerate(_COLUMNS)]
    return head.encode() + b"\n" + b"".join(columns)


def kmem_events(capture: Path, workload: str) -> list[KmemEvent]:
    """The events of a trace, in its order."""
    packed = capture / f"{workload}.kmem"
    data = packed.read_bytes() if packed.exists() else pack_events(capture / f"{workload}.trace.gz")
    line, _, rest = data.partition(b"\n")
    head = json.loads(line)
    columns = []
    for _, dtype in _COLUMNS:
        taken = head["events"] * np.dtype(dtype).itemsize
        columns.append(np.frombuffer(rest[:taken], dtype).tolist())
        rest = rest[taken:]
    events = [
        KmemEvent(kind, cpu, head["names"][name], asked, given, _BASE + place)
        for kind, cpu, name, asked, given, place in zip(*columns, strict=True)
    ]
    freed: dict[int, str] = {}
    for at in range(len(events) - 1, -1, -1):
        event = events[at]
        if event.kind == CACHE_FREE:
            freed[event.address] = event.name
        elif event.kind == CACHE_ALLOC:
            name = freed.pop(event.address, "")
            events[at] = KmemEvent(event.kind, event.cpu, name, event.asked, event.given, event.address)
    return events


def kmem_workloads(capture: Path) -> list[str]:
    """Names of the workloads that a capture has events of."""
    return sorted(
        {path.name.partition(".")[0] for path in (*capture.glob("*.kmem"), *capture.glob("*.trace.gz"))}
    )
