"""Pgdat's operations on ranges of memory: isolation, contiguous allocation, memory off-line and on-line."""

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
from numa_service.mm.profile import Profile
from numa_service.mm.rules.hotplug_locks import OFFLINE_SIZE, OFFLINE_SPAN, ONLINE_SIZE, ONLINE_SPAN
from numa_service.mm.variants import BLOCKS_TAKE


@dataclass(frozen=True, slots=True)
class ZoneExtent:
    """Position and size of a zone, in pages; `managed` as it was at boot or after the last hotplug."""

    name: str
    index: int
    start_pfn: int
    spanned: int
    present: int
    managed: int
    #: Managed pages that were freed after the thresholds had been computed, which leave them out
    #: (``machine/late_free.py``).
    freed_late: int = 0


class PgdatMemory:
    """Base class of :class:`~numa_service.mm.pgdat.Pgdat` with its operations on ranges of memory.

    Ranges are [start, end) pfns.
    """

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
    #: Times that node_size_lock was taken.
    size_locked: int
    #: By zone: the sequence of span_seqlock, which each writer raises by one when it begins and when it ends.
    span_sequence: list[int]

    def drain(self) -> None:
        """Empty every pageset (drain_all_pages)."""
        drain_pages(self.pg)

    def isolate(self, start_pfn: int, end_pfn: int) -> int:
        """Take whole pageblocks out of use (start_isolate_page_range); returns how many free pages they had.

        Pagesets are drained first, as free pages on them would not be found. ValueError, and nothing is
        isolated, for a range that is not whole pageblocks of one zone, or has an isolated pageblock.
        """
        zone, blocks = self._pageblocks(start_pfn, end_pfn)
        self.drain()
        return isolate_pageblocks(self.pg, zone, blocks)

    def unisolate(self, start_pfn: int, end_pfn: int, migratetype: int = MIGRATE_MOVABLE) -> int:
        """Put isolated pageblocks back to use (undo_isolate_page_range); returns their free pages.

        ValueError for a range that is not whole pageblocks of one zone.
        """
        zone, blocks = self._pageblocks(start_pfn, end_pfn)
        return unisolate_pageblocks(self.pg, zone, blocks, migratetype)

    def _pageblocks(self, start_pfn: int, end_pfn: int) -> tuple[int, range]:
        """Zone and pageblocks of a range; ValueError if it is not whole pageblocks of one zone."""
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
        """Convert a range of pfns to indexes in mem_map; ValueError if it is not all RAM of this node."""
        if not any(low <= start_pfn and end_pfn <= high for low, high in self.ram):
            within = any(low < end_pfn and start_pfn < high for low, high in self.ram)
            raise ValueError("it has a hole" if within else f"node {self.nid} has no such memory")
        return start_pfn - self.base_pfn, end_pfn - self.base_pfn

    def start_isolate(self, start_pfn: int, end_pfn: int) -> None:
        """Isolate a range that is to go off-line (first half of offline_pages).

        Nothing is changed if it raises: ValueError (EINVAL) for a range that cannot go off-line, BusyError
        (EBUSY) for a page in it that cannot be moved away.
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
        """Take an isolated range off-line (second half of offline_pages).

        BusyError, and nothing is changed, if a page of it is not free.
        """
        start, end = self.memory_range(start_pfn, end_pfn)
        zone = memory_hotplug.zone_of_range(self.pg, start, end)
        memory_hotplug.offline_isolated_pages(self.pg, zone, start, end)
        self._lock(zone, OFFLINE_SIZE, OFFLINE_SPAN)
        self._resized(zone, start - end)
        if not self.pg.managed.any():
            self.pg.kswapd[:] = 0  # kswapd_stop

    def online_pages(self, start_pfn: int, end_pfn: int, online_type: str) -> None:
        """Bring an off-line range on-line, in the zone that zone_for_pfn_range() finds for `online_type`.

        `online_type` is "online", "online_kernel" or "online_movable". ValueError (EINVAL) if the range is
        not off-line, or the kernel has no such type.
        """
        start, end = self.memory_range(start_pfn, end_pfn)
        if not memory_hotplug.is_offline(self.pg, start, end):
            raise ValueError("it is on-line")
        if self.profile.block_rules == BLOCKS_TAKE and online_type != "online":
            raise ValueError(f"{self.profile.name} knows no {online_type}")
        zone = memory_hotplug.zone_for_pfn_range(self.pg, self.zone_names, online_type, start, end)
        memory_hotplug.online_pages_range(self.pg, zone, start, end)
        self._lock(zone, ONLINE_SIZE, ONLINE_SPAN)
        self._resized(zone, end - start)

    def _lock(self, zone: int, size: str, span: str) -> None:
        """Count that the kernel's locks of sizes and spans were taken, as often as the kernel takes them.

        Nobody waits for them: the change is one op on the node's event loop.
        """
        locks = self.profile.hotplug_locks
        self.size_locked += locks[size]
        self.span_sequence[zone] += 2 * locks[span]

    def _resized(self, zone: int, pages: int) -> None:
        """Update the zone's extent after `pages` pages came (negative: went)."""
        pg, was = self.pg, self.extents[zone]
        spanned = int(pg.zone_end[zone] - pg.zone_start[zone])
        start_pfn = int(pg.zone_start[zone]) + self.base_pfn if spanned else 0
        now = ZoneExtent(was.name, zone, start_pfn, spanned, was.present + pages, int(pg.managed[zone]))
        self.extents = (*self.extents[:zone], now, *self.extents[zone + 1 :])

    def find_contiguous(
        self, area: tuple[int, int], count: int, align_order: int, from_pfn: int
    ) -> tuple[int, int] | None:
        """First [start, end) of `count` contiguous pages in a CMA area, at or above `from_pfn` (cma_alloc).

        The start is aligned to 2^align_order pages. Only free pages and region pages (which can be moved) in
        pageblocks that are not isolated are considered; None if there is no such range.
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
        """Allocate an isolated range to an owner as order-0 blocks; BusyError if a page of it is not free."""
        start, end = self.memory_range(start_pfn, end_pfn)
        take_isolated(self.pg, page_zone(self.pg, start), start, end, owner)
