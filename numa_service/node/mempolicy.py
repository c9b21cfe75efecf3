"""Memory policies of requests: which zonelist one walks and which nodes it may use (``mm/mempolicy.c``).

The rules are in ``mm/mempolicy``; here is what sessions and regions carry, and the walk that comes of it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import numa_client
import numpy as np
import numpy.typing as npt

from numa_service.mm.gfp import Gfp
from numa_service.mm.mempolicy.choice import Choice, PolicyZone, policy_nodemask
from numa_service.mm.mempolicy.interleave import (
    Turn,
    Weights,
    interleave_nid,
    interleave_nodes,
    weight_of,
)
from numa_service.mm.mempolicy.nodemask import NODE_MASK_ALL, NUMA_NO_NODE, mask_of, nids_of
from numa_service.mm.mempolicy.policy import (
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    CallError,
    Mempolicy,
    Mode,
    mpol_new,
    mpol_set_nodemask,
)
from numa_service.mm.mempolicy.text import mpol_to_str
from numa_service.mm.mmzone import ZONE_NAMES
from numa_service.mm.profile import Profile
from numa_service.mm.zonelist import MAX_NUMNODES, Zonelists, Zoneref
from numa_service.node.errors import InvalidRequest

_ZONE_MOVABLE = ZONE_NAMES["x86_64"].index("Movable")


class PolicyMode(IntEnum):
    """The kernel's MPOL_* modes; the values are those of the wire, not the kernel's."""

    DEFAULT = 0
    BIND = 1
    PREFERRED = 2
    INTERLEAVE = 3
    PREFERRED_MANY = 4
    LOCAL = 5
    WEIGHTED_INTERLEAVE = 6


#: Modes that take no nodes.
_WITHOUT_NODES = (PolicyMode.DEFAULT, PolicyMode.LOCAL)
_FLAGS = {
    numa_client.PolicyFlag.STATIC: MPOL_F_STATIC_NODES,
    numa_client.PolicyFlag.RELATIVE: MPOL_F_RELATIVE_NODES,
}
#: Modes that may have a home node.
_WITH_HOME = (PolicyMode.BIND, PolicyMode.PREFERRED_MANY)


class Policy(NamedTuple):
    """A memory policy: a mode and its nodes, ascending."""

    mode: PolicyMode = PolicyMode.DEFAULT
    nodes: tuple[int, ...] = ()
    #: The node near which BIND and PREFERRED_MANY begin; NUMA_NO_NODE: that of the CPU.
    home_node: int = NUMA_NO_NODE
    #: MPOL_F_STATIC_NODES or MPOL_F_RELATIVE_NODES.
    flags: int = 0

    @property
    def interleaves(self) -> bool:
        """Whether it deals pages out to its nodes."""
        return self.mode in (PolicyMode.INTERLEAVE, PolicyMode.WEIGHTED_INTERLEAVE)

    @classmethod
    def checked(
        cls,
        mode: int,
        nodes: list[int],
        known: Container[int],
        profile: Profile,
        home_node: int = NUMA_NO_NODE,
        flags: int = 0,
    ) -> Policy:
        """Return the policy of a message.

        InvalidRequest if the mode is unknown, or in no kernel of the profile, if nodes are missing or given
        without need, if a node is not in `known`, and if the flags or the home node do not fit the mode.
        """
        if len(nodes) > MAX_NUMNODES:
            raise InvalidRequest("policy.nodes", f"{len(nodes)} nodes: at most {MAX_NUMNODES}")
        if mode not in PolicyMode.__members__.values():
            raise InvalidRequest("policy.mode", f"{mode} is no policy mode")
        policy = cls(PolicyMode(mode), tuple(sorted(set(nodes))), home_node, flags)
        name = policy.mode.name.lower()
        if policy.mode.name not in profile.mempolicies:
            raise InvalidRequest("policy.mode", f"EINVAL: {profile.name} has no {name}")
        if policy.mode in _WITHOUT_NODES and policy.nodes:
            raise InvalidRequest("policy.nodes", f"the {name} policy takes no nodes")
        if policy.mode not in _WITHOUT_NODES and not policy.nodes:
            raise InvalidRequest("policy.nodes", f"{name} needs at least one node")
        for nid in policy.nodes:
            if nid not in known:
                raise InvalidRequest("policy.nodes", f"there is no node {nid}")
        both = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES
        if flags & both == both or (flags and policy.mode in _WITHOUT_NODES):
            raise InvalidRequest("policy", f"EINVAL: {name} with these flags")
        if home_node != NUMA_NO_NODE:
            if not profile.mempolicy_home_node:
                raise InvalidRequest("policy.home_node", f"ENOSYS: {profile.name} has no home nodes")
            if policy.mode not in _WITH_HOME:
                raise InvalidRequest("policy.home_node", f"EOPNOTSUPP: {name} has no home node")
            if home_node not in known:
                raise InvalidRequest("policy.home_node", f"EINVAL: there is no node {home_node}")
        return policy

    def turn_of(self, nid: int, weights: Weights) -> str:
        """Say that it is a node's turn, for people."""
        if self.mode is PolicyMode.WEIGHTED_INTERLEAVE:
            return f"{self}, weight {weight_of(weights, nid)}"
        return f"{self}, its turn"

    def plain(self) -> tuple[int, tuple[int, ...], int, int]:
        """Return it as plain data, for ops and snapshots."""
        return int(self.mode), self.nodes, self.home_node, self.flags

    @classmethod
    def of(cls, plain: tuple[int, tuple[int, ...], int, int]) -> Policy:
        """Return the policy of :meth:`plain`."""
        mode, nodes, home_node, flags = plain
        return cls(PolicyMode(mode), tuple(nodes), home_node, flags)

    def bound(self, zonelists: Mapping[int, Zonelists]) -> Mempolicy | None:
        """Return the kernel's policy, bound to those of its nodes that have memory now.

        None for the default policy, and where none of the nodes has memory.
        """
        return _bound(self, _n_memory(zonelists))

    def __str__(self) -> str:
        """Return it as numa_maps prints policies, with nodes as they were asked for."""
        made = Mempolicy(Mode[self.mode.name], mask_of(self.nodes), self.flags)
        return mpol_to_str(None if self.mode is PolicyMode.DEFAULT else made)


def checked_policy(asked: numa_client.Policy, known: Container[int], profile: Profile) -> Policy:
    """Return a client's policy; InvalidRequest as of :meth:`Policy.checked`."""
    home_node = NUMA_NO_NODE if asked.home_node is None else asked.home_node
    flags = 0 if asked.flag is None else _FLAGS[asked.flag]
    return Policy.checked(PolicyMode[asked.mode.name], list(asked.nodes), known, profile, home_node, flags)


def _n_memory(zonelists: Mapping[int, Zonelists]) -> int:
    """The nodes with memory (N_MEMORY)."""
    return mask_of(nid for nid, lists in zonelists.items() if lists.thisnode)


@lru_cache(maxsize=1024)
def _bound(policy: Policy, n_memory: int) -> Mempolicy | None:
    if policy.mode is PolicyMode.DEFAULT:
        return None
    nodes = mask_of(policy.nodes)
    try:
        made = mpol_set_nodemask(
            mpol_new(Mode[policy.mode.name], policy.flags, nodes), nodes, NODE_MASK_ALL, n_memory
        )
    except CallError:
        return None
    assert made is not None  # only the default policy has none
    return made._replace(home_node=policy.home_node)


# the nodes of interleaved blocks


def take_turns(
    policy: Policy, zonelists: Mapping[int, Zonelists], turn: Turn, weights: Weights, count: int
) -> tuple[npt.NDArray[np.int64], Turn]:
    """Return the nodes of the next `count` blocks of an owner that is at `turn`, and where it is then.

    If none of the policy's nodes has memory, there are no nodes, and the turn stays.
    """
    made = policy.bound(zonelists)
    if made is None:
        return np.zeros(0, dtype=np.int64), turn
    return interleave_nodes(made, turn, weights, count)


def nodes_of_places(
    policy: Policy,
    zonelists: Mapping[int, Zonelists],
    places: npt.NDArray[np.uint32],
    weights: Weights,
    profile: Profile,
) -> npt.NDArray[np.int64]:
    """Return the nodes of the pages at these places of a region; none if no node of the policy has memory."""
    made = policy.bound(zonelists)
    if made is None:
        return np.zeros(0, dtype=np.int64)
    return interleave_nid(made, places.astype(np.uint64), weights, profile.interleave_offset_bits)


# walks


@dataclass(frozen=True, slots=True)
class Walk:
    """One walk over a zonelist: the zones in order, grouped by node, and the preferred zone."""

    #: (nid, zone indexes): each entry is a run of consecutive zones of one node.
    segments: tuple[tuple[int, tuple[int, ...]], ...]
    #: The first zone of the walk (preferred_zoneref).
    preferred: Zoneref
    highest_zoneidx: int
    #: The node whose zonelist is walked.
    list_nid: int
    #: Whether it is that node's list without fallback (__GFP_THISNODE).
    this_node: bool = False
    #: What the policy chose, for people; empty without one.
    chosen: str = ""
    #: The nodes that the policy leaves; None: all.
    nodemask: tuple[int, ...] | None = None

    @property
    def nodes(self) -> tuple[int, ...]:
        """The nodes of the walk in order, each once."""
        return tuple(dict.fromkeys(nid for nid, _ in self.segments))


def policy_walk(
    zonelists: dict[int, Zonelists],
    cpu_nid: int,
    policy: Policy,
    gfp: int,
    highest_zoneidx: int,
    nodemask: tuple[int, ...] | None = None,
) -> Walk:
    """Return the walk of a request from node `cpu_nid` (policy_node, policy_nodemask, node_zonelist).

    `nodemask` overrides the policy's. InvalidRequest if the policy and the gfp flags together allow no zone.
    """
    choice = policy_choice(zonelists, cpu_nid, policy, highest_zoneidx)
    chosen = _chosen(policy, choice.nodemask is not None, nodemask is not None)
    # a preferred node or a home node may have gone off-line since
    start = choice.nid if choice.nid in zonelists else cpu_nid
    mask = nodemask
    if mask is None and choice.nodemask is not None and not choice.wished:
        mask = nids_of(choice.nodemask)
    lists = zonelists[start]
    this_node = bool(gfp & Gfp.THISNODE)
    zonelist = lists.thisnode if this_node else lists.fallback
    return _walk(start, zonelist, highest_zoneidx, mask, this_node, chosen)


@lru_cache(maxsize=1024)
def _chosen(policy: Policy, bound: bool, first_pass: bool) -> str:
    """What a policy chose, for people.

    `bound` is whether it has nodes for the request, `first_pass` whether the walk is that of its wishes.
    """
    if policy.mode in _WITHOUT_NODES:
        return ""
    text = str(policy)
    if policy.home_node != NUMA_NO_NODE:
        text += f", home node {policy.home_node}"
    if policy.mode is PolicyMode.PREFERRED_MANY:
        return f"{text}, {'first pass' if first_pass else 'all nodes'}"
    if policy.mode is PolicyMode.BIND and not bound:
        return f"{text}, which does not bind zones so low"
    return text


def policy_choice(
    zonelists: Mapping[int, Zonelists], cpu_nid: int, policy: Policy, highest_zoneidx: int
) -> Choice:
    """Return where the walk of a request begins, and which nodes it may use.

    Interleaved requests are several walks, each with a node of its own (`take_turns`). BIND to nodes without
    memory has an empty nodemask.
    """
    made = policy.bound(zonelists)
    if made is None:
        return Choice(cpu_nid, 0 if policy.mode is PolicyMode.BIND else None)
    zones = [ref.zone for lists in zonelists.values() for ref in lists.thisnode if ref.zone < _ZONE_MOVABLE]
    lowmem = mask_of(
        nid for nid, lists in zonelists.items() if any(ref.zone < _ZONE_MOVABLE for ref in lists.thisnode)
    )
    zone = PolicyZone(max(zones, default=0), _ZONE_MOVABLE, lowmem)
    return policy_nodemask(made, cpu_nid, highest_zoneidx, NODE_MASK_ALL, zone)


@lru_cache(maxsize=1024)
def _walk(
    list_nid: int,
    zonelist: tuple[Zoneref, ...],
    highest_zoneidx: int,
    mask: tuple[int, ...] | None,
    this_node: bool,
    chosen: str,
) -> Walk:
    refs = tuple(r for r in zonelist if r.zone <= highest_zoneidx and (mask is None or r.nid in mask))
    if not refs:
        raise InvalidRequest("policy.nodes", "no zone is both in the policy's nodes and allowed by gfp_flags")
    segments: list[tuple[int, tuple[int, ...]]] = []
    for ref in refs:
        if segments and segments[-1][0] == ref.nid:
            segments[-1] = (ref.nid, (*segments[-1][1], ref.zone))
        else:
            segments.append((ref.nid, (ref.zone,)))
    return Walk(tuple(segments), refs[0], highest_zoneidx, list_nid, this_node, chosen, mask)
