"""Watermarks in force: whether a zone may give a block away, and what is compared to decide that.

The rules of each profile are here once. Where somebody asks why (``trace_ctl[EXPLAIN_ON]``), the walk writes
down after each decision what was compared (:func:`note_check`), by the same terms.
"""

from __future__ import annotations

from numa_service.mm.buddy import has_block_of_order, has_free_block, zone_free_pages_safe
from numa_service.mm.fallback import ALLOC_CMA, ALLOC_NOFRAGMENT
from numa_service.mm.jit import i64, kernel
from numa_service.mm.mmzone import NR_ORDERS, WMARK_HIGH, WMARK_LOW, WMARK_MIN
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
from numa_service.mm.profile import PAGESET_AUTO_TUNED, WMARK_FREE_RESERVE, WMARK_PER_ORDER
from numa_service.mm.vmstat import NR_FREE_PAGES

# alloc_flags (mm/internal.h, 6.1): the low two bits are the watermark
ALLOC_WMARK_MIN = WMARK_MIN
ALLOC_WMARK_LOW = WMARK_LOW
ALLOC_WMARK_HIGH = WMARK_HIGH
ALLOC_NO_WATERMARKS = 0x04
ALLOC_OOM = 0x08
ALLOC_HARDER = 0x10
ALLOC_HIGH = 0x20
ALLOC_CPUSET = 0x40
# names and rights of 6.12: the same bits, and one more
ALLOC_NON_BLOCK = ALLOC_HARDER
ALLOC_MIN_RESERVE = ALLOC_HIGH
ALLOC_HIGHATOMIC = 0x200
ALLOC_RESERVES = ALLOC_NON_BLOCK | ALLOC_MIN_RESERVE | ALLOC_HIGHATOMIC | ALLOC_OOM
ALLOC_WMARK_MASK = ALLOC_NO_WATERMARKS - 1

# what is written down of a comparison; pages unless said otherwise
(
    #: 1: it was made.
    CHECK_MADE,
    #: 1: the zone may give the block away.
    CHECK_OK,
    CHECK_FREE,
    #: Of the high-atomic reserve, and of CMA, free pages that the request may not use.
    CHECK_UNUSABLE,
    CHECK_CMA,
    CHECK_ORDER_COST,
    #: The watermark without its boost; the boost as far as it counts.
    CHECK_MARK,
    CHECK_BOOST,
    #: Taken off the mark for ALLOC_HIGH, and for ALLOC_HARDER or ALLOC_OOM.
    CHECK_HIGH_PART,
    CHECK_HARDER_PART,
    CHECK_LOWMEM_RESERVE,
    #: 3.0: pages in free blocks of lower orders, and how often the mark was halved for them.
    CHECK_TOO_SMALL,
    CHECK_HALVINGS,
    #: Largest order with a free block that the request may use; -1 without any.
    CHECK_LARGEST_FREE_ORDER,
    #: LEFT_*: why the walk went on to the next zone.
    CHECK_LEFT,
) = range(15)
assert CHECK_WORDS == CHECK_LEFT + 1

#: Rows of ``PgData.checks``.
CHECK_FIRST = 0
CHECK_LAST = 1

LEFT_COMPLETE = 0
LEFT_BELOW_MARK = 1
LEFT_NO_BLOCK = 2
LEFT_WOULD_MIX = 3
LEFT_RESERVED = 4


@kernel
def wmark_pages(pg: PgData, zone: int, wmark: int) -> int:
    """A watermark with its boost, in pages."""
    return pg.watermark[zone, wmark] + pg.watermark_boost[zone]


# the terms


@kernel
def _order_cost(rules: int, order: int) -> int:
    """Free pages that do not count because the block itself goes; in 3.0 one more than it has."""
    return (1 << order) + 1 if rules == WMARK_PER_ORDER else (1 << order) - 1


@kernel
def _unusable_highatomic(pg: PgData, zone: int, rules: int, alloc_flags: int) -> int:
    """Pages of the high-atomic reserve that are not for the request: in 6.1 all, in 6.12 what is free."""
    if rules == WMARK_FREE_RESERVE:
        return i64(0) if alloc_flags & ALLOC_RESERVES else pg.reserves[zone, FREE_HIGHATOMIC]
    if rules == WMARK_PER_ORDER or alloc_flags & (ALLOC_HARDER | ALLOC_OOM):
        return i64(0)
    return pg.reserves[zone, RESERVED_HIGHATOMIC]


@kernel
def _unusable_cma(pg: PgData, zone: int, rules: int, alloc_flags: int) -> int:
    """Free CMA pages, unless the request is movable."""
    return i64(0) if rules == WMARK_PER_ORDER or alloc_flags & ALLOC_CMA else pg.reserves[zone, FREE_CMA]


@kernel
def _usable(pg: PgData, zone: int, rules: int, order: int, alloc_flags: int, free: int) -> int:
    """What of these free pages counts (__zone_watermark_unusable_free)."""
    free -= _order_cost(rules, order)
    free -= _unusable_highatomic(pg, zone, rules, alloc_flags)
    return free - _unusable_cma(pg, zone, rules, alloc_flags)


@kernel
def _high_part(mark: int, alloc_flags: int) -> int:
    """What ALLOC_HIGH (ALLOC_MIN_RESERVE) takes off a mark."""
    return mark // 2 if alloc_flags & ALLOC_HIGH else i64(0)


@kernel
def _harder_part(rules: int, left: int, alloc_flags: int) -> int:
    """What ALLOC_HARDER (ALLOC_NON_BLOCK) and ALLOC_OOM take off what ALLOC_HIGH left of a mark."""
    if rules == WMARK_FREE_RESERVE:
        part = i64(0)
        if alloc_flags & ALLOC_MIN_RESERVE and alloc_flags & ALLOC_NON_BLOCK:
            part = left // 4
        return part + (left - part) // 2 if alloc_flags & ALLOC_OOM else part
    if alloc_flags & ALLOC_OOM and rules != WMARK_PER_ORDER:
        return left // 2
    return left // 4 if alloc_flags & ALLOC_HARDER else i64(0)


@kernel
def _reduced(rules: int, mark: int, alloc_flags: int) -> int:
    """A mark as it binds this request."""
    left = mark - _high_part(mark, alloc_flags)
    return left - _harder_part(rules, left, alloc_flags)


@kernel
def _halvings(pg: PgData, zone: int, order: int, usable: int, mark: int) -> int:
    """3.0: blocks below the asked order do not count, and the mark halves with each order.

    How often it did; negative when the pages that were left then were not above it.
    """
    for lower in range(order):
        usable -= pg.nr_free[zone, lower] << lower
        mark >>= 1
        if usable <= mark:
            return i64(-1 - lower)
    return order


@kernel
def _may_use_reserve(rules: int, alloc_flags: int) -> bool:
    """Whether blocks of the high-atomic reserve (3.0: of MIGRATE_RESERVE) are for this request, too."""
    if rules == WMARK_PER_ORDER:
        return True
    entitled = ALLOC_OOM | (ALLOC_HIGHATOMIC if rules == WMARK_FREE_RESERVE else ALLOC_HARDER)
    return alloc_flags & entitled != 0


# the comparison


@kernel
def _watermark_ok(
    pg: PgData, zone: int, order: int, mark: int, highest_zoneidx: int, alloc_flags: int, free: int
) -> bool:
    """__zone_watermark_ok for a number of free pages."""
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
    """Whether a block of this order may be taken and leave the zone above the mark."""
    free = pg.vm_stat[zone, NR_FREE_PAGES]
    return _watermark_ok(pg, zone, order, mark, highest_zoneidx, alloc_flags, free)


@kernel
def zone_watermark_ok_safe(pg: PgData, zone: int, order: int, mark: int, highest_zoneidx: int) -> bool:
    """The same for kswapd: near the marks, with every CPU's part of the counter."""
    return _watermark_ok(pg, zone, order, mark, highest_zoneidx, i64(0), zone_free_pages_safe(pg, zone))


@kernel
def _is_spared_boost(rules: int, order: int, alloc_flags: int) -> bool:
    """Whether this is one of the most urgent requests of a page, which do not wait for defragmentation."""
    # 6.1 asks for __GFP_ATOMIC, which is what gave HARDER; 6.12 for __GFP_HIGH
    urgent = ALLOC_MIN_RESERVE if rules == WMARK_FREE_RESERVE else ALLOC_HARDER
    return order == 0 and alloc_flags & urgent != 0 and alloc_flags & ALLOC_WMARK_MASK == ALLOC_WMARK_MIN


@kernel(inline=True)  # mm_order9
def _zone_watermark_fast(
    pg: PgData, zone: int, order: int, mark: int, highest_zoneidx: int, alloc_flags: int
) -> bool:
    """zone_watermark_fast: the plain order-0 comparison first, and no boost for the most urgent order-0."""
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
    """Whether the zone stays above the mark that these flags name."""
    if alloc_flags & ALLOC_NO_WATERMARKS:
        return True
    mark = wmark_pages(pg, zone, alloc_flags & ALLOC_WMARK_MASK)
    return _zone_watermark_fast(pg, zone, order, mark, highest_zoneidx, alloc_flags)


@kernel(inline=True)  # mm_order9
def may_take_from(pg: PgData, zone: int, order: int, highest_zoneidx: int, alloc_flags: int) -> bool:
    """:func:`is_above_mark`; 6.12 also notes a zone that fell below HIGH."""
    if pg.tune[TUNE_PAGESET] == PAGESET_AUTO_TUNED and not pg.zone_flags[zone] & ZONE_BELOW_HIGH:
        high = wmark_pages(pg, zone, i64(WMARK_HIGH))
        if _zone_watermark_fast(pg, zone, order, high, highest_zoneidx, alloc_flags):
            return True
        pg.zone_flags[zone] |= ZONE_BELOW_HIGH
    return is_above_mark(pg, zone, order, highest_zoneidx, alloc_flags)


# why: what was compared, for whoever asks


@kernel
def _largest_free_order(pg: PgData, zone: int, cma: bool, highatomic: bool) -> int:
    """Largest order with a block on a list the caller may use; -1 without any."""
    for order in range(NR_ORDERS - 1, -1, -1):
        if has_block_of_order(pg, zone, order, cma, highatomic):
            return i64(order)
    return i64(-1)


@kernel
def note_check(
    pg: PgData, note: I64, zone: int, order: int, highest_zoneidx: int, alloc_flags: int, ok: bool
) -> bool:
    """Write down what is compared of a zone now, and that it passes or not: CHECK_* words but CHECK_LEFT.

    Whether the free pages alone would do, be they in blocks that are large enough or not.
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
    """A walk came to a zone; `ok` is what :func:`may_take_from` said."""
    first, last = pg.checks[zone, CHECK_FIRST], pg.checks[zone, CHECK_LAST]
    above = note_check(pg, last, zone, order, highest_zoneidx, alloc_flags, ok)
    last[CHECK_LEFT] = LEFT_COMPLETE
    if not ok:
        last[CHECK_LEFT] = LEFT_NO_BLOCK if above else LEFT_BELOW_MARK
    if not first[CHECK_MADE]:
        for word in range(CHECK_WORDS):
            first[word] = last[word]


@kernel
def note_nothing_taken(pg: PgData, zone: int, order: int, alloc_flags: int) -> None:
    """The zone passed, and yet had no block for a walk."""
    last = pg.checks[zone, CHECK_LAST]
    if last[CHECK_LARGEST_FREE_ORDER] < order:
        last[CHECK_LEFT] = LEFT_NO_BLOCK
    else:
        last[CHECK_LEFT] = LEFT_WOULD_MIX if alloc_flags & ALLOC_NOFRAGMENT else LEFT_RESERVED
