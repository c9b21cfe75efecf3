"""The progress and the result of a workload program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProgramProgress:
    """The progress of a program. Numbers are totals since its start."""

    #: Index of the phase, from 0; a phase that runs for each node counts once for each.
    phase: int
    phases: int
    phase_name: str
    #: Part of the phase that is done, 0 to 1.
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
    """Virtual ns of an event, which counts with its batch's mean. Percentiles are at most 1/16 too low."""

    mean_ns: float
    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int


@dataclass(frozen=True, slots=True)
class EventResult:
    """The result of one mix, access, kind of objects, of areas or of tasks of a phase."""

    name: str
    #: Blocks, objects or areas asked for, tasks begun (with their children), or pages accessed.
    events: int
    #: Pages or objects got, or pages accessed.
    pages: int
    #: Blocks, pages, objects or areas that could not be had.
    failures: int
    #: nid → pages or objects got, or pages accessed, there.
    placement: Mapping[int, int]
    latency: EventLatency
    #: This and the next are not counted for objects and areas.
    remote_lookups: int
    direct_reclaimed_pages: int
    #: For accesses and tasks only: resident pages, pages faulted in, and of these those read from swap or
    #: file.
    hit_pages: int
    fault_pages: int
    major_fault_pages: int


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """The result of one phase."""

    name: str
    virtual_ns: int
    real_ns: int
    freed_pages: int
    mixes: tuple[EventResult, ...]
    accesses: tuple[EventResult, ...]
    objects: tuple[EventResult, ...] = ()
    vmallocs: tuple[EventResult, ...] = ()
    tasks: tuple[EventResult, ...] = ()

    @property
    def pages_per_second(self) -> float:
        """Pages got and accessed in a real second."""
        pages = sum(kind.pages for kind in (*self.mixes, *self.accesses, *self.vmallocs, *self.tasks))
        return pages * 1e9 / self.real_ns if self.real_ns else 0.0


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """The result of a program."""

    phases: tuple[PhaseResult, ...]
    virtual_ns: int
    real_ns: int
    allocated_pages: int
    accessed_pages: int
    freed_pages: int
    #: Pages left to the session (`Program.keep`).
    kept_pages: int
    #: Pages on nodes that did not answer when they were to be freed; they are freed with the session.
    unfreed_pages: int

    @property
    def pages_per_second(self) -> float:
        """Pages got and accessed in a real second."""
        return (self.allocated_pages + self.accessed_pages) * 1e9 / self.real_ns if self.real_ns else 0.0
