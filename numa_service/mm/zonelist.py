"""Zonelists: the zones in which a node's allocations are tried, in order (``build_all_zonelists``).

Functions are named and nested as the kernel's: ``build_all_zonelists`` → ``__build_all_zonelists`` →
``build_zonelists`` → ``build_zonelists_node``, which makes the zonerefs of one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from numa_service.mm.profile import Profile
from numa_service.mm.variants import LOAD_ADDED, LOAD_ONE, LOAD_SET, ORDER_ASKED, ORDER_NODES

#: CONFIG_NODES_SHIFT=10, as distributions set it. find_next_best_node() multiplies distances by it, so that
#: they outweigh any node_load.
MAX_NUMNODES = 1 << 10
PENALTY_FOR_NODE_WITH_CPUS = 1
#: If two nodes are farther apart than this, 3.0 sets zone_reclaim_mode, to reclaim rather than go that far.
RECLAIM_DISTANCE = 30

#: current_zonelist_order, spelled as values of the sysctl vm.numa_zonelist_order.
ORDER_DEFAULT = "default"
ORDER_NODE = "node"
ORDER_ZONE = "zone"


class Zoneref(NamedTuple):
    """One entry of a zonelist (``struct zoneref``): a nid, and a zone index in that node's node_zones."""

    nid: int
    zone: int

    @property
    def zone_idx(self) -> int:
        """The zone's index (zonelist_zone_idx)."""
        return self.zone

    @property
    def node(self) -> int:
        """The zone's nid (zonelist_node_idx)."""
        return self.nid


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything about a machine that its zonelists depend on."""

    #: On-line nodes in ascending order (``for_each_online_node``).
    nids: tuple[int, ...]
    #: Indexes of the populated zones (present_pages != 0), by node.
    populated: Mapping[int, tuple[int, ...]]
    #: Whether CPUs of a node are on-line when the lists are built (N_CPU); at boot none are yet.
    has_cpus: Mapping[int, bool]
    #: node_distance().
    distance: Callable[[int, int], int]
    #: Present pages by (nid, zone index), by which 3.0 chooses its default order.
    present: Mapping[tuple[int, int], int] = field(default_factory=dict)
    #: Index of ZONE_NORMAL; zones below it are low memory in 3.0's choice of order.
    normal_zone: int = 2
    #: Whether the kernel is a 64-bit one, which chooses node order since 3.18.
    is_64bit: bool = True

    def has_memory(self, nid: int) -> bool:
        """Whether a node has populated zones (N_MEMORY)."""
        return bool(self.populated[nid])


@dataclass(frozen=True, slots=True)
class Zonelists:
    """The zonelists of one node (node_zonelists)."""

    nid: int
    #: Nodes in the order in which they are tried.
    node_order: tuple[int, ...]
    #: ZONELIST_FALLBACK: zones of all nodes.
    fallback: tuple[Zoneref, ...]
    #: ZONELIST_NOFALLBACK: the node's own zones, for __GFP_THISNODE.
    thisnode: tuple[Zoneref, ...]
    #: "node": all zones of a node, then the next node; "zone": a zone type of all nodes, then the next lower.
    order: str = ORDER_NODE


# choosing the order (3.0)


def default_zonelist_order(topology: Topology) -> str:
    """The order that 3.0 chooses when vm.numa_zonelist_order is "default" (default_zonelist_order).

    Zone order keeps allocations out of small DMA zones; node order keeps them near. Node order is chosen if a
    node has low memory only, if there is no low memory or it is more than half of all memory, or if it is
    more than 70 % of a node of more than average size.
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
    """The order in force, "node" or "zone" (set_zonelist_order), by the profile's ORDER_*."""
    if profile.zone_order == ORDER_NODES:
        return ORDER_NODE
    if user_order != ORDER_DEFAULT:
        return user_order
    if profile.zone_order == ORDER_ASKED:
        return ORDER_NODE if topology.is_64bit else ORDER_ZONE
    return default_zonelist_order(topology)


# the order of nodes


def find_next_best_node(
    topology: Topology, profile: Profile, local: int, node_load: Mapping[int, int]
) -> Iterator[int]:
    """Nodes with memory, nearest first, in the order in which the kernel's function returns them one by one.

    Among nodes at the same distance the one with less node_load comes first, that is, the one that heads its
    group in fewer earlier lists; then the lower nid. A node with CPUs counts as a little farther than one
    without, and nodes with lower nids than the local one as a little farther than those with higher nids.
    """
    if profile.memoryless_local_first or topology.has_memory(local):
        yield local
    # up to 5.18 also multiplied by MAX_NODE_LOAD (the number of on-line nodes), as loads are larger
    unit = MAX_NUMNODES * (1 if profile.node_load == LOAD_ONE else len(topology.nids))

    def score(nid: int) -> int:
        distance = topology.distance(local, nid) + (nid < local)
        return (distance + topology.has_cpus[nid] * PENALTY_FOR_NODE_WITH_CPUS) * unit + node_load[nid]

    # building a list changes only the load of nodes already in it, so one sort replaces repeated searches
    yield from sorted((nid for nid in topology.nids if nid != local and topology.has_memory(nid)), key=score)


def _node_order(
    topology: Topology, profile: Profile, local: int, node_load: dict[int, int]
) -> tuple[int, ...]:
    """Node order of one list; adds to node_load of each node that begins a new distance (build_zonelists)."""
    order: list[int] = []
    previous = local
    load = len(topology.nids)
    for nid in find_next_best_node(topology, profile, local, node_load):
        if topology.distance(local, nid) != topology.distance(local, previous):
            if profile.node_load == LOAD_SET:
                node_load[nid] = load
            else:
                node_load[nid] += load if profile.node_load == LOAD_ADDED else 1
        order.append(nid)
        previous = nid
        load -= 1
    return tuple(order)


# the lists


def build_zonelists_node(populated: Sequence[int], nid: int) -> tuple[Zoneref, ...]:
    """Zonerefs of one node's populated zones, highest first (build_zonerefs_node since 4.14)."""
    return tuple(Zoneref(nid, zone) for zone in sorted(populated, reverse=True))


def build_zonelists_in_node_order(topology: Topology, node_order: Iterable[int]) -> tuple[Zoneref, ...]:
    """All zones of the first node, then all zones of the second, and so on (function of that name)."""
    return tuple(ref for nid in node_order for ref in build_zonelists_node(topology.populated[nid], nid))


def build_zonelists_in_zone_order(topology: Topology, node_order: Iterable[int]) -> tuple[Zoneref, ...]:
    """The highest zone type of all nodes, then the next lower one, and so on (function of that name, 3.0)."""
    refs = build_zonelists_in_node_order(topology, node_order)
    return tuple(sorted(refs, key=lambda ref: -ref.zone_idx))


def build_thisnode_zonelists(topology: Topology, nid: int) -> tuple[Zoneref, ...]:
    """The list for __GFP_THISNODE: the node's own zones (function of that name)."""
    return build_zonelists_node(topology.populated[nid], nid)


def build_zonelists(
    topology: Topology, profile: Profile, nid: int, order: str, node_load: dict[int, int]
) -> Zonelists:
    """Both lists of one node; `node_load` comes from the lists of nodes before, and is added to."""
    node_order = _node_order(topology, profile, nid, node_load)
    if order == ORDER_ZONE:
        fallback = build_zonelists_in_zone_order(topology, node_order)
    else:
        fallback = build_zonelists_in_node_order(topology, node_order)
    return Zonelists(nid, node_order, fallback, build_thisnode_zonelists(topology, nid), order)


def __build_all_zonelists(topology: Topology, profile: Profile, order: str) -> dict[int, Zonelists]:
    """Zonelists of every node, in the order of nids, with one node_load for all."""
    node_load = dict.fromkeys(topology.nids, 0)
    return {nid: build_zonelists(topology, profile, nid, order, node_load) for nid in topology.nids}


def build_all_zonelists(
    topology: Topology, profile: Profile, user_order: str = ORDER_DEFAULT
) -> dict[int, Zonelists]:
    """Zonelists of every on-line node, by nid (build_all_zonelists).

    `user_order` is vm.numa_zonelist_order: "default", "node" or "zone".
    """
    return __build_all_zonelists(topology, profile, set_zonelist_order(topology, profile, user_order))


def policy_zone(topology: Topology, movable_zone: int) -> int:
    """Highest populated zone below ZONE_MOVABLE (check_highest_zone): mempolicies apply to it and above."""
    zones = (zone for populated in topology.populated.values() for zone in populated)
    return max((zone for zone in zones if zone < movable_zone), default=0)


def turns_zone_reclaim_on(topology: Topology, profile: Profile) -> bool:
    """Whether building the lists sets vm.zone_reclaim_mode to 1: in 3.0, if two nodes are too far apart."""
    return profile.distance_sets_zone_reclaim and any(
        topology.distance(local, nid) > RECLAIM_DISTANCE
        for local in topology.nids
        for nid in topology.nids
        if topology.has_memory(nid)
    )
