"""What a program did, as it is counted, and as it is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from numa_service.node.cost import Cost

_SUB_BITS = 4
_SUB = 1 << _SUB_BITS


class LatencyHistogram:
    """Virtual ns of events, each with its batch's mean; buckets no wider than 1/16 of their value."""

    def __init__(self) -> None:
        self.events = 0
        self.total_ns = 0
        self._buckets: Counter[int] = Counter()

    def record(self, total_ns: int, events: int) -> None:
        """A batch."""
        if events:
            self.events += events
            self.total_ns += total_ns
            self._buckets[_bucket(total_ns // events)] += events

    @property
    def mean_ns(self) -> float:
        """0 without events."""
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


def _bucket(value: int) -> int:
    shift = max(0, value.bit_length() - 1 - _SUB_BITS)
    return (shift << _SUB_BITS) + (value >> shift)


def _lower_bound(bucket: int) -> int:
    if bucket < 2 * _SUB:
        return bucket
    shift = (bucket >> _SUB_BITS) - 1
    return (bucket - (shift << _SUB_BITS)) << shift


@dataclass(slots=True)
class Tally:
    """One kind of event of a phase."""

    name: str
    #: A mix; else an access.
    is_mix: bool
    events: int = 0
    #: Pages that were got, or accessed.
    pages: int = 0
    #: Blocks, or pages, that were not to be had.
    failures: int = 0
    #: nid → pages got there, or accessed there.
    pages_by_node: Counter[int] = field(default_factory=Counter)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    remote_lookups: int = 0
    direct_reclaimed: int = 0
    #: Accesses.
    hits: int = 0
    faults: int = 0
    major_faults: int = 0

    def record(self, events: int, failures: int, cost: Cost, lookups: int, reclaimed: int) -> None:
        """What mixes and accesses have in common."""
        self.events += events
        self.failures += failures
        self.latency.record(cost.latency_ns, events)
        self.remote_lookups += lookups
        self.direct_reclaimed += reclaimed


@dataclass(slots=True)
class PhaseTally:
    """One phase."""

    name: str
    kinds: list[Tally]
    virtual_ns: int = 0
    real_ns: int = 0
    freed_pages: int = 0

    @property
    def events(self) -> int:
        """Blocks asked for and pages accessed."""
        return sum(kind.events for kind in self.kinds)

    @property
    def pages(self) -> int:
        """Pages got and accessed."""
        return sum(kind.pages for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Result:
    """What a program has done, phase by phase."""

    phases: tuple[PhaseTally, ...]
    virtual_ns: int
    real_ns: int
    allocated_pages: int
    accessed_pages: int
    freed_pages: int
    #: Left to the session.
    kept_pages: int
    #: Held on nodes that did not answer when they were to be freed: they go with the session.
    unfreed_pages: int
