"""A reference implementation of one node's page allocator, in dicts: short, slow and easy to check by
reading.

It is written from the rules of the kernels (6.1, 6.12 and 3.0), not from the model, with which it shares
constants only. Pages are named by pfn, and every list is an ordered dict. This module has pagesets, watermark
checks and the walk over zones; the buddy system is in ``reference_buddy.py``.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import cycle

from mm.reference_buddy import ReferenceBuddy
from mm.reference_zone import (
    CMA,
    COLD,
    HARDER,
    HIGH,
    HIGHATOMIC,
    MAX_BATCH_SCALE,
    NO_WATERMARKS,
    NOFRAGMENT,
    OOM,
    PCP_LISTS,
    TYPES,
    WMARK_MASK,
    Blocks,
    Held,
    Pageset,
    Zone,
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
    PAGEBLOCK_ORDER,
)


class ReferenceNode:
    """One node, with its zones by zone index."""

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
        #: Allocated blocks, by pfn.
        self.held: dict[int, Held] = {}
        #: Blocks held by hand, by owner.
        self.by_hand: dict[int, Blocks] = {}
        #: Region pages, by zone and kind (Held.lru).
        self.lru: dict[tuple[int, int], Blocks] = {}
        self.pgfree = 0
        self.buddy = ReferenceBuddy(zones, self.held, ram, cma, boost_factor, mobility_disabled, kernel)
        self.buddy.free_ranges(free_ranges)
        for zone in zones.values():
            zone.pagesets = {cpu: Pageset() for cpu in cpus}

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
                pfn = self.buddy.rmqueue(index, order, mt, flags, shown)
                if pfn is None:
                    break
                if self.kernel == "3.0":
                    self.buddy.pcp_type[pfn] = mt
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
        self.buddy.pcp_type[pfn] = mt
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
        """Free `count` pages of a pageset: lists in turn from `number` on, each emptied from its tail."""
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
                mt = self.buddy.block_type[pfn >> PAGEBLOCK_ORDER] if by_block else self.buddy.pcp_type[pfn]
                self.buddy.free_one_page(index, pfn, order, mt)
            number = (number + 1) % PCP_LISTS

    def _bulk_by_fullness(self, index: int, pageset: Pageset, count: int) -> None:
        """3.0: reclaimable, movable, unmovable in turn; an empty list adds one to the next share."""
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
                self.buddy.free_one_page(index, pfn, 0, self.buddy.pcp_type[pfn])

    def tick(self, local: tuple[int, ...]) -> None:
        """The vmstat tick of 6.12: `high` decays, and pages above it are freed."""
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
        """Whether a zone meets its watermark `number`, boost included."""
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
                    pfn = self.buddy.rmqueue_buddy(index, order, mt, flags)
                if pfn is not None:
                    atomic = (order and flags & HARDER) if self.kernel == "6.1" else flags & HIGHATOMIC
                    if atomic and self.kernel != "3.0":
                        self.buddy.reserve_highatomic_pageblock(index, pfn, order)
                    return index, pfn
        if flags & NOFRAGMENT:
            return self._get_page(zones, cpu, order, mt, class_zone, flags & ~NOFRAGMENT)
        return None

    # operations

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
        mt = self.buddy.block_type[pfn >> PAGEBLOCK_ORDER]
        if cpu is not None and self._on_pageset(block.order):
            self._to_pageset(block.zone, cpu, pfn, block.order, mt, cold)
        else:
            self.buddy.free_one_page(block.zone, pfn, block.order, mt)
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
