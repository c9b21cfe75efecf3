"""The sizes and places of objects in a captured kmem trace, counted, for the comparison with geometry.

A capture has the trace itself or, in the archives, `allocations.txt` made from it: a line for each workload,
event and pair of sizes.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_EVENT = re.compile(
    r": (kmalloc|kmem_cache_alloc): .*ptr=([0-9a-f]{16}) bytes_req=(\d+) bytes_alloc=(\d+)", re.ASCII
)
#: The largest order of slabs whose objects' places are kept.
ORDERS = (0, 1)


@dataclass(frozen=True, slots=True)
class Allocations:
    """Allocations of one pair of sizes by one workload."""

    workload: str
    #: "kmalloc" or "kmem_cache_alloc".
    event: str
    bytes_req: int
    bytes_alloc: int
    count: int
    #: The largest power of two that divides every address, at most a page.
    aligned: int
    #: By order of the slab: where in it objects are, modulo their size, which is the colour of the slab.
    colours: tuple[frozenset[int], ...]

    def line(self) -> str:
        """As it stands in `allocations.txt`."""
        colours = (",".join(map(str, sorted(offsets))) for offsets in self.colours)
        numbers = (self.bytes_req, self.bytes_alloc, self.count, self.aligned)
        return " ".join((self.workload, self.event, *map(str, numbers), *colours))


def count_allocations(trace: Path) -> Iterator[Allocations]:
    """Of one trace, in order of event and sizes."""
    addresses: dict[tuple[str, int, int], list[int]] = {}
    with gzip.open(trace, "rt") as lines:
        for line in lines:
            if (found := _EVENT.search(line)) and found[2].startswith("ffff"):
                key = found[1], int(found[3]), int(found[4])
                addresses.setdefault(key, []).append(int(found[2], 16))
    for (event, asked, size), places in sorted(addresses.items()):
        every = 4096
        for place in places:
            every |= place
        yield Allocations(
            trace.name.removesuffix(".trace.gz"),
            event,
            asked,
            size,
            len(places),
            every & -every,
            tuple(frozenset(place % (4096 << order) % size for place in places) for order in ORDERS),
        )


def allocations(capture: Path) -> list[Allocations]:
    """Of every trace of a capture."""
    counted = capture / "allocations.txt"
    if not counted.exists():
        return [row for trace in sorted(capture.glob("*.trace.gz")) for row in count_allocations(trace)]
    rows = []
    for line in counted.read_text().splitlines():
        workload, event, *numbers = line.split(" ")
        colours = (frozenset(map(int, offsets.split(","))) for offsets in numbers[4:])
        asked, size, count, aligned = map(int, numbers[:4])
        rows.append(Allocations(workload, event, asked, size, count, aligned, tuple(colours)))
    return rows
