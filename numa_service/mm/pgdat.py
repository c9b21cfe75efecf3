"""``pg_data_t``: the memory of one NUMA node, as its callers see it.

Each method is one synchronous step on one node, and mostly one call of a kernel for a whole batch. Callers
name pages by page frame number (pfn); kernels by their index in mem_map, ``pfn - base_pfn``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from numa_service.mm import memory, page_alloc, vmscan
from numa_service.mm.buddy import count_free_blocks, page_zone
from numa_service.mm.hugetlb.node_hugetlb import NodeHugetlb
from numa_service.mm.isolation import (
    recount_reserves,
    setup_zone_migrate_reserve,
    unreserve_highatomic_pageblock,
)
from numa_service.mm.mm_init import free_area_init, init_cma_reserved_pageblocks, memblock_free_all
from numa_service.mm.mmzone import (
    HUGE_INDEX,
    MAX_ORDER_NR_PAGES,
    MIGRATE_TYPES,
    NR_ORDERS,
    PAGEBLOCK_NR_PAGES,
    WMARK_HIGH,
    WMARK_LOW,
    WMARK_MIN,
    WMARK_PROMO,
    ZONE_NAMES,
)
from numa_service.mm.page_alloc import NO_PAGEBLOCK
from numa_service.mm.page_table import PageTables, parts_of, split_named
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
    PCP_HIGH_NOW,
    PG_HELD,
    PG_LRU,
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
    TUNE_FAIR,
    TUNE_PAGESET,
    TUNE_PASS,
    TUNE_PCP_MAX_ORDER,
    TUNE_WATERMARK,
    ZONE_RECLAIM_ACTIVE,
    alloc_pgdata,
    zone_pageblocks,
)
from numa_service.mm.poison.hwpoison import MemoryFailure
from numa_service.mm.profile import Profile
from numa_service.mm.serve import FREE_REASONS, BadPageError, Indexes, Pfns, PgdatCalls
from numa_service.mm.snapshot import NodeSnapshot, PagesetSnapshot, ZoneSnapshot
from numa_service.mm.split_huge_page import split_huge_page
from numa_service.mm.variants import BLOCKS_TAKE, PAGESET_AUTO_TUNED
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
from numa_service.mm.vmstat_update import need_update, refresh_cpu_vm_stats
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

#: Runs of kswapd without progress after which it leaves the node to direct reclaim (kswapd_failures, 4.12).
MAX_RECLAIM_RETRIES = 16

_NO_INDEXES = np.zeros(0, dtype=np.uint32)


def _writable(indexes: Indexes) -> Indexes:
    """Copy of an array of indexes: for a read-only array Numba would compile the kernel a second time."""
    return np.array(indexes, dtype=np.uint32)


class Pgdat(PgdatMemory, PgdatCalls):
    """One node's zones, pages, pagesets, LRU lists, page tables and kswapd state."""

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

        `cpus` are the node's own CPUs, `all_cpus` those of the machine. `extents` has one entry for each zone
        index, empty zones included. `ram` and `free_ranges` are [start, end) pfns, ascending: RAM that
        exists, and the part of it that goes to the buddy lists. `cma` are CMA areas, [start, end) pfns: whole
        pageblocks of free memory. With `drift` each CPU keeps part of NR_FREE_PAGES to itself, as in a
        kernel; without, the counter is exact. ValueError for a CMA area that is not such memory, or if the
        kernel of `profile` has no CMA.
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
        self.hugetlb = NodeHugetlb()
        self.memory_failure = MemoryFailure()
        self.size_locked = 0
        self.span_sequence = [0] * len(self.zone_names)
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
        self.pg.tune[TUNE_FAIR] = profile.fair_zones
        self.pg.cpu_local[:] = [cpu in self.cpus for cpu in self.all_cpus]
        free_area_init(self.pg, self.base_pfn, self.extents, self.ram)
        if self.cma_areas and profile.block_rules == BLOCKS_TAKE:
            raise ValueError(f"{profile.name} has no CMA")
        init_cma_reserved_pageblocks(self.pg, self.base_pfn, self.extents, self.cma_areas, free_ranges)
        memblock_free_all(self.pg, self.base_pfn, self.extents, self.ram, free_ranges, self.cma_areas)
        self.pg.reclaim_stat[SWAP_TOTAL] = swap_pages

    # watermarks and thresholds

    def set_watermarks(self, zone: int, marks: Watermarks) -> None:
        """Set a zone's watermarks (pages) and what depends on them (__setup_per_zone_wmarks).

        That is the drift mark and threshold of NR_FREE_PAGES, MIGRATE_RESERVE under 3.0, the share of fair
        zone allocation from 3.12 to 4.7, and under 6.12 the largest `high` of pagesets. A boost that is in
        force ends.
        """
        row = self.pg.watermark[zone]
        row[WMARK_MIN], row[WMARK_LOW], row[WMARK_HIGH], row[WMARK_PROMO] = (
            marks.min,
            marks.low,
            marks.high,
            marks.promo,
        )
        self.pg.watermark_boost[zone] = 0
        if self.profile.fair_zones:
            self.pg.alloc_batch[zone] = marks.high - marks.low
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
        """Set how many pages a pageset of the zone may hold (high_min, high_max).

        Both are equal where vm.percpu_pagelist_high_fraction is set: `high` is not auto-tuned then.
        """
        self.pg.pcp_high[zone] = high_min
        self.pg.pcp_high_max[zone] = high_max

    def _set_stat_threshold(self, zone: int, pressure: bool) -> None:
        """Set the zone's stat_threshold, lower while kswapd runs (set_pgdat_percpu_threshold).

        A CPU that keeps more than the new threshold folds it into the zone's counter at its next change.
        """
        if self.drift and zone in self._marks:
            self.pg.drift[zone, STAT_THRESHOLD] = (
                pressure_threshold(self._marks[zone], len(self.all_cpus))
                if pressure
                else stat_threshold(self.managed_at_init[zone], len(self.all_cpus))
            )

    def refresh_zone_stat_thresholds(self) -> None:
        """Compute stat thresholds from the pages that zones manage now (refresh_zone_stat_thresholds)."""
        self.managed_at_init = {extent.index: extent.managed for extent in self.extents}
        for zone in self._marks:
            self._set_stat_threshold(zone, bool(self.pg.zone_flags[zone] & ZONE_RECLAIM_ACTIVE))

    # pages of owners

    def free_owner(self, owner: int) -> int:
        """Free all that an owner has here: blocks held by hand, region pages, swap. Returns pages freed."""
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
        """Access an owner's region pages by index; the result has 1 for each index without a page here.

        It has 2 for what is named as a huge page and is none, or none any more.
        """
        gone = np.empty(len(indexes), dtype=np.uint8)
        tables = self.tables
        args = tables.ptes, tables.directory(owner), owner, _writable(indexes), write, gone
        memory.touch_pages(self.pg, *args)
        return gone

    def swap_in(self, owner: int, pages: int) -> int:
        """Free up to `pages` pages of an owner's swap, which are read back; returns how many there were."""
        pages = min(pages, int(self.pg.owner_swap[owner]))
        self.pg.owner_swap[owner] -= pages
        self.pg.reclaim_stat[SWAP_USED] -= pages
        self.pg.vm_event[PSWPIN] += pages
        return pages

    def region_pfns(self, owner: int, indexes: Indexes) -> npt.NDArray[np.int64]:
        """pfns of an owner's region pages, by their index in the region; -1 for a page that is not here."""
        pages = self.tables.find(self.pg, owner, _writable(indexes))
        return np.where(pages < 0, pages, pages + self.base_pfn)

    def split_named(self, owner: int, indexes: Indexes) -> None:
        """Split the huge pages of which parts are named."""
        tables = self.tables
        split_named(self.pg, tables.ptes, tables.directory(owner), owner, _writable(indexes))

    def split_huge(self, pages: npt.NDArray[np.int64]) -> None:
        """Split huge pages, by their indexes on this node; what is none is left alone."""
        for idx in pages.tolist():
            if self.pg.flags[idx] & PG_LRU and self.pg.order[idx]:
                split_huge_page(self.pg, idx)

    def split_around(self, pfn: int) -> None:
        """Split the huge page that a page is of, if it is of one (try_to_split_thp_page)."""
        self.split_huge(np.array([pfn - self.base_pfn & ~(PAGEBLOCK_NR_PAGES - 1)]))

    def release(self, owner: int, indexes: Indexes, cpu: int | None, pfns: Pfns | None = None) -> int:
        """Free the region pages that an owner still has at `indexes`; returns pages freed.

        With `pfns`, only those that are still at the given pfn. They go to the pageset of `cpu`, if not None.
        """
        indexes, tables = _writable(indexes), self.tables
        if pfns is not None:
            indexes = indexes[self.region_pfns(owner, indexes) == pfns.astype(np.int64)]
        at = -1 if cpu is None else self.cpu_index[cpu]
        args = tables.ptes, tables.directory(owner), owner, indexes, False, at
        return int(memory.zap_pages(self.pg, *args))

    def move_pages(
        self, owner: int, indexes: Indexes, pfns: Pfns, new_pfns: Pfns, anon: bool, dirty: bool
    ) -> int:
        """Move region pages from `pfns` to `new_pfns`, which the owner holds by hand (migrate_pages).

        A region page that is not at its pfn any more is not moved, and its target page is freed. Returns how
        many pages were moved. All of them are single, or all are huge.
        """
        pg = self.pg
        new = new_pfns.astype(np.int64) - self.base_pfn
        held = (pg.flags[new] & (PG_HELD | PG_LRU) == PG_HELD) & (pg.owner[new] == owner)
        moved = held & (self.region_pfns(owner, indexes) == pfns.astype(np.int64))
        indexes = _writable(indexes[moved])
        self.release(owner, indexes, None)
        memory.add_held_to_lru(pg, new[moved], indexes, anon, dirty)
        huge = bool((indexes & np.uint32(HUGE_INDEX)).any())
        entries = indexes, new[moved]
        if huge:
            entries = parts_of(indexes & ~np.uint32(HUGE_INDEX), new[moved])
        self.tables.enter(pg, owner, *entries)
        refused = new_pfns[held & ~moved]
        for order in np.unique(pg.order[refused.astype(np.int64) - self.base_pfn]).tolist():
            these = pg.order[refused.astype(np.int64) - self.base_pfn] == order
            self.free(None, order, owner, refused[these])
        return len(indexes) * (PAGEBLOCK_NR_PAGES if huge else 1)

    def count_foreign(self, zone: int, count: int) -> None:
        """Add to numa_foreign: `count` allocations that preferred this zone were served by another node."""
        self.pg.numa_event[zone, NUMA_FOREIGN] += count

    # reclaim

    def wakeup_kswapd(self, order: int, highest_zoneidx: int) -> bool:
        """Record the order and zone that kswapd is wanted for; True if it has to be woken (wakeup_kswapd)."""
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
        """Set or clear ZONE_RECLAIM_ACTIVE: while kswapd runs, pagesets and CPUs' counters keep less."""
        if active:
            self.pg.zone_flags[:] |= ZONE_RECLAIM_ACTIVE
        else:
            self.pg.zone_flags[:] &= ~ZONE_RECLAIM_ACTIVE
        for zone in self._marks:
            self._set_stat_threshold(zone, active)

    def shrink(self, reclaim_idx: int, priority: int, nr_to_reclaim: int) -> tuple[int, int]:
        """One pass of direct reclaim, which ends at `nr_to_reclaim` pages: (scanned, reclaimed) pages."""
        sc = self._scan_control
        vmscan.begin_pass(self.pg, sc, reclaim_idx, priority, nr_to_reclaim, False, True)
        vmscan.shrink_node(self.pg, sc, vmscan.NO_LIMIT)
        return int(sc[SC_NR_SCANNED]), int(sc[SC_NR_RECLAIMED])

    @property
    def in_pass(self) -> bool:
        """Whether kswapd is in the middle of a pass over the LRU lists."""
        return bool(self.pg.scan_control[SC_LEFT:SC_TARGETS].any())

    def begin_kswapd_pass(self, highest_zoneidx: int, priority: int, may_write: bool) -> None:
        """Decide how much a pass of kswapd scans and reclaims; without `may_write` clean page cache only."""
        target = vmscan.kswapd_target(self.pg, highest_zoneidx)
        vmscan.begin_pass(self.pg, self.pg.scan_control, highest_zoneidx, priority, target, True, may_write)

    def go_on_with_pass(self, limit: int) -> tuple[int, int]:
        """Go on with kswapd's pass for up to `limit` pages; (scanned, reclaimed) pages of this step."""
        sc = self.pg.scan_control
        scanned, reclaimed = int(sc[SC_NR_SCANNED]), int(sc[SC_NR_RECLAIMED])
        vmscan.shrink_node(self.pg, sc, limit)
        return int(sc[SC_NR_SCANNED]) - scanned, int(sc[SC_NR_RECLAIMED]) - reclaimed

    def end_kswapd_pass(self) -> tuple[int, int, int]:
        """End kswapd's pass; pages that it scanned, reclaimed and aimed at (NO_LIMIT under 3.0)."""
        sc = self.pg.scan_control
        scanned, reclaimed, target = sc[[SC_NR_SCANNED, SC_NR_RECLAIMED, SC_NR_TO_RECLAIM]].tolist()
        sc[:] = 0
        return scanned, reclaimed, target

    def balanced(self, order: int, highest_zoneidx: int) -> bool:
        """Whether kswapd may sleep: one eligible zone is above its HIGH watermark (pgdat_balanced)."""
        return bool(vmscan.pgdat_balanced(self.pg, order, highest_zoneidx))

    def unreserve_highatomic(self, zones: Sequence[int], migratetype: int, force: bool) -> bool:
        """Give back one HIGHATOMIC pageblock (unreserve_highatomic_pageblock).

        The caller does this before direct reclaim tries again, and with `force` before it gives up. True if a
        pageblock was given back, so that another try makes sense.
        """
        return unreserve_highatomic_pageblock(self.pg, zones, migratetype, force)

    @property
    def vmstat_wanted(self) -> bool:
        """Whether a vmstat tick would find anything to do."""
        return need_update(self.pg)

    def recount_reserves(self) -> None:
        """Recount `PgData.reserves`, after pageblock types or free lists were written directly."""
        recount_reserves(self.pg)

    def tick(self, cpu: int | None = None) -> int:
        """One vmstat tick of one CPU, or of all CPUs (vmstat_update); returns pages that left pagesets."""
        before = int(self.pg.pcp_count.sum())
        for i in range(len(self.all_cpus)) if cpu is None else (self.cpu_index[cpu],):
            for zone in np.flatnonzero(self.pg.managed).tolist():
                refresh_cpu_vm_stats(self.pg, i, zone)
        return before - int(self.pg.pcp_count.sum())

    # inspection

    def bad_pages(self) -> dict[str, int]:
        """Refused frees since boot, by reason; not part of the state."""
        return {reason: int(self.pg.bad_pages[code]) for code, (reason, _) in FREE_REASONS.items()}

    def percpu_drift_mark(self, zone: int) -> int:
        """percpu_drift_mark: below this many free pages kswapd adds up every CPU's part; 0: it never does."""
        return int(self.pg.drift[zone, DRIFT_MARK])

    def pageset_high(self, cpu: int, zone: int) -> int:
        """per_cpu_pages.high at present, in pages; `cpu` is a position in `all_cpus`."""
        low = int(self.pg.pcp_high[zone])
        if self.profile.pageset_rules != PAGESET_AUTO_TUNED:
            return low
        now = int(self.pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW])
        return max(low, min(now, int(self.pg.pcp_high_max[zone])))

    def cma_pages(self, zone: int) -> int:
        """Pages in CMA areas of a zone (zone_cma_pages)."""
        return sum(high - low for low, high in self.cma_areas if self.zone_of(low) == zone)

    def zone_of(self, pfn: int) -> int:
        """Zone index of a page of this node; -1 outside every zone, and for a page that is not the node's."""
        idx = pfn - self.base_pfn
        return int(page_zone(self.pg, idx)) if 0 <= idx < len(self.pg.flags) else -1

    def free_pages(self, zone: int) -> int:
        """NR_FREE_PAGES of a zone; 0 where CPUs' own parts make the counter negative (zone_page_state)."""
        return max(0, int(self.pg.vm_stat[zone, NR_FREE_PAGES]))

    def take_path(self) -> npt.NDArray[np.int64]:
        """Return the work counters (PATH_*) and set them to zero."""
        path = self.pg.path.copy()
        self.pg.path[:] = 0
        return path

    def digest(self) -> str:
        """Hexadecimal blake2b of the state; of page tables only the entries that count.

        Equal states have equal digests on any host.
        """
        digest = hashlib.blake2b(digest_size=16)
        for name, array in self.pg._asdict().items():
            if name not in SCRATCH_FIELDS:
                digest.update(array.data)
        for owner in self.tables.owners():
            for indexes, pages in self.tables.mapped(self.pg, owner):
                digest.update(owner.to_bytes(4, "little") + indexes.tobytes() + pages.tobytes())
        return digest.hexdigest()

    def snapshot(self, *, free_lists: bool = True, pagesets: bool = True) -> NodeSnapshot:
        """The node as plain data, from which procfs and most metrics are rendered.

        Blocks by migratetype and pagesets, which take most of the time, are left out on request.
        """
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
            zones=tuple(self._zone_snapshot(extent, free_lists, pagesets) for extent in self.extents),
            node_stat=self._node_stat(),
            vm_event=events | self.hugetlb.events(),
            numastat=dict(zip(NUMASTAT_NAMES, map(int, totals), strict=True)),
            swap_total=int(pg.reclaim_stat[SWAP_TOTAL]),
            swap_used=int(pg.reclaim_stat[SWAP_USED]),
            unreclaimable=bool(pg.kswapd[KSWAPD_FAILURES] >= MAX_RECLAIM_RETRIES),
            hugetlb=self.hugetlb.snapshot(),
            memory_failure=self.memory_failure.snapshot(),
        )

    def _node_stat(self) -> dict[str, int]:
        """Per-node counters by name; since 4.8 LRU sizes are among them, here as sums over the zones."""
        lru = self.pg.vm_stat.sum(axis=0)
        stat = {
            name.replace("_zone_", "_"): int(lru[i])
            for i, name in enumerate(ZONE_STAT_NAMES)
            if i in range(1, 6)
        }
        return stat | dict(zip(NODE_STAT_NAMES, map(int, self.pg.node_stat), strict=True))

    def _cma_stat(self, zone: int) -> dict[str, int]:
        """CMA counters of a zone; empty if it has no CMA area."""
        pages = self.cma_pages(zone)
        return {"nr_free_cma": int(self.pg.reserves[zone, FREE_CMA]), "cma": pages} if pages else {}

    def _zone_snapshot(self, extent: ZoneExtent, free_lists: bool, pagesets: bool) -> ZoneSnapshot:
        """One zone as plain data."""
        pg, zone = self.pg, extent.index
        by_type: tuple[tuple[int, ...], ...] = ()
        blocks: tuple[int, ...] = ()
        if free_lists:
            by_type = tuple(
                tuple(
                    int(count_free_blocks(pg, zone, order, mt)) if pg.nr_free[zone, order] else 0
                    for order in range(NR_ORDERS)
                )
                for mt in range(MIGRATE_TYPES)
            )
            kinds = pg.pb_migratetype[zone_pageblocks(pg, zone)]
            blocks = tuple(int(np.count_nonzero(kinds == mt)) for mt in range(MIGRATE_TYPES))
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
            pageblocks=blocks,
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
            if extent.managed and pagesets
            else (),
        )


__all__ = ["MAX_OWNERS", "NO_PAGEBLOCK", "BadPageError", "Indexes", "Pfns", "Pgdat", "ZoneExtent"]
