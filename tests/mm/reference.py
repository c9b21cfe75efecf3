"""One node's page allocator again, in dicts and lists: short, slow and obviously right.

Written from the kernel's rules (6.1, 6.12 and 3.0), not from the model: it names pages by pfn, keeps every
list as an ordered dict and never computes what it can look up. It shares constants with the model and
nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import cycle, pairwise

from mm.reference_zone import (
    CMA,
    COLD,
    FALLBACKS,
    HARDER,
    HIGH,
    HIGHATOMIC,
    KSWAPD,
    MAX_BATCH_SCALE,
    NO_WATERMARKS,
    NOFRAGMENT,
    OOM,
    PCP_LISTS,
    RESERVE,
    TYPES,
    WMARK_MASK,
    Blocks,
    Held,
    Pageset,
    Zone,
    first,
    push,
    refill,
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


class ReferenceNode:
    """The zones of one node, by zone index."""

    def __init__(
        self,
        zones: dict[int, Zone],
        ram: list[tuple[int, int]],
        free_ranges: list[tuple[int, int]],
        cpus: tuple[int, ...],
        pcp_max_order: int = 3,
        boost_factor: int = 15000,
        mobility_disabled: bool = False,
        kernel: str = "6.1",
        cma: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.kernel = kernel
        self.zones = zones
        self.pcp_max_order = pcp_max_order
        self.boost_factor = boost_factor
        self.mobility_disabled = mobility_disabled
        #: pfn of every free block → (zone, order, type)
        self.buddy: dict[int, tuple[int, int, int]] = {}
        #: Type that a block on a pageset goes back as (page->index).
        self.pcp_type: dict[int, int] = {}
        self.held: dict[int, Held] = {}
        self.by_hand: dict[int, Blocks] = {}
        self.lru: dict[tuple[int, int], Blocks] = {}
        self.pgfree = 0
        self.block_type: dict[int, int] = {}
        for low, high in ram:
            for block in range(low >> PAGEBLOCK_ORDER, -(-high >> PAGEBLOCK_ORDER)):
                self.block_type[block] = MIGRATE_MOVABLE
        for low, high in cma:
            for block in range(low >> PAGEBLOCK_ORDER, high >> PAGEBLOCK_ORDER):
                self.block_type[block] = MIGRATE_CMA
        edges = {edge for area in cma for edge in area}
        free_ranges = [
            (low, high)
            for start, end in free_ranges
            for low, high in pairwise(sorted({start, end} | {e for e in edges if start < e < end}))
        ]
        for index, zone in zones.items():
            zone.pagesets = {cpu: Pageset() for cpu in cpus}
            for low, high in free_ranges:
                self._free_range(index, max(low, zone.start), min(high, zone.end))

    def _free_range(self, zone: int, low: int, high: int) -> None:
        while low < high:
            order = NR_ORDERS - 1
            while low % (1 << order) or low + (1 << order) > high:
                order -= 1
            self._free_one_page(zone, low, order, self.block_type[low >> PAGEBLOCK_ORDER], to_tail=True)
            low += 1 << order

    # free lists

    def _link(self, zone: int, pfn: int, order: int, mt: int, tail: bool) -> None:
        push(self.zones[zone].lists[order][mt], pfn, tail)
        self.buddy[pfn] = (zone, order, mt)

    def _unlink(self, pfn: int) -> None:
        zone, order, mt = self.buddy.pop(pfn)
        del self.zones[zone].lists[order][mt][pfn]

    def _is_buddy(self, zone: int, pfn: int, order: int) -> bool:
        return pfn in self.buddy and self.buddy[pfn][:2] == (zone, order)

    def _free_one_page(self, zone: int, pfn: int, order: int, mt: int, to_tail: bool = False) -> None:
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
        """Within a pageblock always; with pageblock `other` if both are of ordinary types."""
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
        """Take a free block apart down to `order`; the rest goes to the lists of `mt`."""
        current = self.buddy[pfn][1]
        self._unlink(pfn)
        for lower in reversed(range(order, current)):
            self._link(zone, pfn + (1 << lower), lower, mt, tail=False)
        self.pcp_type[pfn] = mt
        return pfn

    def _smallest(self, zone: int, order: int, mt: int) -> int | None:
        for current in range(order, NR_ORDERS):
            blocks = self.zones[zone].lists[current][mt]
            if blocks:
                return self._split(zone, first(blocks), order, mt)
        return None

    # fallback

    def _fallback_type(self, zone: int, order: int, mt: int) -> int | None:
        return next((other for other in FALLBACKS[mt] if self.zones[zone].lists[order][other]), None)

    def _can_steal(self, order: int, mt: int) -> bool:
        return order >= PAGEBLOCK_ORDER // 2 or mt != MIGRATE_MOVABLE or self.mobility_disabled

    def _fallback(self, zone: int, order: int, mt: int, flags: int) -> bool:
        lowest = PAGEBLOCK_ORDER if flags & NOFRAGMENT and order < PAGEBLOCK_ORDER else order
        found = [o for o in range(lowest, NR_ORDERS) if self._fallback_type(zone, o, mt) is not None]
        if not found:
            return False
        chosen = found[-1]
        if not self._can_steal(chosen, mt) and chosen > order:
            # too small to take the pageblock along, and movable: break the smallest
            chosen = next(o for o in range(order, NR_ORDERS) if self._fallback_type(zone, o, mt) is not None)
        other = self._fallback_type(zone, chosen, mt)
        assert other is not None
        self._steal(zone, first(self.zones[zone].lists[chosen][other]), chosen, mt, flags)
        return True

    def _move(self, pfn: int, mt: int) -> None:
        zone, order, _ = self.buddy[pfn]
        self._unlink(pfn)
        self._link(zone, pfn, order, mt, tail=self.kernel != "3.0")

    def _steal(self, index: int, pfn: int, order: int, mt: int, flags: int) -> None:
        """6.1: put a block, or all that is free around it, on the lists of `mt`."""
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
        if not self._can_steal(order, mt) or self._bounds(index, pfn) is None:
            self._move(pfn, mt)
            return
        free, alike = self._look_at(index, pfn, old, mt)
        self._move_all(index, pfn, mt)
        if free + alike >= PAGEBLOCK_NR_PAGES // 2 or self.mobility_disabled:
            self._label(block, mt)

    def _mixed(self, index: int, flags: int) -> None:
        if self._boost(index) and flags & KSWAPD:
            self.zones[index].boosted = True

    def _bounds(self, index: int, pfn: int) -> tuple[int, int] | None:
        """The pages of a pageblock that may be moved with one of them; None when none may."""
        zone = self.zones[index]
        start = pfn - pfn % PAGEBLOCK_NR_PAGES
        end = start + PAGEBLOCK_NR_PAGES
        if end > zone.end:
            return None
        if start < zone.start:
            return None if self.kernel == "6.12" else (pfn, end)
        return start, end

    def _look_at(self, index: int, pfn: int, old: int, mt: int) -> tuple[int, int]:
        """Free pages around a block, and used ones of the kind that `mt` wants."""
        bounds = self._bounds(index, pfn)
        assert bounds is not None
        free = sum(1 << self.buddy[page][1] for page in range(*bounds) if page in self.buddy)
        movable = sum(1 for page in range(*bounds) if page in self.held and self.held[page].lru)
        if mt == MIGRATE_MOVABLE:
            return free, movable
        return free, PAGEBLOCK_NR_PAGES - free - movable if old == MIGRATE_MOVABLE else 0

    def _move_all(self, index: int, pfn: int, mt: int) -> int:
        """Move what is free in a pageblock; pages moved, -1 when the block may not be moved."""
        bounds = self._bounds(index, pfn)
        if bounds is None:
            return -1
        moved = [page for page in range(*bounds) if page in self.buddy]
        for page in moved:
            self._move(page, mt)
        return sum(1 << self.buddy[page][1] for page in moved)

    def _take_largest(self, index: int, order: int, mt: int) -> int | None:
        """3.0: split the largest block of another type; large ones bring their pageblock along."""
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
        """6.12: make the pageblock of the largest block of another type the requester's."""
        lowest = PAGEBLOCK_ORDER if flags & NOFRAGMENT and order < PAGEBLOCK_ORDER else order
        for current in reversed(range(lowest, NR_ORDERS)):
            if not self._can_steal(current, mt):
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
                found = self._smallest(index, order, mt)
                if found is not None:
                    return found
        return None

    def _steal_smallest(self, index: int, order: int, mt: int) -> int | None:
        for current in range(order, NR_ORDERS):
            other = self._fallback_type(index, current, mt)
            if other is not None:
                return self._split(index, first(self.zones[index].lists[current][other]), order, other)
        return None

    def _boost(self, index: int) -> bool:
        zone = self.zones[index]
        most = zone.marks[2] * self.boost_factor // 10000
        if most == 0 or zone.managed < 4 * PAGEBLOCK_NR_PAGES:
            return False
        zone.boost = min(zone.boost + PAGEBLOCK_NR_PAGES, max(most, PAGEBLOCK_NR_PAGES))
        return True

    def _rmqueue(self, index: int, order: int, mt: int, flags: int, free: int) -> int | None:
        """`free` are the free pages that the counter shows."""
        zone = self.zones[index]
        cma = mt == MIGRATE_MOVABLE
        tries: list[int] = [MIGRATE_CMA] if cma and zone.free_of(MIGRATE_CMA) > free // 2 else []
        for source in [*tries, mt, *([MIGRATE_CMA] if cma else [])]:
            pfn = self._smallest(index, order, source)
            if pfn is not None:
                return pfn
        if self.kernel == "6.1":
            pfn = None
            while pfn is None and self._fallback(index, order, mt, flags):
                pfn = self._smallest(index, order, mt)
            return pfn
        if self.kernel == "6.12":
            pfn = self._claim(index, order, mt, flags)
            return self._steal_smallest(index, order, mt) if pfn is None and not flags & NOFRAGMENT else pfn
        pfn = self._take_largest(index, order, mt)
        return self._smallest(index, order, RESERVE) if pfn is None else pfn

    def _from_buddy(self, index: int, order: int, mt: int, flags: int) -> int | None:
        """rmqueue_buddy: the atomic reserve before or behind everything else, by rights."""
        before = after = False
        if self.kernel == "6.1":
            before = order > 0 and bool(flags & HARDER)
        elif self.kernel == "6.12":
            before, after = bool(flags & HIGHATOMIC), bool(flags & (HARDER | OOM))
        pfn = self._smallest(index, order, MIGRATE_HIGHATOMIC) if before else None
        if pfn is None:
            pfn = self._rmqueue(index, order, mt, flags, self.zones[index].free)
        if pfn is None and after:
            pfn = self._smallest(index, order, MIGRATE_HIGHATOMIC)
        if pfn is not None:
            self.zones[index].free -= 1 << order
        return pfn

    # the atomic reserve

    def _reserve_highatomic(self, index: int, pfn: int, order: int) -> None:
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

    def unreserve_highatomic(self, zones: list[int], mt: int, force: bool) -> bool:
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

    def set_up_reserve(self, index: int, never_free: set[int]) -> None:
        """Movable pageblocks for MIGRATE_RESERVE: as many as MIN rounds up to, two at most."""
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

    # pagesets

    def _on_pageset(self, order: int) -> bool:
        return order <= self.pcp_max_order or (order == PAGEBLOCK_ORDER and self.pcp_max_order > 0)

    def _list_number(self, order: int, mt: int) -> int:
        if order == PAGEBLOCK_ORDER:
            return 13 if mt == MIGRATE_MOVABLE and self.kernel == "6.12" else 12
        return 3 * order + mt

    def _from_pageset(self, index: int, cpu: int, order: int, mt: int, flags: int) -> int | None:
        zone = self.zones[index]
        pageset = zone.pagesets[cpu]
        pageset.free_factor //= 2
        blocks = pageset.lists[self._list_number(order, mt)]
        if not blocks:
            batch = refill(zone, pageset, order) if self.kernel == "6.12" else zone.batch
            shown = zone.free
            for _ in range(batch if batch <= 1 else max(batch >> order, 2)):
                pfn = self._rmqueue(index, order, mt, flags, shown)
                if pfn is None:
                    break
                if self.kernel == "3.0":
                    self.pcp_type[pfn] = mt
                push(blocks, pfn, tail=not flags & COLD)
                pageset.count += 1 << order
                zone.free -= 1 << order
        if not blocks:
            return None
        pageset.count -= 1 << order
        return blocks.popitem(last=bool(flags & COLD))[0]

    def _to_pageset(self, index: int, cpu: int, pfn: int, order: int, mt: int, cold: bool) -> None:
        zone = self.zones[index]
        pageset = zone.pagesets[cpu]
        self.pcp_type[pfn] = mt
        number = self._list_number(order, mt if mt in TYPES else MIGRATE_MOVABLE)
        push(pageset.lists[number], pfn, tail=cold)
        pageset.count += 1 << order
        if self.kernel == "3.0":
            if pageset.count >= zone.high:
                self._bulk(index, pageset, zone.batch, number)
            return
        if self.kernel == "6.12":
            self._tuned_free(index, pageset, order, number)
            return
        all_of_it = pageset.free_factor > 0 and 1 <= order <= 3
        high = 0 if all_of_it else zone.high
        if zone.reclaim_active:
            high = min(high, 4 * zone.batch)
        if pageset.count < high:
            return
        if all_of_it:
            count = pageset.count
        elif high < zone.batch:
            count = 1
        else:
            count = zone.batch << pageset.free_factor
            if count < high - zone.batch and pageset.free_factor < MAX_BATCH_SCALE:
                pageset.free_factor += 1
            count = max(zone.batch, min(count, high - zone.batch))
        self._bulk(index, pageset, count, number)

    def _tuned_free(self, index: int, pageset: Pageset, order: int, number: int) -> None:
        zone = self.zones[index]
        batch, low = zone.batch, zone.high
        pageset.alloc_factor //= 2
        small = 1 <= order <= 3
        everything = (
            small and pageset.after_high_order and pageset.free_factor >= batch and pageset.count >= batch
        )
        pageset.after_high_order = small
        if pageset.free_factor < 32 * batch:
            pageset.free_factor += 1 << order
        freed = pageset.free_factor
        high = pageset.high = min(max(pageset.high, low), max(zone.high_max, low))
        if everything and high:
            pageset.high = max(high - 32 * batch, low)
            high = 0
        elif zone.reclaim_active and high:
            pageset.high = max(high - max(freed, batch), low)
            high = min(4 * batch, pageset.high)
        elif zone.below_high and low < zone.high_max:
            pageset.high = max(high - max(freed, batch), low)
            high = max(pageset.count, low)
        elif pageset.count >= high and low < zone.high_max and high < freed + batch:
            pageset.high = min(max(freed + batch, low), zone.high_max)
        if pageset.count < high:
            return
        if everything:
            count = min(pageset.count, 32 * batch)
        else:
            count = 1 if high < batch else min(max(freed, batch), high - batch)
        self._bulk(index, pageset, count, number)
        unusable = zone.free_of(MIGRATE_HIGHATOMIC) + zone.free_of(MIGRATE_CMA)
        if zone.free - unusable > zone.marks[2] + zone.boost + zone.reserve[3]:
            zone.below_high = False

    def _bulk(self, index: int, pageset: Pageset, count: int, number: int) -> None:
        """Lists in turn, beginning with `number`; each is emptied from its tail as long as more is due."""
        count = min(count, pageset.count)
        if self.kernel == "3.0":
            self._bulk_by_fullness(index, pageset, count)
            return
        while count > 0:
            blocks = pageset.lists[number]
            order = PAGEBLOCK_ORDER if number >= 12 else number // 3
            while blocks and count > 0:
                pfn, _ = blocks.popitem()
                pageset.count -= 1 << order
                count -= 1 << order
                by_block = self.kernel == "6.12"
                mt = self.block_type[pfn >> PAGEBLOCK_ORDER] if by_block else self.pcp_type[pfn]
                self._free_one_page(index, pfn, order, mt)
            number = (number + 1) % PCP_LISTS

    def _bulk_by_fullness(self, index: int, pageset: Pageset, count: int) -> None:
        """3.0: reclaimable, movable, unmovable and round again; empty lists leave their turn to the next."""
        turns = cycle((MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE, MIGRATE_UNMOVABLE))
        saved = 0
        while count > 0:
            for mt in turns:
                saved += 1
                if pageset.lists[mt]:
                    break
            if saved == 3:
                saved = count
            while count > 0 and saved > 0 and pageset.lists[mt]:
                pfn, _ = pageset.lists[mt].popitem()
                pageset.count -= 1
                count -= 1
                saved -= 1
                self._free_one_page(index, pfn, 0, self.pcp_type[pfn])

    def tick(self, local: tuple[int, ...]) -> None:
        """6.12's part of the vmstat tick: `high` decays, and what is above it goes."""
        assert self.kernel == "6.12"
        for cpu in sorted(next(iter(self.zones.values())).pagesets):
            for index in sorted(self.zones):
                zone = self.zones[index]
                pageset = zone.pagesets[cpu]
                if pageset.high > zone.high:
                    pageset.high = max(
                        pageset.count - 32 * zone.batch, pageset.high - pageset.high // 8, zone.high
                    )
                self._bulk(index, pageset, max(0, pageset.count - pageset.high), 0)

    # watermarks and the walk over the zones

    def _above_mark(self, zone: Zone, order: int, mark: int, class_zone: int, flags: int) -> bool:
        reserve = zone.reserve[class_zone]
        if flags & HIGH:
            mark -= mark // 2
        if self.kernel == "3.0":
            if flags & HARDER:
                mark -= mark // 4
            free = zone.free - 2**order - 1
            if free <= mark + reserve:
                return False
            for lower in range(order):
                free -= sum(map(len, zone.lists[lower].values())) << lower
                mark //= 2
                if free <= mark:
                    return False
            return True
        if self.kernel == "6.12":
            if flags & HIGH and flags & HARDER:
                mark -= mark // 4
            if flags & OOM:
                mark -= mark // 2
            has_rights = bool(flags & (HIGH | HARDER | HIGHATOMIC | OOM))
            withheld = 0 if has_rights else zone.free_of(MIGRATE_HIGHATOMIC)
            highatomic = bool(flags & (HIGHATOMIC | OOM))
        else:
            if flags & OOM:
                mark -= mark // 2
            elif flags & HARDER:
                mark -= mark // 4
            highatomic = bool(flags & (HARDER | OOM))
            withheld = 0 if highatomic else zone.reserved_highatomic
        if not flags & CMA:
            withheld += zone.free_of(MIGRATE_CMA)
        if zone.free - withheld - (2**order - 1) <= mark + reserve:
            return False
        usable = {*TYPES} | ({MIGRATE_HIGHATOMIC} if highatomic else set())
        usable |= {MIGRATE_CMA} if flags & CMA else set()
        return order == 0 or any(zone.lists[o][mt] for o in range(order, NR_ORDERS) for mt in usable)

    def _meets(self, zone: Zone, order: int, number: int, class_zone: int, flags: int) -> bool:
        """Whether a zone stays above its watermark of that number."""
        mark = zone.marks[number]
        if self._above_mark(zone, order, mark + zone.boost, class_zone, flags):
            return True
        urgent = flags & (HIGH if self.kernel == "6.12" else HARDER)
        if order or not urgent or flags & WMARK_MASK:
            return False
        return self._above_mark(zone, 0, zone.marks[0], class_zone, flags) if zone.boost else False

    def _may_take(self, zone: Zone, order: int, class_zone: int, flags: int) -> bool:
        if self.kernel == "6.12" and not zone.below_high:
            if self._meets(zone, order, 2, class_zone, flags):
                return True
            zone.below_high = True
        if flags & NO_WATERMARKS:
            return True
        return self._meets(zone, order, flags & WMARK_MASK, class_zone, flags)

    def _get_page(
        self, zones: list[int], cpu: int | None, order: int, mt: int, class_zone: int, flags: int
    ) -> tuple[int, int] | None:
        for index in zones:
            if self._may_take(self.zones[index], order, class_zone, flags):
                pfn = None
                if cpu is not None and self._on_pageset(order):
                    pfn = self._from_pageset(index, cpu, order, mt, flags)
                if pfn is None:
                    pfn = self._from_buddy(index, order, mt, flags)
                if pfn is not None:
                    atomic = (order and flags & HARDER) if self.kernel == "6.1" else flags & HIGHATOMIC
                    if atomic and self.kernel != "3.0":
                        self._reserve_highatomic(index, pfn, order)
                    return index, pfn
        if flags & NOFRAGMENT:
            return self._get_page(zones, cpu, order, mt, class_zone, flags & ~NOFRAGMENT)
        return None

    # what callers do

    def alloc(
        self,
        zones: list[int],
        cpu: int | None,
        order: int,
        count: int,
        mt: int,
        class_zone: int,
        flags: int,
        hit: bool,
        local: bool,
        interleave: bool,
        owner: int,
        lru: int = 0,
        indexes: list[int] | None = None,
    ) -> list[int]:
        got: list[int] = []
        if mt == MIGRATE_MOVABLE:
            flags |= CMA
        while len(got) < count:
            found = self._get_page(zones, cpu, order, mt, class_zone, flags)
            if found is None:
                break
            index, pfn = found
            zone = self.zones[index]
            zone.pgalloc += 1 << order
            zone.hit += hit
            zone.miss += not hit
            zone.local += local
            zone.other += not local
            zone.interleave += interleave
            self.held[pfn] = Held(owner, order, index, lru, indexes[len(got)] if indexes else 0)
            if lru:
                push(self.lru.setdefault((index, lru), OrderedDict()), pfn)
            else:
                push(self.by_hand.setdefault(owner, OrderedDict()), pfn, tail=True)
            got.append(pfn)
        return got

    def free(self, cpu: int | None, pfns: list[int], cold: bool = False) -> int:
        return sum(self._free(cpu, pfn, cold) for pfn in pfns)

    def _free(self, cpu: int | None, pfn: int, cold: bool) -> int:
        block = self.held.pop(pfn)
        if block.lru:
            del self.lru[block.zone, block.lru][pfn]
        else:
            del self.by_hand[block.owner][pfn]
        self.pgfree += 1 << block.order
        mt = self.block_type[pfn >> PAGEBLOCK_ORDER]
        if cpu is not None and self._on_pageset(block.order):
            self._to_pageset(block.zone, cpu, pfn, block.order, mt, cold)
        else:
            self._free_one_page(block.zone, pfn, block.order, mt)
        return 1 << block.order

    def free_owner(self, owner: int) -> int:
        freed = self.free(None, list(self.by_hand.get(owner, ())))
        pages = [pfn for pfns in self.lru.values() for pfn in pfns if self.held[pfn].owner == owner]
        return freed + self.free(None, sorted(pages, key=lambda pfn: self.held[pfn].index))

    def drain(self) -> None:
        for cpu in sorted(next(iter(self.zones.values())).pagesets):
            for index in sorted(self.zones):
                pageset = self.zones[index].pagesets[cpu]
                self._bulk(index, pageset, pageset.count, 0)
