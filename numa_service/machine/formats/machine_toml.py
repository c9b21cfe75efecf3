"""Writes a draft as a machine file, and makes the machine that the file describes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

from numa_service.machine.captured_occupancy import share_free
from numa_service.machine.formats.draft import Draft, DraftNode, machine_name, printable
from numa_service.machine.latency import Curve, LatencyModel
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.notation import format_cpulist, format_size
from numa_service.machine.occupancy import ZoneOccupancy
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.machine.zones import PfnRange
from numa_service.mm.mmzone import PAGE_SIZE
from numa_service.mm.profile import profile_named
from numa_service.mm.sparse import default_memory_model

#: Most nodes for which a distance matrix of defaults is written, so that people can change it.
_MATRIX_TO_READ = 64
#: Matrices of the values that an HMAT has; 0 is not given.
_HMAT = ("read_ns", "write_ns", "read_mb_per_s", "write_mb_per_s")
_BY_NODE = {*_HMAT, "memory_mb_per_s", "link_mb_per_s", "memory_curve", "link_curve", "curves"}


def to_toml(draft: Draft, origin: str = "") -> str:
    """The machine file of a checked draft; notes become comments. `origin`, if given, is its first line."""
    lines = [f"# {printable(origin)}"] if origin else []
    lines += [f"# note: {note}" for note in draft.notes]
    lines.append(f"name = {_string(machine_name(draft.name))}")
    lines += _settings(draft)
    nids = [node.nid for node in draft.nodes]
    if len(nids) > 1 and (draft.has_distances or len(nids) <= _MATRIX_TO_READ):
        lines.append("distances = [")
        lines += [f"    [{', '.join(str(draft.distance(a, b)) for b in nids)}]," for a in nids]
        lines.append("]")
    sized = all(node.ranges is None for node in draft.nodes)
    for node in draft.nodes:
        lines += ["", "[[node]]", *_node(node, sized)]
    if draft.sysctls:
        lines += ["", "[sysctl]"]
        lines += [f"{_string(name)} = {_string(value)}" for name, value in sorted(draft.sysctls.items())]
    latency = list(_latency(draft, nids))
    if latency:
        lines += ["", "[latency]", *latency]
    return "\n".join(lines) + "\n"


def to_spec(draft: Draft, source: str) -> MachineSpec:
    """The machine of a checked draft; SpecError, naming `source`, if the machine file is not valid."""
    try:
        spec = parse_machine(to_toml(draft), source="machine file", default_name=draft.name)
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from None
    notes = list(draft.notes)
    occupancy = draft.occupancy
    if draft.free:
        occupancy = _occupancy(draft, spec)
        notes.append(
            "free memory is told by node only: high zones were taken to be used first, and free blocks to be "
            "as large as possible"
        )
    return replace(spec, source=source, notes=tuple(notes), occupancy=occupancy)


def _occupancy(draft: Draft, spec: MachineSpec) -> tuple[ZoneOccupancy, ...]:
    from numa_service.machine.boot import start_kernel  # it imports Numba, which is slow

    return share_free(draft.free, start_kernel(spec, []).managed, draft.held)


def _settings(draft: Draft) -> Iterable[str]:
    if draft.arch != "x86_64":
        yield f"arch = {_string(draft.arch)}"
    yield f"profile = {_string(draft.profile)}"
    if draft.swap_pages:
        yield f"swap = {_string(format_size(draft.swap_pages * PAGE_SIZE))}"
    if draft.cmdline:
        yield f"cmdline = {_string(draft.cmdline)}"
    if draft.memory_model not in (None, default_memory_model(draft.arch, len(draft.nodes))):
        yield f"memory_model = {_string(draft.memory_model or '')}"
    if draft.possible:
        yield f"possible = {_string(format_cpulist(draft.possible))}"
    if draft.counter_drift:
        yield "counter_drift = true"
    if draft.slab not in (None, profile_named(draft.profile).slab_allocators[0]):
        yield f"slab = {_string(draft.slab or '')}"
    for name, groups in (("packages", draft.packages), ("cores", draft.cores)):
        if groups:
            yield f"{name} = [{', '.join(_string(format_cpulist(group)) for group in groups)}]"


def _node(node: DraftNode, sized: bool) -> Iterable[str]:
    yield f"id = {node.nid}"
    if node.cpus:
        yield f"cpus = {_string(format_cpulist(node.cpus))}"
    if node.ranges:
        yield f"ranges = [{', '.join(map(_range, node.ranges))}]"
    else:
        yield f"memory = {_string(format_size(node.memory if sized else 0))}"
    if node.movable:
        yield f"movable = {_string(format_size(node.movable * PAGE_SIZE))}"
    if node.managed is not None:
        yield f"managed = {_string(format_size(node.managed))}"
    if node.added:
        yield "added = true"
    if node.generic_initiator:
        yield "generic_initiator = true"


def _latency(draft: Draft, nids: list[int]) -> Iterable[str]:
    model, plain = draft.latency, LatencyModel()
    for item in fields(LatencyModel):
        value = getattr(model, item.name)
        if item.name not in _BY_NODE and value != getattr(plain, item.name):
            yield f"{item.name} = {_string(value) if isinstance(value, str) else value}"
    for name in _HMAT:
        if pairs := getattr(model, name):
            yield from _matrix(name, [[pairs.get((a, b), 0) for b in nids] for a in nids])
    if model.memory_mb_per_s:
        yield f"memory_mb_per_s = {[model.memory_bandwidth(nid) for nid in nids]}"
    if model.link_mb_per_s:
        yield from _matrix("link_mb_per_s", [[model.link_bandwidth(a, b) for b in nids] for a in nids])
    if model.memory_curve:
        yield f"memory_curve = [{', '.join(_string(model.memory_curve.get(nid, '')) for nid in nids)}]"
    if model.link_curve:
        yield "link_curve = ["
        for a in nids:
            yield f"    [{', '.join(_string(model.link_curve.get((a, b), '')) for b in nids)}],"
        yield "]"
    if model.curves:
        curves = (f"{_string(name)} = {_curve(curve)}" for name, curve in model.curves.items())
        yield f"curves = {{ {', '.join(curves)} }}"


def _curve(curve: Curve) -> str:
    return str([[float(percent), float(ns)] for percent, ns in curve])


def _matrix(name: str, rows: list[list[int]]) -> Iterable[str]:
    yield f"{name} = ["
    yield from (f"    {row}," for row in rows)
    yield "]"


def _range(span: PfnRange) -> str:
    return f'["{span[0] * PAGE_SIZE:#x}", "{span[1] * PAGE_SIZE:#x}"]'


def _string(text: str) -> str:
    """A text as a basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').encode("utf-8", "replace").decode("utf-8")
    escaped = escaped.replace("\t", "\\t")
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
