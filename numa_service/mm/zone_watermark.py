"""Watermark checks: whether a zone may give a block away (``__zone_watermark_ok``, ``zone_watermark_fast``).

Each term of the comparison is one function, with the rules of all profiles (WMARK_*). With
``trace_ctl[EXPLAIN_ON]`` a walk records the terms of each check (:func:`note_check`), computed by the same
functions.
"""

from __future__ import annotations

from numa_service.mm.buddy import has_block_of_order, has_free_block, zone_free_pages_safe
from numa_service.mm.internal import (
    ALLOC_CMA,
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_HIGHATOMIC,
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    ALLOC_RESERVES,
    ALLOC_WMARK_MASK,
    ALLOC_WMARK_MIN,
)
from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.mmzone import NR_ORDERS, WMARK_HIGH, WMARK_MIN
from numa_service.mm.pgdata import (
    CHECK_WORDS,
    FREE_CMA,
    FREE_HIGHATOMIC,
    I64,
    RESERVED_HIGHATOMIC,
    TUNE_PAGESET,
    TUNE_WATERMARK,
    ZONE_BELOW_HIGH,
    PgData,
)
from numa_service.mm.variants import PAGESET_AUTO_TUNED, WMARK_FREE_RESERVE, WMARK_NON_BLOCK, WMARK_PER_ORDER
from numa_service.mm.vmstat import NR_FREE_PAGES

# words of the record of one watermark check; in pages unless said otherwise
(
    #: 1: a check was made.
    CHECK_MADE,
    #: 1: the zone may give the block away.
    CHECK_OK,
    #: NR_FREE_PAGES.
    CHECK_FREE,
    #: Pages of the high-atomic reserve, and free CMA pages, that the request may not use.
    CHECK_UNUSABLE,
    CHECK_CMA,
    #: Pages that do not count because the request itself takes them.
    CHECK_ORDER_COST,
    #: The watermark without its boost; the boost, or 0 where the request ignores it.
    CHECK_MARK,
    CHECK_BOOST,
    #: Subtracted from the watermark for ALLOC_HIGH, and for ALLOC_HARDER or ALLOC_OOM.
    CHECK_HIGH_PART,
    CHECK_HARDER_PART,
    CHECK_LOWMEM_RESERVE,
    #: 3.0: pages in free blocks of lower orders, and how many times the watermark was halved for them.
    CHECK_TOO_SMALL,
    CHECK_HALVINGS,
    #: Largest order with a free block that the request may use; -1: none.
    CHECK_LARGEST_FREE_ORDER,
    #: LEFT_*: why the walk went on to the next zone.
    CHECK_LEFT,
) = range(15)
assert CHECK_WORDS == CHECK_LEFT + 1

#: Rows of ``PgData.checks``: a walk's first and last visit to a zone.
CHECK_FIRST = 0
CHECK_LAST = 1

LEFT_COMPLETE = 0  # it did not: the zone served the request
LEFT_BELOW_MARK = 1  # too few free pages
LEFT_NO_BLOCK = 2  # enough free pages, but no free block is large enough
LEFT_WOULD_MIX = 3  # the only blocks are of other types, and ALLOC_NOFRAGMENT was set
LEFT_RESERVED = 4  # the only blocks are in a reserve that the request may not use
LEFT_FAIR_SHARE = 5  # it has given its share, and other zones of the node have their turn (ALLOC_FAIR)


@kernel(inline=True)  # mm_order9
def wmark_pages(pg: PgData, zone: int, wmark: int) -> int:
    """A watermark with its boost, in pages (wmark_pages)."""
    return pg.watermark[zone, wmark] + pg.watermark_boost[zone]


# the terms


@kernel(inline=True)  # mm_order9
def _order_cost(rules: int, order: int) -> int:
    """Pages to subtract from the free pages for the block itself: 2^order - 1, in 3.0 2^order + 1."""
    return (1 << order) + 1 if rules == WMARK_PER_ORDER else (1 << order) - 1


@kernel(inline=True)  # mm_order9
def _unusable_highatomic(pg: PgData, zone: int, rules: int, alloc_flags: int) -> int:
    """Pages of the high-atomic reserve that the request may not use: 6.1 counts all, 6.12 the free ones."""
    if rules >= WMARK_NON_BLOCK:
        if alloc_flags & ALLOC_RESERVES:
            return i64(0)
        return pg.reserves[zone, FREE_HIGHATOMIC if rules == WMARK_FREE_RESERVE else RESERVED_HIGHATOMIC]
    if rules == WMARK_PER_ORDER or alloc_flags & (ALLOC_HARDER | ALLOC_OOM):
        return i64(0)
    return pg.reserves[zone, RESERVED_HIGHATOMIC]


@kernel(inline=True)  # mm_order9
def _unusable_cma(pg: PgData, zone: int, rules: int, alloc_flags: int) -> int:
    """Free CMA pages that the request may not use: all, or none with ALLOC_CMA."""
    return i64(0) if rules == WMARK_PER_ORDER or alloc_flags & ALLOC_CMA else pg.reserves[zone, FREE_CMA]


@kernel(inline=True)  # mm_order9
def _usable(pg: PgData, zone: int, rules: int, order: int, alloc_flags: int, free: int) -> int:
    """Free pages that the request may use (__zone_watermark_unusable_free)."""
    free -= _order_cost(rules, order)
    free -= _unusable_highatomic(pg, zone, rules, alloc_flags)
    return free - _unusable_cma(pg, zone, rules, alloc_flags)


@kernel(inline=True)  # mm_order9
def _high_part(mark: int, alloc_flags: int) -> int:
    """What ALLOC_HIGH (ALLOC_MIN_RESERVE) subtracts from a watermark: half of it."""
    return mark // 2 if alloc_flags & ALLOC_HIGH else i64(0)


@kernel(inline=True)  # mm_order9
def _harder_part(rules: int, left: int, alloc_flags: int) -> int:
    """What ALLOC_HARDER (ALLOC_NON_BLOCK) and ALLOC_OOM subtract from `left`, what ALLOC_HIGH leaves."""
    if rules >= WMARK_NON_BLOCK:
        part = i64(0)
        if alloc_flags & ALLOC_MIN_RESERVE and alloc_flags & ALLOC_NON_BLOCK:
            part = left // 4
        return part + (left - part) // 2 if alloc_flags & ALLOC_OOM else part
    if alloc_flags & ALLOC_OOM and rules != WMARK_PER_ORDER:
        return left // 2
    return left // 4 if alloc_flags & ALLOC_HARDER else i64(0)


@kernel(inline=True)  # mm_order9
def _reduced(rules: int, mark: int, alloc_flags: int) -> int:
    """A watermark less what the request's flags subtract from it."""
    left = mark - _high_part(mark, alloc_flags)
    return left - _harder_part(rules, left, alloc_flags)


@kernel
def _halvings(pg: PgData, zone: int, order: int, usable: int, mark: int) -> int:
    """The loop over lower orders in 3.0: their free pages do not count, and the watermark halves each time.

    Returns how many times it was halved, negative if the pages that remained were not above the watermark.
    """
    for lower in range(order):
        usable -= pg.nr_free[zone, lower] << lower
        mark >>= 1
        if usable <= mark:
            return i64(-1 - lower)
    return order


@kernel(inline=True)  # mm_order9
def _may_use_reserve(rules: int, alloc_flags: int) -> bool:
    """Whether the request may use blocks of the high-atomic reserve (3.0: of MIGRATE_RESERVE)."""
    if rules == WMARK_PER_ORDER:
        return True
    entitled = ALLOC_OOM | (ALLOC_HIGHATOMIC if rules >= WMARK_NON_BLOCK else ALLOC_HARDER)
    return alloc_flags & entitled != 0


# the comparison


@kernel(inline=True)  # mm_order9
def _watermark_ok(
    pg: PgData, zone: int, order: int, mark: int, highest_zoneidx: int, alloc_flags: int, free: int
) -> bool:
    """__zone_watermark_ok() with `free` as the number of free pages."""
    rules = pg.tune[TUNE_WATERMARK]
    low = _reduced(rules, mark, alloc_flags)
    usable = _usable(pg, zone, rules, order, alloc_flags, free)
    if usable <= low + pg.lowmem_reserve[zone, highest_zoneidx]:
        return False
    if order == 0:
        return True
    if rules == WMARK_PER_ORDER:
        return _halvings(pg, zone, order, usable, low) >= 0
    may_use_reserve = _may_use_reserve(rules, alloc_flags)
    return has_free_block(pg, zone, order, alloc_flags & ALLOC_CMA != 0, may_use_reserve)


@kernel(inline=True)  # mm_order9
def zone_watermark_ok(
    pg: PgData, zone: int, order: int, mark: int, highest_zoneidx: int, alloc_flags: int
) -> bool:
    """Whether a zone stays above `mark` (pages) when a block of this order is taken (zone_watermark_ok)."""
    free = pg.vm_stat[zone, NR_FREE_PAGES]
    return _watermark_ok(pg, zone, order, mark, highest_zoneidx, alloc_flags, free)


@kernel
def zone_watermark_ok_safe(pg: PgData, zone: int, order: int, mark: int, highest_zoneidx: int) -> bool:
    """:func:`zone_watermark_ok` with exact free pages below percpu_drift_mark, for kswapd."""
    return _watermark_ok(pg, zone, order, mark, highest_zoneidx, i64(0), zone_free_pages_safe(pg, zone))


@kernel
def _is_spared_boost(rules: int, order: int, alloc_flags: int) -> bool:
    """Whether the boost does not bind a request: an urgent one for one page, at the MIN watermark."""
    # 6.1 tests __GFP_ATOMIC, from which ALLOC_HARDER comes; 6.3 tests ALLOC_MIN_RESERVE (__GFP_HIGH)
    urgent = ALLOC_MIN_RESERVE if rules >= WMARK_NON_BLOCK else ALLOC_HARDER
    return order == 0 and alloc_flags & urgent != 0 and alloc_flags & ALLOC_WMARK_MASK == ALLOC_WMARK_MIN


@kernel(inline=True)  # mm_order9
def _zone_watermark_fast(
    pg: PgData, zone: int, order: int, mark: int, highest_zoneidx: int, alloc_flags: int
) -> bool:
    """zone_watermark_fast(): a quick check for order 0 first, and no boost for urgent requests of a page."""
    rules = pg.tune[TUNE_WATERMARK]
    if order == 0 and rules != WMARK_PER_ORDER:
        usable = _usable(pg, zone, rules, order, alloc_flags, pg.vm_stat[zone, NR_FREE_PAGES])
        if usable > mark + pg.lowmem_reserve[zone, highest_zoneidx]:
            return True
    if zone_watermark_ok(pg, zone, order, mark, highest_zoneidx, alloc_flags):
        return True
    if pg.watermark_boost[zone] and _is_spared_boost(rules, order, alloc_flags):
        return zone_watermark_ok(pg, zone, order, pg.watermark[zone, WMARK_MIN], highest_zoneidx, alloc_flags)
    return False


@kernel(inline=True)  # mm_order9
def is_above_mark(pg: PgData, zone: int, order: int, highest_zoneidx: int, alloc_flags: int) -> bool:
    """Whether a zone stays above the watermark that `alloc_flags` name."""
    if alloc_flags & ALLOC_NO_WATERMARKS:
        return True
    mark = wmark_pages(pg, zone, alloc_flags & ALLOC_WMARK_MASK)
    return _zone_watermark_fast(pg, zone, order, mark, highest_zoneidx, alloc_flags)


@kernel(inline=True)  # mm_order9
def may_take_from(pg: PgData, zone: int, order: int, highest_zoneidx: int, alloc_flags: int) -> bool:
    """:func:`is_above_mark`; 6.12 also sets ZONE_BELOW_HIGH (check in get_page_from_freelist since 6.7)."""
    if pg.tune[TUNE_PAGESET] == PAGESET_AUTO_TUNED and not pg.zone_flags[zone] & ZONE_BELOW_HIGH:
        high = wmark_pages(pg, zone, i64(WMARK_HIGH))
        if _zone_watermark_fast(pg, zone, order, high, highest_zoneidx, alloc_flags):
            return True
        pg.zone_flags[zone] |= ZONE_BELOW_HIGH
    return is_above_mark(pg, zone, order, highest_zoneidx, alloc_flags)


# records for explanations


@kernel
def _largest_free_order(pg: PgData, zone: int, cma: bool, highatomic: bool) -> int:
    """Largest order with a free block that the request may use; -1 if there is none."""
    for order in range(NR_ORDERS - 1, -1, -1):
        if has_block_of_order(pg, zone, order, cma, highatomic):
            return i64(order)
    return i64(-1)


@kernel
def note_check(
    pg: PgData, note: I64, zone: int, order: int, highest_zoneidx: int, alloc_flags: int, ok: bool
) -> bool:
    """Fill `note` with the terms of a watermark check made now: all CHECK_* words but CHECK_LEFT.

    `ok` is the outcome of the check. Returns whether the number of free pages suffices, whatever the sizes of
    the free blocks.
    """
    rules = pg.tune[TUNE_WATERMARK]
    mark, boost = i64(0), i64(0)
    if not alloc_flags & ALLOC_NO_WATERMARKS:
        mark = pg.watermark[zone, alloc_flags & ALLOC_WMARK_MASK]
        boost = pg.watermark_boost[zone]
    free = pg.vm_stat[zone, NR_FREE_PAGES]
    usable = _usable(pg, zone, rules, order, alloc_flags, free)
    reserve = pg.lowmem_reserve[zone, highest_zoneidx]
    held_up = usable <= _reduced(rules, mark + boost, alloc_flags) + reserve
    if held_up and _is_spared_boost(rules, order, alloc_flags):
        boost = i64(0)
    high_part = _high_part(mark + boost, alloc_flags)
    note[CHECK_MADE] = 1
    note[CHECK_OK] = ok
    note[CHECK_FREE] = free
    note[CHECK_UNUSABLE] = _unusable_highatomic(pg, zone, rules, alloc_flags)
    note[CHECK_CMA] = _unusable_cma(pg, zone, rules, alloc_flags)
    note[CHECK_ORDER_COST] = _order_cost(rules, order)
    note[CHECK_MARK] = mark
    note[CHECK_BOOST] = boost
    note[CHECK_HIGH_PART] = high_part
    note[CHECK_HARDER_PART] = _harder_part(rules, mark + boost - high_part, alloc_flags)
    note[CHECK_LOWMEM_RESERVE] = reserve
    note[CHECK_TOO_SMALL] = 0
    note[CHECK_HALVINGS] = 0
    low = _reduced(rules, mark + boost, alloc_flags)
    above = usable > low + reserve
    if rules == WMARK_PER_ORDER and not alloc_flags & ALLOC_NO_WATERMARKS and above:
        halvings = _halvings(pg, zone, order, usable, low)
        above = halvings >= 0
        note[CHECK_HALVINGS] = abs(halvings)
        for lower in range(abs(halvings)):
            note[CHECK_TOO_SMALL] += pg.nr_free[zone, lower] << lower
    note[CHECK_LARGEST_FREE_ORDER] = _largest_free_order(
        pg, zone, alloc_flags & ALLOC_CMA != 0, _may_use_reserve(rules, alloc_flags)
    )
    return above


@kernel
def note_visit(pg: PgData, zone: int, order: int, highest_zoneidx: int, alloc_flags: int, ok: bool) -> None:
    """Record a walk's visit to a zone; `ok` is what :func:`may_take_from` returned."""
    first, last = pg.checks[zone, CHECK_FIRST], pg.checks[zone, CHECK_LAST]
    above = note_check(pg, last, zone, order, highest_zoneidx, alloc_flags, ok)
    last[CHECK_LEFT] = LEFT_COMPLETE
    if not ok:
        last[CHECK_LEFT] = LEFT_NO_BLOCK if above else LEFT_BELOW_MARK
    if not first[CHECK_MADE]:
        for word in range(CHECK_WORDS):
            first[word] = last[word]


@kernel
def note_fair_share(pg: PgData, zone: int, order: int, highest_zoneidx: int, alloc_flags: int) -> None:
    """Record that a walk passed over a zone as it had given its share (ALLOC_FAIR)."""
    note_visit(pg, zone, order, highest_zoneidx, alloc_flags, flag(True))
    pg.checks[zone, CHECK_LAST, CHECK_LEFT] = LEFT_FAIR_SHARE


@kernel
def note_nothing_taken(pg: PgData, zone: int, order: int, alloc_flags: int) -> None:
    """Record why a zone that passed its check had no block for a walk."""
    last = pg.checks[zone, CHECK_LAST]
    if last[CHECK_LARGEST_FREE_ORDER] < order:
        last[CHECK_LEFT] = LEFT_NO_BLOCK
    else:
        last[CHECK_LEFT] = LEFT_WOULD_MIX if alloc_flags & ALLOC_NOFRAGMENT else LEFT_RESERVED
