"""The running counts of a program, which become numa_client's ProgramResult when it ends."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from numa_client import EventLatency, EventResult, PhaseResult

from numa_service.node.cost import Cost

#: A histogram has 2^4 buckets between two powers of two.
_SUB_BITS = 4
_SUB = 1 << _SUB_BITS


class LatencyHistogram:
    """Histogram of the virtual ns of events; a bucket is no wider than 1/16 of the values in it.

    Events are recorded by the batch, and each counts with the mean of its batch.
    """

    def __init__(self) -> None:
        self.events = 0
        self.total_ns = 0
        self._buckets: Counter[int] = Counter()

    def record(self, total_ns: int, events: int) -> None:
        """Record a batch of `events` that took `total_ns` together."""
        if events:
            self.events += events
            self.total_ns += total_ns
            self._buckets[_bucket(total_ns // events)] += events

    @property
    def mean_ns(self) -> float:
        """Mean latency of an event; 0 without events."""
        return self.total_ns / self.events if self.events else 0.0

    def percentile_ns(self, percent: float) -> int:
        """The lower bound of the bucket in which that share of the events is reached; 0 without events."""
        wanted = self.events * percent / 100
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return _lower_bound(bucket)
        return 0

    def result(self) -> EventLatency:
        """Mean and percentiles, as clients get them."""
        p50, p90, p99, most = (self.percentile_ns(percent) for percent in (50, 90, 99, 100))
        return EventLatency(self.mean_ns, p50, p90, p99, most)


def _bucket(value: int) -> int:
    shift = max(0, value.bit_length() - 1 - _SUB_BITS)
    return (shift << _SUB_BITS) + (value >> shift)


def _lower_bound(bucket: int) -> int:
    """The smallest value that :func:`_bucket` puts into the bucket."""
    if bucket < 2 * _SUB:
        return bucket
    shift = (bucket >> _SUB_BITS) - 1
    return (bucket - (shift << _SUB_BITS)) << shift


@dataclass(slots=True)
class Tally:
    """The counts of one mix, access, kind of objects, of areas or of tasks of a phase."""

    name: str
    #: Field of PhaseResult in which it stands: mixes, accesses, objects, vmallocs or tasks.
    among: str
    #: Blocks, objects or areas asked for, tasks begun, or pages accessed.
    events: int = 0
    #: Pages or objects allocated, or pages accessed.
    pages: int = 0
    #: Blocks, objects, areas, tasks or pages for which there was no memory.
    failures: int = 0
    #: These pages or objects by the nid of their node.
    pages_by_node: Counter[int] = field(default_factory=Counter)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    remote_lookups: int = 0
    #: Pages that direct reclaim freed.
    direct_reclaimed: int = 0
    #: Accesses that found their page, and those that faulted; 0 for a mix.
    hits: int = 0
    faults: int = 0
    major_faults: int = 0

    def record(self, events: int, failures: int, cost: Cost, lookups: int, reclaimed: int) -> None:
        """Add a batch: the counts that mixes and accesses have in common."""
        self.events += events
        self.failures += failures
        self.latency.record(cost.latency_ns, events)
        self.remote_lookups += lookups
        self.direct_reclaimed += reclaimed

    def result(self) -> EventResult:
        """The counts so far, as clients get them."""
        return EventResult(
            name=self.name,
            events=self.events,
            pages=self.pages,
            failures=self.failures,
            placement={nid: pages for nid, pages in sorted(self.pages_by_node.items()) if pages},
            latency=self.latency.result(),
            remote_lookups=self.remote_lookups,
            direct_reclaimed_pages=self.direct_reclaimed,
            hit_pages=self.hits,
            fault_pages=self.faults,
            major_fault_pages=self.major_faults,
        )


@dataclass(slots=True)
class PhaseTally:
    """The counts of one phase."""

    name: str
    #: Its mixes, then its accesses, then its objects, then its areas, then its tasks.
    kinds: list[Tally]
    virtual_ns: int = 0
    real_ns: int = 0
    freed_pages: int = 0

    def result(self) -> PhaseResult:
        """The counts so far, as clients get them."""
        return PhaseResult(
            name=self.name,
            virtual_ns=self.virtual_ns,
            real_ns=self.real_ns,
            freed_pages=self.freed_pages,
            mixes=self._results("mixes"),
            accesses=self._results("accesses"),
            objects=self._results("objects"),
            vmallocs=self._results("vmallocs"),
            tasks=self._results("tasks"),
        )

    def _results(self, among: str) -> tuple[EventResult, ...]:
        return tuple(kind.result() for kind in self.kinds if kind.among == among)
