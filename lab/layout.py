"""Choice of the place of every block of a zone at the start: free, on pagesets, in use.

``/proc`` tells how many blocks of each order and migratetype were free, and how many pages each pageset had.
For blocks that the trace touches, it tells which ones they were, and in what order they were listed
(``lab.evidence``). The others are placed so that the counts are those captured and no two free buddies lie
side by side. Where counts and trace differ, the trace is right, as it begins a little later. The same input
always gives the same layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.evidence import Evidence, FirstPages
from lab.occupancy import Blocks, ZoneState
from lab.pagetypeinfo import ZoneOccupancy
from numa_service.mm.mmzone import (
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_RECLAIMABLE,
    MIGRATE_TYPES,
    MIGRATE_UNMOVABLE,
    NR_ORDERS,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
)

_Mask = npt.NDArray[np.bool_]
_I64 = npt.NDArray[np.int64]
#: A block: (index in the zone's arrays, order, migratetype, position of the CPU).
_Row = tuple[int, int, int, int]

#: (order, type) of the pageset lists that may have pages which the trace never touches, the likeliest first.
_SPARE_LISTS = tuple(
    (order, mt)
    for order in range(PAGE_ALLOC_COSTLY_ORDER + 1)
    for mt in (MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, MIGRATE_RECLAIMABLE)
)
#: Vote for the type of a pageblock that the trace shows; free blocks in it have far smaller votes.
_SURE = 1 << 24


@dataclass(frozen=True, slots=True)
class ZonePlan:
    """What the layout of one zone has to meet; page numbers are indexes in the node's mem_map."""

    zone: int
    start: int
    end: int
    managed: int
    #: Which of the pages [start, end) are RAM.
    ram: _Mask
    occupancy: ZoneOccupancy
    #: Pages on each CPU's pageset, and the CPUs' numbers.
    pageset_pages: tuple[int, ...]
    cpus: tuple[int, ...]


class ZoneLayout:
    """Chooses the blocks of one zone."""

    def __init__(self, plan: ZonePlan, evidence: Evidence, base_pfn: int) -> None:
        """`evidence` is that of the whole trace; `base_pfn` the pfn of index 0 of the node's mem_map."""
        self.plan = plan
        self.evidence = evidence
        # the arrays begin at a multiple of the largest block, so that indexes are aligned as pages are
        self.origin = plan.start >> (NR_ORDERS - 1) << (NR_ORDERS - 1)
        blocks = -(-(plan.end - self.origin) >> (NR_ORDERS - 1))
        self.size = blocks << (NR_ORDERS - 1)
        self.ram = np.zeros(self.size, dtype=np.bool_)
        self.ram[plan.start - self.origin : plan.end - self.origin] = plan.ram
        self.taken = np.zeros(self.size, dtype=np.bool_)
        self._base_pfn = base_pfn + self.origin
        self._start_pfn = base_pfn + plan.start
        #: Type of each pageblock that the trace shows; -1: it shows none.
        self._types: _I64 = np.full(self.size >> PAGEBLOCK_ORDER, -1, dtype=np.int64)
        first = self._base_pfn >> PAGEBLOCK_ORDER
        for number in range(len(self._types)):
            self._types[number] = evidence.pageblocks.get(first + number, -1)

    def build(self) -> ZoneState:
        """Lay the zone out; ValueError if its RAM has no room for all blocks."""
        room = self.plan.managed
        if self.plan.occupancy.free_pages + sum(self.plan.pageset_pages) > room:
            raise ValueError(f"zone {self.plan.occupancy.zone}: more free pages than the {room} managed ones")
        popped, room = self._known(self.evidence.popped, room)
        drained, room = self._known(self.evidence.drained, room)
        in_use, room = self._known(self.evidence.in_use, room)
        free, room = self._known(self.evidence.free, room)
        more = self._more_free(free, room)
        if more is None:
            raise ValueError(f"zone {self.plan.occupancy.zone}: no room in its RAM for its free blocks")
        free += more
        room -= sum(1 << order for _, order, _, _ in more)
        pageset, room = self._pageset(popped, drained, room)
        rest = self._rest(room)
        reserved = np.flatnonzero(self.ram & ~self.taken) + self.origin
        return ZoneState(
            self.plan.zone,
            free=self._blocks(free),
            pageset=self._blocks(pageset),
            held=self._blocks(in_use + rest),
            reserved=reserved,
            pageblocks=self._pageblocks(free),
        )

    def _blocks(self, rows: list[_Row]) -> Blocks:
        """Convert rows to columns, with indexes in the node's mem_map."""
        return Blocks.of([(idx + self.origin, order, mt, cpu) for idx, order, mt, cpu in rows])

    # blocks that the trace names

    def _claim(self, idx: int, order: int) -> bool:
        """Take the pages of a block; False if they are not all untaken RAM, or the block is not aligned."""
        end = idx + (1 << order)
        if idx < 0 or end > self.size or idx & ((1 << order) - 1):
            return False
        if self.taken[idx:end].any() or not self.ram[idx:end].all():
            return False
        self.taken[idx:end] = True
        return True

    def _known(self, first: FirstPages, room: int) -> tuple[list[_Row], int]:
        """Take the blocks of this zone, in trace order, as far as `room` (pages) goes; and the room left."""
        here = first.between(self._start_pfn, self._start_pfn + self.plan.end - self.plan.start)
        columns = (here.pfn - self._base_pfn, here.order, here.migratetype, here.cpu)
        blocks = []
        for idx, order, mt, cpu in zip(*(column.tolist() for column in columns), strict=True):
            if room >= 1 << order and self._claim(idx, order):
                room -= 1 << order
                position = self.plan.cpus.index(cpu) if cpu in self.plan.cpus else 0
                blocks.append((idx, order, min(mt, MIGRATE_TYPES - 1), position))
        return blocks, room

    # free blocks

    def _more_free(self, known: list[_Row], room: int) -> list[_Row] | None:
        """Place the captured free blocks that the trace never touches; None if there is no place for one."""
        captured = np.array(self.plan.occupancy.nr_free, dtype=np.int64)
        left = self.evidence.untouched.get(self._start_pfn, captured)
        chosen: list[set[int]] = [set() for _ in range(NR_ORDERS)]
        for idx, order, _, _ in known:
            chosen[order].add(idx >> order)
        blocks: list[_Row] = []
        for order in range(NR_ORDERS - 1, -1, -1):
            for mt in np.argsort(left[:, order], kind="stable").tolist():
                count = min(int(left[mt, order]), room >> order)
                if count <= 0:
                    continue
                for number in self._places(order, mt).tolist():
                    if number in chosen[order] or (order < NR_ORDERS - 1 and number ^ 1 in chosen[order]):
                        continue
                    chosen[order].add(number)
                    self.taken[number << order : (number + 1) << order] = True
                    blocks.append((number << order, order, mt, 0))
                    room -= 1 << order
                    count -= 1
                    if not count:
                        break
                if count:
                    return None
        return blocks

    def _places(self, order: int, mt: int) -> _I64:
        """Numbers of the places where a free block of this order may be, the likeliest first.

        Places in pageblocks of its type come first, and among them those whose buddy the trace does not touch
        either, so that the buddy can stay in use.
        """
        room: _Mask = np.asarray((self.ram & ~self.taken).reshape(-1, 1 << order).all(axis=1))
        numbers = np.flatnonzero(room)
        types = self._types[np.minimum(numbers << order >> PAGEBLOCK_ORDER, len(self._types) - 1)]
        alike = np.where(types == mt, 2, np.where(types < 0, 1, 0))
        alone = room[np.minimum(numbers ^ 1, len(room) - 1)]
        # from the top of the zone down, as boot and the kernel use low memory
        return numbers[np.lexsort((-numbers, ~alone, -alike))]

    # pagesets

    def _pageset(self, popped: list[_Row], drained: list[_Row], room: int) -> tuple[list[_Row], int]:
        """Blocks on pagesets, each list from head to tail: popped ones, untouched ones, drained ones."""
        rows = list(popped)
        for position, cpu in enumerate(self.plan.cpus):
            known = sum(1 << row[1] for row in popped + drained if row[3] == position)
            pages = min(self.plan.pageset_pages[position] - known, room)
            for order, mt in _SPARE_LISTS:
                if (cpu, self._start_pfn, order, mt) in self.evidence.refilled:
                    continue  # the list was empty once, so the trace has touched everything on it
                free = (self.ram & ~self.taken).reshape(-1, 1 << order).all(axis=1)
                for number in np.flatnonzero(free)[::-1][: max(0, pages) >> order].tolist():
                    self.taken[number << order : (number + 1) << order] = True
                    rows.append((number << order, order, mt, position))
                    pages -= 1 << order
                    room -= 1 << order
        return [(i, o, min(mt, MIGRATE_PCPTYPES - 1), c) for i, o, mt, c in rows + drained[::-1]], room

    # everything else

    def _rest(self, pages: int) -> list[_Row]:
        """Place the other pages in use, from the top of the zone, in the largest blocks."""
        blocks: list[_Row] = []
        for order in range(NR_ORDERS - 1, -1, -1):
            room = (self.ram & ~self.taken).reshape(-1, 1 << order).all(axis=1)
            for number in np.flatnonzero(room)[::-1][: pages >> order].tolist():
                self.taken[number << order : (number + 1) << order] = True
                blocks.append((number << order, order, 0, 0))
                pages -= 1 << order
        if pages:
            raise ValueError(f"zone {self.plan.occupancy.zone}: {pages} pages of its RAM are missing")
        return blocks

    def _pageblocks(self, free: list[_Row]) -> dict[int, int]:
        """Types of the pageblocks: of each as many as captured, by votes of the trace and of free blocks."""
        numbers = np.arange(self.size >> PAGEBLOCK_ORDER)
        votes = np.zeros((len(numbers), MIGRATE_TYPES), dtype=np.int64)
        for idx, order, mt, _ in free:
            if order >= PAGEBLOCK_ORDER:
                votes[idx >> PAGEBLOCK_ORDER : (idx + (1 << order)) >> PAGEBLOCK_ORDER, mt] += 1 << 20
            else:
                votes[idx >> PAGEBLOCK_ORDER, mt] += 4 << order
        shown = np.flatnonzero(self._types >= 0)
        votes[shown, self._types[shown]] += _SURE
        has_ram = self.ram.reshape(-1, PAGEBLOCK_NR_PAGES).any(axis=1)
        left = numbers[has_ram]
        types: dict[int, int] = {}
        for mt in range(MIGRATE_TYPES):
            if mt == MIGRATE_MOVABLE:
                continue
            others = np.delete(votes, mt, axis=1).max(axis=1)
            ranked = left[np.lexsort((left, -(votes[left, mt] - others[left])))]
            chosen = ranked[: self.plan.occupancy.pageblocks[mt]]
            types |= dict.fromkeys(chosen.tolist(), mt)
            left = left[~np.isin(left, chosen)]
        types |= dict.fromkeys(left.tolist(), MIGRATE_MOVABLE)
        offset = self.origin >> PAGEBLOCK_ORDER
        low, high = self.plan.start, self.plan.end
        return {
            number + offset: mt
            for number, mt in types.items()
            if (number + offset) << PAGEBLOCK_ORDER < high and (number + offset + 1) << PAGEBLOCK_ORDER > low
        }
