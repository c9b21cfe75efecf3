"""Protobuf messages of WorkloadService, as the service reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from numa_client import (
    Access,
    Distribution,
    Mix,
    Phase,
    Policy,
    Program,
    ProgramLimits,
    ProgramProgress,
    ProgramRegion,
)
from numa_client._codec import POLICY_MODES, REGION_KINDS
from numa_client._gen.numa.v1 import memory_service_pb2, types_pb2
from numa_client._gen.numa.v1 import workload_service_pb2 as pb2
from numa_client._program_codec import DISTRIBUTIONS, PATTERNS, UNITS

from numa_service.node.errors import InvalidRequest
from numa_service.workload.tally import LatencyHistogram, PhaseTally, Result, Tally

W = TypeVar("W")

#: Bytes of a whole program.
MAX_PROGRAM_BYTES = 64 << 10


def program(message: pb2.Program) -> Program:
    """A program; InvalidRequest for its size, and for numbers that name nothing."""
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
        think=_distribution(m.think, f"{field}.think") if m.HasField("think") else None,
    )


def _region(m: pb2.ProgramRegion, field: str) -> ProgramRegion:
    return ProgramRegion(
        name=m.name,
        kind=_word(REGION_KINDS, m.kind, f"{field}.kind"),
        pages=m.pages,
        memory=m.memory,
        policy=_policy(m.policy, f"{field}.policy") if m.HasField("policy") else None,
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
    return Policy(_word(POLICY_MODES, m.mode, f"{field}.mode"), tuple(m.nodes))


def _word(words: Mapping[W, int], number: int, field: str) -> W:
    """The word that a number on the wire stands for."""
    for word, known in words.items():
        if known == number:
            return word
    raise InvalidRequest(field, f"{number} is none" if number else "is not set")


def progress(p: ProgramProgress) -> pb2.RunProgramResponse:
    """Where a program stands."""
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


def result(r: Result) -> pb2.RunProgramResponse:
    """What a program did."""
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


def _phase_result(phase: PhaseTally) -> pb2.PhaseResult:
    return pb2.PhaseResult(
        name=phase.name,
        virtual_ns=phase.virtual_ns,
        real_ns=phase.real_ns,
        freed_pages=phase.freed_pages,
        mixes=[_event_result(kind) for kind in phase.kinds if kind.is_mix],
        accesses=[_event_result(kind) for kind in phase.kinds if not kind.is_mix],
    )


def _event_result(tally: Tally) -> pb2.EventResult:
    return pb2.EventResult(
        name=tally.name,
        events=tally.events,
        pages=tally.pages,
        failures=tally.failures,
        placement=[
            memory_service_pb2.NodeCount(node=nid, pages=pages)
            for nid, pages in sorted(tally.pages_by_node.items())
            if pages
        ],
        latency=_latency(tally.latency),
        remote_lookups=tally.remote_lookups,
        direct_reclaimed_pages=tally.direct_reclaimed,
        hit_pages=tally.hits,
        fault_pages=tally.faults,
        major_fault_pages=tally.major_faults,
    )


def _latency(histogram: LatencyHistogram) -> pb2.EventLatency:
    p50, p90, p99, most = (histogram.percentile_ns(percent) for percent in (50, 90, 99, 100))
    return pb2.EventLatency(mean_ns=histogram.mean_ns, p50_ns=p50, p90_ns=p90, p99_ns=p99, max_ns=most)
