"""Checks of fields that several ops have. Each raises InvalidRequest with the field's name on the wire."""

from __future__ import annotations

from numa_service.mm.mmzone import MIGRATE_PCPTYPES, NR_ORDERS
from numa_service.node.errors import InvalidRequest
from numa_service.node.load import Report
from numa_service.node.owners import Owner
from numa_service.node.state import NodeState

#: 64 TiB and a page: more than a machine file can describe.
MAX_NODE_PAGES = (64 << 28) + 1
MAX_REGION_PAGES = 1 << 24
GFP_BITS = (1 << 32) - 1
#: Times in ns and totals: 64 bits with a sign.
MAX_INT64 = (1 << 63) - 1


def check_below(field: str, value: int, limit: int) -> None:
    """Of a number in [0, limit)."""
    if not 0 <= value < limit:
        raise InvalidRequest(field, f"{value} is not in 0…{limit - 1}")


def check_bits(field: str, value: int, known: int) -> None:
    """Of flags of which every one must be `known`."""
    if value & ~known:
        raise InvalidRequest(field, f"{value:#x} has bits that mean nothing: known are {known:#x}")


def check_order(order: int) -> None:
    """Of a block's order."""
    check_below("order", order, NR_ORDERS)


def check_migratetype(migratetype: int) -> None:
    """Of one that a request may have."""
    check_below("migratetype", migratetype, MIGRATE_PCPTYPES)


def check_zoneidx(node: NodeState, zone: int, field: str = "highest_zoneidx") -> None:
    """Of a zone's index."""
    check_below(field, zone, len(node.pgdat.zone_names))


def check_zones(node: NodeState, zones: tuple[int, ...]) -> None:
    """Of zones of this node, each at most once."""
    if len(zones) > len(node.pgdat.zone_names):
        raise InvalidRequest("zones", f"{len(zones)}: the node has {len(node.pgdat.zone_names)}")
    for zone in zones:
        check_zoneidx(node, zone, "zones")
    if len(set(zones)) != len(zones):
        raise InvalidRequest("zones", "one is named twice")


def check_cpu(node: NodeState, cpu: int) -> None:
    """Of any CPU of the machine."""
    if cpu not in node.pgdat.cpu_index:
        raise InvalidRequest("cpu", f"{cpu} is not a CPU of the machine")


def check_nid(node: NodeState, field: str, nid: int) -> None:
    """Of a node of the machine."""
    if all(n.nid != nid for n in node.machine.spec.nodes):
        raise InvalidRequest(field, f"there is no node {nid}")


def check_owner(node: NodeState, owner: Owner) -> None:
    """Of somebody who may hold pages: whether it lives, its home knows."""
    check_nid(node, "owner.node", owner.nid)


def check_report(node: NodeState, report: Report | None) -> None:
    """Of what another node's CPUs did to this node's memory."""
    if report:
        check_nid(node, "report.node", report.nid)
        node.load.check_report(report)


def check_indexes(indexes: bytes) -> None:
    """Of pages of a region."""
    if len(indexes) % 4:
        raise InvalidRequest("indexes", f"{len(indexes)} bytes: not a sequence of 32-bit page indexes")


def check_frames(field: str, pfns: bytes, indexes: bytes) -> None:
    """Of one page frame for each index."""
    if len(pfns) != 2 * len(indexes):
        raise InvalidRequest(field, f"{len(pfns)} bytes do not fit {len(indexes)} bytes of indexes")


def check_pfn_range(start_pfn: int, end_pfn: int) -> None:
    """Of [start, end)."""
    check_below("start_pfn", start_pfn, MAX_NODE_PAGES)
    if not start_pfn < end_pfn < MAX_NODE_PAGES + (1 << 20):
        raise InvalidRequest("end_pfn", f"{end_pfn} does not end a range that starts at {start_pfn}")


def owner_text(owner: Owner) -> str:
    """An owner as transcripts name it."""
    return f"owner={owner.nid}:{owner.id}"
