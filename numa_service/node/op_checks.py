"""What an op that comes from outside must be before it is applied: compiled kernels check no bounds.

Each check takes the node and the op, and raises InvalidRequest that names the field of the message. A shell
calls :func:`check_asked` for another node's question and :func:`check_kswapd_step` for a step of kswapd; both
refuse an op that has no check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numa_service.mm.fallback import ALLOC_CMA, ALLOC_KSWAPD, ALLOC_NOFRAGMENT
from numa_service.mm.mmzone import DEF_PRIORITY, MIGRATE_PCPTYPES, NR_ORDERS
from numa_service.mm.page_alloc import (
    ALLOC_CPUSET,
    ALLOC_NO_WATERMARKS,
    ALLOC_RESERVES,
    ALLOC_WMARK_MASK,
    LRU_KIND_FILE,
    LRU_KIND_NONE,
    NUMA_HOW_HIT,
    NUMA_HOW_INTERLEAVE,
    NUMA_HOW_LOCAL,
)
from numa_service.node import ops
from numa_service.node.books import check_pfns, unpack_indexes
from numa_service.node.errors import InvalidRequest
from numa_service.node.load import Report
from numa_service.node.node import Node
from numa_service.node.ops import Op
from numa_service.node.prepare import MAX_COUNT, MAX_REQUEST_PAGES

Check = Callable[[Node, Any], None]

#: 64 TiB and a page: more than a machine file can describe.
MAX_NODE_PAGES = (64 << 28) + 1

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
_GFP_BITS = (1 << 32) - 1


def check_alloc(node: Node, op: ops.Alloc) -> None:
    """Of a walk that has come to this node."""
    _owner(node, op.owner)
    _report(node, op.report)
    _below("order", op.order, NR_ORDERS)
    _below("count", op.count - 1, MAX_COUNT)
    _below("count", (op.count << op.order) - 1, MAX_REQUEST_PAGES)
    _migratetype(op.migratetype)
    _zoneidx(node, op.highest_zoneidx)
    _zones(node, op.zones)
    _cpu(node, op.cpu)
    _bits("alloc_flags", op.alloc_flags, _ALLOC_FLAGS)
    _bits("numa_how", op.numa_how, _NUMA_HOW)
    _bits("gfp_flags", op.gfp, _GFP_BITS)
    _below("lru_kind", op.lru_kind, LRU_KIND_FILE + 1)
    if op.lru_kind != LRU_KIND_NONE and op.order:
        raise InvalidRequest("order", "pages of a region are single")
    if len(op.indexes) != (4 * op.count if op.lru_kind != LRU_KIND_NONE else 0):
        raise InvalidRequest("indexes", f"{len(op.indexes)} bytes do not fit {op.count} pages")


def check_free(node: Node, op: ops.Free) -> None:
    """Of blocks held by hand."""
    _owner(node, op.owner)
    _below("order", op.order, NR_ORDERS)
    if op.cpu is not None:
        _cpu(node, op.cpu)
    check_pfns(op.pfns)


def check_touch(node: Node, op: ops.Touch) -> None:
    """Of an access to pages of a region."""
    _report(node, op.report)
    check_region_pages(node, op)


def check_region_pages(node: Node, op: ops.Touch | ops.Release | ops.FreeOwner) -> None:
    """Of what names pages of a region by pfn and index."""
    _owner(node, op.owner)
    if len(op.pfns) % 8 or len(op.indexes) * 2 != len(op.pfns):
        raise InvalidRequest("indexes", f"{len(op.indexes)} bytes do not fit {len(op.pfns)} bytes of pfns")


def check_wake_kswapd(node: Node, op: ops.WakeKswapd) -> None:
    """Of wakeup_kswapd()."""
    _below("order", op.order, NR_ORDERS)
    _zoneidx(node, op.highest_zoneidx)
    _bits("gfp_flags", op.gfp, _GFP_BITS)


def check_reclaim(node: Node, op: ops.Reclaim) -> None:
    """Of one pass of direct reclaim."""
    _zoneidx(node, op.highest_zoneidx)
    _below("priority", op.priority, DEF_PRIORITY + 1)
    _below("nr_to_reclaim_pages", op.nr_to_reclaim, MAX_REQUEST_PAGES + 1)


def check_drain(node: Node, op: ops.DrainPagesets) -> None:
    """Of the last resorts of a request."""
    _zones(node, op.zones)
    _migratetype(op.migratetype)


def check_count_foreign(node: Node, op: ops.CountForeign) -> None:
    """Of numa_foreign."""
    _zoneidx(node, op.zone, "zone")
    _below("count", op.count, MAX_COUNT + 1)


def check_remap(node: Node, op: ops.Remap) -> None:
    """Of pages that were migrated."""
    _owner(node, op.owner)
    _nid(node, "from_node", op.from_nid)
    _nid(node, "to_node", op.to_nid)
    for field, pfns in (("from_pfns", op.from_pfns), ("to_pfns", op.to_pfns)):
        if len(op.indexes) % 4 or len(pfns) != 2 * len(op.indexes):
            raise InvalidRequest(field, f"{len(pfns)} bytes do not fit {len(op.indexes)} bytes of indexes")
    region = node.regions.get(op.owner.id)
    if region is not None and op.indexes:
        _below("indexes", int(unpack_indexes(op.indexes).max()), len(region.pfns))


def check_memory_notify(node: Node, op: ops.MemoryNotify) -> None:
    """Of memory of another node that came or went."""
    _nid(node, "node", op.state.nid)
    if op.state.nid == node.nid:
        raise InvalidRequest("node", "its own memory a node knows")
    _zones(node, tuple(zone for zone, _, _ in op.state.zones))
    for _, present, managed in op.state.zones:
        _below("managed_pages", managed, present + 1)
        _below("present_pages", present, MAX_NODE_PAGES)


def check_kswapd_begin(node: Node, op: ops.KswapdBegin) -> None:
    """Of the start of a run of kswapd, which says nothing."""


def check_balance(node: Node, op: ops.Balance) -> None:
    """Of a step of balance_pgdat()."""
    _below("order", op.order, NR_ORDERS)
    _zoneidx(node, op.highest_zoneidx)
    _below("priority", op.priority, DEF_PRIORITY + 1)
    _below("nr_to_reclaim", op.nr_to_reclaim, MAX_NODE_PAGES)


def check_kswapd_sleep(node: Node, op: ops.KswapdSleep) -> None:
    """Of the end of a run of kswapd."""
    _below("reclaimed", op.reclaimed, 1 << 63)
    _below("boosts", len(op.boosts), len(node.pgdat.zone_names) + 1)
    for boost in op.boosts:
        _below("boosts", boost, MAX_NODE_PAGES)


#: What another node may ask.
ASKED: dict[type[Op[Any]], Check] = {
    ops.Alloc: check_alloc,
    ops.Free: check_free,
    ops.Release: check_region_pages,
    ops.FreeOwner: check_region_pages,
    ops.Touch: check_touch,
    ops.WakeKswapd: check_wake_kswapd,
    ops.Reclaim: check_reclaim,
    ops.DrainPagesets: check_drain,
    ops.CountForeign: check_count_foreign,
    ops.Remap: check_remap,
    ops.MemoryNotify: check_memory_notify,
}
#: The steps that a kswapd may take on its node.
KSWAPD_STEPS: dict[type[Op[Any]], Check] = {
    ops.KswapdBegin: check_kswapd_begin,
    ops.Balance: check_balance,
    ops.KswapdSleep: check_kswapd_sleep,
}


def check_asked(node: Node, op: Op[Any]) -> None:
    """InvalidRequest for another node's op that must not be applied; TypeError for one that none may ask."""
    check = ASKED.get(type(op))
    if check is None:
        raise TypeError(f"not a question between nodes: {type(op).__name__}")
    check(node, op)


def check_kswapd_step(node: Node, op: Op[Any]) -> None:
    """InvalidRequest for a step that must not be applied; TypeError for any other op."""
    check = KSWAPD_STEPS.get(type(op))
    if check is None:
        raise TypeError(f"not a step of kswapd: {type(op).__name__}")
    check(node, op)


def _below(field: str, value: int, limit: int) -> None:
    if not 0 <= value < limit:
        raise InvalidRequest(field, f"{value} is not in 0…{limit - 1}")


def _bits(field: str, value: int, known: int) -> None:
    if value & ~known:
        raise InvalidRequest(field, f"{value:#x} has bits that mean nothing: known are {known:#x}")


def _migratetype(migratetype: int) -> None:
    _below("migratetype", migratetype, MIGRATE_PCPTYPES)


def _zoneidx(node: Node, zone: int, field: str = "highest_zoneidx") -> None:
    _below(field, zone, len(node.pgdat.zone_names))


def _zones(node: Node, zones: tuple[int, ...]) -> None:
    """Zones of this node, each at most once."""
    if len(zones) > len(node.pgdat.zone_names):
        raise InvalidRequest("zones", f"{len(zones)}: the node has {len(node.pgdat.zone_names)}")
    for zone in zones:
        _zoneidx(node, zone, "zones")
    if len(set(zones)) != len(zones):
        raise InvalidRequest("zones", "one is named twice")


def _cpu(node: Node, cpu: int) -> None:
    if cpu not in node.pgdat.cpu_index:
        raise InvalidRequest("cpu", f"{cpu} is not a CPU of the machine")


def _nid(node: Node, field: str, nid: int) -> None:
    if all(n.nid != nid for n in node.machine.spec.nodes):
        raise InvalidRequest(field, f"there is no node {nid}")


def _owner(node: Node, owner: ops.Owner) -> None:
    _nid(node, "owner.node", owner.nid)


def _report(node: Node, report: Report | None) -> None:
    if report:
        _nid(node, "report.node", report.nid)
        node.load.check_report(report)
