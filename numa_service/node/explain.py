"""Why an allocation went where it went: the kernel path of one request, with the numbers it compared.

A request that asks for it carries a :class:`Recorder` along its walks, unless the fast path was all; a node
that is asked looks at its zones before and after the op (``node/zone_account.py``). Nobody else pays for it,
and the state that a request leads to is the same with and without.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import TypeAlias

from numa_service.mm.gfp import GFP_MASKS, Gfp
from numa_service.mm.mmzone import MIGRATE_CMA, ZONE_NAMES
from numa_service.mm.page_alloc import (
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_OOM,
    ALLOC_WMARK_MASK,
)
from numa_service.mm.profile import Profile
from numa_service.mm.zonelist import Zonelists, Zoneref
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


class LeftOut(IntEnum):
    """Why a zone of the zonelist is not walked; the values are those of the wire."""

    CLASS = 1
    NODEMASK = 2


class LeftBecause(IntEnum):
    """Why the walk went on to the next zone; the values are those of the wire."""

    COMPLETE = 0
    BELOW_MARK = 1
    NO_BLOCK = 2
    WOULD_MIX = 3
    RESERVED = 4


@dataclass(slots=True)
class WatermarkCheck:
    """``__zone_watermark_ok`` in numbers. Pages."""

    #: min, low or high; empty when the request ignores watermarks.
    mark_name: str
    free: int
    #: Free pages of the high-atomic reserve that the request may not use.
    unusable: int
    #: 2^order - 1; 2^order + 1 in 3.0.
    order_cost: int
    mark: int
    boost: int
    #: Taken off the mark for ALLOC_HIGH, and for ALLOC_HARDER or ALLOC_OOM.
    high_part: int
    harder_part: int
    lowmem_reserve: int
    #: Largest order with a free block that the request may use; -1 without any.
    largest_free_order: int
    order: int
    #: Free CMA pages, for a request that is not movable.
    cma: int = 0
    #: 3.0, for higher orders: pages in free blocks of lower ones, and how often the mark is halved for that.
    too_small: int = 0
    halvings: int = 0

    @property
    def usable(self) -> int:
        """The left side of the comparison."""
        return self.free - self.unusable - self.cma - self.order_cost - self.too_small

    @property
    def needed(self) -> int:
        """The right side."""
        mark = self.mark + self.boost - self.high_part - self.harder_part
        return mark >> self.halvings if self.halvings else mark + self.lowmem_reserve

    @property
    def above_mark(self) -> bool:
        """Whether the comparison holds."""
        return not self.mark_name or self.usable > self.needed

    @property
    def ok(self) -> bool:
        """Whether the zone passes: above the mark, and with a block that is large enough."""
        if not self.mark_name:
            return True
        return self.above_mark and (self.order == 0 or self.largest_free_order >= self.order)


@dataclass(slots=True)
class ZoneVisit:
    """One zone, looked at for one pass. Pages unless said otherwise."""

    zone: str
    before: WatermarkCheck
    after: WatermarkCheck
    served_blocks: int
    left_because: LeftBecause
    pageset_before: int
    pageset_after: int
    #: Blocks taken from the buddy lists, those that refilled the pageset included.
    buddy_blocks: int
    #: Blocks split, by order.
    splits: tuple[int, ...]
    #: (from type, to type, pageblocks) that changed hands.
    claims: tuple[tuple[str, str, int], ...]
    #: (type, blocks): served blocks that lie in pageblocks of another type.
    foreign_blocks: tuple[tuple[str, int], ...]


@dataclass(slots=True)
class NodeAccount:
    """What a node did for one pass."""

    #: In the order of the zonelist, as far as the walk came.
    zones: tuple[ZoneVisit, ...]
    #: Fallbacks to free lists of another migratetype.
    steals: int
    #: Of the request.
    order: int


@dataclass(slots=True)
class NodeVisit:
    """A node in a pass; `away` says why it gave no account."""

    nid: int
    remote: bool
    account: NodeAccount | None = None
    away: str = ""
    #: Zones passed over unseen: the zonelist cache (3.0) says that they are full.
    cached_full: tuple[str, ...] = ()


@dataclass(slots=True)
class WalkStep:
    """A zonelist is chosen."""

    #: Node whose zonelist it is.
    nid: int
    this_node_only: bool
    #: Blocks that it is to get.
    count: int
    #: (nid, zone name), in order.
    zones: tuple[tuple[int, str], ...]
    left_out: tuple[tuple[int, str, LeftOut], ...]
    latency_ns: int = 0


@dataclass(slots=True)
class PassStep:
    """``get_page_from_freelist`` once."""

    name: str
    alloc_flags: tuple[str, ...]
    nodes: tuple[NodeVisit, ...]
    latency_ns: int


@dataclass(slots=True)
class WakeupStep:
    """``wakeup_kswapd`` on one node."""

    nid: int
    woken: bool
    away: str = ""
    latency_ns: int = 0


@dataclass(slots=True)
class ReclaimStep:
    """One pass of direct reclaim on one node. Pages."""

    nid: int
    priority: int
    scanned: int
    reclaimed: int
    away: str
    latency_ns: int


@dataclass(slots=True)
class DrainStep:
    """``drain_all_pages`` on one node. Pages."""

    nid: int
    drained: int
    away: str = ""
    latency_ns: int = 0


Step: TypeAlias = WalkStep | PassStep | WakeupStep | ReclaimStep | DrainStep


@dataclass(slots=True)
class Explanation:
    """The answer to *why here*."""

    nid: int
    cpu: int
    gfp: str
    order: int
    count: int
    migratetype: str
    classzone: str
    policy: Policy
    profile: str
    steps: tuple[Step, ...]
    #: (nid, blocks), each node once, in the order of the walks; what was got in vain is here too.
    placement: tuple[tuple[int, int], ...]
    cost: Cost
    #: Why it failed; empty when it did not.
    failure: str = ""


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
    names = ZONE_NAMES[arch]
    zones = [(nid, zone) for nid, zones in walk.segments for zone in zones]
    listed = lists.thisnode if walk.this_node else lists.fallback
    left_out = [ref for ref in listed if ref not in zones] if len(zones) < len(listed) else []

    def reason(ref: Zoneref) -> LeftOut:
        return LeftOut.CLASS if ref.zone > walk.highest_zoneidx else LeftOut.NODEMASK

    return WalkStep(
        lists.nid,
        walk.this_node,
        count,
        tuple([(nid, names[zone]) for nid, zone in zones]),
        tuple([(ref.nid, names[ref.zone], reason(ref)) for ref in left_out]),
    )


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
        self._visits.append(NodeVisit(nid, remote, account, away, full))

    def end_pass(self) -> None:
        """The pass is over."""
        name, flags = self._pass
        took = self.cost.latency_ns - self._before_ns
        self.steps.append(PassStep(name, alloc_flag_names(flags), tuple(self._visits), took))

    def wakeup(self, nid: int, woken: bool | None) -> None:
        """A kswapd was woken, or not; None: its node did not answer."""
        self.steps.append(WakeupStep(nid, bool(woken), "" if woken is not None else "no answer"))

    def drain(self, nid: int, drained: int | None) -> None:
        """Pagesets of a node were emptied; None: it did not answer."""
        self.steps.append(DrainStep(nid, drained or 0, "" if drained is not None else "no answer"))

    def reclaim(self, nid: int, priority: int, scanned: int, reclaimed: int, took_ns: int) -> None:
        """One pass of direct reclaim, done."""
        self.steps.append(ReclaimStep(nid, priority, scanned, reclaimed, "", took_ns))

    def reclaim_away(self, nid: int, priority: int) -> None:
        """A node that was to reclaim did not answer."""
        self.steps.append(ReclaimStep(nid, priority, 0, 0, "no answer", 0))
