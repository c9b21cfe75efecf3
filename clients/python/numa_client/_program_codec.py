"""Converts programs to messages, and the messages about their progress and results back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from numa_client import _codec as codec
from numa_client import _program as p
from numa_client import _types as t
from numa_client._errors import InvalidRequest
from numa_client._gen.numa.v1 import workload_service_pb2 as pb2
from numa_client._program_result import EventLatency, EventResult, PhaseResult, ProgramProgress, ProgramResult

M = TypeVar("M")
N = TypeVar("N")
W = TypeVar("W", bound=str)

#: Words in a program → their numbers on the wire.
PATTERNS: dict[p.AccessPattern, pb2.AccessPattern] = {
    "sequential": pb2.ACCESS_PATTERN_SEQUENTIAL,
    "uniform": pb2.ACCESS_PATTERN_UNIFORM,
    "zipf": pb2.ACCESS_PATTERN_ZIPF,
    "hot-set": pb2.ACCESS_PATTERN_HOT_SET,
    "stride": pb2.ACCESS_PATTERN_STRIDE,
    "pointer-chase": pb2.ACCESS_PATTERN_POINTER_CHASE,
}
DISTRIBUTIONS: dict[p.DistributionKind, pb2.DistributionKind] = {
    "fixed": pb2.DISTRIBUTION_KIND_FIXED,
    "uniform": pb2.DISTRIBUTION_KIND_UNIFORM,
    "exponential": pb2.DISTRIBUTION_KIND_EXPONENTIAL,
    "lognormal": pb2.DISTRIBUTION_KIND_LOGNORMAL,
    "pareto": pb2.DISTRIBUTION_KIND_PARETO,
    "forever": pb2.DISTRIBUTION_KIND_FOREVER,
}
UNITS: dict[p.LifetimeUnit, pb2.LifetimeUnit] = {
    "seconds": pb2.LIFETIME_UNIT_UNSPECIFIED,
    "memory": pb2.LIFETIME_UNIT_MEMORY,
}


def run_request(
    session: t.SessionInfo, request_id: str, program: p.Program | str | Path, cpu: int
) -> pb2.RunProgramRequest:
    """The RunProgram request for a program, the name of one in the library, or the path of a TOML file."""
    if not isinstance(program, p.Program):
        program = p.Program.load(program)
    return pb2.RunProgramRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        cpu=cpu,
        program=_program(program),
    )


def _program(program: p.Program) -> pb2.Program:
    limits = program.limits
    return _made(
        pb2.Program,
        "program",
        name=program.name,
        seed=program.seed,
        phases=[_phase(phase, f"phases[{i}]") for i, phase in enumerate(program.phases)],
        regions=[
            _made(
                pb2.ProgramRegion,
                f"regions[{i}]",
                name=region.name,
                kind=_enum(codec.REGION_KINDS, region.kind, f"regions[{i}].kind"),
                pages=region.pages,
                memory=region.memory,
                policy=codec.policy_message(region.policy),
                tlb_page_kb=region.tlb_page_kb,
            )
            for i, region in enumerate(program.regions)
        ],
        limits=_made(
            pb2.ProgramLimits,
            "limits",
            max_live_pages=limits.max_live_pages,
            max_events=limits.max_events,
            max_virtual_seconds=limits.max_virtual_seconds,
            max_real_seconds=limits.max_real_seconds,
        ),
        stop_on_failure=program.stop_on_failure,
        keep=program.keep,
    )


def _phase(phase: p.Phase, path: str) -> pb2.Phase:
    return _made(
        pb2.Phase,
        path,
        name=phase.name,
        seconds=phase.seconds,
        events=phase.events,
        memory=phase.memory,
        rate=phase.rate,
        batch=phase.batch,
        mixes=[_mix(mix, f"{path}.mixes[{i}]") for i, mix in enumerate(phase.mixes)],
        accesses=[_access(access, f"{path}.accesses[{i}]") for i, access in enumerate(phase.accesses)],
        objects=[_objects(mix, f"{path}.objects[{i}]") for i, mix in enumerate(phase.objects)],
        vmallocs=[_vmalloc(mix, f"{path}.vmallocs[{i}]") for i, mix in enumerate(phase.vmallocs)],
        tasks=[_task(mix, f"{path}.tasks[{i}]") for i, mix in enumerate(phase.tasks)],
        each_node=phase.each_node,
        release=phase.release,
    )


def _mix(mix: p.Mix, path: str) -> pb2.Mix:
    return _made(
        pb2.Mix,
        path,
        name=mix.name,
        order=mix.order,
        gfp=mix.gfp,
        policy=codec.policy_message(mix.policy),
        weight=mix.weight,
        lifetime=_distribution(mix.lifetime, f"{path}.lifetime"),
        think=_distribution(mix.think, f"{path}.think"),
    )


def _access(access: p.Access, path: str) -> pb2.Access:
    return _made(
        pb2.Access,
        path,
        name=access.name,
        region=access.region,
        pattern=_enum(PATTERNS, access.pattern, f"{path}.pattern"),
        weight=access.weight,
        write=access.write,
        theta=access.theta,
        hot_pages=access.hot_pages,
        hot_accesses=access.hot_accesses,
        stride=access.stride,
        think=_distribution(access.think, f"{path}.think"),
    )


def _objects(mix: p.ObjectMix, path: str) -> pb2.ObjectMix:
    return _made(
        pb2.ObjectMix,
        path,
        name=mix.name,
        cache=mix.cache,
        size=mix.size,
        gfp=mix.gfp,
        node=None if mix.node == -1 else mix.node,
        weight=mix.weight,
        lifetime=_distribution(mix.lifetime, f"{path}.lifetime"),
        think=_distribution(mix.think, f"{path}.think"),
    )


def _vmalloc(mix: p.VmallocMix, path: str) -> pb2.VmallocMix:
    return _made(
        pb2.VmallocMix,
        path,
        name=mix.name,
        size=mix.size,
        node=None if mix.node == -1 else mix.node,
        weight=mix.weight,
        lifetime=_distribution(mix.lifetime, f"{path}.lifetime"),
        think=_distribution(mix.think, f"{path}.think"),
    )


def _task(mix: p.TaskMix, path: str) -> pb2.TaskMix:
    return _made(
        pb2.TaskMix,
        path,
        name=mix.name,
        pages=mix.pages,
        policy=codec.policy_message(mix.policy),
        accesses=mix.accesses,
        pattern=_enum(PATTERNS, mix.pattern, f"{path}.pattern"),
        write=mix.write,
        theta=mix.theta,
        hot_pages=mix.hot_pages,
        hot_accesses=mix.hot_accesses,
        stride=mix.stride,
        children=mix.children,
        child_accesses=mix.child_accesses,
        weight=mix.weight,
        lifetime=_distribution(mix.lifetime, f"{path}.lifetime"),
        think=_distribution(mix.think, f"{path}.think"),
    )


def _distribution(d: p.Distribution | None, path: str) -> pb2.Distribution | None:
    if d is None:
        return None
    return _made(
        pb2.Distribution,
        path,
        kind=_enum(DISTRIBUTIONS, d.kind, f"{path}.kind"),
        mean=d.mean,
        low=d.low,
        high=d.high,
        sigma=d.sigma,
        alpha=d.alpha,
        unit=_enum(UNITS, d.unit, f"{path}.unit"),
    )


def _enum(names: Mapping[W, N], name: W, path: str) -> N:
    if name not in names:
        raise InvalidRequest(f"{path}: {name!r} is none of {', '.join(names)}", field=path)
    return names[name]


def _made(cls: type[M], path: str, **values: Any) -> M:
    """Make a message. InvalidRequest for a number that its field cannot carry."""
    message = cls()
    for name, value in values.items():
        try:
            if isinstance(value, list):
                getattr(message, name).extend(value)
            elif hasattr(value, "DESCRIPTOR"):
                getattr(message, name).CopyFrom(value)
            elif value is not None:
                setattr(message, name, value)
        except (TypeError, ValueError) as error:
            at = name if path == "program" else f"{path}.{name}"
            raise InvalidRequest(f"{at}: {error}", field=at) from None
    return message


def report(message: pb2.RunProgramResponse) -> ProgramProgress | ProgramResult:
    """Convert the next message of a RunProgram stream."""
    if message.WhichOneof("report") == "progress":
        m = message.progress
        return ProgramProgress(
            m.phase,
            m.phases,
            m.phase_name,
            m.fraction,
            m.virtual_ns,
            m.real_ns,
            m.events,
            m.failures,
            m.allocated_pages,
            m.accessed_pages,
            m.freed_pages,
            m.live_pages,
        )
    r = message.result
    return ProgramResult(
        tuple(
            PhaseResult(
                phase.name,
                phase.virtual_ns,
                phase.real_ns,
                phase.freed_pages,
                tuple(map(_event_result, phase.mixes)),
                tuple(map(_event_result, phase.accesses)),
                tuple(map(_event_result, phase.objects)),
                tuple(map(_event_result, phase.vmallocs)),
                tuple(map(_event_result, phase.tasks)),
            )
            for phase in r.phases
        ),
        r.virtual_ns,
        r.real_ns,
        r.allocated_pages,
        r.accessed_pages,
        r.freed_pages,
        r.kept_pages,
        r.unfreed_pages,
    )


def _event_result(m: pb2.EventResult) -> EventResult:
    latency = m.latency
    return EventResult(
        name=m.name,
        events=m.events,
        pages=m.pages,
        failures=m.failures,
        placement={count.node: count.pages for count in m.placement},
        latency=EventLatency(latency.mean_ns, latency.p50_ns, latency.p90_ns, latency.p99_ns, latency.max_ns),
        remote_lookups=m.remote_lookups,
        direct_reclaimed_pages=m.direct_reclaimed_pages,
        hit_pages=m.hit_pages,
        fault_pages=m.fault_pages,
        major_fault_pages=m.major_fault_pages,
    )
