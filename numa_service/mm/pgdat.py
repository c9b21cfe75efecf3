"""One NUMA node's memory: the kernels of this package over its arrays, called once a batch.

Everything here is a synchronous step on one node. Callers speak in page frame numbers; kernels in indexes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from numa_service.mm import memory, page_alloc, vmscan
from numa_service.mm.buddy import count_free_blocks, free_range, page_zone
from numa_service.mm.isolation import (
    recount_reserves,
    setup_zone_migrate_reserve,
    unreserve_highatomic_pageblock,
)
from numa_service.mm.mmzone import (
    MAX_ORDER_NR_PAGES,
    MIGRATE_CMA,
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
from numa_service.mm.page_alloc import (
    NO_PAGEBLOCK,
)
from numa_service.mm.page_table import PageTables
from numa_service.mm.pcp import PCP_BATCH_SCALE_MAX, free_pcppages_bulk
from numa_service.mm.pgdat_memory import PgdatMemory, ZoneExtent
from numa_service.mm.pgdata import (
    DRIFT_MARK,
    FREE_CMA,
    KSWAPD_FAILURES,
    KSWAPD_HIGHEST_ZONEIDX,
    KSWAPD_ORDER,
    KSWAPD_WOKEN,
    MAX_OWNERS,
    NR_SCAN_CONTROL,
    PCP_ACTIVE,
    PCP_EXPIRE,
    PCP_HIGH_NOW,
    PG_HELD,
    PG_HOLE,
    PG_LRU,
    PG_RESERVED,
    SC_LEFT,
    SC_NR_RECLAIMED,
    SC_NR_SCANNED,
    SC_NR_TO_RECLAIM,
    SC_TARGETS,
    SCRATCH_FIELDS,
    STAT_THRESHOLD,
    SWAP_TOTAL,
    SWAP_USED,
    TUNE_BLOCKS,
    TUNE_DIRTY,
    TUNE_PAGESET,
    TUNE_PASS,
    TUNE_PCP_MAX_ORDER,
    TUNE_WATERMARK,
    ZONE_RECLAIM_ACTIVE,
    alloc_pgdata,
    zone_pageblocks,
)
from numa_service.mm.profile import BLOCKS_TAKE, PAGESET_AUTO_TUNED, Profile
from numa_service.mm.serve import FREE_REASONS, BadPageError, Indexes, Pfns, PgdatCalls
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
from numa_service.mm.watermark import (
    PAGESET_HIGH_MAX_FRACTION,
    Watermarks,
    percpu_drift_mark,
    pressure_threshold,
    stat_threshold,
    zone_batchsize,
    zone_highsize,
)
from numa_service.mm.zonelist import Zonelists

#: MAX_RECLAIM_RETRIES: after as many runs without progress kswapd leaves the node to direct reclaim.
MAX_RECLAIM_RETRIES = 16

#: Quiet vmstat ticks (seconds) after which a pageset of a zone of another node is drained.
PAGESET_EXPIRE_TICKS = 3


_NO_INDEXES = np.zeros(0, dtype=np.uint32)


def _writable(indexes: Indexes) -> Indexes:
    """The same indexes in an array of ours: for a read-only one Numba would compile the kernel anew."""
    return np.array(indexes, dtype=np.uint32)


class Pgdat(PgdatMemory, PgdatCalls):
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
        *,
        cma: Sequence[tuple[int, int]] = (),
        drift: bool = False,
    ) -> None:
        """Boot one node.

        `extents` by zone index, empty zones included; `ram` and `free_ranges` are [start, end) pfns,
        ascending: what is there, and what of it goes to the buddy lists. `cma` are [start, end) pfns kept
        for movable pages and drivers, whole pageblocks of free memory. With `drift` CPUs keep part of
        NR_FREE_PAGES to themselves, as in a kernel; without, the counter is exact. ValueError for a CMA
        area that is not such memory, or a kernel that has none.
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
        self._bind(alloc_pgdata(self.base_pfn, end, len(self.zone_names), len(self.all_cpus)))
        self.tables = PageTables()
        self._scan_control = np.zeros(NR_SCAN_CONTROL, dtype=np.int64)
        self.ram = tuple(ram)
        self.cma_areas = tuple(cma)
        self._marks: dict[int, Watermarks] = {}
        self.drift = drift
        self.managed_at_init = {extent.index: extent.managed - extent.freed_late for extent in self.extents}
        self.pg.tune[TUNE_PCP_MAX_ORDER] = profile.pcp_max_order
        self.pg.tune[TUNE_BLOCKS] = profile.block_rules
        self.pg.tune[TUNE_WATERMARK] = profile.watermark_rules
        self.pg.tune[TUNE_PAGESET] = profile.pageset_rules
        self.pg.tune[TUNE_DIRTY] = profile.dirty_rules
        self.pg.tune[TUNE_PASS] = profile.pass_rules
        self.pg.cpu_local[:] = [cpu in self.cpus for cpu in self.all_cpus]
        self._init_zones(ram)
        self._init_cma(free_ranges)
        self._free_memory(ram, free_ranges)
        self.pg.reclaim_stat[SWAP_TOTAL] = swap_pages

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
        self._mark_holes(ram)
        for extent in self.extents:
            if not extent.spanned:
                continue
            first = extent.start_pfn - self.base_pfn
            pg.zone_start[extent.index] = first
            pg.zone_end[extent.index] = first + extent.spanned
            pg.managed[extent.index] = extent.managed
            whole = slice(-(-first >> PAGEBLOCK_ORDER), (first + extent.spanned) >> PAGEBLOCK_ORDER)
            pg.pb_zone[whole] = extent.index + 1
        pg.pb_zone[pg.pb_migratetype == NO_PAGEBLOCK] = 0

    def _mark_holes(self, ram: Sequence[tuple[int, int]]) -> None:
        """Mark what is not there in pageblocks that have memory; blocks without any are labelled so."""
        edges = sorted({edge - self.base_pfn for pair in ram for edge in pair if edge % PAGEBLOCK_NR_PAGES})
        for block in sorted({edge >> PAGEBLOCK_ORDER for edge in edges}):
            first = block << PAGEBLOCK_ORDER
            hole = np.ones(PAGEBLOCK_NR_PAGES, dtype=np.bool_)
            for low, high in ram:
                hole[max(0, low - self.base_pfn - first) : max(0, high - self.base_pfn - first)] = False
            self.pg.flags[first : first + PAGEBLOCK_NR_PAGES][hole] |= PG_HOLE

    def _init_cma(self, free_ranges: Sequence[tuple[int, int]]) -> None:
        """Label the pageblocks of CMA areas (init_cma_reserved_pageblock)."""
        if self.cma_areas and self.profile.block_rules == BLOCKS_TAKE:
            raise ValueError(f"{self.profile.name} has no CMA")
        for low, high in self.cma_areas:
            if low % PAGEBLOCK_NR_PAGES or high % PAGEBLOCK_NR_PAGES or low >= high:
                raise ValueError(f"CMA area {low:#x}-{high:#x}: not whole pageblocks")
            if not any(start <= low and high <= end for start, end in free_ranges):
                raise ValueError(f"CMA area {low:#x}-{high:#x}: not free memory of this node")
            zones = [e for e in self.extents if e.start_pfn <= low and high <= e.start_pfn + e.spanned]
            if not zones:
                raise ValueError(f"CMA area {low:#x}-{high:#x}: not within one zone")
            first = (low - self.base_pfn) >> PAGEBLOCK_ORDER
            self.pg.pb_migratetype[first : (high - self.base_pfn) >> PAGEBLOCK_ORDER] = MIGRATE_CMA

    def _without_cma(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Ranges cut at the edges of CMA areas, so that no free block is of two kinds."""
        edges = sorted({edge for area in self.cma_areas for edge in area})
        parts = []
        for low, high in ranges:
            for edge in edges:
                if low < edge < high:
                    parts.append((low, edge))
                    low = edge
            parts.append((low, high))
        return parts

    def _free_memory(self, ram: Sequence[tuple[int, int]], free_ranges: Sequence[tuple[int, int]]) -> None:
        """memblock_free_all: what the boot allocator left goes to the buddy lists; the rest is reserved."""
        pg = self.pg
        for extent in self.extents:
            for low, high in self._without_cma(free_ranges):
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
        """Write a zone's watermarks and what follows from them: reserve of 3.0, drift, ceiling of pagesets.

        A boost in force ends, as when a kernel recomputes them.
        """
        row = self.pg.watermark[zone]
        row[WMARK_MIN], row[WMARK_LOW], row[WMARK_HIGH], row[WMARK_PROMO] = (
            marks.min,
            marks.low,
            marks.high,
            marks.promo,
        )
        self.pg.watermark_boost[zone] = 0
        self._marks[zone] = marks
        managed = int(self.pg.managed[zone])
        if not managed:
            return
        online = len(self.all_cpus)
        self.pg.drift[zone, DRIFT_MARK] = percpu_drift_mark(managed, marks, online)
        self._set_stat_threshold(zone, bool(self.pg.zone_flags[zone] & ZONE_RECLAIM_ACTIVE))
        if self.profile.block_rules == BLOCKS_TAKE:
            setup_zone_migrate_reserve(self.pg, zone)
        if self.profile.pageset_rules == PAGESET_AUTO_TUNED:
            batch = zone_batchsize(managed, self.profile)
            self.pg.pcp_high_max[zone] = zone_highsize(
                managed, marks.low, batch, len(self.cpus), online, self.profile, PAGESET_HIGH_MAX_FRACTION
            )

    def set_pageset_high(self, zone: int, high_min: int, high_max: int) -> None:
        """Pages a pageset may hold; with both equal (percpu_pagelist_high_fraction) it does not move."""
        self.pg.pcp_high[zone] = high_min
        self.pg.pcp_high_max[zone] = high_max

    def _set_stat_threshold(self, zone: int, pressure: bool) -> None:
        """set_pgdat_percpu_threshold; what CPUs keep beyond it, they give up at their next change."""
        if self.drift and zone in self._marks:
            self.pg.drift[zone, STAT_THRESHOLD] = (
                pressure_threshold(self._marks[zone], len(self.all_cpus))
                if pressure
                else stat_threshold(self.managed_at_init[zone], len(self.all_cpus))
            )

    def refresh_zone_stat_thresholds(self) -> None:
        """What zones manage now decides from here on how far counters may drift."""
        self.managed_at_init = {extent.index: extent.managed for extent in self.extents}
        for zone in self._marks:
            self._set_stat_threshold(zone, bool(self.pg.zone_flags[zone] & ZONE_RECLAIM_ACTIVE))

    # allocation

    def free_owner(self, owner: int) -> int:
        """Free all that an owner has here: blocks held by hand, region pages, swap. Pages freed."""
        freed = page_alloc.free_owner_pages(self.pg, owner, -1)
        tables = self.tables
        directory = tables.directory(owner)
        if len(directory):
            freed += memory.zap_pages(self.pg, tables.ptes, directory, owner, _NO_INDEXES, True, -1)
            tables.free(owner)
        self.pg.reclaim_stat[SWAP_USED] -= self.pg.owner_swap[owner]
        self.pg.owner_swap[owner] = 0
        return int(freed)

    def touch(self, owner: int, indexes: Indexes, write: bool) -> npt.NDArray[np.uint8]:
        """Access region pages; 1 where there is none any more."""
        gone = np.empty(len(indexes), dtype=np.uint8)
        tables = self.tables
        args = tables.ptes, tables.directory(owner), owner, _writable(indexes), write, gone
        memory.touch_pages(self.pg, *args)
        return gone

    def swap_in(self, owner: int, pages: int) -> int:
        """Give back swap of an owner whose pages are read again; how many really were in swap here."""
        pages = min(pages, int(self.pg.owner_swap[owner]))
        self.pg.owner_swap[owner] -= pages
        self.pg.reclaim_stat[SWAP_USED] -= pages
        self.pg.vm_event[PSWPIN] += pages
        return pages

    def region_pfns(self, owner: int, indexes: Indexes) -> npt.NDArray[np.int64]:
        """Where an owner's pages are, by their index in its region; -1 for one that is not here."""
        pages = self.tables.find(self.pg, owner, _writable(indexes))
        return np.where(pages < 0, pages, pages + self.base_pfn)

    def release(self, owner: int, indexes: Indexes, cpu: int | None, pfns: Pfns | None = None) -> int:
        """Free the pages that a region still has at these indexes; pages freed. With `pfns`: only those."""
        indexes, tables = _writable(indexes), self.tables
        if pfns is not None:
            indexes = indexes[self.region_pfns(owner, indexes) == pfns.astype(np.int64)]
        at = -1 if cpu is None else self.cpu_index[cpu]
        args = tables.ptes, tables.directory(owner), owner, indexes, False, at
        return int(memory.zap_pages(self.pg, *args))

    def move_pages(
        self, owner: int, indexes: Indexes, pfns: Pfns, new_pfns: Pfns, anon: bool, dirty: bool
    ) -> int:
        """Move region pages to pages that their owner holds by hand (migrate_pages); how many were moved.

        A page that is not at its place any more stays as it is; the page that it was to move to is freed.
        """
        pg = self.pg
        new = new_pfns.astype(np.int64) - self.base_pfn
        held = (pg.flags[new] & (PG_HELD | PG_LRU) == PG_HELD) & (pg.owner[new] == owner)
        moved = held & (self.region_pfns(owner, indexes) == pfns.astype(np.int64))
        indexes = _writable(indexes[moved])
        self.release(owner, indexes, None)
        memory.add_held_to_lru(pg, new[moved], indexes, anon, dirty)
        self.tables.enter(pg, owner, indexes, new[moved])
        self.free(None, 0, owner, new_pfns[held & ~moved])
        return len(indexes)

    def count_foreign(self, zone: int, count: int) -> None:
        """numa_foreign: `count` allocations that preferred this zone were served elsewhere."""
        self.pg.numa_event[zone, NUMA_FOREIGN] += count

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
        for zone in self._marks:
            self._set_stat_threshold(zone, active)

    def shrink(self, reclaim_idx: int, priority: int, nr_to_reclaim: int) -> tuple[int, int]:
        """One pass of direct reclaim, until it has reclaimed so many pages: (scanned, reclaimed) pages."""
        sc = self._scan_control
        vmscan.begin_pass(self.pg, sc, reclaim_idx, priority, nr_to_reclaim, False, True)
        vmscan.shrink_node(self.pg, sc, vmscan.NO_LIMIT)
        return int(sc[SC_NR_SCANNED]), int(sc[SC_NR_RECLAIMED])

    @property
    def in_pass(self) -> bool:
        """Whether kswapd is in the middle of a pass over the LRU lists."""
        return bool(self.pg.scan_control[SC_LEFT:SC_TARGETS].any())

    def begin_kswapd_pass(self, highest_zoneidx: int, priority: int, may_write: bool) -> None:
        """Decide what a pass of kswapd is to scan and to reclaim; of clean page cache only, or of all."""
        target = vmscan.kswapd_target(self.pg, highest_zoneidx)
        vmscan.begin_pass(self.pg, self.pg.scan_control, highest_zoneidx, priority, target, True, may_write)

    def go_on_with_pass(self, limit: int) -> tuple[int, int]:
        """Let kswapd look at up to `limit` further pages: (scanned, reclaimed) pages."""
        sc = self.pg.scan_control
        scanned, reclaimed = int(sc[SC_NR_SCANNED]), int(sc[SC_NR_RECLAIMED])
        vmscan.shrink_node(self.pg, sc, limit)
        return int(sc[SC_NR_SCANNED]) - scanned, int(sc[SC_NR_RECLAIMED]) - reclaimed

    def end_kswapd_pass(self) -> tuple[int, int, int]:
        """Pages that the whole pass has scanned, reclaimed, and was to reclaim (NO_LIMIT under 3.0)."""
        sc = self.pg.scan_control
        scanned, reclaimed, target = sc[[SC_NR_SCANNED, SC_NR_RECLAIMED, SC_NR_TO_RECLAIM]].tolist()
        sc[:] = 0
        return scanned, reclaimed, target

    def balanced(self, order: int, highest_zoneidx: int) -> bool:
        """Whether kswapd may sleep."""
        return bool(vmscan.pgdat_balanced(self.pg, order, highest_zoneidx))

    def unreserve_highatomic(self, zones: Sequence[int], migratetype: int, force: bool) -> bool:
        """Release one HIGHATOMIC pageblock: before direct reclaim tries again, with `force` before OOM.

        True when there was one to release: the allocation is worth another try.
        """
        return unreserve_highatomic_pageblock(self.pg, zones, migratetype, force)

    @property
    def vmstat_wanted(self) -> bool:
        """Whether a vmstat tick would find anything to do (need_update)."""
        pg = self.pg
        tuning = pg.pcp_tuning
        wanted = tuning[:, :, PCP_ACTIVE].any() or pg.free_delta.any()
        wanted = wanted or ((tuning[:, :, PCP_EXPIRE] > 0) & (pg.pcp_count > 0)).any()
        if self.profile.pageset_rules == PAGESET_AUTO_TUNED:
            high = tuning[:, :, PCP_HIGH_NOW]
            wanted = wanted or (high > pg.pcp_high).any() or (pg.pcp_count > high).any()
        return bool(wanted)

    def recount_reserves(self) -> None:
        """After pageblock labels or free lists were written outright: make their counts agree."""
        recount_reserves(self.pg)

    def tick(self, cpu: int | None = None) -> int:
        """One vmstat tick (a second) of one CPU, or of all: pages that left its pagesets.

        Folds what the CPU keeps of the counters, lets an auto-tuned `high` decay, and drains a batch of a
        zone of another node that the CPU left alone for three ticks (refresh_cpu_vm_stats).
        """
        before = int(self.pg.pcp_count.sum())
        for i in range(len(self.all_cpus)) if cpu is None else (self.cpu_index[cpu],):
            for zone in np.flatnonzero(self.pg.managed).tolist():
                self._refresh_cpu_vm_stats(i, zone)
        return before - int(self.pg.pcp_count.sum())

    def _refresh_cpu_vm_stats(self, cpu: int, zone: int) -> None:
        pg = self.pg
        pcp = pg.pcp_tuning[cpu, zone]
        pg.vm_stat[zone, NR_FREE_PAGES] += pg.free_delta[cpu, zone]
        pg.free_delta[cpu, zone] = 0
        if pcp[PCP_ACTIVE]:
            pcp[PCP_ACTIVE] = 0
            pcp[PCP_EXPIRE] = PAGESET_EXPIRE_TICKS
        if self.profile.pageset_rules == PAGESET_AUTO_TUNED:
            self._decay_pcp_high(cpu, zone)
        if not pcp[PCP_EXPIRE] or not pg.pcp_count[cpu, zone]:
            return
        if pg.cpu_local[cpu]:
            pcp[PCP_EXPIRE] = 0
            return
        pcp[PCP_EXPIRE] -= 1
        if not pcp[PCP_EXPIRE]:
            free_pcppages_bulk(pg, zone, cpu, int(pg.pcp_batch[zone]), 0)

    def _decay_pcp_high(self, cpu: int, zone: int) -> None:
        """Let `high` of an idle pageset shrink by an eighth, and what is above it go (decay_pcp_high)."""
        pg = self.pg
        floor, high = int(pg.pcp_high[zone]), int(pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW])
        count = int(pg.pcp_count[cpu, zone])
        if high > floor:
            most = int(pg.pcp_batch[zone]) << PCP_BATCH_SCALE_MAX
            high = max(count - most, high - (high >> 3), floor)
            pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW] = high
        if count > high:
            free_pcppages_bulk(pg, zone, cpu, count - high, 0)

    # looking

    def bad_pages(self) -> dict[str, int]:
        """Frees refused since boot, by reason; not part of the state."""
        return {reason: int(self.pg.bad_pages[code]) for code, (reason, _) in FREE_REASONS.items()}

    def percpu_drift_mark(self, zone: int) -> int:
        """Free pages below which kswapd would not trust the counter; 0 = always."""
        return int(self.pg.drift[zone, DRIFT_MARK])

    def pageset_high(self, cpu: int, zone: int) -> int:
        """Pages that a CPU's pageset may hold now; `cpu` by position."""
        low = int(self.pg.pcp_high[zone])
        if self.profile.pageset_rules != PAGESET_AUTO_TUNED:
            return low
        now = int(self.pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW])
        return max(low, min(now, int(self.pg.pcp_high_max[zone])))

    def cma_pages(self, zone: int) -> int:
        """Pages in CMA areas of a zone (zone_cma_pages)."""
        return sum(high - low for low, high in self.cma_areas if self.zone_of(low) == zone)

    def zone_of(self, pfn: int) -> int:
        """Zone index of a page of this node; -1 outside every zone."""
        return int(page_zone(self.pg, pfn - self.base_pfn))

    def free_pages(self, zone: int) -> int:
        """NR_FREE_PAGES of a zone; 0 when CPUs keep more than that to themselves (zone_page_state)."""
        return max(0, int(self.pg.vm_stat[zone, NR_FREE_PAGES]))

    def take_path(self) -> npt.NDArray[np.int64]:
        """Work counters since the last call (PATH_*), and zero them."""
        path = self.pg.path.copy()
        self.pg.path[:] = 0
        return path

    def digest(self) -> str:
        """blake2b over the state, of page tables what counts: equal states, equal digests, on any host."""
        digest = hashlib.blake2b(digest_size=16)
        for name, array in self.pg._asdict().items():
            if name not in SCRATCH_FIELDS:
                digest.update(array.data)
        for owner in self.tables.owners():
            for indexes, pages in self.tables.mapped(self.pg, owner):
                digest.update(owner.to_bytes(4, "little") + indexes.tobytes() + pages.tobytes())
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

    def _cma_stat(self, zone: int) -> dict[str, int]:
        pages = self.cma_pages(zone)
        return {"nr_free_cma": int(self.pg.reserves[zone, FREE_CMA]), "cma": pages} if pages else {}

    def _zone_snapshot(self, extent: ZoneExtent) -> ZoneSnapshot:
        pg, zone = self.pg, extent.index
        by_type = tuple(
            tuple(
                int(count_free_blocks(pg, zone, order, mt)) if pg.nr_free[zone, order] else 0
                for order in range(NR_ORDERS)
            )
            for mt in range(MIGRATE_TYPES)
        )
        blocks = pg.pb_migratetype[zone_pageblocks(pg, zone)]
        threshold = stat_threshold(self.managed_at_init[extent.index], len(self.all_cpus))
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
            vm_stat=dict(zip(ZONE_STAT_NAMES, map(int, pg.vm_stat[zone]), strict=True))
            | self._cma_stat(zone),
            numa_stat=dict(zip(NUMA_EVENT_NAMES, map(int, pg.numa_event[zone]), strict=True)),
            pagesets=tuple(
                PagesetSnapshot(
                    cpu,
                    int(pg.pcp_count[i, zone]),
                    self.pageset_high(i, zone),
                    int(pg.pcp_batch[zone]),
                    threshold,
                )
                for i, cpu in enumerate(self.all_cpus)
            )
            if extent.managed
            else (),
        )


__all__ = ["MAX_OWNERS", "NO_PAGEBLOCK", "BadPageError", "Indexes", "Pfns", "Pgdat", "ZoneExtent"]
