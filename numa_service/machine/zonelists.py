"""The topology that a machine's zonelists are built from, and the lines of the boot log on zonelists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from numa_service.machine.spec import MachineSpec
from numa_service.mm.mmzone import ZONE_NAMES, zone_index
from numa_service.mm.profile import Profile
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.mm.variants import ORDER_NODES
from numa_service.mm.zonelist import Topology, Zonelists, policy_zone

#: Indexes of the populated zones, ascending, by nid. A node that is missing is off-line.
Populated = dict[int, tuple[int, ...]]


def populated_zones(spec: MachineSpec) -> Populated:
    """Indexes of the zones with present pages (populated_zone), by nid, with all nodes on-line."""
    return {
        node.nid: tuple(zone_index(spec.arch, zone.name) for zone in node.zones if zone.present)
        for node in spec.nodes
    }


def topology_of(
    spec: MachineSpec, populated: Mapping[int, Sequence[int]], has_cpus: Mapping[int, bool]
) -> Topology:
    """The topology for mm/zonelist.py with these zones populated, on the nodes that are on-line.

    KeyError for a node that the machine does not have.
    """
    present = {
        (node.nid, zone_index(spec.arch, zone.name)): zone.present
        for node in spec.nodes
        for zone in node.zones
    }
    nids = tuple(sorted(populated))
    for nid in nids:
        spec.node(nid)
    return Topology(
        nids=nids,
        populated={nid: tuple(populated[nid]) for nid in nids},
        has_cpus={nid: has_cpus.get(nid, False) for nid in nids},
        distance=spec.distance,
        present=present,
        normal_zone=zone_index(spec.arch, "Normal"),
        is_64bit=spec.arch != "i386",
    )


def has_numa(machine: MachineSpec | MachineSnapshot) -> bool:
    """Whether the kernel has CONFIG_NUMA: on x86-64 always, on i386 only with more than one node."""
    return machine.arch != "i386" or len(machine.nodes) > 1


def fallback_order_lines(
    spec: MachineSpec, profile: Profile, lists: Mapping[int, Zonelists]
) -> Iterator[str]:
    """The lines "Fallback order for Node …", in kernels that print them."""
    if has_numa(spec) and profile.prints_fallback_order:
        for nid, zonelists in lists.items():
            yield f"Fallback order for Node {nid}: {''.join(f'{other} ' for other in zonelists.node_order)}"


def verify_zonelist_lines(
    spec: MachineSpec, topology: Topology, lists: Mapping[int, Zonelists]
) -> Iterator[str]:
    """The lines on both lists of every populated zone (mminit_verify_zonelist, at mminit_loglevel=4)."""
    names = ZONE_NAMES[spec.arch]
    for nid, zonelists in lists.items():
        kinds = [("general", zonelists.fallback), ("thisnode", zonelists.thisnode)]
        for label, refs in kinds if has_numa(spec) else kinds[:1]:
            for zone in topology.populated[nid]:
                row = "".join(f"{ref.node}:{names[ref.zone_idx]} " for ref in refs if ref.zone_idx <= zone)
                yield f"mminit::zonelist {label} {nid}:{names[zone]} = {row}"


def built_lines(
    spec: MachineSpec,
    profile: Profile,
    topology: Topology,
    lists: Mapping[int, Zonelists],
    mobility_disabled: bool,
    total_pages: int,
) -> Iterator[str]:
    """The line "Built … zonelists" and, with NUMA, the one on the policy zone."""
    order = ""
    if profile.zone_order != ORDER_NODES:
        # without NUMA the order is never set, and is printed as zone order
        name = next(iter(lists.values())).order if has_numa(spec) else "zone"
        order = f" in {name.capitalize()} order"
    grouping = "off" if mobility_disabled else "on"
    yield f"Built {len(lists)} zonelists{order}, mobility grouping {grouping}.  Total pages: {total_pages}"
    if has_numa(spec):
        names = ZONE_NAMES[spec.arch]
        yield f"Policy zone: {names[policy_zone(topology, names.index('Movable'))]}"
