"""Zonelists: where a node's allocations go when its own zones are low (``build_all_zonelists``).

The functions are named and nested as the kernel's: ``build_all_zonelists`` → ``__build_all_zonelists`` →
``build_zonelists`` → ``build_zonelists_node``, which fills the zonerefs of one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from numa_service.mm.profile import Profile

#: CONFIG_NODES_SHIFT=10 as distributions build it: the factor by which a distance outweighs any node_load.
MAX_NUMNODES = 1 << 10
PENALTY_FOR_NODE_WITH_CPUS = 1
#: Beyond this distance 3.0 would rather reclaim than go to another node, and turns zone_reclaim_mode on.
RECLAIM_DISTANCE = 30

#: current_zonelist_order, spelled as the sysctl vm.numa_zonelist_order reads.
ORDER_DEFAULT = "default"
ORDER_NODE = "node"
ORDER_ZONE = "zone"


class Zoneref(NamedTuple):
    """One entry of a zonelist (``struct zoneref``): a zone is a node and an index in its node_zones."""

    nid: int
    zone: int

    @property
    def zone_idx(self) -> int:
        """zonelist_zone_idx()."""
        return self.zone

    @property
    def node(self) -> int:
        """zonelist_node_idx()."""
        return self.nid


@dataclass(frozen=True, slots=True)
class Topology:
    """What zonelists are built from."""

    #: On-line nodes in ascending order (``for_each_online_node``).
    nids: tuple[int, ...]
    #: Indexes of the populated zones (present_pages != 0), by node.
    populated: Mapping[int, tuple[int, ...]]
    #: Nodes whose CPUs are on-line when the lists are built (N_CPU): none yet at boot.
    has_cpus: Mapping[int, bool]
    distance: Callable[[int, int], int]
    #: Present pages by (nid, zone index): what 3.0 chooses its order by.
    present: Mapping[tuple[int, int], int] = field(default_factory=dict)
    #: Index of ZONE_NORMAL; zones below it are what 3.0 calls low memory when it chooses.
    normal_zone: int = 2

    def has_memory(self, nid: int) -> bool:
        """N_MEMORY."""
        return bool(self.populated[nid])


@dataclass(frozen=True, slots=True)
class Zonelists:
    """node_zonelists of one node."""

    nid: int
    #: Nodes in the order in which they are tried.
    node_order: tuple[int, ...]
    #: ZONELIST_FALLBACK
    fallback: tuple[Zoneref, ...]
    #: ZONELIST_NOFALLBACK: __GFP_THISNODE
    thisnode: tuple[Zoneref, ...]
    #: "node": all zones of a node, then the next node; "zone": a zone type of all nodes, then the next lower.
    order: str = ORDER_NODE


# choosing the order (3.0)


def has_zone_order(profile: Profile) -> bool:
    """Whether that kernel knows zone order: of the profiles, the one with the old node_load rule."""
    return profile.node_load == "remaining"


def default_zonelist_order(topology: Topology) -> str:
    """What 3.0 chooses when nobody asked for an order.

    Zone order spares small DMA zones; node order keeps allocations near. Node order is chosen when a node has
    low memory only, when there is no low memory or it is more than half of all, and when it is more than 70 %
    of a node that is not a small one.
    """
    low: dict[int, int] = {}
    total: dict[int, int] = {}
    for nid in topology.nids:
        if topology.normal_zone not in topology.populated[nid]:
            return ORDER_NODE
        pages = {zone: topology.present.get((nid, zone), 0) for zone in topology.populated[nid]}
        total[nid] = sum(pages.values())
        low[nid] = sum(count for zone, count in pages.items() if zone < topology.normal_zone)
    all_low, everything = sum(low.values()), sum(total.values())
    if not all_low or all_low > everything // 2:
        return ORDER_NODE
    average = everything // (sum(map(topology.has_memory, topology.nids)) + 1)
    for nid in topology.nids:
        if low[nid] and total[nid] > average and low[nid] > total[nid] * 70 // 100:
            return ORDER_NODE
    return ORDER_ZONE


def set_zonelist_order(topology: Topology, profile: Profile, user_order: str = ORDER_DEFAULT) -> str:
    """Order in force (current_zonelist_order): "node" or "zone". Later kernels have node order only."""
    if not has_zone_order(profile):
        return ORDER_NODE
    return default_zonelist_order(topology) if user_order == ORDER_DEFAULT else user_order


# the order of nodes


def find_next_best_node(
    topology: Topology, profile: Profile, local: int, node_load: Mapping[int, int]
) -> Iterator[int]:
    """The nodes with memory, nearest first, as the kernel's function of that name gives them one by one.

    Among equals the one that fewer earlier lists begin with, then the lower number; a node with CPUs is
    a little farther than one without, and nodes before the local one a little farther than those behind it.
    """
    if profile.memoryless_local_first or topology.has_memory(local):
        yield local
    # 3.0 multiplies by MAX_NODE_LOAD (the number of online nodes) as well: its loads are larger
    unit = MAX_NUMNODES * (len(topology.nids) if profile.node_load == "remaining" else 1)

    def score(nid: int) -> int:
        distance = topology.distance(local, nid) + (nid < local)
        return (distance + topology.has_cpus[nid] * PENALTY_FOR_NODE_WITH_CPUS) * unit + node_load[nid]

    # a list adds to the load of nodes that it has already: one sort does what a search for each would
    yield from sorted((nid for nid in topology.nids if nid != local and topology.has_memory(nid)), key=score)


def _node_order(
    topology: Topology, profile: Profile, local: int, node_load: dict[int, int]
) -> tuple[int, ...]:
    order: list[int] = []
    previous = local
    load = len(topology.nids)
    for nid in find_next_best_node(topology, profile, local, node_load):
        if topology.distance(local, nid) != topology.distance(local, previous):
            if profile.node_load == "remaining":
                node_load[nid] = load
            else:
                node_load[nid] += 1
        order.append(nid)
        previous = nid
        load -= 1
    return tuple(order)


# the lists


def build_zonelists_node(populated: Sequence[int], nid: int) -> tuple[Zoneref, ...]:
    """Zonerefs of one node, highest zone first (build_zonerefs_node since 4.14)."""
    return tuple(Zoneref(nid, zone) for zone in sorted(populated, reverse=True))


def build_zonelists_in_node_order(topology: Topology, node_order: Iterable[int]) -> tuple[Zoneref, ...]:
    """Every zone of the first node, then every zone of the second."""
    return tuple(ref for nid in node_order for ref in build_zonelists_node(topology.populated[nid], nid))


def build_zonelists_in_zone_order(topology: Topology, node_order: Iterable[int]) -> tuple[Zoneref, ...]:
    """The highest zone type of every node, then the next lower one: ZONE_DMA comes last (3.0)."""
    refs = build_zonelists_in_node_order(topology, node_order)
    return tuple(sorted(refs, key=lambda ref: -ref.zone_idx))


def build_thisnode_zonelists(topology: Topology, nid: int) -> tuple[Zoneref, ...]:
    """The list of __GFP_THISNODE: the node's own zones."""
    return build_zonelists_node(topology.populated[nid], nid)


def build_zonelists(
    topology: Topology, profile: Profile, nid: int, order: str, node_load: dict[int, int]
) -> Zonelists:
    """Both lists of one node; `node_load` is what earlier nodes left, and is added to."""
    node_order = _node_order(topology, profile, nid, node_load)
    if order == ORDER_ZONE:
        fallback = build_zonelists_in_zone_order(topology, node_order)
    else:
        fallback = build_zonelists_in_node_order(topology, node_order)
    return Zonelists(nid, node_order, fallback, build_thisnode_zonelists(topology, nid), order)


def __build_all_zonelists(topology: Topology, profile: Profile, order: str) -> dict[int, Zonelists]:
    node_load = dict.fromkeys(topology.nids, 0)
    return {nid: build_zonelists(topology, profile, nid, order, node_load) for nid in topology.nids}


def build_all_zonelists(
    topology: Topology, profile: Profile, user_order: str = ORDER_DEFAULT
) -> dict[int, Zonelists]:
    """Lists of every on-line node, in node order; the load spread is carried from list to list.

    `user_order` is vm.numa_zonelist_order: "default", "node" or "zone".
    """
    return __build_all_zonelists(topology, profile, set_zonelist_order(topology, profile, user_order))


def policy_zone(topology: Topology, movable_zone: int) -> int:
    """Highest populated zone but ZONE_MOVABLE (check_highest_zone): MPOL_BIND does not bind below it."""
    zones = (zone for populated in topology.populated.values() for zone in populated)
    return max((zone for zone in zones if zone < movable_zone), default=0)


def turns_zone_reclaim_on(topology: Topology, profile: Profile) -> bool:
    """Whether building these lists sets vm.zone_reclaim_mode to 1: 3.0, a node too far to fall back to."""
    return has_zone_order(profile) and any(
        topology.distance(local, nid) > RECLAIM_DISTANCE
        for local in topology.nids
        for nid in topology.nids
        if topology.has_memory(nid)
    )
