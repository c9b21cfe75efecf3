"""Programs on the demo machine, driven by hand: no clock, no network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from by_hand import ByHand
from numa_client import (
    Access,
    Distribution,
    EventResult,
    Mix,
    Phase,
    PhaseResult,
    Program,
    ProgramProgress,
    ProgramRegion,
    ProgramResult,
)

from numa_service.machine.presets import load_preset
from numa_service.machine.spec import MachineSpec
from numa_service.node import ops
from numa_service.node.errors import NodeError
from numa_service.node.node import Node
from numa_service.workload.run import run_program, to_next_progress

EXPONENTIAL = Distribution("exponential", mean=1e-3)


class Driven:
    """A session on node 0 of a machine whose nodes are driven by hand."""

    def __init__(self, preset: str | MachineSpec = "demo", unloaded: bool = False) -> None:
        """With `unloaded`, memories and links have so much bandwidth that no access ever queues."""
        self.spec = load_preset(preset) if isinstance(preset, str) else preset
        if unloaded:
            nids = [node.nid for node in self.spec.nodes]
            much = 10**12
            latency = replace(
                self.spec.latency,
                memory_mb_per_s=dict.fromkeys(nids, much),
                link_mb_per_s={(a, b): much for a in nids for b in nids if a != b},
            )
            self.spec = replace(self.spec, latency=latency)
        self.machine = ByHand(self.spec)
        self.node: Node = self.machine.nodes[0]
        self.session = self.node.apply(ops.OpenSession("test", 10**9, 0))
        self.progress: list[ProgramProgress] = []

    def run(
        self, program: Program, cut: NodeError | None = None, after: int = 0, **options: Any
    ) -> ProgramResult:
        """Run a program to its end; `cut`, if given, is thrown into it after `after` batches."""
        steps = run_program(self.node, self.session, 0, program, **options)
        while True:
            thrown = cut if cut and len(self.progress) == after else None
            found = self.machine.call(0, to_next_progress(steps, thrown))
            if isinstance(found, ProgramResult):
                return found
            self.progress.append(found)

    def check(self) -> None:
        """Assert that every node's invariants hold, and that replaying its log gives its state."""
        for nid, node in self.machine.nodes.items():
            assert node.check() == []
            assert node.log_dropped == 0
            assert Node.replay(self.spec, nid, list(node.log)).digest() == node.digest()

    def digests(self) -> list[str]:
        return [node.digest() for node in self.machine.nodes.values()]

    def held(self) -> int:
        """Pages that are held, on all nodes together."""
        return sum(node.held_pages() for node in self.machine.nodes.values())


def kinds_of(phase: PhaseResult) -> tuple[EventResult, ...]:
    """The mixes of a phase, then its accesses, then its objects."""
    return (*phase.mixes, *phase.accesses, *phase.objects)


def churn(**fields: Any) -> Program:
    """A program of allocations of two orders and accesses to two regions."""
    phase = Phase(
        name="churn",
        events=20_000,
        batch=1024,
        mixes=(
            Mix("pages", weight=3, lifetime=EXPONENTIAL),
            Mix("slabs", order=3, lifetime=Distribution("pareto", mean=1e-3, alpha=1.5)),
        ),
        accesses=(
            Access("heap", pattern="zipf", theta=0.9, write=0.5),
            Access("file", pattern="sequential"),
        ),
    )
    regions = (
        ProgramRegion("heap", kind="anon", pages=10_000),
        ProgramRegion("file", kind="file", memory=0.5),
    )
    return Program(**{"name": "churn", "seed": 7, "phases": (phase,), "regions": regions} | fields)
