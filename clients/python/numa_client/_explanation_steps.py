"""What a request did on its way through the allocator, step by step. Pages unless the name says otherwise.

A node makes these with the request. They are not frozen: those take several times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

#: (nid, zone name).
Zone = tuple[int, str]


#: Why a zone was left.
LeftBecause: TypeAlias = Literal["complete", "below_mark", "no_block", "would_mix", "reserved"]


@dataclass(slots=True)
class WatermarkCheck:
    """``__zone_watermark_ok`` in numbers: usable > needed, and a block that is large enough."""

    #: min, low or high; empty when the request ignores watermarks.
    mark_name: str
    free_pages: int
    #: Free pages of the high-atomic reserve that the request may not use.
    unusable_pages: int
    #: 2^order - 1; 2^order + 1 in linux-3.0.
    order_cost_pages: int
    mark_pages: int
    boost_pages: int
    #: Taken off the mark for ALLOC_HIGH, and for ALLOC_HARDER.
    high_part_pages: int
    harder_part_pages: int
    lowmem_reserve_pages: int
    #: Largest order with a free block that the request may use; -1 without any.
    largest_free_order: int
    ok: bool
    #: Free CMA pages, for a request that is not movable.
    cma_pages: int = 0
    #: linux-3.0, for higher orders: pages in free blocks of lower ones, and how often the mark is halved.
    too_small_pages: int = 0
    halvings: int = 0

    @property
    def usable_pages(self) -> int:
        """The left side of the comparison."""
        unusable = self.unusable_pages + self.cma_pages + self.too_small_pages
        return self.free_pages - unusable - self.order_cost_pages

    @property
    def needed_pages(self) -> int:
        """The right side."""
        mark = self.mark_pages + self.boost_pages - self.high_part_pages - self.harder_part_pages
        return mark >> self.halvings if self.halvings else mark + self.lowmem_reserve_pages

    @property
    def above_mark(self) -> bool:
        """Whether the comparison holds; a block that is large enough is another question."""
        return not self.mark_name or self.usable_pages > self.needed_pages


@dataclass(slots=True)
class ZoneVisit:
    """One zone, looked at for one pass."""

    zone: str
    #: The test when the walk came to the zone, and when it left it.
    before: WatermarkCheck
    after: WatermarkCheck
    served_blocks: int
    #: Why the walk went on; `complete` when it did not.
    left_because: LeftBecause
    #: The CPU's pageset.
    pageset_before_pages: int
    pageset_after_pages: int
    #: Blocks taken from the buddy lists, those that refilled the pageset included.
    buddy_blocks: int
    #: Blocks split, by order.
    splits: Mapping[int, int]
    #: Pageblocks that changed hands, by "from -> to".
    claims: Mapping[str, int]
    #: Served blocks that lie in pageblocks of another type, by that type.
    foreign_blocks: Mapping[str, int]


@dataclass(slots=True)
class NodeVisit:
    """A node in a pass."""

    node: int
    #: It was asked over the network: one lookup for all its zones.
    remote: bool
    #: Why it gave no answer; empty when it did.
    away: str
    zones: tuple[ZoneVisit, ...]
    #: Fallbacks to free lists of another migratetype.
    steals: int
    #: Zones passed over unseen: the zonelist cache (linux-3.0) says that they are full.
    cached_full: tuple[str, ...] = ()


@dataclass(slots=True)
class WalkStep:
    """A zonelist is chosen."""

    #: Node whose zonelist it is.
    node: int
    #: It is the list of this node only (__GFP_THISNODE).
    this_node_only: bool
    #: Blocks that it is to get.
    count: int
    zones: tuple[Zone, ...]
    #: Zones that the request may not use: above its class, and outside its nodemask.
    above_class: tuple[Zone, ...]
    outside_nodemask: tuple[Zone, ...]
    latency_ns: int
    step: Literal["walk"] = "walk"


@dataclass(slots=True)
class FreelistPass:
    """``get_page_from_freelist`` once."""

    #: Where in the allocator this is, e.g. "fast path", "after direct reclaim".
    name: str
    #: ALLOC_* without the prefix, the watermark first.
    alloc_flags: tuple[str, ...]
    nodes: tuple[NodeVisit, ...]
    latency_ns: int
    step: Literal["freelist_pass"] = "freelist_pass"


@dataclass(slots=True)
class KswapdWakeup:
    """``wakeup_kswapd`` on one node."""

    node: int
    #: False: it was awake already, its node is balanced, or it has given up.
    woken: bool
    away: str
    latency_ns: int
    step: Literal["kswapd_wakeup"] = "kswapd_wakeup"


@dataclass(slots=True)
class DirectReclaim:
    """One pass over the LRU lists of one node."""

    node: int
    #: 12 is gentle, 0 scans everything.
    priority: int
    scanned_pages: int
    reclaimed_pages: int
    away: str
    latency_ns: int
    step: Literal["direct_reclaim"] = "direct_reclaim"


@dataclass(slots=True)
class PagesetDrain:
    """``drain_all_pages`` on one node."""

    node: int
    drained_pages: int
    away: str
    latency_ns: int
    step: Literal["pageset_drain"] = "pageset_drain"


Step = WalkStep | FreelistPass | KswapdWakeup | DirectReclaim | PagesetDrain
