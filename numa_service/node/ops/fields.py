"""Checks of fields that several ops have.

Each function raises InvalidRequest, with the field's name on the wire, for an invalid value.
"""

from __future__ import annotations

from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE
from numa_service.mm.mempolicy.policy import MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES
from numa_service.mm.mmzone import MIGRATE_PCPTYPES, NR_ORDERS
from numa_service.node.errors import InvalidRequest
from numa_service.node.load import Report
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.owners import Owner
from numa_service.node.state import NodeState

#: Upper bound of pfns and of numbers of pages: 64 TiB and a page, more than a machine file can describe.
MAX_NODE_PAGES = (64 << 28) + 1
MAX_REGION_PAGES = 1 << 24
GFP_BITS = (1 << 32) - 1
#: Upper bound of times in ns and of totals.
MAX_INT64 = (1 << 63) - 1


def check_below(field: str, value: int, limit: int) -> None:
    """Check that a number is in [0, limit)."""
    if not 0 <= value < limit:
        raise InvalidRequest(field, f"{value} is not in 0…{limit - 1}")


def check_bits(field: str, value: int, known: int) -> None:
    """Check that flags have no bits but those in `known`."""
    if value & ~known:
        raise InvalidRequest(field, f"{value:#x} has bits that mean nothing: known are {known:#x}")


def check_order(order: int) -> None:
    """Check the order of a block."""
    check_below("order", order, NR_ORDERS)


def check_migratetype(migratetype: int) -> None:
    """Check that a migratetype is one that a request may have."""
    check_below("migratetype", migratetype, MIGRATE_PCPTYPES)


def check_zoneidx(node: NodeState, zone: int, field: str = "highest_zoneidx") -> None:
    """Check the index of a zone of this node."""
    check_below(field, zone, len(node.pgdat.zone_names))


def check_zones(node: NodeState, zones: tuple[int, ...]) -> None:
    """Check zone indexes of this node, each at most once."""
    if len(zones) > len(node.pgdat.zone_names):
        raise InvalidRequest("zones", f"{len(zones)}: the node has {len(node.pgdat.zone_names)}")
    for zone in zones:
        check_zoneidx(node, zone, "zones")
    if len(set(zones)) != len(zones):
        raise InvalidRequest("zones", "one is named twice")


def check_cpu(node: NodeState, cpu: int) -> None:
    """Check that the machine has a CPU, on any node."""
    if cpu not in node.pgdat.cpu_index:
        raise InvalidRequest("cpu", f"{cpu} is not a CPU of the machine")


def check_nid(node: NodeState, field: str, nid: int) -> None:
    """Check that the machine has a node."""
    if all(n.nid != nid for n in node.machine.spec.nodes):
        raise InvalidRequest(field, f"there is no node {nid}")


def check_owner(node: NodeState, owner: Owner) -> None:
    """Check that an owner's home exists; whether the owner itself exists is known only there."""
    check_nid(node, "owner.node", owner.nid)


def check_report(node: NodeState, report: Report | None) -> None:
    """Check another node's report of its traffic to this node's memory."""
    if report:
        check_nid(node, "report.node", report.nid)
        node.load.check_report(report)


def check_indexes(indexes: bytes) -> None:
    """Check that packed page indexes are a sequence of 32-bit numbers."""
    if len(indexes) % 4:
        raise InvalidRequest("indexes", f"{len(indexes)} bytes: not a sequence of 32-bit page indexes")


def check_frames(field: str, pfns: bytes, indexes: bytes) -> None:
    """Check that packed pfns have one 64-bit number for each packed index."""
    if len(pfns) != 2 * len(indexes):
        raise InvalidRequest(field, f"{len(pfns)} bytes do not fit {len(indexes)} bytes of indexes")


def check_pfn_range(start_pfn: int, end_pfn: int) -> None:
    """Check a range of pfns [start, end)."""
    check_below("start_pfn", start_pfn, MAX_NODE_PAGES)
    if not start_pfn < end_pfn < MAX_NODE_PAGES + (1 << 20):
        raise InvalidRequest("end_pfn", f"{end_pfn} does not end a range that starts at {start_pfn}")


def check_policy(node: NodeState, policy: tuple[int, tuple[int, ...], int, int]) -> None:
    """Check a memory policy that is plain data (Policy.plain())."""
    mode, nodes, home_node, flags = policy
    check_below("policy.mode", mode, len(PolicyMode))
    known = {n.nid for n in node.machine.spec.nodes}
    check_bits("policy.flags", flags, MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES)
    Policy.checked(mode, list(nodes), known, node.machine.profile, home_node, flags)


def policy_text(policy: tuple[int, tuple[int, ...], int, int]) -> str:
    """Return a policy as transcripts name it."""
    mode, nodes, home_node, flags = policy
    marks = ((MPOL_F_STATIC_NODES, " static"), (MPOL_F_RELATIVE_NODES, " relative"))
    words = [PolicyMode(mode).name.lower(), *(text for flag, text in marks if flags & flag)]
    where = f" nodes={','.join(map(str, nodes))}" if nodes else ""
    home = f" home=node{home_node}" if home_node != NUMA_NO_NODE else ""
    return f"{''.join(words)}{where}{home}"


def owner_text(owner: Owner) -> str:
    """Return an owner as transcripts name it."""
    return f"owner={owner.nid}:{owner.id}"
