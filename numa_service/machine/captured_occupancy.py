"""How full a captured machine was: free blocks by pagetypeinfo or buddyinfo, who held what by zoneinfo."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from numa_service.machine.captured_buddyinfo import parse_counts, read_occupancy
from numa_service.machine.captured_zoneinfo import CapturedZone
from numa_service.machine.occupancy import FreeBlocks, ZoneOccupancy
from numa_service.machine.spec import SpecError
from numa_service.mm.mmzone import MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE, NR_ORDERS

_FREE_LINE = re.compile(
    r"Node +(\d{1,4}), zone +(\w{1,16}), type +(\w{1,16})((?: +>?\d{1,12}){1,20}) *", re.ASCII
)
#: Types whose blocks are for ordinary requests; single pages make up for the others' (HighAtomic, CMA, …).
_TYPES = {"Unmovable": MIGRATE_UNMOVABLE, "Movable": MIGRATE_MOVABLE, "Reclaimable": MIGRATE_RECLAIMABLE}
#: Who holds pages, and the counters of a zone that say how many: of kernels since 4.8, and before.
_HOLDERS = {
    "anonymous memory": (
        "nr_zone_inactive_anon",
        "nr_zone_active_anon",
        "nr_inactive_anon",
        "nr_active_anon",
    ),
    "page cache": ("nr_zone_inactive_file", "nr_zone_active_file", "nr_inactive_file", "nr_active_file"),
    "unevictable memory": ("nr_zone_unevictable", "nr_unevictable"),
    "slab": ("nr_slab_reclaimable", "nr_slab_unreclaimable"),
    "page tables": ("nr_page_table_pages",),
}


def read_pagetypeinfo(text: str, sizes: Mapping[tuple[int, str], int]) -> tuple[ZoneOccupancy, ...]:
    """How full the zones were, by migratetype (``pagetypeinfo_showfree``); SpecError as of a buddyinfo.

    A count that is printed as ``>100000`` is taken to be that.
    """
    free: dict[tuple[int, str], int] = {}
    blocks: dict[tuple[int, str], list[FreeBlocks]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        found = _FREE_LINE.fullmatch(line)
        if not found:
            continue
        key = int(found[1]), found[2]
        counts = parse_counts(found[4].replace(">", ""), f"pagetypeinfo line {number}")
        free[key] = free.get(key, 0) + sum(count << order for order, count in enumerate(counts))
        if found[3] in _TYPES:
            own = blocks.setdefault(key, [])
            own += [FreeBlocks(order, _TYPES[found[3]], n) for order, n in enumerate(counts) if n]
    if not free:
        raise SpecError("pagetypeinfo: no free pages by type")
    for (nid, name), pages in free.items():
        if pages > sizes.get((nid, name), 0):
            raise SpecError(f"pagetypeinfo: node {nid} zone {name}: {pages} pages free")
    return tuple(
        ZoneOccupancy(*key, free[key], tuple(sorted(blocks.get(key, ()), key=lambda b: b.order)))
        for key in free
    )


def captured_occupancy(
    zones: Sequence[CapturedZone], texts: Iterable[tuple[str, str]]
) -> tuple[tuple[ZoneOccupancy, ...], tuple[str, ...]]:
    """How full the zones of a zoneinfo were, and notes.

    `texts` are (name of a file, its text) of a pagetypeinfo and a buddyinfo, any of which may be missing. If
    the two are far apart, they are not of one moment, and the buddyinfo counts. Without any, or if none is of
    use, free pages are taken to be in blocks as large as possible.
    """
    sizes = {(zone.nid, zone.name): zone.managed for zone in zones}
    reads: dict[bool, tuple[ZoneOccupancy, ...]] = {}
    notes: list[str] = []
    for name, text in texts:
        by_type = "pagetypeinfo" in name
        try:
            reads[by_type] = (read_pagetypeinfo if by_type else read_occupancy)(text, sizes)
        except SpecError as error:
            notes.append(f"{name} is not used: {error}")
    found = reads.get(True) or reads.get(False) or ()
    if len(reads) == 2 and _far_apart(reads[True], reads[False]):
        notes.append("pagetypeinfo is not used: buddyinfo has much more or less that is free")
        found = reads[False]
    if not found and any(zone.free is not None for zone in zones):
        found = tuple(
            ZoneOccupancy(
                zone.nid,
                zone.name,
                min(zone.free, zone.managed),
                largest_blocks(min(zone.free, zone.managed)),
            )
            for zone in zones
            if zone.managed and zone.free is not None
        )
        notes.append("in what blocks memory was free is not told: as large as possible was taken")
    counters = {(zone.nid, zone.name): zone.counters for zone in zones}
    return tuple(_with_holders(zone, counters.get((zone.nid, zone.zone), {})) for zone in found), tuple(notes)


def _far_apart(one: Iterable[ZoneOccupancy], other: Iterable[ZoneOccupancy]) -> bool:
    """Whether a zone has a tenth more or less free pages in one of them than in the other."""
    free = {(zone.nid, zone.zone): zone.free for zone in one}
    return any(abs(free.get((z.nid, z.zone), 0) - z.free) > max(z.free // 10, 64) for z in other)


def _with_holders(zone: ZoneOccupancy, counters: Mapping[str, int]) -> ZoneOccupancy:
    held = ((who, sum(counters.get(name, 0) for name in names)) for who, names in _HOLDERS.items())
    return ZoneOccupancy(
        zone.nid, zone.zone, zone.free, zone.blocks, tuple((who, pages) for who, pages in held if pages)
    )


def largest_blocks(pages: int) -> tuple[FreeBlocks, ...]:
    """Free movable blocks of so many pages, as large as possible."""
    largest = NR_ORDERS - 1
    counts = [*((pages >> order) & 1 for order in range(largest)), pages >> largest]
    return tuple(FreeBlocks(order, MIGRATE_MOVABLE, count) for order, count in enumerate(counts) if count)


def share_free(
    free: Mapping[int, int],
    managed: Mapping[tuple[int, str], int],
    held: Mapping[int, tuple[tuple[str, int], ...]],
) -> tuple[ZoneOccupancy, ...]:
    """How full zones were whose nodes' free pages are told only; all in pages.

    What is in use is taken from a node's highest zone first, as requests do that may use any. `managed` has
    the zones of a node in ascending order; what is held counts from the highest zone as well.
    """
    result: list[ZoneOccupancy] = []
    for nid, pages in free.items():
        own = [(zone, size) for (of, zone), size in managed.items() if of == nid and size]
        used = max(0, sum(size for _, size in own) - pages)
        left = dict(held.get(nid, ()))
        for zone, size in reversed(own):
            here = min(used, size)
            used -= here
            room, mine = here, []
            for who in left:
                taken = min(left[who], room)
                left[who] -= taken
                room -= taken
                if taken:
                    mine.append((who, taken))
            result.append(ZoneOccupancy(nid, zone, size - here, largest_blocks(size - here), tuple(mine)))
    return tuple(result)
