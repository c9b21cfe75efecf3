"""Variants of a machine compared: one program with several seeds, or one trace, on each of them.

A run is one program in a machine that has just booted, all of it virtual: the same variants, program and
seeds give the same numbers. What seeds make of a program is the error of its numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

from numa_client import EventResult, Policy, Program, ProgramProgress, ProgramResult

from numa_service.machine.spec import MachineSpec
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest
from numa_service.node.occupy import start_in_use
from numa_service.sim.simulation import Simulation
from numa_service.sim.trace_replay import Replay
from numa_service.sim.variant import Variant
from numa_service.trace.ahead import read_ahead
from numa_service.trace.reader import open_trace
from numa_service.workload.run import run_program, to_next_progress

#: Student's t of a two-sided interval of 95 %, by degrees of freedom from 1 on (NIST, critical values).
_T95: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
MAX_SEEDS: Final = 30
MAX_VARIANTS: Final = 16


@dataclass(frozen=True, slots=True)
class Latency:
    """Virtual ns of an event of one kind, over all phases of a run."""

    mean_ns: float
    p99_ns: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one variant."""

    seed: int
    runtime_ns: int
    #: Pages allocated, and accesses, by the node that served them.
    placement: dict[int, int]
    #: Part of these that was not on the node of the CPU.
    remote: float
    #: Allocations that another node served than the one that they wanted (numa_foreign).
    spills: int
    #: Pages that kswapds and direct reclaim freed.
    reclaimed: int
    #: Blocks, pages and objects for which there was no memory.
    failures: int
    #: By what was done: "phase: kind".
    latency: dict[str, Latency] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mean:
    """A number over all seeds, and the half of its interval of 95 %."""

    mean: float
    error: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Mean:
        """Of one number or more; the error of one is 0, as nothing is known of it."""
        if len(numbers) < 2:
            return cls(fmean(numbers), 0.0)
        return cls(fmean(numbers), _T95[len(numbers) - 2] * stdev(numbers) / math.sqrt(len(numbers)))


@dataclass(frozen=True, slots=True)
class Ranked:
    """A variant with its runs, and its place: several have the same one if they cannot be told apart."""

    variant: Variant
    runs: tuple[Run, ...]
    rank: int
    #: Runtime of each seed less that of the best variant with the same seed, in ns.
    behind: Mean

    def mean(self, of: Callable[[Run], float]) -> Mean:
        """A number of its runs."""
        return Mean.of([of(run) for run in self.runs])


def rank(variants: Sequence[Variant], runs: Sequence[Sequence[Run]]) -> list[Ranked]:
    """Variants by mean runtime. Each is compared seed by seed with the first of the place before it.

    It shares that place if the interval of the differences has 0 in it.
    """
    order = sorted(range(len(variants)), key=lambda at: (fmean(run.runtime_ns for run in runs[at]), at))
    best, first, place = order[0], order[0], 1
    found = []
    for number, at in enumerate(order):
        behind = _difference(runs[at], runs[first])
        if abs(behind.mean) > behind.error:
            first, place = at, number + 1
        found.append(Ranked(variants[at], tuple(runs[at]), place, _difference(runs[at], runs[best])))
    return found


def _difference(these: Sequence[Run], those: Sequence[Run]) -> Mean:
    return Mean.of([a.runtime_ns - b.runtime_ns for a, b in zip(these, those, strict=True)])


def run_variant(
    variant: Variant, program: Program, seed: int, cpu: int | None, done: Callable[[float], None]
) -> Run:
    """Run a program with a seed on a variant that has just booted; `done` gets the share that is done.

    `cpu`: None is the lowest one. InvalidRequest for a CPU that the machine lacks, and for the field of the
    program that is wrong there; other errors of :func:`run_program`.
    """
    spec = variant.spec
    on = min(spec.cpus) if cpu is None else cpu
    nid = next((nid for nid, cpus in spec.own_cpus.items() if on in cpus), None)
    if nid is None:
        raise InvalidRequest("cpu", f"{on} is not a CPU of {spec.name}")
    sim = Simulation(spec, seed)
    start_in_use(spec, sim.nodes.values())
    before = sim.nodes[nid].machine.snapshot()
    session = sim.nodes[nid].apply(ops.OpenSession("compare", ops.FOREVER_NS, 0))
    steps = run_program(sim.nodes[nid], session, on, _seeded(program, variant.policy, seed))
    while isinstance(found := sim.call(nid, to_next_progress(steps)), ProgramProgress):
        done((found.phase + found.fraction) / found.phases)
    done(1.0)
    return _of_program(seed, nid, found, before, sim.nodes[nid].machine.snapshot())


def _seeded(program: Program, policy: Policy | None, seed: int) -> Program:
    """The program with another seed; all that has no policy gets this one, but phases for each node."""
    program = replace(program, seed=seed)
    if policy is None:
        return program
    phases = tuple(
        replace(
            phase,
            mixes=tuple(replace(mix, policy=mix.policy or policy) for mix in phase.mixes),
            tasks=tuple(replace(mix, policy=mix.policy or policy) for mix in phase.tasks),
        )
        for phase in program.phases
    )
    regions = tuple(replace(region, policy=region.policy or policy) for region in program.regions)
    return replace(program, phases=phases, regions=regions)


def _of_program(
    seed: int, home: int, result: ProgramResult, before: MachineSnapshot, after: MachineSnapshot
) -> Run:
    placement: Counter[int] = Counter()
    failures = 0
    latency = {}
    for phase in result.phases:
        for kind in (*phase.mixes, *phase.accesses, *phase.objects, *phase.tasks):
            placement.update(kind.placement)
            failures += kind.failures
            if kind.events:
                latency[f"{phase.name}: {kind.name}"] = _latency(kind)
    return Run(
        seed=seed,
        runtime_ns=result.virtual_ns,
        placement=dict(sorted(placement.items())),
        remote=1 - placement[home] / (placement.total() or 1),
        spills=_foreign(after) - _foreign(before),
        reclaimed=_reclaimed(after) - _reclaimed(before),
        failures=failures,
        latency=latency,
    )


def _latency(kind: EventResult) -> Latency:
    return Latency(kind.latency.mean_ns, kind.latency.p99_ns)


def _foreign(machine: MachineSnapshot) -> int:
    return sum(node.numastat["numa_foreign"] for node in machine.nodes)


def _reclaimed(machine: MachineSnapshot) -> int:
    """Of all zones, where a kernel counts it by zone."""
    return sum(
        pages
        for node in machine.nodes
        for name, pages in node.vm_event.items()
        if name.startswith(("pgsteal_kswapd", "pgsteal_direct"))
    )


def replay_variant(variant: Variant, trace: Path, done: Callable[[int, int], None] | None) -> Run:
    """Replay a trace on a variant that has just booted; `done` gets the bytes read, and all there are.

    Its runtime is that of its allocations: a pageset each, blocks off the free lists, and one access to each
    page. TraceError, SpecError.
    """
    spec = variant.spec
    if variant.policy is not None:
        raise InvalidRequest("policy", f"{variant.name}: a trace has policies of its own")
    replay = Replay(spec)
    with open_trace(trace, done) as reader, closing(read_ahead(reader)) as chunks:
        replay.run(chunks)
        report = replay.tally.report(reader.counts)
    placement: Counter[int] = Counter()
    access_ns = remote = 0.0
    for zone in report.placed:
        placement[zone.nid] += zone.pages
        far = zone.pages * zone.remote / (zone.blocks or 1)
        near_ns, far_ns = _reach(spec, zone.nid)
        access_ns += (zone.pages - far) * near_ns + far * far_ns
        remote += far
    model = spec.latency
    work_ns = report.allocs * model.pageset_hit_ns + report.refilled * model.buddy_block_ns
    return Run(
        seed=0,
        runtime_ns=round(access_ns) + work_ns,
        placement=dict(sorted(placement.items())),
        remote=remote / (placement.total() or 1),
        spills=sum(counts["numa_foreign"] for counts in report.numastat.values()),
        reclaimed=0,
        failures=report.unmatched.get("alloc_failed_here", 0),
    )


def _reach(spec: MachineSpec, nid: int) -> tuple[float, float]:
    """Write latency to a node's memory from its own CPUs, and from those of other nodes on average, in ns."""
    times = {
        other: spec.latency.write_latency_ns(other, nid, spec.distance(other, nid))
        for other, cpus in spec.own_cpus.items()
        if cpus
    }
    others = [ns for other, ns in times.items() if other != nid]
    return float(times.get(nid, 0)), fmean(others) if others else 0.0


def shares(placement: Iterable[dict[int, int]]) -> dict[int, float]:
    """The part of each node in what several runs placed."""
    whole: Counter[int] = Counter()
    for run in placement:
        whole.update(run)
    total = whole.total() or 1
    return {nid: pages / total for nid, pages in sorted(whole.items())}
