"""Zonelists: where a node's allocations go when its own zones are low (``build_all_zonelists``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from numa_service.mm.profile import Profile

#: CONFIG_NODES_SHIFT=10 as distributions build it: the factor by which a distance outweighs any node_load.
MAX_NUMNODES = 1 << 10
PENALTY_FOR_NODE_WITH_CPUS = 1


class Zoneref(NamedTuple):
    """One entry of a zonelist (``struct zoneref``)."""

    nid: int
    zone: int


@dataclass(frozen=True, slots=True)
class Topology:
    """What zonelists are built from."""

    #: On-line nodes in ascending order (``for_each_online_node``).
    nids: tuple[int, ...]
    #: Indexes of the zones with managed pages, by node.
    populated: Mapping[int, tuple[int, ...]]
    #: Nodes whose CPUs are on-line when the lists are built: none yet at boot.
    has_cpus: Mapping[int, bool]
    distance: Callable[[int, int], int]

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


def find_next_best_node(
    topology: Topology, profile: Profile, local: int, used: set[int], node_load: dict[int, int]
) -> int | None:
    """Nearest node with memory not used yet; None when there is none left.

    Among equals the one that fewer earlier lists begin with, then the lower number; a node with CPUs is
    a little farther than one without, and nodes before the local one a little farther than those behind it.
    """
    if local not in used and (profile.memoryless_local_first or topology.has_memory(local)):
        used.add(local)
        return local
    best: int | None = None
    best_score = 0
    for nid in topology.nids:
        if nid in used or not topology.has_memory(nid):
            continue
        score = topology.distance(local, nid)
        score += nid < local
        if topology.has_cpus[nid]:
            score += PENALTY_FOR_NODE_WITH_CPUS
        # 3.0 multiplies by MAX_NODE_LOAD (the number of online nodes) as well: its loads are larger
        score *= MAX_NUMNODES * (len(topology.nids) if profile.node_load == "remaining" else 1)
        score += node_load[nid]
        if best is None or score < best_score:
            best, best_score = nid, score
    if best is not None:
        used.add(best)
    return best


def _node_order(
    topology: Topology, profile: Profile, local: int, node_load: dict[int, int]
) -> tuple[int, ...]:
    used: set[int] = set()
    order: list[int] = []
    previous = local
    load = len(topology.nids)
    while (nid := find_next_best_node(topology, profile, local, used, node_load)) is not None:
        if topology.distance(local, nid) != topology.distance(local, previous):
            if profile.node_load == "remaining":
                node_load[nid] = load
            else:
                node_load[nid] += 1
        order.append(nid)
        previous = nid
        load -= 1
    return tuple(order)


def build_zonelists_node(populated: Sequence[int], nid: int) -> tuple[Zoneref, ...]:
    """Zones of one node, highest first (build_zonerefs_node)."""
    return tuple(Zoneref(nid, zone) for zone in sorted(populated, reverse=True))


def build_all_zonelists(topology: Topology, profile: Profile) -> dict[int, Zonelists]:
    """Lists of every on-line node, in node order; the load spread is carried from list to list."""
    node_load = dict.fromkeys(topology.nids, 0)
    result = {}
    for nid in topology.nids:
        order = _node_order(topology, profile, nid, node_load)
        result[nid] = Zonelists(
            nid=nid,
            node_order=order,
            fallback=tuple(
                ref for other in order for ref in build_zonelists_node(topology.populated[other], other)
            ),
            thisnode=build_zonelists_node(topology.populated[nid], nid),
        )
    return result
