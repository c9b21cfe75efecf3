"""Memory policies: which zonelist a request walks and which nodes it may use (``mm/mempolicy.c``)."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from numa_service.mm.gfp import Gfp
from numa_service.mm.zonelist import MAX_NUMNODES, Zonelists, Zoneref
from numa_service.node.errors import InvalidRequest


class PolicyMode(IntEnum):
    """MPOL_*; the values are those of the wire."""

    DEFAULT = 0
    BIND = 1
    PREFERRED = 2
    INTERLEAVE = 3
    PREFERRED_MANY = 4


class Policy(NamedTuple):
    """A mode and the nodes it speaks of, ascending."""

    mode: PolicyMode = PolicyMode.DEFAULT
    nodes: tuple[int, ...] = ()

    @classmethod
    def checked(cls, mode: int, nodes: list[int], known: Container[int]) -> Policy:
        """InvalidRequest when the mode is unknown, or its nodes are missing, unexpected or not there."""
        if len(nodes) > MAX_NUMNODES:
            raise InvalidRequest("policy.nodes", f"{len(nodes)} nodes: at most {MAX_NUMNODES}")
        if mode not in PolicyMode.__members__.values():
            raise InvalidRequest("policy.mode", f"{mode} is no policy mode")
        policy = cls(PolicyMode(mode), tuple(sorted(set(nodes))))
        if policy.mode is PolicyMode.DEFAULT and policy.nodes:
            raise InvalidRequest("policy.nodes", "the default policy takes no nodes")
        if policy.mode is not PolicyMode.DEFAULT and not policy.nodes:
            raise InvalidRequest("policy.nodes", f"{policy.mode.name.lower()} needs at least one node")
        for nid in policy.nodes:
            if nid not in known:
                raise InvalidRequest("policy.nodes", f"there is no node {nid}")
        return policy


@dataclass(frozen=True, slots=True)
class Walk:
    """One walk over a zonelist: the zones in order, grouped by node, and the preferred zone."""

    #: (nid, zone indexes) of consecutive zones of one node.
    segments: tuple[tuple[int, tuple[int, ...]], ...]
    preferred: Zoneref
    highest_zoneidx: int
    #: Node whose list it is.
    list_nid: int
    #: The list of that node's own zones (__GFP_THISNODE).
    this_node: bool = False

    @property
    def nodes(self) -> tuple[int, ...]:
        """Nodes in walking order, each once."""
        return tuple(dict.fromkeys(nid for nid, _ in self.segments))


def policy_walk(
    zonelists: dict[int, Zonelists],
    cpu_nid: int,
    policy: Policy,
    gfp: int,
    highest_zoneidx: int,
    nodemask: tuple[int, ...] | None = None,
) -> Walk:
    """The walk of a request (policy_node, policy_nodemask, node_zonelist).

    `nodemask` overrides the policy's. InvalidRequest when no zone is left: a policy that contradicts the gfp
    flags.
    """
    start = policy.nodes[0] if policy.mode is PolicyMode.PREFERRED else cpu_nid
    if start not in zonelists:
        start = cpu_nid  # the node went off-line
    mask = nodemask
    if mask is None and policy.mode is PolicyMode.BIND:
        mask = policy.nodes
    lists = zonelists[start]
    this_node = bool(gfp & Gfp.THISNODE)
    return _walk(start, lists.thisnode if this_node else lists.fallback, highest_zoneidx, mask, this_node)


@lru_cache(maxsize=1024)
def _walk(
    list_nid: int,
    zonelist: tuple[Zoneref, ...],
    highest_zoneidx: int,
    mask: tuple[int, ...] | None,
    this_node: bool,
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
    return Walk(tuple(segments), refs[0], highest_zoneidx, list_nid, this_node)
