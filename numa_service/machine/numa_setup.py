"""What the command line does to nodes and zones: ``numa=off``, ``numa=fake=``, ``kernelcore=``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from numa_service.machine.cmdline import BootParameters
from numa_service.machine.latency import LatencyModel
from numa_service.machine.numa_emulation import Fake, numa_emulation
from numa_service.machine.spec import MachineSpec, NodeSpec, SpecError
from numa_service.machine.zones import (
    count_pages,
    find_zone_movable_pfns_for_nodes,
    layout_zones,
    merge,
    movable_zone,
)


def with_parameters(spec: MachineSpec, parameters: BootParameters) -> MachineSpec:
    """The machine as a kernel with these boot parameters has it; SpecError, naming the parameter."""
    if parameters.numa_off:
        spec = _dummy_numa_init(spec)
    if parameters.fake_nodes:
        spec = _emulated(spec, parameters.fake_nodes)
    if parameters.moves:
        spec = _with_movable(spec, parameters)
    return spec


def _dummy_numa_init(spec: MachineSpec) -> MachineSpec:
    """Apply numa=off: node 0 has all memory and all CPUs, and there are no distances (dummy_numa_init).

    The hardware stays what it is: the time of an access is the mean over CPUs and memory.
    """
    ram = merge(span for node in spec.nodes for span in node.ram)
    told = [node.managed for node in spec.nodes if node.ram]
    managed = [pages for pages in told if pages is not None]
    node = NodeSpec(
        0,
        spec.cpus,
        layout_zones(spec.arch, ram),
        ram,
        managed=sum(managed) if len(managed) == len(told) else None,
        generic_initiator=any(node.generic_initiator for node in spec.nodes),
    )
    packages = spec.packages or tuple(own for own in spec.own_cpus.values() if own)
    return replace(spec, nodes=(node,), distances=((10,),), latency=_mean_latency(spec), packages=packages)


def _mean_latency(spec: MachineSpec) -> LatencyModel:
    """Times of a machine whose memory is used as if it were one: means over its CPUs and its memory."""
    model = spec.latency
    weights = {
        (a.nid, b.nid): len(a.cpus) * count_pages(b.ram)
        for a in spec.nodes
        for b in spec.nodes
        if a.cpus and b.ram
    }
    total = sum(weights.values())

    def mean(values: Mapping[tuple[int, int], int]) -> dict[tuple[int, int], int]:
        each = {at: values.get(at) or model.read_latency_ns(*at, spec.distance(*at)) for at in weights}
        return {(0, 0): sum(each[at] * weight for at, weight in weights.items()) // total}

    bandwidths = [model.memory_bandwidth(node.nid) for node in spec.nodes if node.ram]
    return replace(
        model,
        read_ns=mean(model.read_ns),
        write_ns=mean(model.write_ns) if model.write_ns else {},
        read_mb_per_s={},
        write_mb_per_s={},
        memory_mb_per_s={0: sum(bandwidths) if all(bandwidths) else 0},
        link_mb_per_s={},
        memory_curve={},
        link_curve={},
    )


def _emulated(spec: MachineSpec, wanted: Fake) -> MachineSpec:
    """Apply numa=fake=: a fake node has the CPUs, distances and latencies of the node it is cut from."""
    try:
        fakes = numa_emulation(
            {node.nid: node.ram for node in spec.nodes},
            {node.nid: node.cpus for node in spec.nodes},
            wanted,
        )
    except SpecError as error:
        raise SpecError(f"numa: {error}") from None
    shares = Counter(fake.phys_nid for fake in fakes)
    model = spec.latency
    pairs = [(a, b, (a.phys_nid, b.phys_nid)) for a in fakes for b in fakes]

    def cut(values: Mapping[tuple[int, int], int]) -> dict[tuple[int, int], int]:
        return {(a.nid, b.nid): values[at] for a, b, at in pairs if at in values}

    latency = replace(
        model,
        read_ns=cut(model.read_ns),
        write_ns=cut(model.write_ns),
        read_mb_per_s=cut(model.read_mb_per_s),
        write_mb_per_s=cut(model.write_mb_per_s),
        # fake nodes of one real node share its bandwidth, and there is no link between them
        memory_mb_per_s={
            fake.nid: model.memory_bandwidth(fake.phys_nid) // shares[fake.phys_nid] for fake in fakes
        },
        link_mb_per_s={(a.nid, b.nid): model.link_bandwidth(*at) for a, b, at in pairs if a != b},
        memory_curve={
            fake.nid: model.memory_curve[fake.phys_nid]
            for fake in fakes
            if fake.phys_nid in model.memory_curve
        },
        link_curve={(a.nid, b.nid): model.link_curve[at] for a, b, at in pairs if at in model.link_curve},
    )
    return replace(
        spec,
        nodes=tuple(
            NodeSpec(fake.nid, fake.cpus, layout_zones(spec.arch, fake.ram), fake.ram) for fake in fakes
        ),
        distances=tuple(tuple(spec.distance(a.phys_nid, b.phys_nid) for b in fakes) for a in fakes),
        latency=latency,
    )


def _with_movable(spec: MachineSpec, parameters: BootParameters) -> MachineSpec:
    """Apply kernelcore= and movablecore=: nodes get a ZONE_MOVABLE of what the kernel leaves them."""
    ram = {node.nid: node.ram for node in spec.nodes}
    _, lowest = movable_zone(spec.arch, merge(span for ranges in ram.values() for span in ranges))
    total = sum(map(count_pages, ram.values()))
    starts = find_zone_movable_pfns_for_nodes(
        ram, parameters.kernelcore.of(total), parameters.movablecore.of(total), lowest
    )
    return replace(
        spec,
        nodes=tuple(
            replace(node, zones=layout_zones(spec.arch, node.ram, starts.get(node.nid), lowest))
            for node in spec.nodes
        ),
    )
