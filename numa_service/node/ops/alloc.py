"""Taking pages: what a walk over a zonelist does on each node, and what it leaves behind there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from numa_service.mm.fallback import ALLOC_CMA, ALLOC_KSWAPD, ALLOC_NOFRAGMENT
from numa_service.mm.page_alloc import (
    LRU_KIND_FILE,
    LRU_KIND_NONE,
    NUMA_HOW_HIT,
    NUMA_HOW_INTERLEAVE,
    NUMA_HOW_LOCAL,
    take_boosted,
)
from numa_service.mm.vmstat import PATH_STEALS
from numa_service.mm.zone_watermark import (
    ALLOC_CPUSET,
    ALLOC_NO_WATERMARKS,
    ALLOC_RESERVES,
    ALLOC_WMARK_LOW,
    ALLOC_WMARK_MASK,
)
from numa_service.node.cost import Cost
from numa_service.node.errors import InvalidRequest
from numa_service.node.explain import NodeAccount
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
from numa_service.node.ops.op import Op
from numa_service.node.ops.region import Release
from numa_service.node.owners import Owner
from numa_service.node.pfns import unpack_indexes, unpack_pfns
from numa_service.node.state import NodeState
from numa_service.node.zone_account import Account

#: Blocks, and pages, that one request may ask for.
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
    | ALLOC_KSWAPD
)
_NUMA_HOW = NUMA_HOW_HIT | NUMA_HOW_LOCAL | NUMA_HOW_INTERLEAVE


class AllocResult(NamedTuple):
    """Pages taken from one node."""

    pfns: bytes
    #: PATH_* work counters.
    path: tuple[int, ...]
    #: For an op that asked to explain.
    account: NodeAccount | None = None
    #: Zones that could not serve any more; told only by kernels with a zonelist cache.
    full: tuple[int, ...] = ()
    #: What an access to this node's memory waits now, in virtual ns.
    wait_ns: int = 0
    #: What a request that is over has cost, if that has been spent. Not to be changed: others cost the same.
    spent: Cost | None = None


@dataclass(slots=True)
class Alloc(Op[AllocResult]):
    """Take blocks from this node's zones for an owner, here or elsewhere (get_page_from_freelist)."""

    tag = "alloc"
    asked = True

    owner: Owner
    zones: tuple[int, ...]
    #: CPU that asks; every zone has a pageset for every CPU of the machine.
    cpu: int
    order: int
    count: int
    migratetype: int
    highest_zoneidx: int
    alloc_flags: int
    #: NUMA_HOW_* bits.
    numa_how: int
    #: LRU_KIND_*: region pages go on the LRU as pages `indexes`.
    lru_kind: int = 0
    indexes: bytes = b""
    dirty: bool = False
    #: Also tell what was looked at; changes nothing else.
    explain: bool = False
    #: Of the node that asks.
    report: Report | None = None
    #: Of the request.
    gfp: int = 0
    #: With all its blocks the request is over, and its CPU spends what it cost: see Spend.
    spends: bool = False

    def apply(self, node: NodeState) -> AllocResult:
        """Take as many of the blocks as the zones can give above their marks."""
        pgdat = node.pgdat
        before = None
        if self.explain:
            walk = (
                self.zones,
                self.cpu,
                self.order,
                self.migratetype,
                self.highest_zoneidx,
                self.alloc_flags,
            )
            before = Account(pgdat, *walk)
        pfns, path, boosted = pgdat.alloc_packed(
            self.zones,
            self.cpu,
            self.order,
            self.count,
            self.migratetype,
            self.highest_zoneidx,
            self.alloc_flags,
            self.numa_how,
            node.slots.get(self.owner) or node.slots.make(self.owner),
            self.lru_kind,
            self.indexes,
            self.dirty,
        )
        if not pfns:
            node.forget_if_empty(self.owner)
        account = before.since(len(pfns) // 8, path[PATH_STEALS]) if before else None
        if boosted and take_boosted(pgdat.pg):
            # rmqueue(): an allocation that mixed migratetypes wakes kswapd to defragment
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
        return AllocResult(pfns, path, account, full, wait_ns, spent)

    def _full_zones(self, node: NodeState, pfns: bytes) -> tuple[int, ...]:
        """Zones that the walk left because they could not serve: all before the one that served last."""
        if len(pfns) // 8 < self.count:
            return self.zones
        return self.zones[: self.zones.index(node.pgdat.zone_of(int(unpack_pfns(pfns)[-1])))]

    def check(self, node: NodeState) -> None:
        """Of a walk that has come to this node."""
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
        if self.lru_kind != LRU_KIND_NONE and self.order:
            raise InvalidRequest("order", "pages of a region are single")
        if len(self.indexes) != (4 * self.count if self.lru_kind != LRU_KIND_NONE else 0):
            raise InvalidRequest("indexes", f"{len(self.indexes)} bytes do not fit {self.count} pages")
        if self.indexes:
            indexes = unpack_indexes(self.indexes)
            check_below("indexes", int(indexes.max()), MAX_REGION_PAGES)
            if len(np.unique(indexes)) != len(indexes):
                raise InvalidRequest("indexes", "one is named twice")

    def text(self, node: NodeState, result: AllocResult) -> str:
        """With what its zones have left."""
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
        """It may have given pages to nobody."""
        return heard

    def undo(self, result: AllocResult) -> Op[int] | None:
        """Give them back."""
        if not result.pfns:
            return None
        if self.lru_kind:
            return Release(self.owner, None, self.indexes[: len(result.pfns) // 2], result.pfns)
        return Free(self.owner, self.cpu, self.order, result.pfns)

    @property
    def payload(self) -> int:
        """Of the indexes."""
        return len(self.indexes)


@dataclass(frozen=True, slots=True)
class ZlcMarkFull(Op[None]):
    """Zones of a fallback list could not serve (zlc_mark_zone_full); kernels with a zonelist cache."""

    tag = "zlc_mark_full"

    #: Node whose list it is; every home has its own cache of it.
    list_nid: int
    #: Places in the list.
    positions: tuple[int, ...]
    #: zlc_setup() comes first, at that time; None: not in this scan.
    setup_ns: int | None

    def apply(self, node: NodeState) -> None:
        """Set their bits in fullzones."""
        cache = node.zonelist_cache(self.list_nid)
        if self.setup_ns is not None:
            cache.setup(self.setup_ns)
        for position in self.positions:
            cache.mark_zone_full(position)

    def check(self, node: NodeState) -> None:
        """Of places in a list that there is."""
        check_nid(node, "list_nid", self.list_nid)
        length = len(node.machine.zonelists[self.list_nid].fallback)
        for position in self.positions:
            check_below("positions", position, length)

    def text(self, node: NodeState, result: None) -> str:
        """With the zones by name."""
        refs = node.machine.zonelists[self.list_nid].fallback
        names = node.pgdat.zone_names
        zones = ",".join(f"node{refs[at].nid}/{names[refs[at].zone]}" for at in self.positions)
        return f"zlc_mark_zone_full list=node{self.list_nid} zones={zones}"


@dataclass(frozen=True, slots=True)
class ZlcClear(Op[None]):
    """Direct reclaim got pages: every zone of a fallback list is worth trying (zlc_clear_zones_full)."""

    tag = "zlc_clear"

    list_nid: int

    def apply(self, node: NodeState) -> None:
        """Clear fullzones."""
        node.zonelist_cache(self.list_nid).clear_zones_full()

    def check(self, node: NodeState) -> None:
        """Of a list that there is."""
        check_nid(node, "list_nid", self.list_nid)

    def text(self, node: NodeState, result: None) -> str:
        """One line."""
        return f"zlc_clear_zones_full list=node{self.list_nid}"


@dataclass(frozen=True, slots=True)
class CountForeign(Op[None]):
    """numa_foreign: allocations that preferred this zone were served elsewhere."""

    tag = "count_foreign"
    asked = True

    zone: int
    count: int

    def apply(self, node: NodeState) -> None:
        """Add them to the zone's counter."""
        node.pgdat.count_foreign(self.zone, self.count)

    def check(self, node: NodeState) -> None:
        """Of a zone, and as many as one request may have."""
        check_zoneidx(node, self.zone, "zone")
        check_below("count", self.count, MAX_COUNT + 1)

    def text(self, node: NodeState, result: None) -> str:
        """One line."""
        return f"numa_foreign zone={node.pgdat.zone_names[self.zone]} count={self.count}"
