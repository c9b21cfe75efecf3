"""Free blocks and pageblocks of a captured machine by migratetype, from pagetypeinfo and buddyinfo."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from numa_service.machine.captured_buddyinfo import BUDDYINFO_LINE, parse_buddyinfo, parse_counts
from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_TYPES,
    MIGRATE_UNMOVABLE,
    NR_ORDERS,
)
from numa_service.trace.captured_files import read_captured
from numa_service.trace.events import TraceError

#: ``migratetype_names`` of mm/page_alloc.c.
_MIGRATETYPES = {
    "Unmovable": MIGRATE_UNMOVABLE,
    "Movable": MIGRATE_MOVABLE,
    "Reclaimable": MIGRATE_RECLAIMABLE,
    "HighAtomic": MIGRATE_HIGHATOMIC,
    "CMA": MIGRATE_CMA,
    "Isolate": MIGRATE_ISOLATE,
}
_FREE = re.compile(r"Node +(\d{1,4}), zone +(\w+), type +(\w+)((?: +>?\d{1,12})+) *", re.ASCII)
_BLOCKS_HEAD = re.compile(r"Number of blocks type((?: +\w+)+) *")

_Zone = tuple[int, str]


@dataclass(frozen=True, slots=True)
class ZoneOccupancy:
    """Free blocks of one zone, without those on pagesets, and its pageblocks."""

    nid: int
    #: Kernel spelling: DMA, DMA32, Normal, …
    zone: str
    #: Free blocks: [migratetype][order].
    nr_free: tuple[tuple[int, ...], ...]
    #: Number of pageblocks, by migratetype.
    pageblocks: tuple[int, ...]
    #: (migratetype, order) of counts that are lower bounds, as the kernel stops at 100,000 (``>100000``).
    capped: tuple[tuple[int, int], ...]

    @property
    def free_pages(self) -> int:
        """Pages of all the free blocks."""
        return sum(blocks << order for row in self.nr_free for order, blocks in enumerate(row))


def parse_pagetypeinfo(text: str) -> tuple[ZoneOccupancy, ...]:
    """Parse /proc/pagetypeinfo (``pagetypeinfo_show``).

    TraceError names the line that cannot be parsed, or the zone that is incomplete.
    """
    free: dict[_Zone, dict[int, tuple[int, ...]]] = {}
    pageblocks: dict[_Zone, tuple[int, ...]] = {}
    capped: dict[_Zone, list[tuple[int, int]]] = {}
    block_types: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        where = f"pagetypeinfo line {number}"
        if found := _FREE.fullmatch(line):
            key = (int(found[1]), found[2])
            migratetype = _migratetype(found[3], where)
            rows = free.setdefault(key, {})
            if migratetype in rows:
                raise TraceError(f"{where}: node {key[0]} zone {key[1]} type {found[3]} is there twice")
            words = found[4].split()
            rows[migratetype] = parse_counts(found[4].replace(">", ""), where)
            capped.setdefault(key, []).extend(
                (migratetype, order) for order, word in enumerate(words) if word.startswith(">")
            )
        elif found := _BLOCKS_HEAD.fullmatch(line):
            block_types = [_migratetype(name, where) for name in found[1].split()]
        elif block_types and (found := BUDDYINFO_LINE.fullmatch(line)):
            counts = found[3].split()
            if len(counts) != len(block_types):
                raise TraceError(f"{where}: {len(counts)} pageblock counts for {len(block_types)} types")
            by_type = dict(zip(block_types, map(int, counts), strict=True))
            pageblocks[int(found[1]), found[2]] = tuple(by_type.get(t, 0) for t in range(MIGRATE_TYPES))
        elif line.strip() and not line.startswith(
            ("Page block order:", "Pages per block:", "Free pages count")
        ):
            raise TraceError(f"{where}: not understood: {line[:80]!r}")
    if not free:
        raise TraceError("pagetypeinfo: no free counts in it")
    return tuple(_zone(key, rows, pageblocks, capped[key]) for key, rows in free.items())


def read_occupancy(directory: Path) -> tuple[ZoneOccupancy, ...]:
    """Read pagetypeinfo.txt and buddyinfo.txt of a capture's directory.

    If pagetypeinfo has a lower bound for only one migratetype of an order, the sum in buddyinfo gives the
    exact count. TraceError if a file is absent or cannot be parsed, or if the two have different zones. Their
    counts may differ, as they were read at different moments.
    """
    zones = parse_pagetypeinfo(read_captured(directory, "pagetypeinfo.txt"))
    buddyinfo = parse_buddyinfo(read_captured(directory, "buddyinfo.txt"))
    by_type, by_zone = [(z.nid, z.zone) for z in zones], list(buddyinfo)
    if by_type != by_zone:
        raise TraceError(f"{directory}: pagetypeinfo has zones {by_type}, buddyinfo {by_zone}")
    return tuple(_uncap(zone, buddyinfo[zone.nid, zone.zone]) for zone in zones)


def _uncap(zone: ZoneOccupancy, totals: tuple[int, ...]) -> ZoneOccupancy:
    """Replace lower bounds by exact counts where buddyinfo's `totals` by order allow it."""
    rows = [list(row) for row in zone.nr_free]
    capped = []
    for migratetype, order in zone.capped:
        others = sum(row[order] for t, row in enumerate(rows) if t != migratetype)
        alone = sum(o == order for _, o in zone.capped) == 1
        if alone and totals[order] - others >= rows[migratetype][order]:
            rows[migratetype][order] = totals[order] - others
        else:
            capped.append((migratetype, order))
    return ZoneOccupancy(zone.nid, zone.zone, tuple(map(tuple, rows)), zone.pageblocks, tuple(capped))


def _zone(
    key: _Zone,
    rows: dict[int, tuple[int, ...]],
    pageblocks: dict[_Zone, tuple[int, ...]],
    capped: list[tuple[int, int]],
) -> ZoneOccupancy:
    nid, zone = key
    if key not in pageblocks:
        raise TraceError(f"pagetypeinfo: no number of blocks for node {nid} zone {zone}: truncated?")
    nothing = (0,) * NR_ORDERS
    nr_free = tuple(rows.get(migratetype, nothing) for migratetype in range(MIGRATE_TYPES))
    return ZoneOccupancy(nid, zone, nr_free, pageblocks[key], tuple(capped))


def _migratetype(name: str, where: str) -> int:
    if name not in _MIGRATETYPES:
        raise TraceError(f"{where}: unknown migratetype {name!r}")
    return _MIGRATETYPES[name]
