"""The steps of a request on its way through the allocator. Numbers are pages unless the name says otherwise.

A node makes these while it serves the request. The classes are not frozen, as constructing a frozen dataclass
takes several times as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

#: (nid, zone name).
Zone = tuple[int, str]


#: Why the walk went on to the next zone: see LeftBecause in proto/numa/v1/explanation.proto.
LeftBecause: TypeAlias = Literal["complete", "below_mark", "no_block", "would_mix", "reserved", "fair_share"]


@dataclass(slots=True)
class WatermarkCheck:
    """The numbers of ``__zone_watermark_ok``: it passes if usable > needed and a block is large enough."""

    #: Name of the watermark: min, low or high; empty if the request ignores watermarks.
    mark_name: str
    free_pages: int
    #: Free pages of the high-atomic reserve that the request may not use.
    unusable_pages: int
    #: 2^order - 1; 2^order + 1 in linux-3.0.
    order_cost_pages: int
    mark_pages: int
    boost_pages: int
    #: Parts of the mark that are subtracted for ALLOC_HIGH and for ALLOC_HARDER.
    high_part_pages: int
    harder_part_pages: int
    lowmem_reserve_pages: int
    #: Largest order with a free block that the request may use; -1 if there is none.
    largest_free_order: int
    ok: bool
    #: Free CMA pages, for a request that is not movable.
    cma_pages: int = 0
    #: Only in linux-3.0: pages in free blocks of orders that are too low, and how often the mark is halved.
    too_small_pages: int = 0
    halvings: int = 0

    @property
    def usable_pages(self) -> int:
        """The left side of the comparison: free pages that the request may use."""
        unusable = self.unusable_pages + self.cma_pages + self.too_small_pages
        return self.free_pages - unusable - self.order_cost_pages

    @property
    def needed_pages(self) -> int:
        """The right side of the comparison: the pages that must be left."""
        mark = self.mark_pages + self.boost_pages - self.high_part_pages - self.harder_part_pages
        return mark >> self.halvings if self.halvings else mark + self.lowmem_reserve_pages

    @property
    def above_mark(self) -> bool:
        """Whether the comparison holds; this does not say that there is a block that is large enough."""
        return not self.mark_name or self.usable_pages > self.needed_pages


@dataclass(slots=True)
class ZoneVisit:
    """One zone in one pass over the zonelist."""

    zone: str
    #: The watermark check when the walk came to the zone, and when it left the zone.
    before: WatermarkCheck
    after: WatermarkCheck
    served_blocks: int
    #: Why the walk went on to the next zone; `complete` if it did not.
    left_because: LeftBecause
    #: Pages in the CPU's pageset of the zone, before and after.
    pageset_before_pages: int
    pageset_after_pages: int
    #: Blocks taken from the buddy lists, including those that refilled the pageset.
    buddy_blocks: int
    #: Order → blocks of this order that were split.
    splits: Mapping[int, int]
    #: "from -> to" → pageblocks whose migratetype was changed.
    claims: Mapping[str, int]
    #: Migratetype → served blocks that lie in pageblocks of this other type.
    foreign_blocks: Mapping[str, int]


@dataclass(slots=True)
class NodeVisit:
    """One node in one pass over the zonelist."""

    node: int
    #: Whether it was asked over the network, with one lookup for all its zones.
    remote: bool
    #: Why it did not answer; empty if it did.
    away: str
    zones: tuple[ZoneVisit, ...]
    #: Fallbacks to free lists of another migratetype.
    steals: int
    #: Zones that were skipped because the zonelist cache (linux-3.0) has them as full.
    cached_full: tuple[str, ...] = ()


@dataclass(slots=True)
class WalkStep:
    """The choice of a zonelist, and of the zones in it that the request may use."""

    #: Node whose zonelist it is.
    node: int
    #: Whether it is the node's list without fallback (__GFP_THISNODE).
    this_node_only: bool
    #: Blocks wanted from this walk.
    count: int
    zones: tuple[Zone, ...]
    #: Zones that the request may not use: above its highest zone, and outside its nodemask.
    above_class: tuple[Zone, ...]
    outside_nodemask: tuple[Zone, ...]
    latency_ns: int
    #: What the memory policy chose, as "interleave:0-2, its turn"; empty without one.
    chosen: str = ""
    step: Literal["walk"] = "walk"


@dataclass(slots=True)
class FreelistPass:
    """One call of ``get_page_from_freelist``."""

    #: The place of the call in the allocator, e.g. "fast path", "after direct reclaim".
    name: str
    #: Names of the ALLOC_* flags without the prefix, the watermark first.
    alloc_flags: tuple[str, ...]
    nodes: tuple[NodeVisit, ...]
    latency_ns: int
    step: Literal["freelist_pass"] = "freelist_pass"


@dataclass(slots=True)
class KswapdWakeup:
    """A call of ``wakeup_kswapd`` for one node."""

    node: int
    #: False if it was awake already, its node is balanced, or it has given up.
    woken: bool
    away: str
    latency_ns: int
    step: Literal["kswapd_wakeup"] = "kswapd_wakeup"


@dataclass(slots=True)
class DirectReclaim:
    """One pass of direct reclaim over the LRU lists of one node."""

    node: int
    #: Scan priority: a pass scans each list's size >> priority. The first pass has 12, and 0 scans
    #: everything.
    priority: int
    scanned_pages: int
    reclaimed_pages: int
    away: str
    latency_ns: int
    step: Literal["direct_reclaim"] = "direct_reclaim"


@dataclass(slots=True)
class PagesetDrain:
    """A call of ``drain_all_pages`` on one node."""

    node: int
    drained_pages: int
    away: str
    latency_ns: int
    step: Literal["pageset_drain"] = "pageset_drain"


Step = WalkStep | FreelistPass | KswapdWakeup | DirectReclaim | PagesetDrain
