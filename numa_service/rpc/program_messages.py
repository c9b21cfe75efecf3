"""Converts the protobuf messages of WorkloadService: programs in, progress and results out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from numa_client import (
    Access,
    Distribution,
    EventLatency,
    EventResult,
    Mix,
    ObjectMix,
    Phase,
    PhaseResult,
    Policy,
    Program,
    ProgramLimits,
    ProgramProgress,
    ProgramRegion,
    ProgramResult,
    TaskMix,
    VmallocMix,
)
from numa_client._codec import POLICY_FLAGS, POLICY_MODES, REGION_KINDS
from numa_client._gen.numa.v1 import memory_service_pb2, types_pb2
from numa_client._gen.numa.v1 import workload_service_pb2 as pb2
from numa_client._program_codec import DISTRIBUTIONS, PATTERNS, UNITS

from numa_service.node.errors import InvalidRequest

W = TypeVar("W")

#: Largest program, in bytes of its message.
MAX_PROGRAM_BYTES = 64 << 10


def program(message: pb2.Program) -> Program:
    """Convert a program. InvalidRequest when it is too large, or an enum number is unknown.

    What the program says is checked later (``workload/plan.py``).
    """
    if message.ByteSize() > MAX_PROGRAM_BYTES:
        raise InvalidRequest("program", f"{message.ByteSize()} bytes: at most {MAX_PROGRAM_BYTES}")
    return Program(
        name=message.name,
        seed=message.seed,
        phases=tuple(_phase(m, f"phases[{i}]") for i, m in enumerate(message.phases)),
        regions=tuple(_region(m, f"regions[{i}]") for i, m in enumerate(message.regions)),
        limits=ProgramLimits(
            message.limits.max_live_pages,
            message.limits.max_events,
            message.limits.max_virtual_seconds,
            message.limits.max_real_seconds,
        ),
        stop_on_failure=message.stop_on_failure,
        keep=message.keep,
    )


def _phase(m: pb2.Phase, field: str) -> Phase:
    return Phase(
        name=m.name,
        seconds=m.seconds,
        events=m.events,
        memory=m.memory,
        rate=m.rate,
        batch=m.batch,
        mixes=tuple(_mix(mix, f"{field}.mixes[{i}]") for i, mix in enumerate(m.mixes)),
        accesses=tuple(_access(access, f"{field}.accesses[{i}]") for i, access in enumerate(m.accesses)),
        objects=tuple(_objects(mix, f"{field}.objects[{i}]") for i, mix in enumerate(m.objects)),
        vmallocs=tuple(_vmalloc(mix, f"{field}.vmallocs[{i}]") for i, mix in enumerate(m.vmallocs)),
        tasks=tuple(_task(mix, f"{field}.tasks[{i}]") for i, mix in enumerate(m.tasks)),
        each_node=m.each_node,
        release=m.release,
    )


def _mix(m: pb2.Mix, field: str) -> Mix:
    return Mix(
        name=m.name,
        order=m.order,
        gfp=m.gfp,
        policy=_policy(m.policy, f"{field}.policy") if m.HasField("policy") else None,
        weight=m.weight,
        lifetime=_distribution(m.lifetime, f"{field}.lifetime") if m.HasField("lifetime") else None,
        think=_distribution(m.think, f"{field}.think") if m.HasField("think") else None,
    )


def _access(m: pb2.Access, field: str) -> Access:
    return Access(
        region=m.region,
        name=m.name,
        pattern=_word(PATTERNS, m.pattern, f"{field}.pattern"),
        weight=m.weight,
        write=m.write,
        theta=m.theta,
        hot_pages=m.hot_pages,
        hot_accesses=m.hot_accesses,
        stride=m.stride,
        think=_distribution(m.think, f"{field}.think") if m.HasField("think") else None,
    )


def _objects(m: pb2.ObjectMix, field: str) -> ObjectMix:
    return ObjectMix(
        name=m.name,
        cache=m.cache,
        size=m.size,
        gfp=m.gfp,
        node=m.node if m.HasField("node") else -1,
        weight=m.weight,
        lifetime=_distribution(m.lifetime, f"{field}.lifetime") if m.HasField("lifetime") else None,
        think=_distribution(m.think, f"{field}.think") if m.HasField("think") else None,
    )


def _vmalloc(m: pb2.VmallocMix, field: str) -> VmallocMix:
    return VmallocMix(
        size=m.size,
        name=m.name,
        node=m.node if m.HasField("node") else -1,
        weight=m.weight,
        lifetime=_distribution(m.lifetime, f"{field}.lifetime") if m.HasField("lifetime") else None,
        think=_distribution(m.think, f"{field}.think") if m.HasField("think") else None,
    )


def _task(m: pb2.TaskMix, field: str) -> TaskMix:
    return TaskMix(
        pages=m.pages,
        name=m.name,
        policy=_policy(m.policy, f"{field}.policy") if m.HasField("policy") else None,
        accesses=m.accesses,
        pattern=_word(PATTERNS, m.pattern, f"{field}.pattern"),
        write=m.write,
        theta=m.theta,
        hot_pages=m.hot_pages,
        hot_accesses=m.hot_accesses,
        stride=m.stride,
        children=m.children,
        child_accesses=m.child_accesses,
        weight=m.weight,
        lifetime=_distribution(m.lifetime, f"{field}.lifetime") if m.HasField("lifetime") else None,
        think=_distribution(m.think, f"{field}.think") if m.HasField("think") else None,
    )


def _region(m: pb2.ProgramRegion, field: str) -> ProgramRegion:
    return ProgramRegion(
        name=m.name,
        kind=_word(REGION_KINDS, m.kind, f"{field}.kind"),
        pages=m.pages,
        memory=m.memory,
        policy=_policy(m.policy, f"{field}.policy") if m.HasField("policy") else None,
        tlb_page_kb=m.tlb_page_kb,
    )


def _distribution(m: pb2.Distribution, field: str) -> Distribution:
    return Distribution(
        kind=_word(DISTRIBUTIONS, m.kind, f"{field}.kind"),
        mean=m.mean,
        low=m.low,
        high=m.high,
        sigma=m.sigma,
        alpha=m.alpha,
        unit=_word(UNITS, m.unit, f"{field}.unit"),
    )


def _policy(m: types_pb2.Policy, field: str) -> Policy:
    mode = _word(POLICY_MODES, m.mode, f"{field}.mode")
    home_node = m.home_node if m.HasField("home_node") else None
    flag = _word(POLICY_FLAGS, m.flag, f"{field}.flag") if m.flag else None
    return Policy(mode, tuple(m.nodes), home_node, flag)


def _word(words: Mapping[W, int], number: int, field: str) -> W:
    """The word that an enum number stands for. InvalidRequest when it is 0 or unknown."""
    for word, known in words.items():
        if known == number:
            return word
    raise InvalidRequest(field, f"{number} is none" if number else "is not set")


def progress(p: ProgramProgress) -> pb2.RunProgramResponse:
    """Convert the progress of a running program."""
    return pb2.RunProgramResponse(
        progress=pb2.ProgramProgress(
            phase=p.phase,
            phases=p.phases,
            phase_name=p.phase_name,
            fraction=p.fraction,
            virtual_ns=p.virtual_ns,
            real_ns=p.real_ns,
            events=p.events,
            failures=p.failures,
            allocated_pages=p.allocated_pages,
            accessed_pages=p.accessed_pages,
            freed_pages=p.freed_pages,
            live_pages=p.live_pages,
        )
    )


def result(r: ProgramResult) -> pb2.RunProgramResponse:
    """Convert the result of a program."""
    return pb2.RunProgramResponse(
        result=pb2.ProgramResult(
            phases=[_phase_result(phase) for phase in r.phases],
            virtual_ns=r.virtual_ns,
            real_ns=r.real_ns,
            allocated_pages=r.allocated_pages,
            accessed_pages=r.accessed_pages,
            freed_pages=r.freed_pages,
            kept_pages=r.kept_pages,
            unfreed_pages=r.unfreed_pages,
        )
    )


def _phase_result(phase: PhaseResult) -> pb2.PhaseResult:
    return pb2.PhaseResult(
        name=phase.name,
        virtual_ns=phase.virtual_ns,
        real_ns=phase.real_ns,
        freed_pages=phase.freed_pages,
        mixes=map(_event_result, phase.mixes),
        accesses=map(_event_result, phase.accesses),
        objects=map(_event_result, phase.objects),
        vmallocs=map(_event_result, phase.vmallocs),
        tasks=map(_event_result, phase.tasks),
    )


def _event_result(kind: EventResult) -> pb2.EventResult:
    return pb2.EventResult(
        name=kind.name,
        events=kind.events,
        pages=kind.pages,
        failures=kind.failures,
        placement=[
            memory_service_pb2.NodeCount(node=nid, pages=pages) for nid, pages in kind.placement.items()
        ],
        latency=_latency(kind.latency),
        remote_lookups=kind.remote_lookups,
        direct_reclaimed_pages=kind.direct_reclaimed_pages,
        hit_pages=kind.hit_pages,
        fault_pages=kind.fault_pages,
        major_fault_pages=kind.major_fault_pages,
    )


def _latency(latency: EventLatency) -> pb2.EventLatency:
    return pb2.EventLatency(
        mean_ns=latency.mean_ns,
        p50_ns=latency.p50_ns,
        p90_ns=latency.p90_ns,
        p99_ns=latency.p99_ns,
        max_ns=latency.max_ns,
    )
