"""Ops of allocation: what a walk over a zonelist does on each node that it comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numa_service.mm.internal import (
    ALLOC_CMA,
    ALLOC_CPUSET,
    ALLOC_FAIR,
    ALLOC_KSWAPD,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_RESERVES,
    ALLOC_WMARK_LOW,
    ALLOC_WMARK_MASK,
)
from numa_service.mm.mmzone import HUGE_INDEX, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.mm.page_alloc import (
    LRU_KIND_FILE,
    LRU_KIND_NONE,
    NUMA_HOW_HIT,
    NUMA_HOW_INTERLEAVE,
    NUMA_HOW_LOCAL,
    take_boosted,
)
from numa_service.mm.vmstat import PATH_STEALS
from numa_service.node.cost import Cost
from numa_service.node.errors import InvalidRequest, Precondition
from numa_service.node.explanation_recorder import NodeAccount
from numa_service.node.kmem_calls import pack
from numa_service.node.load import Report
from numa_service.node.ops.fields import (
    GFP_BITS,
    MAX_REGION_PAGES,
    check_below,
    check_bits,
    check_cpu,
    check_migratetype,
    check_nid,
    check_order,
    check_owner,
    check_report,
    check_zoneidx,
    check_zones,
    owner_text,
)
from numa_service.node.ops.free import Free
from numa_service.node.ops.kmem import KmemCall, check_cache, check_slab_order
from numa_service.node.ops.op import Op
from numa_service.node.ops.region import Release
from numa_service.node.owners import KERNEL_ID, Owner
from numa_service.node.pfns import unpack_indexes, unpack_pfns
from numa_service.node.state import NodeState
from numa_service.node.zone_recorder import ZoneRecorder

#: Most blocks, and most pages, that one request may ask for.
MAX_COUNT = 1 << 16
MAX_REQUEST_PAGES = 1 << 22

#: Every ALLOC_* bit that a walk may carry.
_ALLOC_FLAGS = (
    ALLOC_WMARK_MASK
    | ALLOC_NO_WATERMARKS
    | ALLOC_RESERVES
    | ALLOC_CPUSET
    | ALLOC_CMA
    | ALLOC_NOFRAGMENT
    | ALLOC_FAIR
    | ALLOC_KSWAPD
)
_NUMA_HOW = NUMA_HOW_HIT | NUMA_HOW_LOCAL | NUMA_HOW_INTERLEAVE


class AllocResult(NamedTuple):
    """The blocks that one node gave."""

    #: Packed pfns of the blocks.
    pfns: bytes
    #: PATH_* work counters.
    path: tuple[int, ...]
    #: What the zones compared and gave, for an op with `explain`.
    account: NodeAccount | None = None
    #: Zones that could give no more blocks; filled only on kernels with a zonelist cache.
    full: tuple[int, ...] = ()
    #: Virtual ns that an access to this node's memory waits now.
    wait_ns: int = 0
    #: The cost of the whole request, if the op served it completely and has spent the cost (`Alloc.spends`).
    #: It is shared with other results and must not be changed.
    spent: Cost | None = None
    #: Packed addresses of the objects of a new slab, and the lineage of the node that it is on.
    objects: bytes = b""
    lineage: int = 0


@dataclass(slots=True)
class Alloc(Op[AllocResult]):
    """Takes blocks from zones of this node for an owner of any node (get_page_from_freelist)."""

    tag = "alloc"
    asked = True

    owner: Owner
    zones: tuple[int, ...]
    #: The CPU of the request, of any node: every zone has a pageset for every CPU of the machine.
    cpu: int
    order: int
    count: int
    migratetype: int
    highest_zoneidx: int
    alloc_flags: int
    #: NUMA_HOW_* bits: which numastat counters count the blocks.
    numa_how: int
    #: LRU_KIND_*: unless it is LRU_KIND_NONE, the pages become the pages `indexes` of a region, on the LRU
    #: lists.
    lru_kind: int = 0
    #: Packed page indexes in the region.
    indexes: bytes = b""
    #: Whether the region's pages are dirty from the start.
    dirty: bool = False
    #: Also return what the zones compared and gave. It does not change what the op does.
    explain: bool = False
    #: The asking node's report of its traffic to this node's memory.
    report: Report | None = None
    #: The gfp flags of the request, for its cost and for tracepoints.
    gfp: int = 0
    #: If the op gets all blocks, it also spends the cost of the request, as Spend does: the request is over.
    spends: bool = False
    #: Name of the slab cache that the block becomes a slab of, for a CPU of the owner's node; "" for none.
    slab: str = ""
    #: Most objects of the new slab that the owner's node gets; 0: all.
    slab_objects: int = 0

    def apply(self, node: NodeState) -> AllocResult:
        """Take as many blocks as the zones can give and stay above their watermarks."""
        pgdat = node.pgdat
        owner = self.owner
        if self.slab:
            if node.slots.is_dead(owner):
                raise Precondition(f"lineage {owner.lineage} of node {owner.nid} is no more")
            node.kmem.check_gives(self.slab)
            owner = node.kernel
        recorder = None
        if self.explain:
            walk = (
                self.zones,
                self.cpu,
                self.order,
                self.migratetype,
                self.highest_zoneidx,
                self.alloc_flags,
            )
            recorder = ZoneRecorder(pgdat, *walk)
        pfns, path, boosted = pgdat.alloc_packed(
            self.zones,
            self.cpu,
            self.order,
            self.count,
            self.migratetype,
            self.highest_zoneidx,
            self.alloc_flags,
            self.numa_how,
            node.slots.get(owner) or node.slots.make(owner),
            self.lru_kind,
            self.indexes,
            self.dirty,
        )
        if not pfns:
            node.forget_if_empty(owner)
        account = recorder.finish(len(pfns) // 8, path[PATH_STEALS]) if recorder else None
        if boosted and take_boosted(pgdat.pg):
            # rmqueue(): an allocation that mixed migratetypes wakes kswapd for boosted reclaim
            pgdat.wakeup_kswapd(0, self.highest_zoneidx)
        full = self._full_zones(node, pfns) if node.machine.profile.zonelist_cache else ()
        load = node.load
        if self.report:
            load.hear(self.report)
        wait_ns = load.memory.wait_ns
        spent = None
        if self.spends and len(pfns) == 8 * self.count:
            spent = node.cost_of_pages(path, self.count << self.order, wait_ns, self.gfp)
            load.spend(self.cpu, spent.latency_ns, spent.traffic.items())
        objects = b""
        if self.slab and pfns:
            pfn = int.from_bytes(pfns, "little")
            how = self.order, self.owner, self.slab_objects, self.cpu
            objects = pack(node.kmem.new_slab(self.slab, pfn, *how))
        return AllocResult(pfns, path, account, full, wait_ns, spent, objects, node.lineage)

    def _full_zones(self, node: NodeState, pfns: bytes) -> tuple[int, ...]:
        """Return the zones that could give no more blocks: all before the zone that served last."""
        if len(pfns) // 8 < self.count:
            return self.zones
        return self.zones[: self.zones.index(node.pgdat.zone_of(int(unpack_pfns(pfns)[-1])))]

    def check(self, node: NodeState) -> None:
        """Check every field: compiled kernels check no bounds."""
        check_owner(node, self.owner)
        check_report(node, self.report)
        check_order(self.order)
        check_below("count", self.count - 1, MAX_COUNT)
        check_below("count", (self.count << self.order) - 1, MAX_REQUEST_PAGES)
        check_migratetype(self.migratetype)
        check_zoneidx(node, self.highest_zoneidx)
        check_zones(node, self.zones)
        check_cpu(node, self.cpu)
        check_bits("alloc_flags", self.alloc_flags, _ALLOC_FLAGS)
        check_bits("numa_how", self.numa_how, _NUMA_HOW)
        check_bits("gfp_flags", self.gfp, GFP_BITS)
        check_below("lru_kind", self.lru_kind, LRU_KIND_FILE + 1)
        if self.lru_kind != LRU_KIND_NONE and self.order not in (0, PAGEBLOCK_ORDER):
            raise InvalidRequest("order", "pages of a region are single, or huge")
        if len(self.indexes) != (4 * self.count if self.lru_kind != LRU_KIND_NONE else 0):
            raise InvalidRequest("indexes", f"{len(self.indexes)} bytes do not fit {self.count} pages")
        if self.slab:
            check_cache(node, self.slab)
            check_slab_order(node, self.slab, self.order)
            check_below("slab_objects", self.slab_objects, MAX_COUNT)
            if self.count != 1 or self.lru_kind != LRU_KIND_NONE or self.owner.id != KERNEL_ID:
                raise InvalidRequest("slab", "a slab is one block, and the kernel's")
        if self.indexes:
            indexes = unpack_indexes(self.indexes)
            if self.order:
                if (indexes & (HUGE_INDEX | PAGEBLOCK_NR_PAGES - 1) != HUGE_INDEX).any():
                    raise InvalidRequest("indexes", "one is not that of a huge page")
                indexes = indexes & ~np.uint32(HUGE_INDEX)
            check_below("indexes", int(indexes.max()), MAX_REGION_PAGES)
            if len(np.unique(indexes)) != len(indexes):
                raise InvalidRequest("indexes", "one is named twice")

    def text(self, node: NodeState, result: AllocResult) -> str:
        """Return the op and its result as one line, with the free pages that the node's zones have left."""
        mark = "low" if self.alloc_flags & ALLOC_WMARK_MASK == ALLOC_WMARK_LOW else "min"
        names = node.pgdat.zone_names
        zones = ",".join(names[zone] for zone in self.zones)
        left = " ".join(
            f"{names[zone]}={node.pgdat.free_pages(zone)}"
            for zone, managed in enumerate(node.pgdat.pg.managed.tolist())
            if managed
        )
        return (
            f"alloc {owner_text(self.owner)} order={self.order} zones={zones} above={mark} "
            f"want={self.count} got={len(result.pfns) // 8} free: {left}"
        )

    def owed(self, heard: bool) -> bool:
        """Return whether the node may have taken pages that the asker does not know of."""
        return heard

    def undo(self, result: AllocResult) -> Op[Any] | None:
        """Return the op that frees the pages of an answer that came too late."""
        if not result.pfns or (self.slab and not result.objects):
            return None
        if self.slab:
            pfn = int.from_bytes(result.pfns, "little")
            return KmemCall(
                self.owner, "put_back", self.slab, self.cpu, result.lineage, (pfn,), result.objects
            )
        if self.lru_kind:
            return Release(self.owner, None, self.indexes[: len(result.pfns) // 2], result.pfns)
        return Free(self.owner, self.cpu, self.order, result.pfns)

    @property
    def payload(self) -> int:
        """Bytes of the indexes."""
        return len(self.indexes)


@dataclass(frozen=True, slots=True)
class ZlcMarkFull(Op[None]):
    """Marks zones of a fallback list as full in the zonelist cache (zlc_mark_zone_full)."""

    tag = "zlc_mark_full"

    #: The node whose fallback list it is. Each node has caches of its own for all lists that it walks.
    list_nid: int
    #: Positions of the zones in the list.
    positions: tuple[int, ...]
    #: Time of the scan's zlc_setup() in ns, which this op carries out first; None if that was done before.
    setup_ns: int | None

    def apply(self, node: NodeState) -> None:
        """Set the zones' bits in fullzones."""
        cache = node.zonelist_cache(self.list_nid)
        if self.setup_ns is not None:
            cache.setup(self.setup_ns)
        for position in self.positions:
            cache.mark_zone_full(position)

    def check(self, node: NodeState) -> None:
        """Check that the node exists and that its list has these positions."""
        check_nid(node, "list_nid", self.list_nid)
        length = len(node.machine.zonelists[self.list_nid].fallback)
        for position in self.positions:
            check_below("positions", position, length)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line, with the zones by name."""
        refs = node.machine.zonelists[self.list_nid].fallback
        names = node.pgdat.zone_names
        zones = ",".join(f"node{refs[at].nid}/{names[refs[at].zone]}" for at in self.positions)
        return f"zlc_mark_zone_full list=node{self.list_nid} zones={zones}"


@dataclass(frozen=True, slots=True)
class ZlcClear(Op[None]):
    """Clears a zonelist cache after direct reclaim has freed pages (zlc_clear_zones_full)."""

    tag = "zlc_clear"

    list_nid: int

    def apply(self, node: NodeState) -> None:
        """Clear fullzones."""
        node.zonelist_cache(self.list_nid).clear_zones_full()

    def check(self, node: NodeState) -> None:
        """Check that the node exists."""
        check_nid(node, "list_nid", self.list_nid)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op and its result as one line."""
        return f"zlc_clear_zones_full list=node{self.list_nid}"


@dataclass(frozen=True, slots=True)
class CountForeign(Op[None]):
    """Counts blocks that preferred a zone of this node but were served by another node (numa_foreign)."""

    tag = "count_foreign"
    asked = True

    zone: int
    count: int

    def apply(self, node: NodeState) -> None:
        """Add to the zone's counter."""
        node.pgdat.count_foreign(self.zone, self.count)

    def check(self, node: NodeState) -> None:
        """Check the zone, and that the count is one that a request may have."""
        check_zoneidx(node, self.zone, "zone")
        check_below("count", self.count, MAX_COUNT + 1)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op and its result as one line."""
        return f"numa_foreign zone={node.pgdat.zone_names[self.zone]} count={self.count}"
