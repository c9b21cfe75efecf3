"""The buddy system of the reference: free lists, fallback between types, and reserves."""

from __future__ import annotations

from itertools import pairwise

from mm.reference_zone import (
    FALLBACKS,
    HARDER,
    HIGHATOMIC,
    KSWAPD,
    NOFRAGMENT,
    OOM,
    RESERVE,
    TYPES,
    Held,
    Zone,
    first,
    push,
)

from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
    NR_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
)


class ReferenceBuddy:
    """Free blocks and pageblocks of one node's zones, under the rules of one kernel."""

    def __init__(
        self,
        zones: dict[int, Zone],
        held: dict[int, Held],
        ram: list[tuple[int, int]],
        cma: tuple[tuple[int, int], ...],
        boost_factor: int,
        mobility_disabled: bool,
        kernel: str,
    ) -> None:
        self.kernel = kernel
        self.zones = zones
        #: Allocated blocks, by pfn: the node's own dict, which is only read here.
        self.held = held
        self.boost_factor = boost_factor
        self.mobility_disabled = mobility_disabled
        #: (zone, order, type of the list) of every free block, by pfn.
        self.blocks: dict[int, tuple[int, int, int]] = {}
        #: Type of the list that a block taken off the free lists came from, by pfn (page->index).
        self.pcp_type: dict[int, int] = {}
        #: Type of every pageblock, by number.
        self.block_type: dict[int, int] = {}
        for low, high in ram:
            for block in range(low >> PAGEBLOCK_ORDER, -(-high >> PAGEBLOCK_ORDER)):
                self.block_type[block] = MIGRATE_MOVABLE
        for low, high in cma:
            for block in range(low >> PAGEBLOCK_ORDER, high >> PAGEBLOCK_ORDER):
                self.block_type[block] = MIGRATE_CMA
        self._cma_edges = {edge for area in cma for edge in area}

    def free_ranges(self, ranges: list[tuple[int, int]]) -> None:
        """Free what boot left over, in the largest blocks; CMA areas have blocks of their own."""
        ranges = [
            (low, high)
            for start, end in ranges
            for low, high in pairwise(sorted({start, end} | {e for e in self._cma_edges if start < e < end}))
        ]
        for index, zone in self.zones.items():
            for low, high in ranges:
                self._free_range(index, max(low, zone.start), min(high, zone.end))

    def _free_range(self, zone: int, low: int, high: int) -> None:
        while low < high:
            order = NR_ORDERS - 1
            while low % (1 << order) or low + (1 << order) > high:
                order -= 1
            self.free_one_page(zone, low, order, self.block_type[low >> PAGEBLOCK_ORDER], to_tail=True)
            low += 1 << order

    # free lists

    def _link(self, zone: int, pfn: int, order: int, mt: int, tail: bool) -> None:
        push(self.zones[zone].lists[order][mt], pfn, tail)
        self.blocks[pfn] = (zone, order, mt)

    def _unlink(self, pfn: int) -> None:
        zone, order, mt = self.blocks.pop(pfn)
        del self.zones[zone].lists[order][mt][pfn]

    def _is_buddy(self, zone: int, pfn: int, order: int) -> bool:
        return pfn in self.blocks and self.blocks[pfn][:2] == (zone, order)

    def free_one_page(self, zone: int, pfn: int, order: int, mt: int, to_tail: bool = False) -> None:
        self.zones[zone].free += 1 << order
        while order < NR_ORDERS - 1 and self._is_buddy(zone, pfn ^ (1 << order), order):
            if not self._may_merge((pfn ^ (1 << order)) >> PAGEBLOCK_ORDER, order, mt):
                break
            self._unlink(pfn ^ (1 << order))
            pfn &= ~(1 << order)
            order += 1
        if order < NR_ORDERS - 2:
            parent = pfn & ~(1 << order)
            to_tail = to_tail or self._is_buddy(zone, parent ^ (2 << order), order + 1)
        self._link(zone, pfn, order, mt, to_tail)

    def _may_merge(self, other: int, order: int, mt: int) -> bool:
        """Whether a block may merge with its buddy: within a pageblock always, else by type of `other`."""
        if order < PAGEBLOCK_ORDER or self.kernel == "3.0" or self.block_type[other] == mt:
            return True
        if mt not in TYPES or self.block_type[other] not in TYPES:
            return False
        if self.kernel == "6.12":
            self._label(other, mt)
        return True

    def _label(self, block: int, mt: int) -> None:
        if self.mobility_disabled and (mt in TYPES or self.kernel == "3.0"):
            mt = MIGRATE_UNMOVABLE
        self.block_type[block] = mt

    def _label_all(self, pfn: int, order: int, mt: int) -> None:
        for block in range(pfn >> PAGEBLOCK_ORDER, (pfn + (1 << order)) >> PAGEBLOCK_ORDER):
            self._label(block, mt)

    def _split(self, zone: int, pfn: int, order: int, mt: int) -> int:
        """Split a free block down to `order` and take it; the rest goes to the lists of `mt`."""
        current = self.blocks[pfn][1]
        self._unlink(pfn)
        for lower in reversed(range(order, current)):
            self._link(zone, pfn + (1 << lower), lower, mt, tail=False)
        self.pcp_type[pfn] = mt
        return pfn

    def _rmqueue_smallest(self, zone: int, order: int, mt: int) -> int | None:
        for current in range(order, NR_ORDERS):
            blocks = self.zones[zone].lists[current][mt]
            if blocks:
                return self._split(zone, first(blocks), order, mt)
        return None

    # fallback

    def _fallback_type(self, zone: int, order: int, mt: int) -> int | None:
        return next((other for other in FALLBACKS[mt] if self.zones[zone].lists[order][other]), None)

    def _can_steal_fallback(self, order: int, mt: int) -> bool:
        return order >= PAGEBLOCK_ORDER // 2 or mt != MIGRATE_MOVABLE or self.mobility_disabled

    def _rmqueue_fallback(self, zone: int, order: int, mt: int, flags: int) -> bool:
        lowest = PAGEBLOCK_ORDER if flags & NOFRAGMENT and order < PAGEBLOCK_ORDER else order
        found = [o for o in range(lowest, NR_ORDERS) if self._fallback_type(zone, o, mt) is not None]
        if not found:
            return False
        chosen = found[-1]
        if not self._can_steal_fallback(chosen, mt) and chosen > order:
            # movable, and too small to take its whole pageblock: split the smallest block instead
            chosen = next(o for o in range(order, NR_ORDERS) if self._fallback_type(zone, o, mt) is not None)
        other = self._fallback_type(zone, chosen, mt)
        assert other is not None
        self._steal_suitable_fallback(zone, first(self.zones[zone].lists[chosen][other]), chosen, mt, flags)
        return True

    def _move(self, pfn: int, mt: int) -> None:
        zone, order, _ = self.blocks[pfn]
        self._unlink(pfn)
        self._link(zone, pfn, order, mt, tail=self.kernel != "3.0")

    def _steal_suitable_fallback(self, index: int, pfn: int, order: int, mt: int, flags: int) -> None:
        """6.1: move a block, or all free blocks of its pageblock, to the lists of `mt`."""
        block = pfn >> PAGEBLOCK_ORDER
        old = self.block_type[block]
        if old == MIGRATE_HIGHATOMIC:
            self._move(pfn, mt)
            return
        if order >= PAGEBLOCK_ORDER:
            self._label_all(pfn, order, mt)
            self._move(pfn, mt)
            return
        self._mixed(index, flags)
        if not self._can_steal_fallback(order, mt) or self._bounds(index, pfn) is None:
            self._move(pfn, mt)
            return
        free, alike = self._look_at(index, pfn, old, mt)
        self._move_all(index, pfn, mt)
        if free + alike >= PAGEBLOCK_NR_PAGES // 2 or self.mobility_disabled:
            self._label(block, mt)

    def _mixed(self, index: int, flags: int) -> None:
        if self._boost_watermark(index) and flags & KSWAPD:
            self.zones[index].boosted = True

    def _bounds(self, index: int, pfn: int) -> tuple[int, int] | None:
        """[start, end) of the pages of a pageblock that may be moved together; None if the zone cuts it."""
        zone = self.zones[index]
        start = pfn - pfn % PAGEBLOCK_NR_PAGES
        end = start + PAGEBLOCK_NR_PAGES
        if end > zone.end:
            return None
        if start < zone.start:
            return None if self.kernel == "6.12" else (pfn, end)
        return start, end

    def _look_at(self, index: int, pfn: int, old: int, mt: int) -> tuple[int, int]:
        """Free pages of a block's pageblock, and pages in use that are compatible with `mt`."""
        bounds = self._bounds(index, pfn)
        assert bounds is not None
        free = sum(1 << self.blocks[page][1] for page in range(*bounds) if page in self.blocks)
        movable = sum(1 for page in range(*bounds) if page in self.held and self.held[page].lru)
        if mt == MIGRATE_MOVABLE:
            return free, movable
        return free, PAGEBLOCK_NR_PAGES - free - movable if old == MIGRATE_MOVABLE else 0

    def _move_all(self, index: int, pfn: int, mt: int) -> int:
        """Move the free blocks of a pageblock to the lists of `mt`; pages moved, or -1 if they may not be."""
        bounds = self._bounds(index, pfn)
        if bounds is None:
            return -1
        moved = [page for page in range(*bounds) if page in self.blocks]
        for page in moved:
            self._move(page, mt)
        return sum(1 << self.blocks[page][1] for page in moved)

    def _take_largest(self, index: int, order: int, mt: int) -> int | None:
        """3.0: split the largest block of another type; if it is large, its pageblock changes its type."""
        for current in reversed(range(order, NR_ORDERS)):
            other = self._fallback_type(index, current, mt)
            if other is None:
                continue
            pfn = first(self.zones[index].lists[current][other])
            onto = other
            if current >= PAGEBLOCK_ORDER // 2 or mt == MIGRATE_RECLAIMABLE or self.mobility_disabled:
                onto = mt
                if current >= PAGEBLOCK_ORDER:
                    self._label_all(pfn, current, mt)
                elif self._move_all(index, pfn, mt) >= PAGEBLOCK_NR_PAGES // 2 or self.mobility_disabled:
                    self._label(pfn >> PAGEBLOCK_ORDER, mt)
            return self._split(index, pfn, order, onto)
        return None

    def _claim(self, index: int, order: int, mt: int, flags: int) -> int | None:
        """6.12: change the type of the pageblock with the largest block of another type."""
        lowest = PAGEBLOCK_ORDER if flags & NOFRAGMENT and order < PAGEBLOCK_ORDER else order
        for current in reversed(range(lowest, NR_ORDERS)):
            if not self._can_steal_fallback(current, mt):
                return None
            other = self._fallback_type(index, current, mt)
            if other is None:
                continue
            pfn = first(self.zones[index].lists[current][other])
            if current >= PAGEBLOCK_ORDER:
                self._label_all(pfn, current, mt)
                return self._split(index, pfn, order, mt)
            block = pfn >> PAGEBLOCK_ORDER
            self._mixed(index, flags)
            if self._bounds(index, pfn) is None:
                continue
            free, alike = self._look_at(index, pfn, self.block_type[block], mt)
            if free + alike >= PAGEBLOCK_NR_PAGES // 2 or self.mobility_disabled:
                self._move_all(index, pfn, mt)
                self._label(block, mt)
                found = self._rmqueue_smallest(index, order, mt)
                if found is not None:
                    return found
        return None

    def _steal_smallest(self, index: int, order: int, mt: int) -> int | None:
        for current in range(order, NR_ORDERS):
            other = self._fallback_type(index, current, mt)
            if other is not None:
                return self._split(index, first(self.zones[index].lists[current][other]), order, other)
        return None

    def _boost_watermark(self, index: int) -> bool:
        zone = self.zones[index]
        most = zone.marks[2] * self.boost_factor // 10000
        if most == 0 or zone.managed < 4 * PAGEBLOCK_NR_PAGES:
            return False
        zone.boost = min(zone.boost + PAGEBLOCK_NR_PAGES, max(most, PAGEBLOCK_NR_PAGES))
        return True

    def rmqueue(self, index: int, order: int, mt: int, flags: int, free: int) -> int | None:
        """__rmqueue(); `free` is NR_FREE_PAGES as it was before the refill began."""
        zone = self.zones[index]
        cma = mt == MIGRATE_MOVABLE
        tries: list[int] = [MIGRATE_CMA] if cma and zone.free_of(MIGRATE_CMA) > free // 2 else []
        for source in [*tries, mt, *([MIGRATE_CMA] if cma else [])]:
            pfn = self._rmqueue_smallest(index, order, source)
            if pfn is not None:
                return pfn
        if self.kernel == "6.1":
            pfn = None
            while pfn is None and self._rmqueue_fallback(index, order, mt, flags):
                pfn = self._rmqueue_smallest(index, order, mt)
            return pfn
        if self.kernel == "6.12":
            pfn = self._claim(index, order, mt, flags)
            return self._steal_smallest(index, order, mt) if pfn is None and not flags & NOFRAGMENT else pfn
        pfn = self._take_largest(index, order, mt)
        return self._rmqueue_smallest(index, order, RESERVE) if pfn is None else pfn

    def rmqueue_buddy(self, index: int, order: int, mt: int, flags: int) -> int | None:
        """rmqueue_buddy(); by its flags a request tries the high-atomic reserve first, last or not at all."""
        before = after = False
        if self.kernel == "6.1":
            before = order > 0 and bool(flags & HARDER)
        elif self.kernel == "6.12":
            before, after = bool(flags & HIGHATOMIC), bool(flags & (HARDER | OOM))
        pfn = self._rmqueue_smallest(index, order, MIGRATE_HIGHATOMIC) if before else None
        if pfn is None:
            pfn = self.rmqueue(index, order, mt, flags, self.zones[index].free)
        if pfn is None and after:
            pfn = self._rmqueue_smallest(index, order, MIGRATE_HIGHATOMIC)
        if pfn is not None:
            self.zones[index].free -= 1 << order
        return pfn

    # the high-atomic reserve

    def reserve_highatomic_pageblock(self, index: int, pfn: int, order: int) -> None:
        zone = self.zones[index]
        limit = zone.managed // 100 + PAGEBLOCK_NR_PAGES
        if self.kernel == "6.12":
            blocks = -(-(zone.managed // 100) // PAGEBLOCK_NR_PAGES)
            limit = blocks * PAGEBLOCK_NR_PAGES if zone.managed // 100 >= PAGEBLOCK_NR_PAGES else 0
        block = pfn >> PAGEBLOCK_ORDER
        if zone.reserved_highatomic >= limit or self.block_type[block] not in TYPES:
            return
        if self.kernel == "6.12" and order >= PAGEBLOCK_ORDER:
            self._label_all(pfn, order, MIGRATE_HIGHATOMIC)
            zone.reserved_highatomic += 1 << order
            return
        if self._move_all(index, pfn, MIGRATE_HIGHATOMIC) < 0 and self.kernel == "6.12":
            return
        self._label(block, MIGRATE_HIGHATOMIC)
        zone.reserved_highatomic += PAGEBLOCK_NR_PAGES

    def unreserve_highatomic_pageblock(self, zones: list[int], mt: int, force: bool) -> bool:
        if self.kernel == "3.0":
            return False
        for index in zones:
            zone = self.zones[index]
            if zone.reserved_highatomic <= (0 if force else PAGEBLOCK_NR_PAGES):
                continue
            for order in range(NR_ORDERS):
                blocks = zone.lists[order][MIGRATE_HIGHATOMIC]
                if not blocks:
                    continue
                pfn = first(blocks)
                block = pfn >> PAGEBLOCK_ORDER
                if self.kernel == "6.12" and order >= PAGEBLOCK_ORDER:
                    size = moved = 1 << order
                    self._move(pfn, mt)
                    self._label_all(pfn, order, mt)
                else:
                    size = PAGEBLOCK_NR_PAGES if self.block_type[block] == MIGRATE_HIGHATOMIC else 0
                    moved = self._move_all(index, pfn, mt)
                    self._label(block, mt)
                zone.reserved_highatomic -= min(size, zone.reserved_highatomic)
                if moved > 0:
                    return True
        return False

    # the reserve of 3.0

    def setup_zone_migrate_reserve(self, index: int, never_free: set[int]) -> None:
        """Make movable pageblocks MIGRATE_RESERVE: as many as MIN rounds up to, two at most."""
        zone = self.zones[index]
        wanted = min(2, -(-zone.marks[0] // PAGEBLOCK_NR_PAGES))
        for pfn in range(zone.start, zone.end, PAGEBLOCK_NR_PAGES):
            block = pfn >> PAGEBLOCK_ORDER
            pages = set(range(pfn, min(pfn + PAGEBLOCK_NR_PAGES, zone.end)))
            if not wanted or pages & never_free:
                continue
            if self.block_type.get(block) == MIGRATE_MOVABLE:
                self._label(block, RESERVE)
                self._move_all(index, pfn, RESERVE)
                wanted -= 1
