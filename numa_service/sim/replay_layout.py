"""Where the free blocks of a captured machine lie: a layout that the trace does not contradict.

``/proc`` tells how many blocks of each order and migratetype were free, not which. The trace knows many of
them (``trace.evidence``); the rest is put where the same counts come out and no two free buddies meet.
Everything is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from numa_service.mm.mmzone import (
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    NR_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
)
from numa_service.mm.occupancy import Blocks, ZoneState
from numa_service.mm.pgdata import I64
from numa_service.trace.events import EventKind
from numa_service.trace.evidence import FirstEvents
from numa_service.trace.occupancy import ZoneOccupancy

_NEVER = np.iinfo(np.int64).max
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ZonePlan:
    """What is to come out for one zone; pages by their index in the node's mem_map."""

    zone: int
    start: int
    end: int
    managed: int
    #: Which of the pages [start, end) are RAM.
    ram: _Mask
    occupancy: ZoneOccupancy
    #: Pages on the pageset of each CPU, by position of the CPU.
    pageset_pages: tuple[int, ...]


class ZoneLayout:
    """Chooses the blocks of one zone."""

    def __init__(self, plan: ZonePlan, first: FirstEvents, base_pfn: int) -> None:
        """`first`: of the pages of the zone, with `cpu` the position of the CPU."""
        self.plan = plan
        self.first = first
        # a zone's arrays begin at a largest block, so that alignment within them is that of the pages
        self.origin = plan.start >> (NR_ORDERS - 1) << (NR_ORDERS - 1)
        blocks = -(-(plan.end - self.origin) >> (NR_ORDERS - 1))
        self.size = blocks << (NR_ORDERS - 1)
        self.ram = np.zeros(self.size, dtype=np.bool_)
        self.ram[plan.start - self.origin : plan.end - self.origin] = plan.ram
        self._at = first.pfn.astype(np.int64) - base_pfn - self.origin
        self._heads = first.head.astype(np.int64) - base_pfn - self.origin
        self.touched = np.full(self.size, _NEVER, dtype=np.int64)
        self.touched[self._at] = first.at
        #: Migratetype that the trace suggests for a page; -1 where it says nothing.
        self.hint = np.full(self.size, -1, dtype=np.int64)
        self.hint[self._at] = np.where(first.kind == EventKind.MM_PAGE_FREE, -1, first.migratetype)
        self.taken = np.zeros(self.size, dtype=np.bool_)

    def build(self) -> ZoneState:
        """The whole zone; ValueError if its RAM has no room for all that is to be in it."""
        pageset = self._known_pageset()
        in_use = self._known_in_use()
        known = self.taken.copy()
        free = self._free(known)
        if free is None:
            # the trace's view of the zone leaves no room for the counts, which are certain
            pageset, in_use = [], []
            free = self._free(np.zeros_like(known))
        if free is None:
            raise ValueError(f"zone {self.plan.occupancy.zone}: no room in its RAM for its free blocks")
        self.taken[:] = False
        for idx, order, _, _ in free + pageset + in_use:
            self.taken[idx : idx + (1 << order)] = True
        pageset += self._more_pageset(pageset)
        used = sum(1 << order for _, order, _, _ in free + pageset + in_use)
        rest = self._rest(self.plan.managed - used)
        reserved = np.flatnonzero(self.ram & ~self.taken) + self.origin
        return ZoneState(
            self.plan.zone,
            free=self._blocks(free),
            pageset=self._blocks(pageset),
            held=self._blocks(in_use + rest),
            reserved=reserved,
            pageblocks=self._pageblocks(free),
        )

    def _blocks(self, rows: list[tuple[int, int, int, int]]) -> Blocks:
        return Blocks.of([(idx + self.origin, order, mt, cpu) for idx, order, mt, cpu in rows])

    # what the trace knows

    def _claim(self, idx: int, order: int) -> bool:
        end = idx + (1 << order)
        if idx < 0 or end > self.size or idx & ((1 << order) - 1):
            return False
        if self.taken[idx:end].any() or not self.ram[idx:end].all():
            return False
        self.taken[idx:end] = True
        return True

    def _known(self, kind: EventKind) -> list[tuple[int, int, int, int]]:
        """Blocks whose first page has its first event here, in trace order."""
        rows = np.flatnonzero((self.first.kind == kind) & self.first.blocks)
        rows = rows[np.argsort(self.first.at[rows], kind="stable")]
        columns = (self._at, self.first.order, self.first.migratetype, self.first.cpu)
        return list(zip(*(column[rows].tolist() for column in columns), strict=True))

    def _known_pageset(self) -> list[tuple[int, int, int, int]]:
        """Blocks allocated first, never taken from the buddy lists: as many as the pagesets can have had."""
        if not self.first.zone_locked:
            return []
        room = list(self.plan.pageset_pages)
        blocks = []
        for idx, order, mt, cpu in self._known(EventKind.MM_PAGE_ALLOC):
            kept = order <= 3 or order == PAGEBLOCK_ORDER
            if kept and cpu < len(room) and room[cpu] >= 1 << order and self._claim(idx, order):
                room[cpu] -= 1 << order
                blocks.append((idx, order, min(mt, MIGRATE_PCPTYPES - 1), cpu))
        return blocks

    def _known_in_use(self) -> list[tuple[int, int, int, int]]:
        """Blocks freed first: as many as were in use."""
        room = self.plan.managed - self.plan.occupancy.free_pages - sum(self.plan.pageset_pages)
        blocks = []
        for idx, order, mt, cpu in self._known(EventKind.MM_PAGE_FREE):
            if room >= 1 << order and self._claim(idx, order):
                room -= 1 << order
                blocks.append((idx, order, mt, cpu))
        return blocks

    # free blocks

    def _free(self, known: _Mask) -> list[tuple[int, int, int, int]] | None:
        """Every free block of the capture, in list order; None if there is no room for one."""
        self.taken = known.copy()
        blocks: list[tuple[int, int, int, int, int]] = []
        for order in range(NR_ORDERS - 1, -1, -1):
            chosen: set[int] = set()
            wanted = [(self.plan.occupancy.nr_free[mt][order], mt) for mt in range(MIGRATE_TYPES)]
            # rare types first: they have the fewest places
            for count, mt in sorted((count, mt) for count, mt in wanted if count):
                places = self._places(order, mt)
                picked = 0
                for number in places.tolist():
                    if picked == count:
                        break
                    if number in chosen or (order < NR_ORDERS - 1 and number ^ 1 in chosen):
                        continue
                    chosen.add(number)
                    picked += 1
                    idx = number << order
                    first = int(self.touched[idx : idx + (1 << order)].min())
                    blocks.append((first, idx, order, mt, 0))
                if picked < count:
                    return None
            for number in chosen:
                self.taken[number << order : (number + 1) << order] = True
        return [block[1:] for block in sorted(blocks)]

    def _places(self, order: int, mt: int) -> I64:
        """Where a free block of this order may be, by number, the likeliest first."""
        shape = (-1, 1 << order)
        room = (self.ram & ~self.taken).reshape(shape).all(axis=1)
        hints = self.hint.reshape(shape)
        score = 2 * (hints == mt).sum(axis=1) + ((hints >= 0) & (hints != mt)).sum(axis=1)
        numbers = np.flatnonzero(room)
        # what was never touched is taken from the top: low memory is what boot and the kernel use
        return numbers[np.lexsort((-numbers, -score[numbers]))]

    # everything else

    def _more_pageset(self, known: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
        """Pages that fill the pagesets to the captured counts: of which type, nobody knows."""
        room = list(self.plan.pageset_pages)
        for _, order, _, cpu in known:
            room[cpu] -= 1 << order
        spare = np.flatnonzero(self.ram & ~self.taken)[::-1]
        blocks = []
        for cpu, pages in enumerate(room):
            for idx in spare[:pages].tolist():
                self.taken[idx] = True
                blocks.append((idx, 0, MIGRATE_MOVABLE, cpu))
            spare = spare[pages:]
        return blocks

    def _rest(self, pages: int) -> list[tuple[int, int, int, int]]:
        """In use, and nothing known of it: from the top of the zone, in the largest blocks."""
        blocks: list[tuple[int, int, int, int]] = []
        for order in range(NR_ORDERS - 1, -1, -1):
            room = (self.ram & ~self.taken).reshape(-1, 1 << order).all(axis=1)
            for number in np.flatnonzero(room)[::-1][: pages >> order].tolist():
                self.taken[number << order : (number + 1) << order] = True
                blocks.append((number << order, order, 0, 0))
                pages -= 1 << order
        if pages:
            raise ValueError(f"zone {self.plan.occupancy.zone}: {pages} pages of its RAM are missing")
        return blocks

    def _pageblocks(self, free: list[tuple[int, int, int, int]]) -> dict[int, int]:
        """Types of the pageblocks: the captured number of each, where free blocks and the trace say so."""
        numbers = np.arange(self.size >> PAGEBLOCK_ORDER)
        votes = np.zeros((len(numbers), MIGRATE_TYPES), dtype=np.int64)
        for idx, order, mt, _ in free:
            if order >= PAGEBLOCK_ORDER:
                votes[idx >> PAGEBLOCK_ORDER : (idx + (1 << order)) >> PAGEBLOCK_ORDER, mt] += 1 << 20
            else:
                votes[idx >> PAGEBLOCK_ORDER, mt] += 4 << order
        hinted = np.flatnonzero(self.hint >= 0)
        np.add.at(votes, (hinted >> PAGEBLOCK_ORDER, np.minimum(self.hint[hinted], MIGRATE_TYPES - 1)), 1)
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
