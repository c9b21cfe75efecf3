"""Records what happens while a load runs, and reports it when the load is over.

Wall times are how long a client waited. Virtual times are what the request would have cost on the emulated
machine, as the service modelled it. The two are independent and are never added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hdrh.histogram import HdrHistogram

_HOUR_US = 3_600_000_000
_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a workload: one request and its reply."""

    #: alloc, free, touch, map or unmap.
    kind: str
    #: nid → pages got or touched there.
    pages: Mapping[int, int] = field(default_factory=dict)
    freed_pages: int = 0
    #: Virtual ns of the request.
    latency_ns: int = 0
    fault_pages: int = 0
    major_fault_pages: int = 0
    direct_reclaimed_pages: int = 0
    remote_lookups: int = 0


@dataclass(frozen=True, slots=True)
class Latency:
    """Distribution of wall times in ms."""

    operations: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """The progress of a running load. Rates are those since the progress before."""

    elapsed_seconds: float
    duration_seconds: float
    operations: int
    operations_per_second: float
    pages_per_second: float
    #: Pages allocated and not yet freed by the clients; pages of regions are not among them.
    held_pages: int
    local_pages: int
    remote_pages: int
    pages_by_node: Mapping[int, int]
    fault_pages: int
    direct_reclaimed_pages: int
    #: Failed operations by status name.
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The report of a load. Numbers are pages unless the name says otherwise."""

    workload: str
    clients: int
    elapsed_seconds: float
    #: Whether it was stopped from outside before its end.
    interrupted: bool
    operations: int
    operations_per_second: float
    #: Pages allocated, freed and touched, per second.
    pages_per_second: float
    allocated_pages: int
    freed_pages: int
    touched_pages: int
    #: Pages that were freed by closing the sessions.
    released_pages: int
    #: Pages got or touched on the client's own node, and on other nodes.
    local_pages: int
    remote_pages: int
    pages_by_node: Mapping[int, int]
    fault_pages: int
    major_fault_pages: int
    direct_reclaimed_pages: int
    #: Zonelist lookups that nodes sent to each other.
    remote_lookups: int
    #: Whether requests were sent at a rate. Then wall times count from when a request was due, not from when
    #: it was sent.
    open_loop: bool
    wall: Latency
    wall_by_kind: Mapping[str, Latency]
    #: Virtual ns per page got or touched.
    virtual_ns_per_page_mean: float
    virtual_ns_per_page_p99: int
    errors: Mapping[str, int]
    #: Name of a status → message of the first failure with it.
    first_errors: Mapping[str, str]
    #: Sessions opened again because a node went away or a lease ran out.
    reopened_sessions: int

    def to_dict(self) -> dict[str, Any]:
        """The object that ``--json`` prints; its keys are stable."""
        return asdict(self)


class Recorder:
    """Counts and histograms of all clients of a load."""

    def __init__(self) -> None:
        self._wall: dict[str, HdrHistogram] = {}
        self._virtual = HdrHistogram(1, 10**12, _DIGITS)
        self._virtual_ns = 0
        self._last = (0.0, 0, 0)
        self.pages_by_node: dict[int, int] = {}
        self.errors: dict[str, int] = {}
        self.first_errors: dict[str, str] = {}
        self.operations = 0
        self.local_pages = 0
        self.remote_pages = 0
        self.allocated_pages = 0
        self.touched_pages = 0
        self.freed_pages = 0
        self.held_pages = 0
        self.fault_pages = 0
        self.major_fault_pages = 0
        self.direct_reclaimed_pages = 0
        self.remote_lookups = 0
        self.reopened_sessions = 0
        self.released_pages = 0

    def step(self, step: Step, wall_seconds: float, home: int) -> None:
        """Count an operation of a client whose CPU is on node `home`."""
        self.operations += 1
        if step.kind not in self._wall:
            self._wall[step.kind] = HdrHistogram(1, _HOUR_US, _DIGITS)
        self._wall[step.kind].record_value(min(max(1, round(wall_seconds * 1e6)), _HOUR_US))
        pages = sum(step.pages.values())
        for nid, number in step.pages.items():
            self.pages_by_node[nid] = self.pages_by_node.get(nid, 0) + number
        self.local_pages += step.pages.get(home, 0)
        self.remote_pages += pages - step.pages.get(home, 0)
        if step.kind == "alloc":
            self.allocated_pages += pages
            self.held_pages += pages
        else:
            self.touched_pages += pages
        if step.kind == "free":
            self.held_pages -= step.freed_pages
        self.freed_pages += step.freed_pages
        self.fault_pages += step.fault_pages
        self.major_fault_pages += step.major_fault_pages
        self.direct_reclaimed_pages += step.direct_reclaimed_pages
        self.remote_lookups += step.remote_lookups
        if pages:
            self._virtual_ns += step.latency_ns
            self._virtual.record_value(max(1, step.latency_ns // pages), pages)

    def error(self, status: str, message: str) -> None:
        """Count an operation that failed."""
        self.errors[status] = self.errors.get(status, 0) + 1
        self.first_errors.setdefault(status, message)

    def progress(self, elapsed_seconds: float, duration_seconds: float) -> LoadProgress:
        """The progress so far. The rates of the next one count from here."""
        then, operations, pages = self._last
        window = max(elapsed_seconds - then, 1e-9)
        self._last = (elapsed_seconds, self.operations, self._moved_pages)
        return LoadProgress(
            elapsed_seconds=elapsed_seconds,
            duration_seconds=duration_seconds,
            operations=self.operations,
            operations_per_second=(self.operations - operations) / window,
            pages_per_second=(self._moved_pages - pages) / window,
            held_pages=self.held_pages,
            local_pages=self.local_pages,
            remote_pages=self.remote_pages,
            pages_by_node=dict(sorted(self.pages_by_node.items())),
            fault_pages=self.fault_pages,
            direct_reclaimed_pages=self.direct_reclaimed_pages,
            errors=dict(sorted(self.errors.items())),
        )

    def report(
        self, *, workload: str, clients: int, elapsed_seconds: float, interrupted: bool, open_loop: bool
    ) -> LoadReport:
        """The report at the end."""
        every = HdrHistogram(1, _HOUR_US, _DIGITS)
        for histogram in self._wall.values():
            every.add(histogram)
        elapsed = max(elapsed_seconds, 1e-9)
        seen = self.local_pages + self.remote_pages
        return LoadReport(
            workload=workload,
            clients=clients,
            elapsed_seconds=elapsed_seconds,
            interrupted=interrupted,
            operations=self.operations,
            operations_per_second=self.operations / elapsed,
            pages_per_second=self._moved_pages / elapsed,
            allocated_pages=self.allocated_pages,
            freed_pages=self.freed_pages,
            touched_pages=self.touched_pages,
            released_pages=self.released_pages,
            local_pages=self.local_pages,
            remote_pages=self.remote_pages,
            pages_by_node=dict(sorted(self.pages_by_node.items())),
            fault_pages=self.fault_pages,
            major_fault_pages=self.major_fault_pages,
            direct_reclaimed_pages=self.direct_reclaimed_pages,
            remote_lookups=self.remote_lookups,
            open_loop=open_loop,
            wall=_latency(every),
            wall_by_kind={kind: _latency(self._wall[kind]) for kind in sorted(self._wall)},
            virtual_ns_per_page_mean=self._virtual_ns / seen if seen else 0.0,
            virtual_ns_per_page_p99=int(self._virtual.get_value_at_percentile(99)),
            errors=dict(sorted(self.errors.items())),
            first_errors=dict(sorted(self.first_errors.items())),
            reopened_sessions=self.reopened_sessions,
        )

    @property
    def _moved_pages(self) -> int:
        return self.allocated_pages + self.freed_pages + self.touched_pages


def _latency(histogram: HdrHistogram) -> Latency:
    return Latency(
        operations=int(histogram.get_total_count()),
        p50_ms=histogram.get_value_at_percentile(50) / 1000,
        p90_ms=histogram.get_value_at_percentile(90) / 1000,
        p99_ms=histogram.get_value_at_percentile(99) / 1000,
        max_ms=histogram.get_max_value() / 1000,
    )
