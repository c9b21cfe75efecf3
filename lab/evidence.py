"""What a trace tells about memory at its beginning, and about allocations and drains without events.

The first event of a page says where the page was when tracing began. If it is freed, the page was in use; if
it is taken from the buddy lists (``mm_page_alloc_zone_locked``), it was free; if it is allocated without that
event, or drained, it was on a pageset. :mod:`lab.retrace` follows the events to find out the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lab.retrace import retrace
from lab.traced_pages import (
    BEGAN_DRAINED,
    BEGAN_FREE,
    BEGAN_IN_USE,
    BEGAN_POPPED,
    BEGAN_UNKNOWN,
    NR_LISTS,
    PAGE_DTYPES,
    POP_BITS,
    SEEMS_IN_USE,
    CpuStates,
    EventColumns,
    Findings,
    Pageblocks,
    Pages,
    PagesetFactors,
    PagesetLists,
    Zones,
)
from numa_service.mm.mmzone import MIGRATE_PCPTYPES, MIGRATE_TYPES, NR_ORDERS, PAGEBLOCK_ORDER
from numa_service.trace.events import EventKind, KswapdChange, TraceEvents

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

#: kswapd_try_to_sleep() waits HZ / 10 before it reports that kswapd sleeps.
_KSWAPD_DOZES_NS = 100_000_000

#: Orders that pagesets keep (6.1); blocks of other orders go straight to the buddy lists.
_PCP_ORDERS = (0, 1, 2, 3, PAGEBLOCK_ORDER)

#: A row of the table of pages has the pages of one largest block.
_ROW_ORDER = NR_ORDERS - 1
_ROW = 1 << _ROW_ORDER
_ROWS_AT_FIRST = 64
#: CPU numbers that a trace can have.
_CPU_NUMBERS = 1 << 16


@dataclass(frozen=True, slots=True)
class FirstPages:
    """Blocks by their first event, in trace order, as columns."""

    pfn: I64
    order: I64
    #: Requested type of an allocation, type of a drain; without meaning for frees.
    migratetype: I64
    #: Number of the CPU whose pageset it was, if any.
    cpu: I64
    #: Number of the event in the trace.
    at: I64

    def between(self, start: int, end: int) -> FirstPages:
        """Those with pfns in [start, end)."""
        here = (self.pfn >= start) & (self.pfn < end)
        return FirstPages(
            self.pfn[here], self.order[here], self.migratetype[here], self.cpu[here], self.at[here]
        )

    @classmethod
    def nothing(cls) -> FirstPages:
        """No blocks."""
        return cls(*(np.zeros(0, dtype=np.int64) for _ in range(5)))


@dataclass(frozen=True, slots=True)
class Inferred:
    """Allocations or drains without events, as columns, in the order of their position in the trace."""

    #: Number of the event before which it happened.
    at: I64
    cpu: I64
    #: Of an allocation the block's pfn and type; of a drain the first pfn of the zone, and 0.
    pfn: I64
    migratetype: I64
    #: Of an allocation its order; of a drain the number of pages.
    amount: I64

    @classmethod
    def nothing(cls) -> Inferred:
        """No rows."""
        return cls(*(np.zeros(0, dtype=np.int64) for _ in range(5)))

    def columns(self) -> tuple[I64, ...]:
        """The columns, in the order of the fields."""
        return self.at, self.cpu, self.pfn, self.migratetype, self.amount

    def between(self, begin: int, end: int) -> Inferred:
        """Rows that belong to events [begin, end)."""
        low, high = np.searchsorted(self.at, [begin, end]).tolist()
        return Inferred(*(column[low:high] for column in self.columns()))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that a trace tells: memory at its beginning, and what happened without events."""

    #: Free blocks, in the order of the first event that took from each.
    free: FirstPages
    #: Blocks on pagesets that were allocated (from the head of a list on) or drained (from its tail on).
    popped: FirstPages
    drained: FirstPages
    in_use: FirstPages
    #: Types of pageblocks, as far as the trace shows them, by pfn >> pageblock_order.
    pageblocks: dict[int, int]
    #: Pageset lists that were empty at some time: (CPU, first pfn of the zone, order, type).
    refilled: frozenset[tuple[int, int, int, int]]
    #: Allocations without an event, and drains that no free caused.
    allocations: Inferred
    drains: Inferred
    #: Numbers of captured free blocks, [migratetype, order], that the trace never touches although they may
    #: have been there, as their list was never empty; by first pfn of the zone.
    untouched: Mapping[int, I64] = field(default_factory=dict)
    #: free_factor of pagesets at the start, where it was not 0, by (CPU, first pfn of the zone).
    free_factors: Mapping[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def nothing(cls) -> Evidence:
        """A trace without events."""
        blocks = FirstPages.nothing()
        return cls(blocks, blocks, blocks, blocks, {}, frozenset(), Inferred.nothing(), Inferred.nothing())


@dataclass(frozen=True, slots=True)
class ZoneStart:
    """What a capture says of a zone at the start."""

    start_pfn: int
    end_pfn: int
    #: Free blocks: [migratetype][order].
    nr_free: tuple[tuple[int, ...], ...]
    #: Pages on pagesets, by CPU number.
    pageset: Mapping[int, int]
    #: per_cpu_pages.batch; 0 if refills differ in size.
    batch: int = 0


def gather(chunks: Iterable[TraceEvents], zones: Sequence[ZoneStart], cpus: Sequence[int]) -> Evidence:
    """Read a trace of the machine with these zones and CPUs, and return what it tells."""
    follower = _Follower(sorted(zones, key=lambda zone: zone.start_pfn), cpus)
    for chunk in chunks:
        follower.follow(chunk)
    return follower.evidence()


class _Follower:
    """The tables that :func:`retrace` works on; they grow with the pages that the trace names."""

    def __init__(self, zones: Sequence[ZoneStart], cpus: Sequence[int]) -> None:
        self._spans = zones
        self._starts = np.array([zone.start_pfn for zone in zones], dtype=np.uint64)
        self._ends = np.array([zone.end_pfn for zone in zones], dtype=np.uint64)
        self._cpus = np.array(cpus, dtype=np.int64)
        self._position = np.arange(_CPU_NUMBERS, dtype=np.int64) % len(cpus)
        self._position[self._cpus] = np.arange(len(cpus))
        self._rows: dict[int, int] = {}
        self._pages = Pages(
            **{name: np.zeros(_ROWS_AT_FIRST * _ROW, dtype) for name, dtype in PAGE_DTYPES.items()}
        )
        self._blocks = Pageblocks(*(np.zeros(2 * _ROWS_AT_FIRST, dtype=np.uint8) for _ in range(2)))
        nr_lists = len(cpus) * len(zones) * NR_LISTS
        self._lists = PagesetLists(
            head=np.full(nr_lists, -1, dtype=np.int32),
            tail=np.full(nr_lists, -1, dtype=np.int32),
            refill=np.full(nr_lists, -1, dtype=np.int32),
            refill_at=np.full(nr_lists, -1, dtype=np.int64),
            refilled=np.zeros(nr_lists, dtype=np.int64),
        )
        self._factors = PagesetFactors(
            np.zeros((len(cpus), len(zones)), dtype=np.int64),
            np.full((len(cpus), len(zones)), -1, dtype=np.int64),
        )
        self._cpu_states = CpuStates(
            np.full(len(cpus), EventKind.OTHER, dtype=np.uint8),
            np.zeros(len(cpus), dtype=np.uint32),
            np.full(len(cpus), -1, dtype=np.int32),
            np.full(len(cpus), -1, dtype=np.int64),
            np.zeros(len(cpus), dtype=np.uint8),
        )
        blocks = np.array([zone.nr_free for zone in zones], dtype=np.int64)
        pageset = [[zone.pageset.get(cpu, 0) for zone in zones] for cpu in cpus]
        self._zones = Zones(
            blocks.reshape(len(zones), MIGRATE_TYPES, NR_ORDERS),
            np.array(pageset, dtype=np.int64).reshape(len(cpus), len(zones)),
            np.array([zone.batch for zone in zones], dtype=np.int64),
        )
        self._seen = 0
        self._zone_locked = False
        self._found: list[list[I64]] = [[], [], []]

    def follow(self, chunk: TraceEvents) -> None:
        """Read one more chunk of the trace."""
        zone = np.searchsorted(self._starts, chunk.pfn, side="right").astype(np.int64) - 1
        zone[(zone >= 0) & (chunk.pfn >= self._ends[zone])] = -1
        # pages outside the zones are ignored, so that the machine's size bounds the tables
        inside = zone >= 0
        keys = np.zeros(len(chunk), dtype=np.int64)
        keys[inside] = self._keys(chunk.pfn[inside])
        events = EventColumns(
            chunk.kind,
            keys,
            chunk.order,
            chunk.migratetype,
            self._position[chunk.cpu],
            chunk.pid,
            zone,
        )
        widths = (5, 4, 5)
        rows = (np.zeros((len(chunk), width), dtype=np.int64) for width in widths)
        found = Findings(np.zeros(4, dtype=np.int64), *rows)
        # a row of drains belongs to one call: a run of drains that goes on gets a new row
        self._cpu_states.drain[self._cpu_states.drain >= 0] = -1
        retrace(
            events,
            self._seen,
            self._pages,
            self._blocks,
            self._lists,
            self._cpu_states,
            self._factors,
            self._zones,
            found,
        )
        self._seen += len(chunk)
        self._zone_locked |= bool((chunk.kind == EventKind.MM_PAGE_ALLOC_ZONE_LOCKED).any())
        for kept, table, used in zip(self._found, found[1:], found.used.tolist()[:3], strict=True):
            kept.append(table[:used].copy())

    def evidence(self) -> Evidence:
        """What the whole trace tells, after its last chunk."""
        pfns = np.zeros(len(self._rows), dtype=np.int64)
        pfns[list(self._rows.values())] = list(self._rows)
        pfn_of = (pfns[:, None] * _ROW + np.arange(_ROW)).reshape(-1)
        columns: list[Any] = [column[: len(pfn_of)] for column in self._pages]
        pages = Pages(*columns)
        hidden, drains, blocks = (
            np.concatenate([np.zeros((0, w), np.int64), *rows])
            for w, rows in zip((5, 4, 5), self._found, strict=True)
        )
        nothing = not self._zone_locked
        return Evidence(
            free=self._free_blocks(pages, pfn_of, blocks),
            # in a trace without zone_locked events a page that is allocated first may have been free
            popped=FirstPages.nothing() if nothing else self._began(pages, pfn_of, BEGAN_POPPED),
            drained=self._began(pages, pfn_of, BEGAN_DRAINED),
            in_use=self._began(pages, pfn_of, BEGAN_IN_USE),
            pageblocks=self._pageblocks(pfns),
            refilled=self._refilled(),
            allocations=Inferred.nothing() if nothing else self._allocations(pages, pfn_of, hidden),
            drains=self._drains(drains),
            untouched={
                zone.start_pfn: np.maximum(self._zones.blocks[row], 0) for row, zone in enumerate(self._spans)
            },
            free_factors={
                (int(self._cpus[cpu]), int(self._starts[zone])): int(self._factors.at_start[cpu, zone])
                for cpu, zone in np.argwhere(self._factors.at_start > 0).tolist()
            },
        )

    def _keys(self, pfns: U64) -> I64:
        """Keys of pages; a row of the tables is added for each largest block that is new."""
        names, inverse = np.unique(pfns >> np.uint64(_ROW_ORDER), return_inverse=True)
        rows = np.array([self._rows.setdefault(name, len(self._rows)) for name in names.tolist()], np.int64)
        while len(self._rows) * _ROW > len(self._pages.state):
            columns: list[Any] = [np.concatenate([c, np.zeros_like(c)]) for c in self._pages]
            self._pages = Pages(*columns)
            self._blocks = Pageblocks(*(np.concatenate([c, np.zeros_like(c)]) for c in self._blocks))
        return (rows[inverse] << _ROW_ORDER) | (pfns & np.uint64(_ROW - 1)).astype(np.int64)

    def _began(self, pages: Pages, pfn_of: I64, how: int) -> FirstPages:
        """Blocks that began in the state `how`, in trace order."""
        heads = np.flatnonzero((pages.began == how) & (pages.order < NR_ORDERS))
        heads = heads[np.argsort(pages.first_at[heads], kind="stable")]
        return FirstPages(
            pfn_of[heads],
            pages.order[heads].astype(np.int64),
            pages.first_mt[heads].astype(np.int64),
            self._cpus[pages.first_cpu[heads]],
            pages.first_at[heads],
        )

    @staticmethod
    def _free_blocks(pages: Pages, pfn_of: I64, found: I64) -> FirstPages:
        """Free blocks at the start, without those of which a later event shows that a page was not free."""
        wrong = np.concatenate([[0], np.cumsum((pages.began != BEGAN_FREE) & (pages.began != BEGAN_UNKNOWN))])
        keys, orders = found[:, 2], found[:, 3]
        rows = found[wrong[keys + (1 << orders)] == wrong[keys]]
        zeros = np.zeros(len(rows), dtype=np.int64)
        return FirstPages(pfn_of[rows[:, 2]], rows[:, 3], rows[:, 4], zeros, rows[:, 0])

    def _pageblocks(self, pfns: I64) -> dict[int, int]:
        """Types of pageblocks at the start, by number."""
        first, now = (column[: 2 * len(pfns)] for column in (self._blocks.first, self._blocks.now))
        known = np.where(first > 0, first, now)
        numbers = (pfns[:, None] * 2 + np.arange(2)).reshape(-1)
        rows = np.flatnonzero(known)
        return dict(zip(numbers[rows].tolist(), (known[rows].astype(np.int64) - 1).tolist(), strict=True))

    def _refilled(self) -> frozenset[tuple[int, int, int, int]]:
        """Pageset lists that have been refilled."""
        lists = np.flatnonzero(self._lists.refill >= 0)
        slot, migratetype = np.divmod(lists % NR_LISTS, MIGRATE_PCPTYPES)
        cpu, zone = np.divmod(lists // NR_LISTS, len(self._spans))
        order = np.array(_PCP_ORDERS)[slot]
        columns = (self._cpus[cpu], self._starts[zone], order, migratetype)
        return frozenset(zip(*(column.tolist() for column in columns), strict=True))

    def _allocations(self, pages: Pages, pfn_of: I64, found: I64) -> Inferred:
        """Allocations without an event."""
        # pages that left their list without an event, and are never freed
        heads = np.flatnonzero(pages.state == SEEMS_IN_USE)
        slot, migratetype = np.divmod(pages.where[heads] % NR_LISTS, MIGRATE_PCPTYPES)
        order = np.array(_PCP_ORDERS)[slot]
        whole = heads & ((1 << order) - 1) == 0
        cpu = pages.where[heads] // NR_LISTS // len(self._spans)
        late = np.stack([pages.since[heads], cpu, heads, order, migratetype], axis=1)[whole & (order == 0)]
        rows = np.concatenate([found, late.astype(np.int64)])
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        at = rows[:, 0] >> POP_BITS
        return Inferred(at, self._cpus[rows[:, 1]], pfn_of[rows[:, 2]], rows[:, 4], rows[:, 3])

    def _drains(self, rows: I64) -> Inferred:
        """Drains without a free."""
        zeros = np.zeros(len(rows), dtype=np.int64)
        zone = self._starts[rows[:, 2]].astype(np.int64)
        return Inferred(rows[:, 0], self._cpus[rows[:, 1]], zone, zeros, rows[:, 3])


def buddy_delta(chunk: TraceEvents) -> I64:
    """By how many pages each event changed NR_FREE_PAGES of its page's zone.

    ``mm_page_alloc_zone_locked`` takes a block from the buddy lists, and ``mm_page_pcpu_drain`` gives one
    back. A free of an order that pagesets do not keep goes to the buddy lists at once.
    """
    pages = np.left_shift(1, np.minimum(chunk.order, 10).astype(np.int64))
    delta = np.zeros(len(chunk), dtype=np.int64)
    taken = chunk.kind == EventKind.MM_PAGE_ALLOC_ZONE_LOCKED
    given = chunk.kind == EventKind.MM_PAGE_PCPU_DRAIN
    given |= (chunk.kind == EventKind.MM_PAGE_FREE) & ~np.isin(chunk.order, _PCP_ORDERS)
    delta[taken] = -pages[taken]
    delta[given] = pages[given]
    return delta


class KswapdRuns:
    """When each kswapd was at work. The kernel reports that it sleeps only after 100 ms of sleep.

    If it is woken within that time, nothing is reported, and it counts as at work. Other events of the kswapd
    task are looked at as well, so that a run does not end before the last of them.
    """

    def __init__(self, changes: tuple[KswapdChange, ...]) -> None:
        self._changes = changes
        times: dict[int, list[int]] = {}
        for change in changes:
            times.setdefault(change.pid, []).append(change.time_ns)
        self._times = {pid: np.array(sorted(of), dtype=np.int64) for pid, of in times.items()}
        #: Time of the task's last event before each of its changes.
        self._last = {pid: np.zeros(len(of), dtype=np.int64) for pid, of in self._times.items()}

    def seen(self, chunk: TraceEvents) -> None:
        """Look at one more chunk of the trace."""
        for pid, changes in self._times.items():
            times = chunk.time_ns[(chunk.pid == pid) & (chunk.kind != EventKind.OTHER)]
            after = np.searchsorted(changes, times)
            known = after < len(changes)
            np.maximum.at(self._last[pid], after[known], times[known])

    def changes(self) -> tuple[KswapdChange, ...]:
        """Wakes and ends of runs, in order of time."""
        result = []
        for change in self._changes:
            if not change.awake:
                at = int(np.searchsorted(self._times[change.pid], change.time_ns))
                woke = int(self._times[change.pid][max(at - 1, 0)])
                seen = int(self._last[change.pid][at])
                ended = max(change.time_ns - _KSWAPD_DOZES_NS, woke + 1, seen + 1)
                change = replace(change, time_ns=min(ended, change.time_ns))
            result.append(change)
        return tuple(sorted(result, key=lambda change: change.time_ns))
