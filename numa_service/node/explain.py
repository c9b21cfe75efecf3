"""Why an allocation went where it went: the kernel path of one request, with the numbers it compared.

A request that asks for it carries a :class:`Recorder` along its walks, unless the fast path was all; a node
that is asked looks at its zones before and after the op (``node/zone_account.py``). Nobody else pays for it,
and the state that a request leads to is the same with and without.
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
from numa_service.mm.mmzone import MIGRATE_CMA, ZONE_NAMES
from numa_service.mm.page_alloc import (
    ALLOC_KSWAPD,
    ALLOC_NOFRAGMENT,
)
from numa_service.mm.profile import Profile
from numa_service.mm.zone_watermark import (
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_HIGHATOMIC,
    ALLOC_NO_WATERMARKS,
    ALLOC_OOM,
    ALLOC_WMARK_MASK,
)
from numa_service.mm.zonelist import Zonelists
from numa_service.node.cost import Cost
from numa_service.node.mempolicy import Policy, Walk

#: Watermarks by their ALLOC_WMARK_* number.
MARK_NAMES = ("min", "low", "high")

_FLAG_NAMES = (
    (ALLOC_NO_WATERMARKS, "NO_WATERMARKS"),
    (ALLOC_OOM, "OOM"),
    (ALLOC_HARDER, "HARDER"),
    (ALLOC_HIGH, "HIGH"),
    (ALLOC_HIGHATOMIC, "HIGHATOMIC"),
    (ALLOC_NOFRAGMENT, "NOFRAGMENT"),
    (ALLOC_KSWAPD, "KSWAPD"),
)


@dataclass(slots=True)
class NodeAccount:
    """What a node did for one pass."""

    #: In the order of the zonelist, as far as the walk came.
    zones: tuple[ZoneVisit, ...]
    #: Fallbacks to free lists of another migratetype.
    steals: int


def told_cost(cost: Cost) -> numa_client.Cost:
    """A request's account as its explanation has it."""
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
    """A request's policy as its explanation has it."""
    return numa_client.Policy(numa_client.PolicyMode[policy.mode.name], policy.nodes)


@lru_cache(maxsize=1024)
def gfp_names(gfp: int) -> str:
    """gfp bits as the kernel prints them: the largest composite that fits, then single flags."""
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
    """ALLOC_* that decide something, the watermark first; ALLOC_CPUSET decides nothing here."""
    names = [name for bit, name in _FLAG_NAMES if alloc_flags & bit]
    if alloc_flags & ALLOC_NO_WATERMARKS:
        return tuple(names)
    return (f"WMARK_{MARK_NAMES[alloc_flags & ALLOC_WMARK_MASK].upper()}", *names)


def migratetype_name(profile: Profile, migratetype: int) -> str:
    """As in /proc/pagetypeinfo."""
    if migratetype == MIGRATE_CMA:
        return "CMA"  # built into the kernel of a machine that has areas
    return profile.migratetype_names[migratetype] or f"type {migratetype}"


def walk_step(arch: str, lists: Zonelists, walk: Walk, count: int) -> WalkStep:
    """A walk over some of the zones of `lists`, for `count` blocks."""
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
    )


def node_visit(
    nid: int,
    remote: bool,
    account: NodeAccount | None,
    away: str = "",
    cached_full: tuple[str, ...] = (),
) -> NodeVisit:
    """A node in a pass. Without an account, `away` says why, or all its zones were passed over."""
    zones, steals = (account.zones, account.steals) if account else ((), 0)
    return NodeVisit(nid, remote, away, zones, steals, cached_full)


@dataclass(slots=True)
class Recorder:
    """Takes down what a request does while it does it."""

    arch: str
    #: The request's account: a step's time is what it added.
    cost: Cost
    steps: list[Step] = field(default_factory=list)
    _visits: list[NodeVisit] = field(default_factory=list)
    _pass: tuple[str, int] = ("", 0)
    _before_ns: int = 0

    def walk(self, lists: Zonelists, walk: Walk, count: int) -> None:
        """A walk over some of the zones of `lists` begins."""
        self.steps.append(walk_step(self.arch, lists, walk, count))

    def begin_pass(self, name: str, alloc_flags: int) -> None:
        """A pass over the zonelist begins."""
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
        """A node answered, or did not, or was not asked: `cached_full` are zones passed over unseen."""
        names = ZONE_NAMES[self.arch]
        full = tuple(names[zone] for zone in cached_full)
        self._visits.append(node_visit(nid, remote, account, away, full))

    def end_pass(self) -> None:
        """The pass is over."""
        name, flags = self._pass
        took = self.cost.latency_ns - self._before_ns
        self.steps.append(FreelistPass(name, alloc_flag_names(flags), tuple(self._visits), took))

    def wakeup(self, nid: int, woken: bool | None) -> None:
        """A kswapd was woken, or not; None: its node did not answer."""
        self.steps.append(KswapdWakeup(nid, bool(woken), "" if woken is not None else "no answer", 0))

    def drain(self, nid: int, drained: int | None) -> None:
        """Pagesets of a node were emptied; None: it did not answer."""
        self.steps.append(PagesetDrain(nid, drained or 0, "" if drained is not None else "no answer", 0))

    def reclaim(self, nid: int, priority: int, scanned: int, reclaimed: int, took_ns: int) -> None:
        """One pass of direct reclaim, done."""
        self.steps.append(DirectReclaim(nid, priority, scanned, reclaimed, "", took_ns))

    def reclaim_away(self, nid: int, priority: int) -> None:
        """A node that was to reclaim did not answer."""
        self.steps.append(DirectReclaim(nid, priority, 0, 0, "no answer", 0))
