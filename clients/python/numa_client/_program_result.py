"""What the service tells of a workload program: where it stands, and what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProgramProgress:
    """Where a program stands. Totals since its start."""

    #: From 0; phases of each node are counted one by one.
    phase: int
    phases: int
    phase_name: str
    #: Of the phase, 0 to 1.
    fraction: float
    virtual_ns: int
    real_ns: int
    events: int
    failures: int
    allocated_pages: int
    accessed_pages: int
    freed_pages: int
    live_pages: int


@dataclass(frozen=True, slots=True)
class EventLatency:
    """Virtual ns of an event. An event counts with its batch's mean; percentiles are at most 1/16 too low."""

    mean_ns: float
    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int


@dataclass(frozen=True, slots=True)
class EventResult:
    """What came of a mix or an access."""

    name: str
    #: Blocks asked for, or pages accessed.
    events: int
    #: Pages got, or accessed.
    pages: int
    #: Blocks or pages that were not to be had.
    failures: int
    #: Pages by node.
    placement: Mapping[int, int]
    latency: EventLatency
    remote_lookups: int
    direct_reclaimed_pages: int
    #: Accesses only.
    hit_pages: int
    fault_pages: int
    major_fault_pages: int


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """One phase."""

    name: str
    virtual_ns: int
    real_ns: int
    freed_pages: int
    mixes: tuple[EventResult, ...]
    accesses: tuple[EventResult, ...]

    @property
    def pages_per_second(self) -> float:
        """Pages got and accessed in a real second."""
        pages = sum(kind.pages for kind in (*self.mixes, *self.accesses))
        return pages * 1e9 / self.real_ns if self.real_ns else 0.0


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """What a program did."""

    phases: tuple[PhaseResult, ...]
    virtual_ns: int
    real_ns: int
    allocated_pages: int
    accessed_pages: int
    freed_pages: int
    #: Left to the session.
    kept_pages: int
    #: On nodes that did not answer when they were to be freed: they go with the session.
    unfreed_pages: int

    @property
    def pages_per_second(self) -> float:
        """Pages got and accessed in a real second."""
        return (self.allocated_pages + self.accessed_pages) * 1e9 / self.real_ns if self.real_ns else 0.0
