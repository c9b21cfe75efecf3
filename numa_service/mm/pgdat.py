"""One NUMA node's memory: the kernels of this package over its arrays, called once a batch.

Everything here is a synchronous step on one node. Callers speak in page frame numbers; kernels in indexes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from numa_service.mm import page_alloc, vmscan
from numa_service.mm.buddy import count_free_blocks, free_range
from numa_service.mm.mmzone import (
    MAX_ORDER_NR_PAGES,
    MIGRATE_MOVABLE,
    MIGRATE_TYPES,
    NR_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    WMARK_HIGH,
    WMARK_LOW,
    WMARK_MIN,
    WMARK_PROMO,
    ZONE_NAMES,
)
from numa_service.mm.page_alloc import LRU_KIND_NONE
from numa_service.mm.pcp import drain_pages
from numa_service.mm.pgdata import (
    KSWAPD_FAILURES,
    KSWAPD_HIGHEST_ZONEIDX,
    KSWAPD_ORDER,
    KSWAPD_WOKEN,
    MAX_OWNERS,
    PG_RESERVED,
    SCRATCH_FIELDS,
    SWAP_TOTAL,
    SWAP_USED,
    TUNE_PCP_MAX_ORDER,
    ZONE_RECLAIM_ACTIVE,
    PgData,
    alloc_pgdata,
)
from numa_service.mm.profile import Profile
from numa_service.mm.snapshot import NodeSnapshot, PagesetSnapshot, ZoneSnapshot
from numa_service.mm.vmstat import (
    NODE_STAT_NAMES,
    NR_FREE_PAGES,
    NUMA_EVENT_NAMES,
    NUMA_FOREIGN,
    NUMASTAT_NAMES,
    PSWPIN,
    ZONE_STAT_NAMES,
    vm_event_names,
)
from numa_service.mm.watermark import Watermarks, stat_threshold
from numa_service.mm.zonelist import Zonelists

Pfns = npt.NDArray[np.uint64]
Indexes = npt.NDArray[np.uint32]

#: pb_migratetype of a pageblock that is all hole.
NO_PAGEBLOCK = 0xFF

NO_INDEXES: Indexes = np.zeros(0, dtype=np.uint32)

#: MAX_RECLAIM_RETRIES: after as many runs without progress kswapd leaves the node to direct reclaim.
MAX_RECLAIM_RETRIES = 16

_FREE_REASONS = {
    page_alloc.FREE_OUT_OF_RANGE: "not a page of this node",
    page_alloc.FREE_PAGE_FREE: "page is free",
    page_alloc.FREE_ON_PAGESET: "page is free (on a pageset)",
    page_alloc.FREE_RESERVED: "page is reserved",
    page_alloc.FREE_TAIL_PAGE: "page is the tail of a block",
    page_alloc.FREE_WRONG_ORDER: "block is of another order",
    page_alloc.FREE_NOT_OWNER: "page belongs to somebody else",
    page_alloc.FREE_TWICE_IN_BATCH: "page is named twice",
    page_alloc.FREE_LRU_PAGE: "page belongs to a region: unmap the region",
}

#: Reasons that mean "there is no such allocation", as against "not yours" or "not so".
_NOT_FOUND = frozenset(
    {
        page_alloc.FREE_OUT_OF_RANGE,
        page_alloc.FREE_PAGE_FREE,
        page_alloc.FREE_ON_PAGESET,
        page_alloc.FREE_RESERVED,
        page_alloc.FREE_TAIL_PAGE,
    }
)


def _writable(indexes: Indexes) -> Indexes:
    """The same indexes in an array of ours: for a read-only one Numba would compile the kernel anew."""
    return np.array(indexes, dtype=np.uint32)


class BadPageError(Exception):
    """A block may not be freed; nothing was."""

    def __init__(self, pfn: int, reason: str, not_found: bool) -> None:
        super().__init__(f"pfn {pfn:#x}: {reason}")
        self.pfn = pfn
        self.reason = reason
        #: Nothing was allocated there (as against: it is not the caller's, or of another order).
        self.not_found = not_found


@dataclass(frozen=True, slots=True)
class ZoneExtent:
    """Where a zone lies. Pages."""

    name: str
    index: int
    start_pfn: int
    spanned: int
    present: int
    managed: int


class Pgdat:
    """``pg_data_t``: zones, pages, pagesets, LRUs and kswapd state of one node."""

    def __init__(
        self,
        nid: int,
        arch: str,
        profile: Profile,
        cpus: Sequence[int],
        all_cpus: Sequence[int],
        extents: Sequence[ZoneExtent],
        ram: Sequence[tuple[int, int]],
        free_ranges: Sequence[tuple[int, int]],
        zonelists: Zonelists,
        swap_pages: int,
    ) -> None:
        """Boot one node.

        `extents` by zone index, empty zones included; `ram` and `free_ranges` are [start, end) pfns,
        ascending: what is there, and what of it goes to the buddy lists.
        """
        self.nid = nid
        self.arch = arch
        self.profile = profile
        self.cpus = tuple(cpus)
        self.all_cpus = tuple(all_cpus)
        self.cpu_index = {cpu: i for i, cpu in enumerate(self.all_cpus)}
        self.zone_names = ZONE_NAMES[arch]
        self.extents = tuple(extents)
        self.zonelists = zonelists
        spans = [(e.start_pfn, e.start_pfn + e.spanned) for e in extents if e.spanned]
        start = min((s for s, _ in spans), default=0)
        self.base_pfn = start // MAX_ORDER_NR_PAGES * MAX_ORDER_NR_PAGES
        end = max((e for _, e in spans), default=self.base_pfn)
        self.pg: PgData = alloc_pgdata(self.base_pfn, end, len(self.zone_names), len(self.all_cpus))
        self._scratch = np.zeros(4, dtype=np.int64)
        self._init_zones(ram)
        self._free_memory(ram, free_ranges)
        self.pg.reclaim_stat[SWAP_TOTAL] = swap_pages
        self.pg.tune[TUNE_PCP_MAX_ORDER] = profile.pcp_max_order

    # boot

    def _init_zones(self, ram: Sequence[tuple[int, int]]) -> None:
        """free_area_init_core and memmap_init: zones get their spans, pageblocks with RAM start movable."""
        pg = self.pg
        pg.pb_migratetype[:] = NO_PAGEBLOCK
        for low, high in ram:
            blocks = slice(
                (low - self.base_pfn) >> PAGEBLOCK_ORDER, -(-(high - self.base_pfn) // PAGEBLOCK_NR_PAGES)
            )
            pg.pb_migratetype[blocks] = MIGRATE_MOVABLE
        for extent in self.extents:
            if not extent.spanned:
                continue
            first = extent.start_pfn - self.base_pfn
            pg.zone_start[extent.index] = first
            pg.zone_end[extent.index] = first + extent.spanned
            pg.managed[extent.index] = extent.managed

    def _free_memory(self, ram: Sequence[tuple[int, int]], free_ranges: Sequence[tuple[int, int]]) -> None:
        """memblock_free_all: what the boot allocator left goes to the buddy lists; the rest is reserved."""
        pg = self.pg
        for extent in self.extents:
            for low, high in free_ranges:
                low = max(low, extent.start_pfn) - self.base_pfn
                high = min(high, extent.start_pfn + extent.spanned) - self.base_pfn
                if low < high:
                    free_range(pg, extent.index, low, high)
        at = 0
        for low, high in sorted(free_ranges):
            self._reserve(ram, at, low)
            at = high
        self._reserve(ram, at, self.base_pfn + len(pg.flags))
        pg.path[:] = 0

    def _reserve(self, ram: Sequence[tuple[int, int]], start: int, end: int) -> None:
        """Mark the RAM in [start, end) as never given to the buddy system."""
        for low, high in ram:
            low, high = max(low, start) - self.base_pfn, min(high, end) - self.base_pfn
            if low < high:
                self.pg.flags[low:high] = PG_RESERVED

    def set_watermarks(self, zone: int, marks: Watermarks) -> None:
        """Write a zone's watermarks; a boost in force ends, as when a kernel recomputes them."""
        row = self.pg.watermark[zone]
        row[WMARK_MIN], row[WMARK_LOW], row[WMARK_HIGH], row[WMARK_PROMO] = (
            marks.min,
            marks.low,
            marks.high,
            marks.promo,
        )
        self.pg.watermark_boost[zone] = 0

    # allocation

    def alloc(
        self,
        zones: Sequence[int],
        cpu: int | None,
        order: int,
        count: int,
        migratetype: int,
        highest_zoneidx: int,
        alloc_flags: int,
        numa_how: int,
        owner: int,
        lru_kind: int = LRU_KIND_NONE,
        indexes: Indexes = NO_INDEXES,
        dirty: bool = False,
    ) -> Pfns:
        """Up to `count` blocks from `zones` in that order; the pfns got, in order."""
        out = np.empty(count, dtype=np.int64)
        got = page_alloc.alloc_pages_bulk(
            self.pg,
            np.array(zones, dtype=np.int64),
            -1 if cpu is None else self.cpu_index[cpu],
            order,
            count,
            migratetype,
            highest_zoneidx,
            alloc_flags,
            numa_how,
            owner,
            lru_kind,
            _writable(indexes),
            dirty,
            out,
        )
        return (out[:got] + self.base_pfn).astype(np.uint64)

    def free(self, cpu: int | None, order: int, owner: int, pfns: Pfns) -> int:
        """Free blocks held by hand, all or none; pages freed. BadPageError names the first that may not."""
        pages = pfns.astype(np.int64) - self.base_pfn
        error = page_alloc.free_pages_bulk(self.pg, self._cpu(cpu), order, owner, pages)
        if error:
            reason = error & 0xFF
            raise BadPageError(int(pfns[error >> 8]), _FREE_REASONS[reason], reason in _NOT_FOUND)
        return len(pages) << order

    def free_owner(self, owner: int) -> int:
        """Free all that an owner has here: blocks held by hand, region pages, swap. Pages freed."""
        freed = page_alloc.free_owner_pages(self.pg, owner, -1)
        if self.pg.owner_pages[owner]:
            freed += page_alloc.release_owner_lru_pages(self.pg, owner, -1)
        self.pg.reclaim_stat[SWAP_USED] -= self.pg.owner_swap[owner]
        self.pg.owner_swap[owner] = 0
        return int(freed)

    def touch(self, owner: int, pfns: Pfns, indexes: Indexes, write: bool) -> npt.NDArray[np.uint8]:
        """Access region pages; 1 where the page is no longer the region's."""
        gone = np.empty(len(pfns), dtype=np.uint8)
        pages = pfns.astype(np.int64) - self.base_pfn
        page_alloc.touch_pages(self.pg, owner, pages, _writable(indexes), write, gone)
        return gone

    def swap_in(self, owner: int, pages: int) -> int:
        """Give back swap of an owner whose pages are read again; how many really were in swap here."""
        pages = min(pages, int(self.pg.owner_swap[owner]))
        self.pg.owner_swap[owner] -= pages
        self.pg.reclaim_stat[SWAP_USED] -= pages
        self.pg.vm_event[PSWPIN] += pages
        return pages

    def release(self, owner: int, pfns: Pfns, indexes: Indexes, cpu: int | None) -> int:
        """Free region pages that are still the region's; pages freed."""
        pages = pfns.astype(np.int64) - self.base_pfn
        return int(page_alloc.release_region_pages(self.pg, owner, pages, _writable(indexes), self._cpu(cpu)))

    def count_foreign(self, zone: int, count: int) -> None:
        """numa_foreign: `count` allocations that preferred this zone were served elsewhere."""
        self.pg.numa_event[zone, NUMA_FOREIGN] += count

    def _cpu(self, cpu: int | None) -> int:
        return -1 if cpu is None else self.cpu_index[cpu]

    # reclaim

    def wakeup_kswapd(self, order: int, highest_zoneidx: int) -> bool:
        """Note what kswapd is wanted for; True when it is to be woken (wakeup_kswapd)."""
        state = self.pg.kswapd
        if not self.pg.managed[: highest_zoneidx + 1].any():
            return False
        state[KSWAPD_HIGHEST_ZONEIDX] = max(state[KSWAPD_HIGHEST_ZONEIDX], highest_zoneidx)
        state[KSWAPD_ORDER] = max(state[KSWAPD_ORDER], order)
        if state[KSWAPD_WOKEN]:
            return False
        boosted = bool(self.pg.watermark_boost[: highest_zoneidx + 1].any())
        if state[KSWAPD_FAILURES] >= MAX_RECLAIM_RETRIES:
            return False
        if vmscan.pgdat_balanced(self.pg, order, highest_zoneidx) and not boosted:
            return False
        state[KSWAPD_WOKEN] = 1
        return True

    def set_reclaim_active(self, active: bool) -> None:
        """While kswapd runs, pagesets of its zones keep less (ZONE_RECLAIM_ACTIVE)."""
        if active:
            self.pg.zone_flags[:] |= ZONE_RECLAIM_ACTIVE
        else:
            self.pg.zone_flags[:] &= ~ZONE_RECLAIM_ACTIVE

    def shrink(self, reclaim_idx: int, priority: int, nr_to_reclaim: int, kswapd: bool) -> tuple[int, int]:
        """One bounded step of reclaim: (scanned, reclaimed) pages."""
        result = vmscan.shrink_node(self.pg, reclaim_idx, priority, nr_to_reclaim, kswapd, self._scratch)
        return int(result >> 32), int(result & 0xFFFFFFFF)

    def balanced(self, order: int, highest_zoneidx: int) -> bool:
        """Whether kswapd may sleep."""
        return bool(vmscan.pgdat_balanced(self.pg, order, highest_zoneidx))

    def drain(self) -> None:
        """Empty every pageset (drain_all_pages)."""
        drain_pages(self.pg)

    # looking

    def free_pages(self, zone: int) -> int:
        """NR_FREE_PAGES of a zone."""
        return int(self.pg.vm_stat[zone, NR_FREE_PAGES])

    def take_path(self) -> npt.NDArray[np.int64]:
        """Work counters since the last call (PATH_*), and zero them."""
        path = self.pg.path.copy()
        self.pg.path[:] = 0
        return path

    def digest(self) -> str:
        """blake2b over the whole state: equal states, equal digests, on any host."""
        digest = hashlib.blake2b(digest_size=16)
        for name, array in self.pg._asdict().items():
            if name not in SCRATCH_FIELDS:
                digest.update(array.data)
        return digest.hexdigest()

    def snapshot(self) -> NodeSnapshot:
        """Everything that procfs and metrics show of this node."""
        pg = self.pg
        events = {
            name: int(value)
            for name, value in zip(vm_event_names(self.zone_names), pg.vm_event, strict=True)
            if name
        }
        totals = pg.numa_event.sum(axis=0)
        return NodeSnapshot(
            nid=self.nid,
            cpus=self.cpus,
            zones=tuple(self._zone_snapshot(extent) for extent in self.extents),
            node_stat=self._node_stat(),
            vm_event=events,
            numastat=dict(zip(NUMASTAT_NAMES, map(int, totals), strict=True)),
            swap_total=int(pg.reclaim_stat[SWAP_TOTAL]),
            swap_used=int(pg.reclaim_stat[SWAP_USED]),
            unreclaimable=bool(pg.kswapd[KSWAPD_FAILURES] >= MAX_RECLAIM_RETRIES),
        )

    def _node_stat(self) -> dict[str, int]:
        lru = self.pg.vm_stat.sum(axis=0)
        stat = {
            name.replace("_zone_", "_"): int(lru[i])
            for i, name in enumerate(ZONE_STAT_NAMES)
            if i in range(1, 6)
        }
        return stat | dict(zip(NODE_STAT_NAMES, map(int, self.pg.node_stat), strict=True))

    def _zone_snapshot(self, extent: ZoneExtent) -> ZoneSnapshot:
        pg, zone = self.pg, extent.index
        by_type = tuple(
            tuple(
                int(count_free_blocks(pg, zone, order, mt)) if pg.nr_free[zone, order] else 0
                for order in range(NR_ORDERS)
            )
            for mt in range(MIGRATE_TYPES)
        )
        first, last = int(pg.zone_start[zone]), int(pg.zone_end[zone])
        blocks = pg.pb_migratetype[first >> PAGEBLOCK_ORDER : -(-last // PAGEBLOCK_NR_PAGES)]
        threshold = stat_threshold(extent.managed, len(self.all_cpus))
        return ZoneSnapshot(
            nid=self.nid,
            name=extent.name,
            index=zone,
            start_pfn=extent.start_pfn,
            spanned=extent.spanned,
            present=extent.present,
            managed=extent.managed,
            free=self.free_pages(zone),
            wmark_min=int(pg.watermark[zone, WMARK_MIN]),
            wmark_low=int(pg.watermark[zone, WMARK_LOW]),
            wmark_high=int(pg.watermark[zone, WMARK_HIGH]),
            wmark_promo=int(pg.watermark[zone, WMARK_PROMO]),
            watermark_boost=int(pg.watermark_boost[zone]),
            protection=tuple(int(v) for v in pg.lowmem_reserve[zone]),
            nr_free=tuple(int(v) for v in pg.nr_free[zone]),
            nr_free_by_type=by_type,
            pageblocks=tuple(int(np.count_nonzero(blocks == mt)) for mt in range(MIGRATE_TYPES)),
            vm_stat=dict(zip(ZONE_STAT_NAMES, map(int, pg.vm_stat[zone]), strict=True)),
            numa_stat=dict(zip(NUMA_EVENT_NAMES, map(int, pg.numa_event[zone]), strict=True)),
            pagesets=tuple(
                PagesetSnapshot(
                    cpu,
                    int(pg.pcp_count[i, zone]),
                    int(pg.pcp_high[zone]),
                    int(pg.pcp_batch[zone]),
                    threshold,
                )
                for i, cpu in enumerate(self.all_cpus)
            )
            if extent.managed
            else (),
        )


__all__ = ["MAX_OWNERS", "BadPageError", "Indexes", "Pfns", "Pgdat", "ZoneExtent"]
