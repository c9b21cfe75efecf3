"""One node's page allocator again, in dicts and lists: short, slow and obviously right.

Written from the kernel's rules (6.1), not from the model: it names pages by pfn, keeps every list as an
ordered dict and never computes what it can look up. It shares constants with the model and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from numa_service.mm.mmzone import (
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
    NR_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
)

# alloc_flags of 6.1's mm/internal.h
WMARK_MASK = 0x03
NO_WATERMARKS = 0x04
OOM = 0x08
HARDER = 0x10
HIGH = 0x20
NOFRAGMENT = 0x100
KSWAPD = 0x800

FALLBACKS = {
    MIGRATE_UNMOVABLE: (MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE),
    MIGRATE_RECLAIMABLE: (MIGRATE_UNMOVABLE, MIGRATE_MOVABLE),
    MIGRATE_MOVABLE: (MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE),
}
TYPES = (MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE)
PCP_LISTS = 13
MAX_BATCH_SCALE = 5

#: A list of blocks by pfn; the first key is the head.
Blocks = OrderedDict[int, None]


def push(blocks: Blocks, pfn: int, tail: bool = False) -> None:
    blocks[pfn] = None
    if not tail:
        blocks.move_to_end(pfn, last=False)


def first(blocks: Blocks) -> int:
    return next(iter(blocks))


@dataclass
class Pageset:
    """per_cpu_pages"""

    lists: list[Blocks] = field(default_factory=lambda: [OrderedDict() for _ in range(PCP_LISTS)])
    count: int = 0
    free_factor: int = 0


@dataclass
class Zone:
    """A zone, [start, end) in pfns; watermarks min, low, high; reserve by class zone."""

    start: int
    end: int
    managed: int
    marks: tuple[int, int, int]
    reserve: tuple[int, ...]
    batch: int
    high: int
    free: int = 0
    boost: int = 0
    boosted: bool = False
    reclaim_active: bool = False
    lists: list[dict[int, Blocks]] = field(
        default_factory=lambda: [{mt: OrderedDict() for mt in TYPES} for _ in range(NR_ORDERS)]
    )
    pagesets: dict[int, Pageset] = field(default_factory=dict)
    hit: int = 0
    miss: int = 0
    local: int = 0
    other: int = 0
    interleave: int = 0
    pgalloc: int = 0


@dataclass
class Held:
    """An allocated block; `lru` is 1 for an anonymous page of a region, 2 for a file page, else 0."""

    owner: int
    order: int
    zone: int
    lru: int
    index: int


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
    ) -> None:
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
            # all three types may merge across pageblocks
            self._unlink(pfn ^ (1 << order))
            pfn &= ~(1 << order)
            order += 1
        if order < NR_ORDERS - 2:
            parent = pfn & ~(1 << order)
            to_tail = to_tail or self._is_buddy(zone, parent ^ (2 << order), order + 1)
        self._link(zone, pfn, order, mt, to_tail)

    def _smallest(self, zone: int, order: int, mt: int) -> int | None:
        for current in range(order, NR_ORDERS):
            blocks = self.zones[zone].lists[current][mt]
            if blocks:
                pfn = first(blocks)
                self._unlink(pfn)
                for lower in reversed(range(order, current)):
                    self._link(zone, pfn + (1 << lower), lower, mt, tail=False)
                self.pcp_type[pfn] = mt
                return pfn
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
        self._link(zone, pfn, order, mt, tail=True)

    def _steal(self, index: int, pfn: int, order: int, mt: int, flags: int) -> None:
        block = pfn >> PAGEBLOCK_ORDER
        old = self.block_type[block]
        if order >= PAGEBLOCK_ORDER:
            for i in range(1 << (order - PAGEBLOCK_ORDER)):
                self.block_type[block + i] = mt
            self._move(pfn, mt)
            return
        if self._boost(index) and flags & KSWAPD:
            self.zones[index].boosted = True
        if not self._can_steal(order, mt):
            self._move(pfn, mt)
            return
        zone = self.zones[index]
        start = block << PAGEBLOCK_ORDER
        end = start + PAGEBLOCK_NR_PAGES
        if end > zone.end:
            self._move(pfn, mt)
            return
        start = start if start >= zone.start else pfn
        moved = movable = 0
        for page in range(start, end):
            if page in self.buddy:
                self._move(page, mt)
                moved += 1 << self.buddy[page][1]
            elif page in self.held and self.held[page].lru:
                movable += 1
        alike = 0
        if mt == MIGRATE_MOVABLE:
            alike = movable
        elif old == MIGRATE_MOVABLE:
            alike = PAGEBLOCK_NR_PAGES - moved - movable
        if moved + alike >= PAGEBLOCK_NR_PAGES // 2 or self.mobility_disabled:
            self.block_type[block] = mt

    def _boost(self, index: int) -> bool:
        zone = self.zones[index]
        most = zone.marks[2] * self.boost_factor // 10000
        if most == 0 or zone.managed < 4 * PAGEBLOCK_NR_PAGES:
            return False
        zone.boost = min(zone.boost + PAGEBLOCK_NR_PAGES, max(most, PAGEBLOCK_NR_PAGES))
        return True

    def _rmqueue(self, zone: int, order: int, mt: int, flags: int) -> int | None:
        pfn = self._smallest(zone, order, mt)
        while pfn is None and self._fallback(zone, order, mt, flags):
            pfn = self._smallest(zone, order, mt)
        if pfn is not None:
            self.zones[zone].free -= 1 << order
        return pfn

    # pagesets

    def _on_pageset(self, order: int) -> bool:
        return order <= self.pcp_max_order or (order == PAGEBLOCK_ORDER and self.pcp_max_order > 0)

    def _list_number(self, order: int, mt: int) -> int:
        return PCP_LISTS - 1 if order == PAGEBLOCK_ORDER else 3 * order + mt

    def _from_pageset(self, index: int, cpu: int, order: int, mt: int, flags: int) -> int | None:
        zone = self.zones[index]
        pageset = zone.pagesets[cpu]
        pageset.free_factor //= 2
        blocks = pageset.lists[self._list_number(order, mt)]
        if not blocks:
            batch = zone.batch if zone.batch <= 1 else max(zone.batch >> order, 2)
            for _ in range(batch):
                pfn = self._rmqueue(index, order, mt, flags)
                if pfn is None:
                    break
                push(blocks, pfn, tail=True)
                pageset.count += 1 << order
        if not blocks:
            return None
        pageset.count -= 1 << order
        return blocks.popitem(last=False)[0]

    def _to_pageset(self, index: int, cpu: int, pfn: int, order: int, mt: int) -> None:
        zone = self.zones[index]
        pageset = zone.pagesets[cpu]
        self.pcp_type[pfn] = mt
        number = self._list_number(order, mt)
        push(pageset.lists[number], pfn)
        pageset.count += 1 << order
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

    def _bulk(self, index: int, pageset: Pageset, count: int, number: int) -> None:
        """Lists in turn, beginning with `number`; each is emptied from its tail as long as more is due."""
        count = min(count, pageset.count)
        while count > 0:
            blocks = pageset.lists[number]
            order = PAGEBLOCK_ORDER if number == PCP_LISTS - 1 else number // 3
            while blocks and count > 0:
                pfn, _ = blocks.popitem()
                pageset.count -= 1 << order
                count -= 1 << order
                self._free_one_page(index, pfn, order, self.pcp_type[pfn])
            number = (number + 1) % PCP_LISTS

    # watermarks and the walk over the zones

    def _above_mark(self, zone: Zone, order: int, mark: int, class_zone: int, flags: int) -> bool:
        reserve = zone.reserve[class_zone]
        if flags & HIGH:
            mark -= mark // 2
        if flags & OOM:
            mark -= mark // 2
        elif flags & HARDER:
            mark -= mark // 4
        if zone.free - ((1 << order) - 1) <= mark + reserve:
            return False
        return order == 0 or any(zone.lists[o][mt] for o in range(order, NR_ORDERS) for mt in TYPES)

    def _may_take(self, zone: Zone, order: int, class_zone: int, flags: int) -> bool:
        if flags & NO_WATERMARKS:
            return True
        mark = zone.marks[flags & WMARK_MASK]
        if self._above_mark(zone, order, mark + zone.boost, class_zone, flags):
            return True
        at_min = flags & WMARK_MASK == 0
        return bool(
            order == 0 and flags & HIGH and at_min and self._above_mark(zone, 0, mark, class_zone, flags)
        )

    def _get_page(
        self, zones: list[int], cpu: int | None, order: int, mt: int, class_zone: int, flags: int
    ) -> tuple[int, int] | None:
        for index in zones:
            if self._may_take(self.zones[index], order, class_zone, flags):
                if cpu is not None and self._on_pageset(order):
                    pfn = self._from_pageset(index, cpu, order, mt, flags)
                else:
                    pfn = self._rmqueue(index, order, mt, flags)
                if pfn is not None:
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

    def free(self, cpu: int | None, pfns: list[int]) -> int:
        return sum(self._free(cpu, pfn) for pfn in pfns)

    def _free(self, cpu: int | None, pfn: int) -> int:
        block = self.held.pop(pfn)
        if block.lru:
            del self.lru[block.zone, block.lru][pfn]
        else:
            del self.by_hand[block.owner][pfn]
        self.pgfree += 1 << block.order
        mt = self.block_type[pfn >> PAGEBLOCK_ORDER]
        if cpu is not None and self._on_pageset(block.order):
            self._to_pageset(block.zone, cpu, pfn, block.order, mt)
        else:
            self._free_one_page(block.zone, pfn, block.order, mt)
        return 1 << block.order

    def free_owner(self, owner: int) -> int:
        freed = self.free(None, list(self.by_hand.get(owner, ())))
        for key in sorted(self.lru):
            freed += self.free(None, [pfn for pfn in self.lru[key] if self.held[pfn].owner == owner])
        return freed

    def drain(self) -> None:
        for cpu in sorted(next(iter(self.zones.values())).pagesets):
            for index in sorted(self.zones):
                pageset = self.zones[index].pagesets[cpu]
                self._bulk(index, pageset, pageset.count, 0)
