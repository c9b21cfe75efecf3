"""Captured traces, replayed here from the captured occupancy, beside the capture made after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fidelity.compare import Field

from numa_service.machine.source import load
from numa_service.sim.replay import Replay
from numa_service.sim.replay_divergence import ZoneDivergence, compare_after
from numa_service.sim.replay_start import CapturedStart
from numa_service.sim.replay_tally import ReplayReport
from numa_service.sim.traced import TracedZones
from numa_service.trace.source import open_trace

#: Goals, in percent of managed pages.
FREE_PERCENT = 1
ORDER_PERCENT = 2

SPILL_EDGE = "a few batches either way where the last zone of the list takes what is left"
LAYOUT = "what the trace never touches is captured only as counts, and what came after it not at all"

#: What the layout, of which a capture has only counts, may cost: in percent of managed, and in pages.
_LAYOUT_PERCENT = 5
_LAYOUT_PAGES = 1024


@dataclass(frozen=True, slots=True)
class TraceResult:
    """One trace."""

    name: str
    report: ReplayReport
    zones: list[ZoneDivergence]


def replay_trace(directory: Path) -> TraceResult | None:
    """Replay on the machine of the same name; None if that was not captured, or the trace has no captures."""
    topology = directory.parents[2] / "topologies" / directory.parent.name
    if not all((directory / part / "pagetypeinfo.txt").is_file() for part in ("before", "after")):
        return None
    if not (topology / "zoneinfo.txt").is_file():
        return None
    spec = load(str(topology))
    traced = TracedZones.read(directory / "before", spec.arch)
    spec, same_machine = traced.fit(spec)
    start = CapturedStart.read(directory / "before", directory) if same_machine else None
    replay = Replay(spec, traced, start)
    with open_trace(directory) as reader:
        replay.run(reader)
        report = replay.tally.report(reader.counts)
    name = f"{directory.parent.name}/{directory.name}"
    return TraceResult(
        name, report, compare_after(replay.sim, directory / "after", replay.tally.traced_free())
    )


def trace_fields(result: TraceResult) -> Iterator[Field]:
    """Free pages and their distribution over the orders, zone by zone, and that nothing was lost."""
    yield Field(result.name, "trace", "invariants violated", "machine", 0, len(result.report.problems))
    for zone in result.zones:
        where = f"{zone.nid}:{zone.zone}"
        slack = max(zone.managed * FREE_PERCENT // 100, 256)
        yield Field(
            result.name,
            "trace",
            "free after trace",
            where,
            zone.traced_free,
            zone.settled_free,
            slack,
            SPILL_EDGE,
        )
        pairs = enumerate(zip(zone.nr_free, zone.traced_nr_free, strict=True))
        off = sum(abs(here - there) << order for order, (here, there) in pairs)
        slack = max(zone.managed * _LAYOUT_PERCENT // 100, _LAYOUT_PAGES)
        yield Field(result.name, "trace", "orders after trace", where, 0, off, slack, LAYOUT)


def _or_dash(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def trace_rows(result: TraceResult) -> str:
    """Rows of the table of traces."""
    text = ""
    report = result.report
    for zone in result.zones:
        met = zone.free_percent <= FREE_PERCENT and zone.order_percent <= ORDER_PERCENT
        met &= zone.then_percent is None or zone.then_percent <= FREE_PERCENT
        text += (
            f"| {result.name} | {zone.nid}:{zone.zone} | {zone.managed} | {zone.free} | "
            f"{_or_dash(zone.traced_free_then)} | {_or_dash(zone.then_percent)} | "
            f"{zone.settled_free} | {zone.traced_free} | "
            f"{zone.free_percent:.2f} | {zone.order_percent:.2f} | "
            f"{'yes' if met else 'no'} |\n"
        )
    seen = report.agreement
    same = {"node": seen.same_node, "zone": seen.same_zone, "page": seen.same_pfn}
    shares = " | ".join(f"same {what} {100 * n / max(1, seen.compared):.2f} %" for what, n in same.items())
    return text + (
        f"| {result.name} | events here / traced | extfrag {report.steals} / {report.traced_steals} | "
        f"drained {report.drained} / {report.traced_drained} | refilled {report.refilled} / "
        f"{report.traced_refilled} | {shares} | inferred {report.inferred_allocs} allocations, "
        f"{report.inferred_drained_pages} pages drained | | | |\n"
    )
