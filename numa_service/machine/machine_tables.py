"""What a machine file may say: its tables with the types, limits and defaults of their keys.

What one key says is checked here; what several say together, ``machinefile.py`` checks.
"""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import pairwise
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from numa_service.machine.latency import MAX_MB_PER_S, MODES, Curve, LatencyModel
from numa_service.machine.notation import (
    MAX_NUMNODES,
    MAX_PHYSMEM_BYTES,
    parse_address,
    parse_cpulist,
    parse_pages,
)
from numa_service.machine.spec import SpecError
from numa_service.machine.zones import PfnRange
from numa_service.mm.mmzone import PAGE_SIZE, ZONE_NAMES
from numa_service.mm.profile import DEFAULT_PROFILE, profile_named
from numa_service.mm.slab.cache import ALLOCATORS
from numa_service.mm.sparse import MEMORY_MODELS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


def format_range(span: PfnRange) -> str:
    """A range of pfns as the byte addresses that it was given by, for errors."""
    return f"{span[0] * PAGE_SIZE:#x}-{span[1] * PAGE_SIZE:#x}"


def _parse_range(value: object) -> PfnRange:
    if not isinstance(value, list) or len(value) != 2:
        raise SpecError('a range is a pair of byte addresses as ["0x100000000", "0x140000000"]')
    start, end = parse_address(value[0]), parse_address(value[1])
    if start >= end:
        raise SpecError(f"the range {format_range((start, end))} is empty")
    return start, end


def _one_of(what: str, known: list[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            raise SpecError(f"unknown {what} {value!r}: {', '.join(known)}")
        return value

    return AfterValidator(check)


def _check_profile(value: str) -> str:
    try:
        return profile_named(value).name
    except ValueError as error:
        raise SpecError(str(error)) from None


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise SpecError(f"{value!r} is not a name: up to 63 letters, digits, '.', '_' and '-'")
    return value


_Pages = Annotated[int, BeforeValidator(parse_pages)]
_Range = Annotated[tuple[int, int], BeforeValidator(_parse_range)]
_Cpus = Annotated[tuple[int, ...], BeforeValidator(parse_cpulist)]
_Nid = Annotated[int, Field(ge=0, lt=MAX_NUMNODES)]
_TABLE = ConfigDict(extra="forbid", strict=True, frozen=True)
_T = TypeVar("_T")
#: A list that is validated up to its first wrong element: a matrix may have a million of them.
_Some = Annotated[list[_T], Field(fail_fast=True)]


class NodeTable(BaseModel):
    """One ``[[node]]`` table; sizes are in pages, as its strings are parsed."""

    model_config = _TABLE

    id: _Nid | None = None
    cpus: _Cpus = ()
    memory: _Pages | None = None
    ranges: _Some[_Range] | None = None
    movable: _Pages = 0
    managed: _Pages | None = None
    generic_initiator: bool = False
    added: bool = False


def _parse_curve(points: list[tuple[float, float]]) -> Curve:
    if len(points) < 2 or points[0] != (0, 0) or points[-1][0] != 100:
        raise SpecError("a curve goes from [0, 0] to [100, …]: percent of the bandwidth, and ns added")
    for (left, low), (right, high) in pairwise(points):
        if right <= left:
            raise SpecError(f"percentages ascend: {right:g} comes after {left:g}")
        if high < low:
            raise SpecError(f"load makes nothing faster: {high:g} ns comes after {low:g} ns")
        if high > MAX_STEP_NS:
            raise SpecError(f"{high:g} ns is more than {MAX_STEP_NS}")
    return tuple(points)


#: Longest time of one step, in ns: a second. The cost of the longest request then fits 64 bits.
MAX_STEP_NS = 10**9
_Ns = Annotated[int, Field(ge=0, le=MAX_STEP_NS)]
_MbPerS = Annotated[int, Field(ge=0, le=MAX_MB_PER_S)]
#: Values by pairs of nodes, a row for each node; 0 is not given.
_NsMatrix = _Some[_Some[_Ns]]
_MbPerSMatrix = _Some[_Some[_MbPerS]]
_Finite = Annotated[float, Field(ge=0, le=MAX_STEP_NS, allow_inf_nan=False)]
_Point = Annotated[tuple[_Finite, _Finite], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]
_Curve = Annotated[_Some[_Point], AfterValidator(_parse_curve)]
#: Matrices of the values that an HMAT has; 0 is not given.
HMAT = ("read_ns", "write_ns", "read_mb_per_s", "write_mb_per_s")
#: Types of the keys of ``[latency]`` that are not an integer of ns.
_LATENCY_TYPES: dict[str, Any] = {
    "read_ns": _NsMatrix,
    "write_ns": _NsMatrix,
    "memory_mb_per_s": _Some[_MbPerS],
    "link_mb_per_s": _MbPerSMatrix,
    "read_mb_per_s": _MbPerSMatrix,
    "write_mb_per_s": _MbPerSMatrix,
    "memory_curve": _Some[str],
    "link_curve": _Some[_Some[str]],
    "curves": dict[str, _Curve],
    "window_ns": Annotated[int, Field(ge=1000, le=10**12)],
    "mode": Annotated[str, _one_of("mode", list(MODES))],
    "time_dilation": Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)],
}

_LATENCY_FIELDS: dict[str, Any] = {
    field.name: (_LATENCY_TYPES.get(field.name, _Ns) | None, None) for field in fields(LatencyModel)
}

#: ``[latency]``: the fields of LatencyModel. A dictionary by node or pair is a list or matrix, in node order.
LatencyTable: type[BaseModel] = create_model(
    "LatencyTable",
    __config__=_TABLE,
    **_LATENCY_FIELDS,
)


class MachineTable(BaseModel):
    """A whole machine file."""

    model_config = _TABLE

    name: Annotated[str, AfterValidator(_check_name)] | None = None
    arch: Annotated[str, _one_of("arch", list(ZONE_NAMES))] = "x86_64"
    profile: Annotated[str, AfterValidator(_check_profile)] = DEFAULT_PROFILE
    swap: Annotated[_Pages, Field(le=MAX_PHYSMEM_BYTES // PAGE_SIZE)] = 0
    cmdline: str = ""
    memory_model: Annotated[str, _one_of("memory model", list(MEMORY_MODELS))] | None = None
    counter_drift: bool = False
    slab: Annotated[str, _one_of("slab allocator", list(ALLOCATORS))] | None = None
    packages: _Some[_Cpus] = Field(default_factory=list)
    cores: _Some[_Cpus] = Field(default_factory=list)
    possible: _Cpus = ()
    node: Annotated[_Some[NodeTable], Field(min_length=1)]
    distances: _Some[_Some[int]] | None = None
    sysctl: dict[str, Any] = Field(default_factory=dict)
    latency: LatencyTable | None = None  # type: ignore[valid-type]  # made at run time, by create_model
