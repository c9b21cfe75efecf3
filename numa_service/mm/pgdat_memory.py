"""The part of Pgdat (``mm/pgdat.py``) that empties ranges, and takes memory off-line and on-line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from numa_service.mm import memory_hotplug
from numa_service.mm.buddy import page_zone
from numa_service.mm.isolation import isolate_pageblocks, take_isolated, unisolate_pageblocks
from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
)
from numa_service.mm.pcp import drain_pages
from numa_service.mm.pgdata import PgData
from numa_service.mm.profile import BLOCKS_TAKE, Profile


@dataclass(frozen=True, slots=True)
class ZoneExtent:
    """Where a zone lies. Pages."""

    name: str
    index: int
    start_pfn: int
    spanned: int
    present: int
    managed: int
    #: Those of them that came after thresholds had been computed, and count in none (``late_free.py``).
    freed_late: int = 0


class PgdatMemory:
    """Ranges of a node's memory: isolated, given out in a row, off-line, on-line."""

    nid: int
    profile: Profile
    pg: PgData
    base_pfn: int
    zone_names: tuple[str, ...]
    extents: tuple[ZoneExtent, ...]
    #: RAM as [start, end) pfns, on-line or not.
    ram: tuple[tuple[int, int], ...]
    #: CMA areas, [start, end) pfns.
    cma_areas: tuple[tuple[int, int], ...]

    def drain(self) -> None:
        """Empty every pageset (drain_all_pages)."""
        drain_pages(self.pg)

    def isolate(self, start_pfn: int, end_pfn: int) -> int:
        """Take whole pageblocks out of use (start_isolate_page_range); free pages among them.

        Drains the pagesets first, as their pages would not be seen. ValueError, and nothing isolated, for a
        range that is not whole pageblocks of one zone, or isolated in part.
        """
        zone, blocks = self._pageblocks(start_pfn, end_pfn)
        self.drain()
        return isolate_pageblocks(self.pg, zone, blocks)

    def unisolate(self, start_pfn: int, end_pfn: int, migratetype: int = MIGRATE_MOVABLE) -> int:
        """Put isolated pageblocks back to use (undo_isolate_page_range); free pages regained.

        ValueError for a range that is not whole pageblocks of one zone.
        """
        zone, blocks = self._pageblocks(start_pfn, end_pfn)
        return unisolate_pageblocks(self.pg, zone, blocks, migratetype)

    def _pageblocks(self, start_pfn: int, end_pfn: int) -> tuple[int, range]:
        if start_pfn % PAGEBLOCK_NR_PAGES or end_pfn % PAGEBLOCK_NR_PAGES or start_pfn >= end_pfn:
            raise ValueError(f"{start_pfn:#x}-{end_pfn:#x}: not whole pageblocks")
        blocks = range(
            (start_pfn - self.base_pfn) >> PAGEBLOCK_ORDER, (end_pfn - self.base_pfn) >> PAGEBLOCK_ORDER
        )
        for extent in self.extents:
            whose = self.pg.pb_zone[blocks.start : blocks.stop]
            within = extent.start_pfn <= start_pfn and end_pfn <= extent.start_pfn + extent.spanned
            if within and (whose == extent.index + 1).all():
                return extent.index, blocks
        raise ValueError(f"{start_pfn:#x}-{end_pfn:#x}: not within one zone of node {self.nid}")

    def memory_range(self, start_pfn: int, end_pfn: int) -> tuple[int, int]:
        """Indexes of a range; ValueError when it is not all RAM of this node."""
        if not any(low <= start_pfn and end_pfn <= high for low, high in self.ram):
            within = any(low < end_pfn and start_pfn < high for low, high in self.ram)
            raise ValueError("it has a hole" if within else f"node {self.nid} has no such memory")
        return start_pfn - self.base_pfn, end_pfn - self.base_pfn

    def start_isolate(self, start_pfn: int, end_pfn: int) -> None:
        """Take a range out of use that is to be off-line.

        ValueError when it cannot be (EINVAL), BusyError for what is in it (EBUSY); nothing is changed then.
        """
        start, end = self.memory_range(start_pfn, end_pfn)
        zone = memory_hotplug.zone_of_range(self.pg, start, end)
        memory_hotplug.check_movable(self.pg, start, end)
        blocks = range(start >> PAGEBLOCK_ORDER, end >> PAGEBLOCK_ORDER)
        labels = self.pg.pb_migratetype[blocks.start : blocks.stop]
        if (labels == MIGRATE_ISOLATE).any():
            raise memory_hotplug.BusyError(start, "isolated already")
        if (labels == MIGRATE_CMA).any():
            at = start + (int(np.argmax(labels == MIGRATE_CMA)) << PAGEBLOCK_ORDER)
            raise memory_hotplug.BusyError(at, "in a CMA area")
        self.drain()
        isolate_pageblocks(self.pg, zone, blocks)

    def offline_pages(self, start_pfn: int, end_pfn: int) -> None:
        """Take an isolated range off-line; BusyError, and nothing changed, when it is not all free."""
        start, end = self.memory_range(start_pfn, end_pfn)
        zone = memory_hotplug.zone_of_range(self.pg, start, end)
        memory_hotplug.offline_isolated_pages(self.pg, zone, start, end)
        self._resized(zone, start - end)
        if not self.pg.managed.any():
            self.pg.kswapd[:] = 0  # kswapd_stop

    def online_pages(self, start_pfn: int, end_pfn: int, online_type: str) -> None:
        """Bring an off-line range on-line, in the zone that `online_type` says. ValueError (EINVAL)."""
        start, end = self.memory_range(start_pfn, end_pfn)
        if not memory_hotplug.is_offline(self.pg, start, end):
            raise ValueError("it is on-line")
        if self.profile.block_rules == BLOCKS_TAKE and online_type != "online":
            raise ValueError(f"{self.profile.name} knows no {online_type}")
        zone = memory_hotplug.zone_for_pfn_range(self.pg, self.zone_names, online_type, start, end)
        memory_hotplug.online_pages_range(self.pg, zone, start, end)
        self._resized(zone, end - start)

    def _resized(self, zone: int, pages: int) -> None:
        pg, was = self.pg, self.extents[zone]
        spanned = int(pg.zone_end[zone] - pg.zone_start[zone])
        start_pfn = int(pg.zone_start[zone]) + self.base_pfn if spanned else 0
        now = ZoneExtent(was.name, zone, start_pfn, spanned, was.present + pages, int(pg.managed[zone]))
        self.extents = (*self.extents[:zone], now, *self.extents[zone + 1 :])

    def find_contiguous(
        self, area: tuple[int, int], count: int, align_order: int, from_pfn: int
    ) -> tuple[int, int] | None:
        """First place for `count` pages in a row in a CMA area, [start, end), from a pfn on (cma_alloc).

        Free pages and pages of regions only, in pageblocks that nobody else is emptying; None without any.
        """
        step = 1 << align_order
        start, end = (pfn - self.base_pfn for pfn in area)
        taken = memory_hotplug.unmovable(self.pg, start, end)
        labels = self.pg.pb_migratetype[start >> PAGEBLOCK_ORDER : end >> PAGEBLOCK_ORDER]
        taken |= np.repeat(labels == MIGRATE_ISOLATE, PAGEBLOCK_NR_PAGES)
        before = np.concatenate([[0], np.cumsum(taken)])
        first = -(-max(area[0], from_pfn) // step) * step - area[0]
        places = np.arange(first, end - start - count + 1, step)
        if not len(places):
            return None
        empty = np.flatnonzero(before[places + count] == before[places])
        if not len(empty):
            return None
        at = area[0] + int(places[empty[0]])
        return at, at + count

    def take_contiguous(self, start_pfn: int, end_pfn: int, owner: int) -> None:
        """Make an isolated range an owner's, page by page; BusyError when it is not free."""
        start, end = self.memory_range(start_pfn, end_pfn)
        take_isolated(self.pg, page_zone(self.pg, start), start, end, owner)
