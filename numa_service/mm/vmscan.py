"""Reclaim: scan balance, and passes over the LRU lists that can be made in steps (``mm/vmscan.c``).

Clean page cache is dropped; dirty page cache is written, or left to the flushers, by the profile's DIRTY_*
rules; anonymous pages go to swap. There is no MGLRU, no workingset detection and no memcg. Each zone has its
own LRU lists; sizes and the scan balance are those of all zones of the node together, as since 4.8. `sc` is
the ``struct scan_control`` of a pass: SC_* words that say what it has yet to do. That of kswapd is state of
the node; that of direct reclaim lasts for one operation.
"""

from __future__ import annotations

from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.lists import list_add, list_add_tail, list_del, lru_list
from numa_service.mm.mmzone import (
    LRU_ACTIVE_ANON,
    LRU_ACTIVE_FILE,
    LRU_INACTIVE_ANON,
    LRU_INACTIVE_FILE,
    SWAP_CLUSTER_MAX,
    WMARK_HIGH,
)
from numa_service.mm.page_alloc import (
    free_prepared_page,
)
from numa_service.mm.pgdata import (
    ANON_COST,
    FILE_COST,
    I64,
    PG_ACTIVE,
    PG_DIRTY,
    PG_REFERENCED,
    PG_SWAPBACKED,
    PG_YOUNG,
    SC_KSWAPD,
    SC_LEFT,
    SC_MAY_WRITE,
    SC_NR_RECLAIMED,
    SC_NR_SCANNED,
    SC_NR_TO_RECLAIM,
    SC_PRIORITY,
    SC_RECLAIM_IDX,
    SC_TARGETS,
    SWAP_TOTAL,
    SWAP_USED,
    TRACE_ON,
    TUNE_DIRTY,
    TUNE_PASS,
    TUNE_SWAPPINESS,
    PgData,
)
from numa_service.mm.split_huge_page import split_huge_page
from numa_service.mm.swap import activate_page, unmap_lru_page
from numa_service.mm.tracepoints import (
    MM_VMSCAN_LRU_ISOLATE,
    MM_VMSCAN_LRU_SHRINK_ACTIVE,
    MM_VMSCAN_LRU_SHRINK_INACTIVE,
    MM_VMSCAN_WRITE_FOLIO,
    trace_page,
    trace_vmscan,
)
from numa_service.mm.variants import DIRTY_LEFT, PASS_WHOLE
from numa_service.mm.vmstat import (
    NR_FILE_DIRTY,
    NR_FREE_PAGES,
    NR_VMSCAN_IMMEDIATE,
    NR_VMSCAN_WRITE,
    NR_WRITTEN,
    NR_ZONE_LRU_BASE,
    PATH_FILE_IO,
    PATH_SCANNED,
    PATH_SWAPPED,
    PGACTIVATE,
    PGDEACTIVATE,
    PGPGOUT,
    PGREFILL,
    PGROTATED,
    PGSCAN_ANON,
    PGSCAN_DIRECT,
    PGSCAN_FILE,
    PGSCAN_KSWAPD,
    PGSTEAL_ANON,
    PGSTEAL_DIRECT,
    PGSTEAL_FILE,
    PGSTEAL_KSWAPD,
    PSWPOUT,
)
from numa_service.mm.zone_watermark import wmark_pages, zone_watermark_ok_safe

#: A number of pages that is never reached (ULONG_MAX in the kernel).
NO_LIMIT = 1 << 62
#: Largest number of pages that one round of a pass scans: a batch of each evictable list, and one more to age
#: anonymous memory.
ROUND_PAGES = 5 * SWAP_CLUSTER_MAX


@kernel
def lru_size(pg: PgData, reclaim_idx: int, lru: int) -> int:
    """Pages on an LRU list in the zones up to `reclaim_idx` (lruvec_lru_size)."""
    size = 0
    for zone in range(reclaim_idx + 1):
        size += pg.vm_stat[zone, NR_ZONE_LRU_BASE + lru]
    return size


@kernel
def _isqrt(n: int) -> int:
    """Integer square root (int_sqrt)."""
    root = 0
    while (root + 1) * (root + 1) <= n:
        root += 1
    return root


@kernel
def _node_lru_size(pg: PgData, lru: int) -> int:
    """Pages on an LRU list in all zones of the node (node_page_state)."""
    return lru_size(pg, pg.managed.shape[0] - 1, lru)


@kernel
def _inactive_is_low(pg: PgData, inactive_lru: int) -> bool:
    """Whether an inactive list is too short, so that its active list may be scanned (inactive_is_low)."""
    inactive = _node_lru_size(pg, inactive_lru)
    active = _node_lru_size(pg, inactive_lru + 1)
    gb = (inactive + active) >> 18
    ratio = _isqrt(10 * gb) if gb else 1
    return inactive * ratio < active


@kernel
def _lru_note_cost(pg: PgData, side: int, pages: int) -> None:
    """Add `pages` written to the reclaim cost of ANON_COST or FILE_COST (lru_note_cost).

    Both costs are halved when their sum exceeds a quarter of the LRU lists, so that recent cost counts most.
    """
    pg.reclaim_stat[side] += pages
    size = 0
    for lru in range(LRU_INACTIVE_ANON, LRU_ACTIVE_FILE + 1):
        size += _node_lru_size(pg, lru)
    if pg.reclaim_stat[ANON_COST] + pg.reclaim_stat[FILE_COST] > size // 4:
        pg.reclaim_stat[ANON_COST] //= 2
        pg.reclaim_stat[FILE_COST] //= 2


@kernel
def _reclaim_page(pg: PgData, zone: int, idx: int, kswapd: bool) -> None:
    """Free a page that is clean and not referenced, or an anonymous page that has been swapped out."""
    owner = pg.owner[idx]
    anon = (pg.flags[idx] & PG_SWAPBACKED) != 0
    unmap_lru_page(pg, zone, idx)
    # to the buddy lists: which CPU reclaims is not known here
    free_prepared_page(pg, zone, i64(-1), idx, i64(0), flag(True))
    if anon:
        pg.owner_swap[owner] += 1
        pg.vm_event[PGSTEAL_ANON] += 1
    else:
        pg.vm_event[PGSTEAL_FILE] += 1
    pg.vm_event[PGSTEAL_KSWAPD if kswapd else PGSTEAL_DIRECT] += 1


@kernel
def _pageout(pg: PgData, zone: int, idx: int) -> bool:
    """Write a page to swap or to its file, so that it can be freed; False if swap is full (pageout)."""
    if pg.flags[idx] & PG_SWAPBACKED:
        if pg.reclaim_stat[SWAP_USED] >= pg.reclaim_stat[SWAP_TOTAL]:
            return False
        pg.reclaim_stat[SWAP_USED] += 1
        pg.vm_event[PSWPOUT] += 1
        pg.path[PATH_SWAPPED] += 1
    else:
        pg.path[PATH_FILE_IO] += 1
    if pg.trace_ctl[TRACE_ON]:
        # the event's migratetype field says whether the page is anonymous
        trace_page(pg, i64(MM_VMSCAN_WRITE_FOLIO), zone, idx, i64(0), i64(pg.flags[idx] & PG_SWAPBACKED != 0))
    pg.vm_event[PGPGOUT] += 4  # in KiB, as /proc/vmstat counts it
    pg.node_stat[NR_VMSCAN_WRITE] += 1
    pg.node_stat[NR_WRITTEN] += 1
    return True


@kernel
def _trace_isolate(pg: PgData, reclaim_idx: int, zone: int, lru: int, nr_to_scan: int) -> None:
    """Record mm_vmscan_lru_isolate: pages asked for, and how many of them the list has."""
    taken = min(nr_to_scan, pg.vm_stat[zone, NR_ZONE_LRU_BASE + lru])
    b = nr_to_scan | (taken << 16) | (reclaim_idx << 32)
    trace_vmscan(pg, i64(MM_VMSCAN_LRU_ISOLATE), zone, lru, b, i64(0))


@kernel
def _activate(pg: PgData, zone: int, idx: int) -> None:
    """Move a scanned page to the active list (activate_locked in shrink_folio_list)."""
    activate_page(pg, zone, idx)
    pg.flags[idx] |= PG_ACTIVE
    pg.vm_event[PGACTIVATE] += 1 << i64(pg.order[idx])


@kernel
def _rotate(pg: PgData, head: int, idx: int) -> None:
    """Move a page to the head of its list, so that the scan meets it again only after all others."""
    list_del(pg.next, pg.prev, idx)
    list_add(pg.next, pg.prev, idx, head)


@kernel
def _flush(pg: PgData, zone: int, nr_pages: int) -> None:
    """Write the `nr_pages` dirty pages that were activated last, in place of wakeup_flusher_threads().

    The model has no flusher threads: the pages for which reclaim would wake them are written at once, at no
    cost in time. As reclaim has marked them, they go to the tail of the inactive list when they are written
    (folio_rotate_reclaimable), in the order in which they were scanned.
    """
    active = lru_list(pg, zone, i64(LRU_ACTIVE_FILE))
    inactive = lru_list(pg, zone, i64(LRU_INACTIVE_FILE))
    for _ in range(nr_pages):
        idx = i64(pg.next[active])
        pg.flags[idx] &= ~(PG_ACTIVE | PG_DIRTY)
        list_del(pg.next, pg.prev, idx)
        list_add_tail(pg.next, pg.prev, idx, inactive)
    pg.vm_stat[zone, NR_ZONE_LRU_BASE + LRU_ACTIVE_FILE] -= nr_pages
    pg.vm_stat[zone, NR_ZONE_LRU_BASE + LRU_INACTIVE_FILE] += nr_pages
    pg.vm_event[PGROTATED] += nr_pages
    pg.vm_event[PGPGOUT] += 4 * nr_pages
    pg.node_stat[NR_FILE_DIRTY] -= nr_pages
    pg.node_stat[NR_WRITTEN] += nr_pages


@kernel
def _shrink_inactive_list(pg: PgData, sc: I64, zone: int, lru: int, nr_to_scan: int) -> None:
    """Scan `nr_to_scan` pages from the tail of an inactive list (shrink_inactive_list, shrink_folio_list).

    A huge page counts as all of its pages. To be swapped out it is split, and then all of them are scanned.
    """
    head = lru_list(pg, zone, lru)
    kswapd = sc[SC_KSWAPD] != 0
    reclaimed = 0
    scanned = 0
    written = 0
    dirty = 0
    kept = 0
    activated = 0
    if pg.trace_ctl[TRACE_ON]:
        _trace_isolate(pg, sc[SC_RECLAIM_IDX], zone, lru, nr_to_scan)
    while scanned < nr_to_scan and pg.prev[head] != head:
        idx = i64(pg.prev[head])
        flags, pages = pg.flags[idx], 1 << i64(pg.order[idx])
        if pages > 1 and not flags & PG_YOUNG:
            split_huge_page(pg, idx)
            nr_to_scan = max(nr_to_scan, scanned + pages)
            continue
        scanned += pages
        if flags & PG_SWAPBACKED:
            if flags & PG_YOUNG and not flags & PG_REFERENCED:
                # keep it once: the fault that made the page has accessed it, too (folio_check_references)
                pg.flags[idx] = (flags & ~PG_YOUNG) | PG_REFERENCED
                _rotate(pg, head, idx)
                kept += pages
                continue
            if flags & PG_YOUNG or not _pageout(pg, zone, idx):
                pg.flags[idx] = flags & ~PG_YOUNG
                _activate(pg, zone, idx)
                activated += pages
                continue
            written += 1
        elif flags & PG_DIRTY:
            dirty += 1
            pg.flags[idx] = flags & ~PG_REFERENCED
            if pg.tune[TUNE_DIRTY] == DIRTY_LEFT:
                pg.node_stat[NR_VMSCAN_IMMEDIATE] += 1
                _activate(pg, zone, idx)
                activated += 1
                continue
            if flags & PG_REFERENCED or not sc[SC_MAY_WRITE]:
                _rotate(pg, head, idx)  # a referenced page is reclaimed only if clean (PAGEREF_RECLAIM_CLEAN)
                continue
            _pageout(pg, zone, idx)
            written += 1
        _reclaim_page(pg, zone, idx, kswapd)
        reclaimed += 1
    if dirty and dirty == scanned and pg.tune[TUNE_DIRTY] == DIRTY_LEFT:
        _flush(pg, zone, dirty)
    if pg.trace_ctl[TRACE_ON]:
        # nr_activate has a count for each type of page; a list has pages of one type only
        b = scanned | (reclaimed << 16) | (dirty << 32)
        c = kept | (activated << 16) | (sc[SC_PRIORITY] << 32)
        trace_vmscan(pg, i64(MM_VMSCAN_LRU_SHRINK_INACTIVE), zone, lru, b, c)
    pg.path[PATH_SCANNED] += scanned
    pg.vm_event[PGSCAN_KSWAPD if kswapd else PGSCAN_DIRECT] += scanned
    if lru == LRU_INACTIVE_ANON:
        pg.vm_event[PGSCAN_ANON] += scanned
        _lru_note_cost(pg, i64(ANON_COST), written)
    else:
        pg.vm_event[PGSCAN_FILE] += scanned
        _lru_note_cost(pg, i64(FILE_COST), written)
    sc[SC_NR_SCANNED] += scanned
    sc[SC_NR_RECLAIMED] += reclaimed


@kernel
def _shrink_active_list(pg: PgData, sc: I64, zone: int, lru: int, nr_to_scan: int) -> None:
    """Move `nr_to_scan` pages from the tail of an active list to the inactive list (shrink_active_list)."""
    head = lru_list(pg, zone, lru)
    inactive = lru_list(pg, zone, lru - 1)
    scanned = 0
    if pg.trace_ctl[TRACE_ON]:
        _trace_isolate(pg, sc[SC_RECLAIM_IDX], zone, lru, nr_to_scan)
    while scanned < nr_to_scan and pg.prev[head] != head:
        idx = i64(pg.prev[head])
        scanned += 1 << i64(pg.order[idx])
        list_del(pg.next, pg.prev, idx)
        pg.flags[idx] &= ~(PG_ACTIVE | PG_YOUNG)
        list_add(pg.next, pg.prev, idx, inactive)
    pg.vm_stat[zone, NR_ZONE_LRU_BASE + lru] -= scanned
    pg.vm_stat[zone, NR_ZONE_LRU_BASE + lru - 1] += scanned
    if pg.trace_ctl[TRACE_ON]:
        trace_vmscan(pg, i64(MM_VMSCAN_LRU_SHRINK_ACTIVE), zone, lru, scanned, sc[SC_PRIORITY] << 32)
    pg.vm_event[PGREFILL] += scanned
    pg.vm_event[PGDEACTIVATE] += scanned


@kernel
def _shrink_list(pg: PgData, sc: I64, lru: int, nr_to_scan: int) -> None:
    """Scan `nr_to_scan` pages of one LRU list of the node (shrink_list).

    They are taken from the zones in proportion to the sizes of their lists, from the highest zone down. An
    active list is scanned only if the inactive list is too short.
    """
    reclaim_idx = sc[SC_RECLAIM_IDX]
    total = lru_size(pg, reclaim_idx, lru)
    if total == 0:
        return
    active = lru == LRU_ACTIVE_ANON or lru == LRU_ACTIVE_FILE
    if active and not _inactive_is_low(pg, lru - 1):
        return
    left = min(nr_to_scan, total)
    for zone in range(reclaim_idx, -1, -1):
        size = pg.vm_stat[zone, NR_ZONE_LRU_BASE + lru]
        share = min(left, -(-nr_to_scan * size // total))
        if share <= 0:
            continue
        left -= share
        if active:
            _shrink_active_list(pg, sc, zone, lru, share)
        else:
            _shrink_inactive_list(pg, sc, zone, lru, share)


@kernel
def _file_is_tiny(pg: PgData, priority: int) -> bool:
    """file_is_tiny: page cache is so scarce that only anonymous memory is scanned (prepare_scan_count)."""
    free = 0
    high = 0
    for zone in range(pg.managed.shape[0]):
        free += pg.vm_stat[zone, NR_FREE_PAGES]
        high += wmark_pages(pg, zone, i64(WMARK_HIGH))
    file_pages = _node_lru_size(pg, i64(LRU_INACTIVE_FILE)) + _node_lru_size(pg, i64(LRU_ACTIVE_FILE))
    return (
        file_pages + free <= high
        and _node_lru_size(pg, i64(LRU_INACTIVE_ANON)) >> priority > 0
        and not _inactive_is_low(pg, i64(LRU_INACTIVE_ANON))
    )


@kernel
def _cache_trim_mode(pg: PgData, priority: int) -> bool:
    """cache_trim_mode: there is enough inactive page cache to scan nothing else (prepare_scan_count)."""
    return _node_lru_size(pg, i64(LRU_INACTIVE_FILE)) >> priority > 0 and not _inactive_is_low(
        pg, i64(LRU_INACTIVE_FILE)
    )


@kernel
def _get_scan_count(pg: PgData, sc: I64) -> None:
    """Set SC_TARGETS and SC_LEFT: pages of each list that a pass scans at its priority (get_scan_count)."""
    priority = sc[SC_PRIORITY]
    swap_free = pg.reclaim_stat[SWAP_TOTAL] - pg.reclaim_stat[SWAP_USED]
    swappiness = pg.tune[TUNE_SWAPPINESS]
    anon_fraction = 0
    file_fraction = 1
    denominator = 1
    if swap_free > 0 and sc[SC_MAY_WRITE]:
        if priority == 0 and swappiness > 0:
            anon_fraction = 1
        elif _file_is_tiny(pg, priority):
            anon_fraction = 1
            file_fraction = 0
        elif not _cache_trim_mode(pg, priority):
            total = pg.reclaim_stat[ANON_COST] + pg.reclaim_stat[FILE_COST]
            anon_cost = total + pg.reclaim_stat[ANON_COST]
            file_cost = total + pg.reclaim_stat[FILE_COST]
            total = anon_cost + file_cost
            anon_fraction = swappiness * (total + 1) // (anon_cost + 1)
            file_fraction = (200 - swappiness) * (total + 1) // (file_cost + 1)
            denominator = anon_fraction + file_fraction
    for lru in range(LRU_INACTIVE_ANON, LRU_ACTIVE_FILE + 1):
        size = lru_size(pg, sc[SC_RECLAIM_IDX], lru)
        scan = size >> priority
        fraction = anon_fraction if lru < LRU_INACTIVE_FILE else file_fraction
        sc[SC_TARGETS + lru] = scan * fraction // denominator
        sc[SC_LEFT + lru] = sc[SC_TARGETS + lru]


@kernel
def _age_anon(pg: PgData, sc: I64) -> None:
    """Deactivate some anonymous pages even if none will be reclaimed (kswapd_age_node, shrink_lruvec)."""
    if pg.reclaim_stat[SWAP_TOTAL] > pg.reclaim_stat[SWAP_USED] and _inactive_is_low(
        pg, i64(LRU_INACTIVE_ANON)
    ):
        _shrink_list(pg, sc, i64(LRU_ACTIVE_ANON), i64(SWAP_CLUSTER_MAX))


@kernel
def begin_pass(
    pg: PgData, sc: I64, reclaim_idx: int, priority: int, nr_to_reclaim: int, kswapd: bool, may_write: bool
) -> None:
    """Begin a pass over the LRU lists of zones up to `reclaim_idx`, and decide how much of each it scans.

    The pass ends when it has scanned that, or has reclaimed `nr_to_reclaim` pages. `may_write` stands for
    may_writepage and may_swap together: without it only clean page cache is reclaimed. `kswapd` says whose
    pass it is.
    """
    sc[SC_RECLAIM_IDX] = reclaim_idx
    sc[SC_PRIORITY] = priority
    sc[SC_MAY_WRITE] = may_write
    sc[SC_KSWAPD] = kswapd
    sc[SC_NR_TO_RECLAIM] = nr_to_reclaim
    sc[SC_NR_SCANNED] = 0
    sc[SC_NR_RECLAIMED] = 0
    if kswapd:
        _age_anon(pg, sc)
    _get_scan_count(pg, sc)


@kernel
def _keep_proportion(sc: I64) -> bool:
    """Adjust what is left to scan of a pass that has reclaimed enough (shrink_lruvec, since 3.11).

    Of anonymous memory and page cache, the one with less left to scan is scanned no further; the other is
    scanned until the same percentage of its target is done. False if one of them has nothing left: the pass
    ends then.
    """
    anon_left = sc[SC_LEFT + LRU_INACTIVE_ANON] + sc[SC_LEFT + LRU_ACTIVE_ANON]
    file_left = sc[SC_LEFT + LRU_INACTIVE_FILE] + sc[SC_LEFT + LRU_ACTIVE_FILE]
    if anon_left == 0 or file_left == 0:
        return False
    shorter = LRU_INACTIVE_ANON if file_left > anon_left else LRU_INACTIVE_FILE
    longer = LRU_INACTIVE_FILE if file_left > anon_left else LRU_INACTIVE_ANON
    whole = sc[SC_TARGETS + shorter] + sc[SC_TARGETS + shorter + 1] + 1
    done = 100 - 100 * min(anon_left, file_left) // whole
    for lru in range(shorter, shorter + 2):
        sc[SC_LEFT + lru] = 0
    for lru in range(longer, longer + 2):
        target = sc[SC_TARGETS + lru]
        sc[SC_LEFT + lru] = max(0, target * done // 100 - (target - sc[SC_LEFT + lru]))
    return True


@kernel
def shrink_node(pg: PgData, sc: I64, limit: int) -> bool:
    """Go on with a pass until it ends or has scanned about `limit` pages (shrink_node, shrink_lruvec).

    It makes at least one round over the lists, and stops before a round that could go beyond `limit`. True
    when the pass has ended.
    """
    room = limit
    while sc[SC_LEFT + LRU_INACTIVE_ANON] or sc[SC_LEFT + LRU_ACTIVE_FILE] or sc[SC_LEFT + LRU_INACTIVE_FILE]:
        if room < limit and room < ROUND_PAGES:
            return False
        for lru in range(LRU_INACTIVE_ANON, LRU_ACTIVE_FILE + 1):
            batch = min(sc[SC_LEFT + lru], SWAP_CLUSTER_MAX)
            if batch:
                sc[SC_LEFT + lru] -= batch
                room -= batch
                _shrink_list(pg, sc, lru, batch)
        if sc[SC_NR_RECLAIMED] < sc[SC_NR_TO_RECLAIM]:
            continue
        if pg.tune[TUNE_PASS] == PASS_WHOLE or not _keep_proportion(sc):
            break
    for lru in range(LRU_INACTIVE_ANON, LRU_ACTIVE_FILE + 1):
        sc[SC_LEFT + lru] = 0
    _age_anon(pg, sc)
    return True


@kernel
def pgdat_balanced(pg: PgData, order: int, highest_zoneidx: int) -> bool:
    """Whether one zone up to `highest_zoneidx` meets its HIGH mark, or none has pages (pgdat_balanced)."""
    any_zone = False
    for zone in range(highest_zoneidx + 1):
        if pg.managed[zone] == 0:
            continue
        any_zone = True
        mark = wmark_pages(pg, zone, i64(WMARK_HIGH))
        if zone_watermark_ok_safe(pg, zone, order, mark, highest_zoneidx):
            return True
    return not any_zone


@kernel
def kswapd_target(pg: PgData, highest_zoneidx: int) -> int:
    """Pages that a pass of kswapd aims at: Σ max(HIGH, SWAP_CLUSTER_MAX) over zones (kswapd_shrink_node).

    NO_LIMIT under 3.0, whose passes have no such aim.
    """
    if pg.tune[TUNE_PASS] == PASS_WHOLE:
        return NO_LIMIT
    target = 0
    for zone in range(highest_zoneidx + 1):
        if pg.managed[zone]:
            target += max(wmark_pages(pg, zone, i64(WMARK_HIGH)), SWAP_CLUSTER_MAX)
    return target
