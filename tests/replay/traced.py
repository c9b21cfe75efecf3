"""Traces written by hand: events as the kernel prints them, and a machine small enough to fill."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from numa_service.machine.machinefile import parse_machine
from numa_service.sim.replay_tally import ReplayReport
from numa_service.sim.trace_replay import Replay
from numa_service.sim.traced import TracedZones
from numa_service.trace.reader import open_trace

MOVABLE = "GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO"

#: Node 0: CPUs 0 and 1, DMA and DMA32; node 1: CPU 2; node 2: memory only.
SPEC = parse_machine(
    """
name = "small"
distances = [[10, 20, 17], [20, 10, 28], [17, 28, 10]]
[[node]]
cpus = "0-1"
memory = "128MiB"
[[node]]
cpus = "2"
memory = "64MiB"
[[node]]
memory = "32MiB"
""",
    source="small",
    default_name="small",
)

#: A pfn of each node, past the zones' first pages.
PFNS = {node.nid: node.zones[-1].start_pfn + 1024 for node in SPEC.nodes}


@dataclass(frozen=True)
class Alloc:
    """mm_page_alloc; pfn 0 failed."""

    cpu: int
    pfn: int
    order: int = 0
    gfp: str = MOVABLE
    pid: int = 7

    def text(self) -> str:
        return (
            f"mm_page_alloc: page=0 pfn={self.pfn:#x} order={self.order} migratetype=1 gfp_flags={self.gfp}"
        )


@dataclass(frozen=True)
class Free:
    """mm_page_free."""

    cpu: int
    pfn: int
    order: int = 0
    pid: int = 7

    def text(self) -> str:
        return f"mm_page_free: page=0 pfn={self.pfn:#x} order={self.order}"


@dataclass(frozen=True)
class Other:
    """An event that frees or allocates nothing."""

    cpu: int
    arguments: str
    pid: int = 7

    def text(self) -> str:
        return self.arguments


Event = Alloc | Free | Other


def render(events: list[Event]) -> str:
    """Text of /sys/kernel/tracing/trace."""
    lines = ["# tracer: nop\n", "#\n"]
    for i, event in enumerate(events):
        task = f"task-{event.pid}"
        lines.append(f"{task:>18}       [{event.cpu:03}] ..... {1 + i / 1e6:12.6f}: {event.text()}\n")
    return "".join(lines)


class OneByOne(Replay):
    """Every event through the generators."""

    def _run(
        self, nid: int, events: object, at: int, end: int, guest_home: int = -1, first: bool = False
    ) -> int:
        return at

    def _run_spilled(self, events: object, at: int, end: int) -> int:
        return at


def replay(
    path: Path, events: list[Event], kind: type[Replay] = Replay, traced: TracedZones | None = None
) -> tuple[Replay, ReplayReport]:
    """Write a trace, replay it on the small machine, and report."""
    trace = path / "trace"
    trace.write_text(render(events))
    machine = kind(SPEC, traced)
    with open_trace(trace) as reader:
        assert machine.run(reader)
    return machine, machine.tally.report(reader.counts)


def digests(machine: Replay) -> list[tuple[object, ...]]:
    """Memory, owners, sessions and load of every node: what a stretch changes, too.

    It asks no node, though, so that questions are not numbered and nothing is kept for repeated ones.
    """
    return [
        (
            node.pgdat.digest(),
            node.slots.state,
            [session.state for session in node.sessions.values()],
            node.load.state,
            node.kswapd.run,
        )
        for node in machine.sim.nodes.values()
    ]
