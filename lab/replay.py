"""Exact replay: a trace on the machine that was traced, from the memory that it had when tracing began.

It starts from the captured occupancy, block for block (``lab.start``). Allocations and drains for which the
trace has no events are replayed as well (``lab.evidence``), and all events in the order in which they took
effect (``lab.effects``). The emulated machine decides which zone, block and page serves an allocation. It
also decides the node, except for allocations that the traced kernel served elsewhere although their own node
was above LOW: for those the preferred node is taken from the trace (``lab.truth``).
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lab.effects import effects
from lab.evidence import Inferred
from lab.start import CapturedStart
from lab.tally import ExactTally
from lab.truth import TraceTruth
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, Gfp
from numa_service.mm.jit import i64
from numa_service.mm.pcp import free_pcppages_bulk
from numa_service.mm.pgdata import I64, PG_HELD
from numa_service.mm.replay import REPLAY_BULK, REPLAY_DRAIN, ReplayEvents, block_of
from numa_service.node.owners import Owner
from numa_service.sim.trace_replay import Asked, Issue, Replay
from numa_service.sim.traced import HeldInUse, TracedZones
from numa_service.trace.events import KswapdChange, TraceEvents

#: gfp flags of an allocation without an event, by migratetype.
_INFERRED_GFP = np.array([GFP_KERNEL, GFP_HIGHUSER_MOVABLE, GFP_KERNEL | Gfp.RECLAIMABLE], dtype=np.uint32)


class ExactReplay(Replay):
    """An exact replay in progress: the emulated machine, and the position in the trace."""

    tally: ExactTally

    def __init__(self, spec: MachineSpec, traced: TracedZones, start: CapturedStart) -> None:
        """Boot `spec`, the machine that was traced, and put its memory into the captured state.

        BootMemoryError as from boot; TraceError if the capture contradicts the machine.
        """
        self._start = start
        #: Number of events in the chunks so far.
        self._seen = 0
        #: Wakes and sleeps of kswapd that are still to come, and nodes whose kswapd runs in the traced
        #: kernel.
        self._kswapd = deque(start.kswapd)
        self._reclaiming: set[int] = set()
        super().__init__(spec, traced)
        #: Free pages of the traced zones before each event of the chunk: [event, zone].
        self._traced_free: I64 = np.zeros((0, len(self._truth.keys)), dtype=np.int64)
        self._adopt(start.in_use_blocks())

    def occupy(self) -> tuple[HeldInUse, ...]:
        """Put every node into the captured state."""
        nodes = self.sim.nodes
        self._before, in_use = self._start.occupy(self.spec, nodes, self._keeper)
        self._truth = TraceTruth(self.traced, nodes, self.spec.arch)
        return in_use

    def count_from(self, in_use: tuple[HeldInUse, ...]) -> ExactTally:
        """Make the tally, which counts from now on, with `in_use` held."""
        return ExactTally(self.sim, self.traced, in_use, self._truth)

    def _adopt(self, in_use: tuple[tuple[int, int], ...]) -> None:
        """Enter blocks (pfn, order) that were in use before the trace, so that its frees find them."""
        pfns = np.array([pfn for pfn, _ in in_use], dtype=np.uint64)
        keys = self._live.keys(pfns)
        nids, _ = self.traced.locate(pfns)
        for key, nid, (pfn, order) in zip(keys.tolist(), nids.tolist(), in_use, strict=True):
            if nid not in self.sim.nodes:
                continue
            pgdat = self.sim.nodes[nid].pgdat
            idx = pfn - pgdat.base_pfn
            if pgdat.pg.flags[idx] & PG_HELD and pgdat.pg.order[idx] == order:
                self._live.blocks[key] = block_of(pgdat.pg, nid, idx, order)

    def owner_of(self, nid: int, idx: int) -> Owner:
        """Owner of the live block at this index of a node: the replay, or the owner of older blocks."""
        ours = int(self.sim.nodes[nid].pgdat.pg.owner[idx]) == self._slots[nid]
        return self.owner if ours else self._before

    # a chunk

    def end_of_piece(self, chunk: TraceEvents, begin: int) -> int:
        """End of the piece that begins at event `begin`: also where a traced kswapd wakes or falls asleep."""
        end = super().end_of_piece(chunk, begin)
        while self._kswapd and self._kswapd[0].time_ns <= chunk.time_ns[begin]:
            self._follow_kswapd(self._kswapd.popleft())
        if self._kswapd:
            later = np.flatnonzero(chunk.time_ns[begin:end] >= self._kswapd[0].time_ns)
            end = begin + max(1, int(later[0])) if len(later) else end
        return end

    def _follow_kswapd(self, change: KswapdChange) -> None:
        """Set ZONE_RECLAIM_ACTIVE as in the traced kernel; what its kswapd reclaims is in the trace."""
        if change.nid in self.sim.nodes:
            (self._reclaiming.add if change.awake else self._reclaiming.discard)(change.nid)
            self.sim.nodes[change.nid].pgdat.set_reclaim_active(change.awake)

    def prepare(self, chunk: TraceEvents) -> Issue:
        """Events to issue for a chunk; drains have node and zone in place of a request's home and class."""
        self._traced_free = self._truth.advance(chunk)
        issue = super().prepare(chunk)
        self._seen += len(chunk)
        events = issue.events
        drains = events.kind == REPLAY_DRAIN
        if not drains.any():
            return issue
        nids, zones = self.traced.locate(issue.pfns)
        return issue._replace(
            events=events._replace(
                home=np.where(drains, nids, events.home),
                preferred=np.where(drains, nids, events.preferred),
                gfp_class=np.where(drains, zones, events.gfp_class),
            )
        )

    def asked(self, chunk: TraceEvents) -> Asked:
        """The chunk's events in the order in which they took effect, with inferred ones in between."""
        own = super().asked(chunk)
        own = own._replace(at=effects(chunk)[own.at])
        added = self._inferred(len(chunk))
        sort = np.argsort(np.concatenate([2 * added.at, 2 * own.at + 1]), kind="stable")

        def sorted_in(before: npt.NDArray[Any], events: npt.NDArray[Any]) -> npt.NDArray[Any]:
            both: npt.NDArray[Any] = np.concatenate([before, events])
            return both[sort]

        return Asked(
            at=sorted_in(added.at, own.at),
            kinds=sorted_in(added.kinds, own.kinds),
            pfns=sorted_in(added.pfns, own.pfns),
            gfps=sorted_in(added.gfps, own.gfps),
            cpus=sorted_in(added.cpus, own.cpus),
            orders=sorted_in(added.orders, own.orders),
        )

    def _inferred(self, length: int) -> Asked:
        """Inferred allocations and drains that belong to the next `length` events of the trace."""
        evidence = self._start.evidence
        allocs, drains = (
            happened.between(self._seen, self._seen + length)
            for happened in (evidence.allocations, evidence.drains)
        )
        pairs = zip(drains.columns(), allocs.columns(), strict=True)
        both = Inferred(*(np.concatenate(pair) for pair in pairs))
        pfns = both.pfn.astype(np.uint64)
        added = Asked(
            at=both.at - self._seen,
            kinds=np.repeat(
                np.array([REPLAY_DRAIN, REPLAY_BULK], np.uint8), [len(drains.at), len(allocs.at)]
            ),
            pfns=pfns,
            gfps=_INFERRED_GFP[both.migratetype],
            cpus=both.cpu,
            orders=both.amount,
        )
        here = np.isin(self.traced.locate(pfns)[0], list(self.sim.nodes))
        columns: list[Any] = [column[here] for column in added]
        return Asked(*columns)

    def preferred(self, asked: Asked, homes: I64) -> I64:
        """Preferred nid of each allocation, as far as the trace shows it."""
        return self._truth.preferred(self._traced_free[asked.at], homes, asked.pfns, asked.gfps)

    def sample(self, chunk: TraceEvents, end: int) -> None:
        """Take a sample of every zone's free pages, here and in the traced kernel, before event `end`."""
        free = self._traced_free[end] if end < len(chunk) else self._truth.free
        self.tally.sample_beside(int(chunk.time_ns[end - 1]), free.tolist())

    # one event, through the generators

    def issue(self, events: ReplayEvents, at: int, gfp: int) -> None:
        """Issue one event through the node's generators; a drain directly."""
        if events.kind[at] == REPLAY_DRAIN:
            pgdat = self.sim.nodes[int(events.home[at])].pgdat
            zone, position, pages = (int(of[at]) for of in (events.gfp_class, events.cpu, events.order))
            free_pcppages_bulk(pgdat.pg, zone, position, pages, i64(0))
            self.tally.add_path(pgdat.take_path())
            return
        super().issue(events, at, gfp)
        self._keep_reclaiming()

    def allocate(self, events: ReplayEvents, at: int, gfp: int) -> int:
        """Allocate one block; alloc_pages_bulk() does not change the free_factor of pagesets."""
        if events.kind[at] != REPLAY_BULK:
            return super().allocate(events, at, gfp)
        factors = {nid: node.pgdat.pg.pcp_free_factor.copy() for nid, node in self.sim.nodes.items()}
        outcome = super().allocate(events, at, gfp)
        for nid, node in self.sim.nodes.items():
            node.pgdat.pg.pcp_free_factor[:] = factors[nid]
        return outcome

    def wake_boosted(self, nid: int, events: ReplayEvents, at: int) -> None:
        """Wake kswapd after an allocation has boosted a watermark."""
        super().wake_boosted(nid, events, at)
        self._keep_reclaiming()

    def _keep_reclaiming(self) -> None:
        """Set ZONE_RECLAIM_ACTIVE again, which an emulated kswapd has cleared while the traced one runs."""
        for nid in self._reclaiming:
            self.sim.nodes[nid].pgdat.set_reclaim_active(True)


def traced_machine(spec: MachineSpec, trace: Path, occupancy: Path) -> Replay:
    """Boot the machine that was traced, in the state that `occupancy` (a capture's directory) describes.

    Without pagetypeinfo.txt in it, the start is not exact: as many pages are held as were in use. SpecError
    or TraceError, of one line, if `spec` is another machine or a file cannot be read.
    """
    traced = TracedZones.read(occupancy, spec.arch)
    spec, same_machine = traced.fit(spec)
    if not same_machine:
        raise SpecError(f"{spec.name} is not the machine of {occupancy}: for others, numa-service replay")
    if not (occupancy / "pagetypeinfo.txt").is_file():
        return Replay(spec, traced)
    if not (trace.is_dir() or trace.is_file()):
        raise SpecError(
            f"{trace}: an exact start reads a trace twice; this is neither a file nor a directory"
        )
    return ExactReplay(spec, traced, CapturedStart.read(occupancy, trace))
