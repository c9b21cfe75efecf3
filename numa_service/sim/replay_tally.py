"""Counts what a replay does, and makes the report of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from numa_service.mm.mmzone import MIGRATE_PCPTYPES, NR_ORDERS, PAGEBLOCK_ORDER
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import I64, PG_HELD, PG_PCP, TUNE_PCP_MAX_ORDER
from numa_service.mm.replay import (
    ALLOC_BAD_ORDER,
    ALLOC_FAILED,
    ALLOC_REFUSED,
    BLOCK_NID_SHIFT,
    BLOCK_ZONE_SHIFT,
    FREE_NOT_HERE,
    FREE_PART,
    FREE_UNKNOWN,
    REPLAY_ALLOC,
    REPLAY_FREE,
    ReplayEvents,
    is_alloc,
)
from numa_service.mm.vmstat import NUMASTAT_NAMES, PATH_BUDDY_BLOCKS, PATH_STEALS
from numa_service.procfs.buddyinfo import buddyinfo
from numa_service.sim.replay_samples import Sample, Samples, zone_samples
from numa_service.sim.simulation import Simulation
from numa_service.sim.traced import NOWHERE, HeldInUse, TracedZones
from numa_service.trace.events import EventCounts, EventKind, TraceEvents

#: Outcome → key in the report, for events that could not be replayed as they were traced.
UNMATCHED = {
    FREE_UNKNOWN: "free_of_page_allocated_before_trace",
    FREE_PART: "free_of_part_of_block",
    FREE_NOT_HERE: "free_of_page_not_allocated_here",
    ALLOC_FAILED: "alloc_failed_here",
    ALLOC_REFUSED: "alloc_contradictory_gfp",
    ALLOC_BAD_ORDER: "alloc_order_too_large",
}


@dataclass(frozen=True, slots=True)
class PlacedIn:
    """The allocations that one zone served, in blocks and in pages."""

    nid: int
    zone: str
    blocks: int
    pages: int
    #: Blocks for CPUs of the zone's node, and for CPUs of other nodes.
    local: int
    remote: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many allocations were placed as in the traced kernel."""

    #: Allocations that both kernels served.
    compared: int
    same_node: int
    same_zone: int
    #: Allocations that are not compared, because their traced pfn is in no known zone.
    unknown_pfn: int
    #: Compared allocations that the traced kernel placed on another node than that of their CPU here, for any
    #: reason: that node was short of memory, the CPU belongs to another node there, or a policy or the caller
    #: asked for the other node. And how many of them are on that node here, too.
    spilled: int
    spilled_same_node: int


@dataclass(frozen=True, slots=True)
class ZoneBalance:
    """One zone at the end, in pages: `free + pageset + held_trace + held_in_use` must be `managed`."""

    nid: int
    zone: str
    managed: int
    free: int
    pageset: int
    held_trace: int
    held_in_use: int
    #: Present pages that were never given to the buddy allocator.
    reserved: int
    #: Whether the sum is right.
    conserved: bool


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """The report of a finished or interrupted replay. ``--json`` prints exactly these keys and units."""

    machine: str
    #: Events read, by tracepoint.
    events: dict[str, int]
    #: Allocations and frees that the machine served.
    allocs: int
    frees: int
    #: Allocations and frees that should have been served: all except allocations that failed in the trace.
    wanted: int
    unmatched: dict[str, int]
    placed: list[PlacedIn]
    #: Blocks served.
    by_order: dict[str, int]
    by_migratetype: dict[str, int]
    local: int
    remote: int
    agreement: Agreement
    #: Blocks taken from another migratetype: fallbacks here, and mm_page_alloc_extfrag events of the trace.
    steals: int
    traced_steals: int
    #: Blocks moved from pagesets to free lists: here, and mm_page_pcpu_drain events of the trace.
    drained: int
    traced_drained: int
    #: Blocks taken off free lists, for pagesets or directly for the caller: here, and
    #: mm_page_alloc_zone_locked events of the trace.
    refilled: int
    traced_refilled: int
    #: Live blocks that were split because a part of them was freed.
    splits: int
    #: Samples of every zone, spread over the replay.
    samples: tuple[Sample, ...]
    #: Blocks and pages of the trace that are still held at the end.
    live_blocks: int
    live_pages: int
    in_use: list[HeldInUse]
    #: Since the trace began, by nid.
    numastat: dict[str, dict[str, int]]
    zones: list[ZoneBalance]
    buddyinfo: str
    #: Violated invariants of mm.invariants and of the simulation.
    problems: list[str]
    #: gfp flag unknown here → number of allocations that were replayed without it.
    unknown_gfp: dict[str, int]
    #: Events of CPUs that the machine lacks; they were replayed on another CPU.
    events_of_moved_cpus: int
    #: Reason → lines of the trace that are not events; and the number of events that the trace says were
    #: lost.
    skipped_lines: dict[str, int]
    lost_events: int
    truncated_last_line: bool

    @property
    def matched(self) -> int:
        """Number of allocations and frees that the machine served."""
        return self.allocs + self.frees


class Compared(NamedTuple):
    """Served allocations of the trace, as columns: where they are here, and where in the traced kernel.

    The traced nid and zone are NOWHERE for a pfn that is in no known zone.
    """

    #: Row in the events.
    row: I64
    nid: I64
    zone: I64
    real_nid: I64
    real_zone: I64


@dataclass(slots=True)
class ReplayTally:
    """The counts of one replay."""

    sim: Simulation
    traced: TracedZones
    in_use: tuple[HeldInUse, ...]
    #: Allocations of a pfn that was live: its free is missing from the trace, and was issued before them.
    missing_frees: int = 0
    steals: int = 0
    buddy_blocks: int = 0
    splits: int = 0
    #: Live blocks that splits have added.
    split_off: int = 0
    _samples: Samples[Sample] = field(default_factory=Samples)
    _freed: I64 = field(init=False)
    _pageset_before: int = 0
    _kinds: I64 = field(init=False)
    _failed_in_trace: int = 0
    _moved: int = 0
    _outcomes: I64 = field(init=False)
    #: Blocks, by [nid, zone, order, migratetype, remote].
    _placed: I64 = field(init=False)
    _frees: int = 0
    _allocs: int = 0
    _compared: I64 = field(init=False)
    _numa_before: dict[int, I64] = field(init=False)
    _before: dict[int, I64] = field(init=False)

    def __post_init__(self) -> None:
        pgdats = self.pgdats
        zones = max(len(pgdat.zone_names) for pgdat in pgdats)
        nids = max(self.sim.nodes) + 1
        self._kinds = np.zeros(len(EventKind), dtype=np.int64)
        self._outcomes = np.zeros(1 - min(UNMATCHED), dtype=np.int64)
        self._placed = np.zeros((nids, zones, NR_ORDERS, MIGRATE_PCPTYPES, 2), dtype=np.int64)
        self._compared = np.zeros(len(fields(Agreement)), dtype=np.int64)
        self._numa_before = {pgdat.nid: pgdat.pg.numa_event.sum(axis=0) for pgdat in pgdats}
        #: nid → owner slots that have pages now, before the first event: those of pages in use before the
        #: trace.
        self._before = {pgdat.nid: np.flatnonzero(pgdat.pg.owner_pages) for pgdat in pgdats}
        self._freed = np.zeros(NR_ORDERS, dtype=np.int64)
        self._pageset_before = self._pageset_blocks()
        for pgdat in pgdats:
            pgdat.take_path()

    @property
    def pgdats(self) -> list[Pgdat]:
        """The pgdat of every node."""
        return [node.pgdat for node in self.sim.nodes.values()]

    @property
    def events_read(self) -> int:
        """Number of events read so far, including those that are not issued."""
        return int(self._kinds.sum())

    def add_events(self, events: TraceEvents, cpu_moved: npt.NDArray[np.bool_]) -> None:
        """Count events that were read; `cpu_moved` says, by CPU number, whether the machine lacks the CPU."""
        self._kinds += np.bincount(events.kind, minlength=len(EventKind))
        allocs = events.kind == EventKind.MM_PAGE_ALLOC
        self._failed_in_trace += int(np.count_nonzero(allocs & (events.pfn == 0)))
        asks = allocs | (events.kind == EventKind.MM_PAGE_FREE)
        self._moved += int(np.count_nonzero(cpu_moved[events.cpu] & asks))

    def add_outcomes(
        self, events: ReplayEvents, pfns: npt.NDArray[np.uint64], migratetypes: I64, done: int
    ) -> None:
        """Count the outcomes of the first `done` events; `pfns` are those of the traced kernel.

        Events that are not in the trace (REPLAY_BULK, REPLAY_DRAIN) are counted as placed, but not compared.
        """
        outcome, kind = events.outcome[:done], events.kind[:done]
        traced = (kind == REPLAY_ALLOC) | (kind == REPLAY_FREE)
        self._outcomes += np.bincount(-outcome[(outcome < 0) & traced], minlength=len(self._outcomes))
        got = np.flatnonzero(is_alloc(kind) & (outcome > 0))
        nid, zone = _place(outcome[got])
        remote = (nid != events.home[got]).astype(np.int64)
        place = np.ravel_multi_index(
            (nid, zone, events.order[got], migratetypes[got], remote), self._placed.shape
        )
        np.add.at(self._placed.reshape(-1), place, 1)  # several times as fast as with five dimensions
        freed = np.flatnonzero((kind == REPLAY_FREE) & (outcome > 0))
        self._frees += len(freed)
        self._freed += np.bincount(events.order[freed], minlength=NR_ORDERS)
        row = got[traced[got]]
        self._allocs += len(row)
        compared = Compared(row, *_place(outcome[row]), *self.traced.locate(pfns[row]))
        self.compare(events, pfns, compared)

    def compare(self, events: ReplayEvents, pfns: npt.NDArray[np.uint64], here: Compared) -> None:
        """Count the allocations that are on the same node, and in the same zone, as in the traced kernel."""
        known = here.real_nid != NOWHERE
        same_node = known & (here.nid == here.real_nid)
        spilled = known & (here.real_nid != events.home[here.row])
        self._compared += [
            np.count_nonzero(known),
            np.count_nonzero(same_node),
            np.count_nonzero(same_node & (here.zone == here.real_zone)),
            np.count_nonzero(~known),
            np.count_nonzero(spilled),
            np.count_nonzero(spilled & same_node),
        ]

    def add_path(self, path: Sequence[int] | I64) -> None:
        """Add PATH_* work counters of a node."""
        self.steals += int(path[PATH_STEALS])
        self.buddy_blocks += int(path[PATH_BUDDY_BLOCKS])

    def sample(self, time_ns: int) -> None:
        """Take a sample of every zone, if one is due."""
        if self._samples.due():
            self._samples.add(Sample(self.events_read, time_ns, zone_samples(self.pgdats)))

    def _pageset_blocks(self) -> int:
        return sum(int(np.count_nonzero(pgdat.pg.flags & PG_PCP)) for pgdat in self.pgdats)

    def _moved_blocks(self) -> tuple[int, int]:
        """Return the blocks taken off free lists, and the blocks moved from pagesets to free lists.

        They are computed from the work counters, which count every block that moved to or from a free list;
        from the blocks that callers allocated and freed without a pageset; and from the growth of the
        pagesets.
        """
        max_order = int(self.pgdats[0].pg.tune[TUNE_PCP_MAX_ORDER])
        orders = np.arange(NR_ORDERS)
        kept = (orders <= max_order) | ((orders == PAGEBLOCK_ORDER) & (max_order > 0))
        got = self._placed.sum(axis=(0, 1, 3, 4))
        direct = int(got[~kept].sum())
        moved = self.buddy_blocks - direct - int(self._freed[~kept].sum())
        net = int(got[kept].sum() - self._freed[kept].sum()) - self.missing_frees
        net += self._pageset_blocks() - self._pageset_before
        return (moved + net) // 2 + direct, (moved - net) // 2

    def report(self, counts: EventCounts) -> ReplayReport:
        """Return the report of everything so far, with a check of every invariant."""
        placed = self._placed
        kinds = {kind.name.lower(): int(n) for kind, n in zip(EventKind, self._kinds, strict=True)}
        asked = int(self._kinds[EventKind.MM_PAGE_ALLOC] + self._kinds[EventKind.MM_PAGE_FREE])
        unmatched = {"alloc_failed_in_trace": self._failed_in_trace, "missing_free": self.missing_frees}
        unmatched |= {name: int(self._outcomes[-code]) for code, name in UNMATCHED.items()}
        zones = [balance for pgdat in self.pgdats for balance in self._zones(pgdat)]
        refilled, drained = self._moved_blocks()
        return ReplayReport(
            machine=self.sim.spec.name,
            events=kinds,
            allocs=self._allocs,
            frees=self._frees,
            wanted=asked - self._failed_in_trace,
            unmatched=unmatched,
            placed=self._placed_in(),
            by_order={str(order): int(n) for order, n in enumerate(placed.sum(axis=(0, 1, 3, 4)))},
            by_migratetype={
                str(self.sim.nodes[zones[0].nid].pgdat.profile.migratetype_names[mt]): int(n)
                for mt, n in enumerate(placed.sum(axis=(0, 1, 2, 4)))
            },
            local=int(placed[..., 0].sum()),
            remote=int(placed[..., 1].sum()),
            agreement=Agreement(*map(int, self._compared)),
            steals=self.steals,
            traced_steals=int(self._kinds[EventKind.MM_PAGE_ALLOC_EXTFRAG]),
            drained=drained,
            traced_drained=int(self._kinds[EventKind.MM_PAGE_PCPU_DRAIN]),
            refilled=refilled,
            traced_refilled=int(self._kinds[EventKind.MM_PAGE_ALLOC_ZONE_LOCKED]),
            splits=self.splits,
            samples=tuple(self._samples.kept),
            live_blocks=int(placed.sum()) + self.split_off - self._frees - self.missing_frees,
            live_pages=sum(zone.held_trace for zone in zones),
            in_use=list(self.in_use),
            numastat={
                str(p.nid): dict(
                    zip(
                        NUMASTAT_NAMES,
                        map(int, p.pg.numa_event.sum(axis=0) - self._numa_before[p.nid]),
                        strict=True,
                    )
                )
                for p in self.pgdats
            },
            zones=zones,
            buddyinfo=buddyinfo(next(iter(self.sim.nodes.values())).machine.snapshot()),
            problems=self.sim.check(),
            unknown_gfp=dict(counts.unknown_gfp),
            events_of_moved_cpus=self._moved,
            skipped_lines=dict(counts.skipped),
            lost_events=counts.lost,
            truncated_last_line=counts.truncated_last_line,
        )

    def _placed_in(self) -> list[PlacedIn]:
        sizes = 1 << np.arange(NR_ORDERS, dtype=np.int64)
        result = []
        for pgdat in self.pgdats:
            for extent in pgdat.extents:
                if not extent.managed:
                    continue
                blocks = self._placed[pgdat.nid, extent.index].sum(axis=1)  # [order, remote]
                local, remote = map(int, blocks.sum(axis=0))
                pages = int((blocks.sum(axis=1) * sizes).sum())
                result.append(PlacedIn(pgdat.nid, extent.name, local + remote, pages, local, remote))
        return result

    def _zones(self, pgdat: Pgdat) -> list[ZoneBalance]:
        held = _held_by_zone(pgdat)
        before = _held_by_zone(pgdat, self._before[pgdat.nid])
        result = []
        for extent in pgdat.extents:
            if not extent.present:
                continue
            free = pgdat.free_pages(extent.index)
            pageset = int(pgdat.pg.pcp_count[:, extent.index].sum())
            result.append(
                ZoneBalance(
                    nid=pgdat.nid,
                    zone=extent.name,
                    managed=extent.managed,
                    free=free,
                    pageset=pageset,
                    held_trace=int(held[extent.index] - before[extent.index]),
                    held_in_use=int(before[extent.index]),
                    reserved=extent.present - extent.managed,
                    conserved=free + pageset + int(held[extent.index]) == extent.managed,
                )
            )
        return result


def _place(blocks: I64) -> tuple[I64, I64]:
    """Return nid and zone index of each block, as mm.replay.block_of() encodes them."""
    return (blocks >> BLOCK_NID_SHIFT) - 1, (blocks >> BLOCK_ZONE_SHIFT) & 0x7


def _held_by_zone(pgdat: Pgdat, slots: I64 | None = None) -> I64:
    """Return the pages of held blocks by zone index, of all owners or of those with the given slots.

    They are counted from the pages' flags, independently of any counter.
    """
    pg = pgdat.pg
    heads = np.flatnonzero(pg.flags & PG_HELD)
    if slots is not None:
        heads = heads[np.isin(pg.owner[heads], slots)]
    pages = np.left_shift(1, pg.order[heads].astype(np.int64))
    held = np.zeros(len(pg.managed), dtype=np.int64)
    for zone in range(len(held)):
        held[zone] = pages[(heads >= pg.zone_start[zone]) & (heads < pg.zone_end[zone])].sum()
    return held
