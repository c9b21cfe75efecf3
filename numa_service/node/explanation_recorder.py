"""Records why an allocation got its pages where it did: the path through the allocator, step by step.

A request that asks for an explanation carries a :class:`Recorder` along its walks; one that the fast path
serves completely needs none (``page_alloc._pass_here``). Each node that is asked for pages records what its
zones compared and gave (``node/zone_recorder.py``). Other requests do not pay for this, and recording does
not change the state that a request leads to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numa_client
from numa_client import (
    DirectReclaim,
    FreelistPass,
    KswapdWakeup,
    NodeVisit,
    PagesetDrain,
    WalkStep,
    ZoneVisit,
)
from numa_client._explanation_steps import Step

from numa_service.mm.gfp import GFP_MASKS, Gfp
from numa_service.mm.internal import (
    ALLOC_FAIR,
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_OOM,
    ALLOC_WMARK_MASK,
)
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE
from numa_service.mm.mempolicy.policy import MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES
from numa_service.mm.mmzone import MIGRATE_CMA, ZONE_NAMES
from numa_service.mm.profile import Profile
from numa_service.mm.zonelist import Zonelists
from numa_service.node.cost import Cost
from numa_service.node.mempolicy import Policy, Walk

#: Names of the watermarks, indexed by ALLOC_WMARK_*.
MARK_NAMES = ("min", "low", "high")

_FLAG_NAMES = (
    (ALLOC_NO_WATERMARKS, "NO_WATERMARKS"),
    (ALLOC_OOM, "OOM"),
    (ALLOC_HARDER, "HARDER"),
    (ALLOC_HIGH, "HIGH"),
    (ALLOC_HIGHATOMIC, "HIGHATOMIC"),
    (ALLOC_NOFRAGMENT, "NOFRAGMENT"),
    (ALLOC_FAIR, "FAIR"),
    (ALLOC_KSWAPD, "KSWAPD"),
)


@dataclass(slots=True)
class NodeAccount:
    """What a node did in one pass over the zonelist."""

    #: The zones that the walk came to, in the order of the zonelist.
    zones: tuple[ZoneVisit, ...]
    #: Times that a zone fell back to a free list of another migratetype.
    steals: int


def told_cost(cost: Cost) -> numa_client.Cost:
    """Return the cost of a request as the client's type."""
    return numa_client.Cost(
        cost.latency_ns,
        cost.access_ns,
        cost.pageset_ns,
        cost.buddy_ns,
        cost.fallback_ns,
        cost.reclaim_ns,
        cost.zeroing_ns,
        cost.queueing_ns,
    )


@lru_cache(maxsize=64)
def told_policy(policy: Policy) -> numa_client.Policy:
    """Return the policy of a request as the client's type."""
    home_node = None if policy.home_node == NUMA_NO_NODE else policy.home_node
    flag = None
    if policy.flags & MPOL_F_STATIC_NODES:
        flag = numa_client.PolicyFlag.STATIC
    elif policy.flags & MPOL_F_RELATIVE_NODES:
        flag = numa_client.PolicyFlag.RELATIVE
    return numa_client.Policy(numa_client.PolicyMode[policy.mode.name], policy.nodes, home_node, flag)


@lru_cache(maxsize=1024)
def gfp_names(gfp: int) -> str:
    """Return gfp bits as the kernel prints them: the largest composite mask that fits, then single flags."""
    words = []
    fitting = [name for name, mask in GFP_MASKS.items() if gfp & mask == mask]
    if fitting:
        name = max(fitting, key=lambda name: int(GFP_MASKS[name]).bit_count())
        words.append(name)
        gfp &= ~GFP_MASKS[name]
    words += [f"__GFP_{flag.name}" for flag in Gfp if gfp & flag]
    return "|".join(words) or "none"


@lru_cache(maxsize=1024)
def alloc_flag_names(alloc_flags: int) -> tuple[str, ...]:
    """Return the names of ALLOC_* flags, the watermark first, without ALLOC_CPUSET, which has no effect."""
    names = [name for bit, name in _FLAG_NAMES if alloc_flags & bit]
    if alloc_flags & ALLOC_NO_WATERMARKS:
        return tuple(names)
    return (f"WMARK_{MARK_NAMES[alloc_flags & ALLOC_WMARK_MASK].upper()}", *names)


def migratetype_name(profile: Profile, migratetype: int) -> str:
    """Return the name of a migratetype as in /proc/pagetypeinfo."""
    if migratetype == MIGRATE_CMA:
        return "CMA"  # a machine with CMA areas has a kernel built with CONFIG_CMA
    return profile.migratetype_names[migratetype] or f"type {migratetype}"


def walk_step(arch: str, lists: Zonelists, walk: Walk, count: int) -> WalkStep:
    """Return the step that describes a walk over zones of `lists`, for `count` blocks."""
    names, highest = ZONE_NAMES[arch], walk.highest_zoneidx
    zones = [(nid, zone) for nid, zones in walk.segments for zone in zones]
    listed = lists.thisnode if walk.this_node else lists.fallback
    left_out = [ref for ref in listed if ref not in zones] if len(zones) < len(listed) else []
    return WalkStep(
        node=lists.nid,
        this_node_only=walk.this_node,
        count=count,
        zones=tuple([(nid, names[zone]) for nid, zone in zones]),
        above_class=tuple([(nid, names[zone]) for nid, zone in left_out if zone > highest]),
        outside_nodemask=tuple([(nid, names[zone]) for nid, zone in left_out if zone <= highest]),
        latency_ns=0,
        chosen=walk.chosen,
    )


def node_visit(
    nid: int,
    remote: bool,
    account: NodeAccount | None,
    away: str = "",
    cached_full: tuple[str, ...] = (),
) -> NodeVisit:
    """Return a node's part in a pass.

    Without an account, either the node did not serve and `away` says why, or all its zones were skipped
    because the zonelist cache says that they are full (`cached_full`).
    """
    zones, steals = (account.zones, account.steals) if account else ((), 0)
    return NodeVisit(nid, remote, away, zones, steals, cached_full)


@dataclass(slots=True)
class Recorder:
    """Records the steps of a request while it makes them."""

    arch: str
    #: The cost of the request so far: the time of a step is what the step added to it.
    cost: Cost
    steps: list[Step] = field(default_factory=list)
    _visits: list[NodeVisit] = field(default_factory=list)
    _pass: tuple[str, int] = ("", 0)
    _before_ns: int = 0

    def walk(self, lists: Zonelists, walk: Walk, count: int) -> None:
        """Record that a walk over zones of `lists` begins, for `count` blocks."""
        self.steps.append(walk_step(self.arch, lists, walk, count))

    def begin_pass(self, name: str, alloc_flags: int) -> None:
        """Begin a pass over the zonelist, which lasts until :meth:`end_pass`."""
        self._pass = name, alloc_flags
        self._visits = []
        self._before_ns = self.cost.latency_ns

    def visit(
        self,
        nid: int,
        remote: bool,
        account: NodeAccount | None,
        away: str = "",
        cached_full: tuple[int, ...] = (),
    ) -> None:
        """Record a node's part in the pass; see :func:`node_visit`.

        `cached_full` are indexes of zones that were skipped as the zonelist cache says that they are full.
        """
        names = ZONE_NAMES[self.arch]
        full = tuple(names[zone] for zone in cached_full)
        self._visits.append(node_visit(nid, remote, account, away, full))

    def end_pass(self) -> None:
        """Record the pass, with the visits since :meth:`begin_pass`."""
        name, flags = self._pass
        took = self.cost.latency_ns - self._before_ns
        self.steps.append(FreelistPass(name, alloc_flag_names(flags), tuple(self._visits), took))

    def wakeup(self, nid: int, woken: bool | None) -> None:
        """Record whether the kswapd of a node was woken; `woken` is None if the node did not answer."""
        self.steps.append(KswapdWakeup(nid, bool(woken), "" if woken is not None else "no answer", 0))

    def drain(self, nid: int, drained: int | None) -> None:
        """Record that a node's pagesets were drained of so many pages; None if the node did not answer."""
        self.steps.append(PagesetDrain(nid, drained or 0, "" if drained is not None else "no answer", 0))

    def reclaim(self, nid: int, priority: int, scanned: int, reclaimed: int, took_ns: int) -> None:
        """Record one pass of direct reclaim on a node: pages scanned and reclaimed, and its time."""
        self.steps.append(DirectReclaim(nid, priority, scanned, reclaimed, "", took_ns))

    def reclaim_away(self, nid: int, priority: int) -> None:
        """Record that a node that was asked to reclaim did not answer."""
        self.steps.append(DirectReclaim(nid, priority, 0, 0, "no answer", 0))
