"""The report of an exact replay: that of any replay, and what can only be compared on the traced machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from lab.truth import TraceTruth
from numa_service.mm.pgdata import I64
from numa_service.mm.replay import BLOCK_INDEX_BITS, REPLAY_BULK, REPLAY_DRAIN, ReplayEvents, is_alloc
from numa_service.sim.replay_samples import Sample, Samples, zone_samples
from numa_service.sim.replay_tally import Agreement, Compared, ReplayReport, ReplayTally
from numa_service.sim.simulation import Simulation
from numa_service.sim.traced import NOWHERE, HeldInUse, TracedZones
from numa_service.trace.events import EventCounts

_BLOCK_INDEX_MASK = (1 << BLOCK_INDEX_BITS) - 1


@dataclass(frozen=True, slots=True)
class ExactAgreement(Agreement):
    """Numbers of allocations that got the same node, zone or page as in the traced kernel.

    `spilled` counts only allocations whose node was decided here, and that the traced kernel served on
    another node than their CPU's.
    """

    #: Allocations that got the same page.
    same_pfn: int
    #: Compared allocations whose node was taken from the trace, as a policy or the caller must have named it.
    #: That the node is the same is then no result of the model.
    by_policy: int
    by_policy_same_node: int


@dataclass(frozen=True, slots=True)
class TracedSample(Sample):
    """Free pages of every zone after a number of events, with those of the traced kernel."""

    #: Free pages of each of `zones` in the traced kernel at that event, as its events tell; None for a zone
    #: that it does not have.
    traced_free: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class ExactReport(ReplayReport):
    """Report of an exact replay, finished or interrupted."""

    agreement: ExactAgreement
    samples: tuple[TracedSample, ...]
    #: Allocations issued with another preferred node than their CPU's, as the trace shows that they asked for
    #: it.
    by_policy: int
    #: Issued without an event in the trace: allocations in bulk, and drains that no free caused (vmstat
    #: workers, reclaim).
    inferred_allocs: int
    inferred_drained_pages: int


class ExactTally(ReplayTally):
    """Counters of one exact replay."""

    def __init__(
        self, sim: Simulation, traced: TracedZones, in_use: tuple[HeldInUse, ...], truth: TraceTruth
    ) -> None:
        super().__init__(sim, traced, in_use)
        self._truth = truth
        self._beside: Samples[TracedSample] = Samples()
        self._base_pfns = np.zeros(max(sim.nodes) + 1, dtype=np.int64)
        for pgdat in self.pgdats:
            self._base_pfns[pgdat.nid] = pgdat.base_pfn
        #: Counters by field of ExactAgreement.
        self._exactly = dict.fromkeys(("same_pfn", "by_policy", "by_policy_same_node"), 0)
        self._spilled = {"spilled": 0, "spilled_same_node": 0}
        self._by_policy = 0
        self._inferred_allocs = 0
        self._inferred_drains = 0

    def add_outcomes(
        self, events: ReplayEvents, pfns: npt.NDArray[np.uint64], migratetypes: I64, done: int
    ) -> None:
        """Count the outcomes of the first `done` of these events; inferred ones separately."""
        super().add_outcomes(events, pfns, migratetypes, done)
        kind, outcome = events.kind[:done], events.outcome[:done]
        self._inferred_allocs += int(np.count_nonzero((kind == REPLAY_BULK) & (outcome > 0)))
        self._inferred_drains += int(events.order[:done][kind == REPLAY_DRAIN].sum())
        elsewhere = events.preferred[:done] != events.home[:done]
        self._by_policy += int(np.count_nonzero(is_alloc(kind) & elsewhere))

    def compare(self, events: ReplayEvents, pfns: npt.NDArray[np.uint64], here: Compared) -> None:
        """Also count allocations that got the same page, and those whose node a policy named."""
        super().compare(events, pfns, here)
        known = here.real_nid != NOWHERE
        same_node = known & (here.nid == here.real_nid)
        pfn = self._base_pfns[here.nid] + (events.outcome[here.row] & _BLOCK_INDEX_MASK)
        by_policy = known & (events.preferred[here.row] != events.home[here.row])
        spilled = known & ~by_policy & (here.real_nid != events.home[here.row])
        _count(
            self._exactly,
            same_pfn=known & (pfn == pfns[here.row].astype(np.int64)),
            by_policy=by_policy,
            by_policy_same_node=by_policy & same_node,
        )
        _count(self._spilled, spilled=spilled, spilled_same_node=spilled & same_node)

    def sample_beside(self, time_ns: int, traced_free: Iterable[int]) -> None:
        """Take a sample if one is due; `traced_free` has the zones of ``TraceTruth.keys``."""
        if self._beside.due():
            zones = zone_samples(self.pgdats)
            there = dict(zip(self._truth.keys, traced_free, strict=True))
            names = {(p.nid, zone.name): zone.index for p in self.pgdats for zone in p.extents}
            beside = tuple(there.get((zone.nid, names[zone.nid, zone.zone])) for zone in zones)
            self._beside.add(TracedSample(self.events_read, time_ns, zones, beside))

    def traced_free(self) -> dict[tuple[int, int], int]:
        """Free pages of the traced zones at the end of the last chunk, by (nid, zone index)."""
        return dict(zip(self._truth.keys, self._truth.free.tolist(), strict=True))

    def report(self, counts: EventCounts) -> ExactReport:
        """The report so far; it checks all invariants of every node."""
        plain = super().report(counts)
        agreement = _values(plain.agreement) | self._exactly | self._spilled
        return ExactReport(
            **_values(plain)
            | {"agreement": ExactAgreement(**agreement), "samples": tuple(self._beside.kept)},
            by_policy=self._by_policy,
            inferred_allocs=self._inferred_allocs,
            inferred_drained_pages=self._inferred_drains,
        )


def _count(counters: dict[str, int], **masks: npt.NDArray[np.bool_]) -> None:
    """Add the number of true elements of each mask to the counter of that name."""
    for name, mask in masks.items():
        counters[name] += int(np.count_nonzero(mask))


def _values(report: ReplayReport | Agreement) -> dict[str, Any]:
    """Fields by name, not copied and taken apart as by asdict()."""
    return {field.name: getattr(report, field.name) for field in fields(report)}
