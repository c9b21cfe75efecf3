"""The mapping between the protobuf messages of clients and the node's own types, in both directions."""

from __future__ import annotations

import numa_client
from numa_client._gen.numa.v1 import memory_service_pb2 as memory_pb2
from numa_client._gen.numa.v1 import node_service_pb2 as node_pb2
from numa_client._gen.numa.v1 import types_pb2

from numa_service.mm.gfp import parse_gfp
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE
from numa_service.mm.mempolicy.policy import MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES
from numa_service.mm.mmzone import WMARK_HIGH, WMARK_LOW, WMARK_MIN
from numa_service.mm.pgdat import Pgdat, ZoneExtent
from numa_service.mm.pgdata import KSWAPD_FAILURES, SWAP_TOTAL
from numa_service.mm.vmstat import NR_ZONE_LRU_BASE, NUMASTAT_NAMES, vm_event_names
from numa_service.node.cost import Cost
from numa_service.node.errors import InvalidRequest
from numa_service.node.free_pages import Freed
from numa_service.node.mempolicy import Policy
from numa_service.node.node import Node
from numa_service.node.page_alloc import Allocation
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import Touched
from numa_service.rpc import explain

LEASE_SECONDS_DEFAULT = 30.0
LEASE_SECONDS_MIN = 1.0
LEASE_SECONDS_MAX = 3600.0

DEFAULT_POLICY = Policy()
_POLICY_FLAGS = {
    types_pb2.POLICY_FLAG_UNSPECIFIED: 0,
    types_pb2.POLICY_FLAG_STATIC_NODES: MPOL_F_STATIC_NODES,
    types_pb2.POLICY_FLAG_RELATIVE_NODES: MPOL_F_RELATIVE_NODES,
}

# requests of clients


def gfp(text: str) -> int:
    """Parse gfp flags ("GFP_KERNEL|__GFP_ZERO") into their bits. InvalidRequest for an unknown flag."""
    try:
        return parse_gfp(text)
    except ValueError as e:
        raise InvalidRequest("gfp_flags", str(e)) from None


def policy(message: types_pb2.Policy, node: Node) -> Policy:
    """Check a memory policy. InvalidRequest for an unknown mode or for nodes that the machine lacks.

    An empty message is the default policy.
    """
    if not message.ByteSize():
        return DEFAULT_POLICY
    machine = node.machine
    home_node = message.home_node if message.HasField("home_node") else NUMA_NO_NODE
    if message.flag not in _POLICY_FLAGS:
        raise InvalidRequest("policy.flag", f"{message.flag} is no policy flag")
    flags = _POLICY_FLAGS[message.flag]
    nodes, known = list(message.nodes), machine.spec.nids
    return Policy.checked(message.mode, nodes, known, machine.profile, home_node, flags)


def lease_ns(seconds: float) -> int:
    """Convert a lease to ns; 0 means LEASE_SECONDS_DEFAULT. InvalidRequest when it is out of bounds."""
    seconds = seconds or LEASE_SECONDS_DEFAULT
    if not LEASE_SECONDS_MIN <= seconds <= LEASE_SECONDS_MAX:
        raise InvalidRequest(
            "lease_seconds", f"{seconds:g} is not in {LEASE_SECONDS_MIN:g}…{LEASE_SECONDS_MAX:g} (0 is 30)"
        )
    return int(seconds * 1e9)


def alloc_request(message: memory_pb2.AllocPagesRequest, node: Node) -> AllocRequest:
    """Convert an AllocPages request. InvalidRequest for wrong gfp flags or a wrong policy.

    The node checks the other fields (``node/prepare.py``).
    """
    wanted = policy(message.policy, node) if message.HasField("policy") else DEFAULT_POLICY
    flags, order, count, cpu = gfp(message.gfp_flags), message.order, message.count, message.cpu
    return AllocRequest(message.session, flags, order, count, cpu, wanted, message.partial, message.explain)


# replies to clients


def cost(cost: Cost | numa_client.Cost) -> types_pb2.Cost:
    """Convert the cost of a request, in virtual ns."""
    message = types_pb2.Cost()
    put_cost(message, cost)
    return message


def put_cost(message: types_pb2.Cost, cost: Cost | numa_client.Cost) -> None:
    """Fill the Cost message inside a reply.

    Setting fields one by one, and only those that are not zero, is faster than constructing the message with
    keyword arguments and copying it into the reply. This runs once for each allocation.
    """
    message.latency_ns = cost.latency_ns
    message.pageset_ns = cost.pageset_ns
    if cost.access_ns:
        message.access_ns = cost.access_ns
    if cost.buddy_ns:
        message.buddy_ns = cost.buddy_ns
    if cost.fallback_ns:
        message.fallback_ns = cost.fallback_ns
    if cost.reclaim_ns:
        message.reclaim_ns = cost.reclaim_ns
    if cost.zeroing_ns:
        message.zeroing_ns = cost.zeroing_ns
    if cost.queueing_ns:
        message.queueing_ns = cost.queueing_ns


def allocation(allocation: Allocation) -> memory_pb2.AllocPagesResponse:
    """Convert the blocks that AllocPages got, in the order in which the zonelist walk found them."""
    reply = memory_pb2.AllocPagesResponse()
    for nid, pfns in allocation.pages:
        pages = reply.pages.add()
        pages.node, pages.pfns = nid, pfns
    put_cost(reply.cost, allocation.cost)
    if allocation.remote_lookups:
        reply.remote_lookups = allocation.remote_lookups
    if allocation.direct_reclaimed:
        reply.direct_reclaimed_pages = allocation.direct_reclaimed
    if allocation.explanation:
        reply.explanation.CopyFrom(explain.explanation(allocation.explanation, reply.cost))
    return reply


def freed(freed: Freed) -> memory_pb2.FreePagesResponse:
    """Convert the result of FreePages."""
    reply = memory_pb2.FreePagesResponse()
    reply.freed_pages = freed.pages
    put_cost(reply.cost, freed.cost)
    return reply


def unserved(explained: numa_client.Explanation) -> memory_pb2.AllocPagesResponse:
    """The reply to a failed AllocPages request that asked for an explanation: no pages, but the reason."""
    spent = cost(explained.cost)
    return memory_pb2.AllocPagesResponse(cost=spent, explanation=explain.explanation(explained, spent))


def touched(touched: Touched) -> memory_pb2.TouchRegionResponse:
    """Convert the result of TouchRegion."""
    return memory_pb2.TouchRegionResponse(
        hit_pages=touched.hits,
        fault_pages=touched.faults,
        major_fault_pages=touched.major_faults,
        placement=[
            memory_pb2.NodeCount(node=nid, pages=pages)
            for nid, pages in sorted(touched.placement.items())
            if pages
        ],
        cost=cost(touched.cost),
        remote_lookups=touched.remote_lookups,
        direct_reclaimed_pages=touched.direct_reclaimed,
    )


def node_state(node: Node, digest: str) -> node_pb2.GetNodeResponse:
    """The node's current state. It reads counters only and walks no list, so its cost does not grow."""
    pg = node.pgdat.pg
    events = zip(vm_event_names(node.pgdat.zone_names), pg.vm_event.tolist(), strict=True)
    return node_pb2.GetNodeResponse(
        node=node.nid,
        lineage=node.lineage,
        zones=zone_summaries(node),
        numa_stat=types_pb2.NumaStat(
            **dict(zip(NUMASTAT_NAMES, pg.numa_event.sum(axis=0).tolist(), strict=True))
        ),
        vm_events={name: count for name, count in events if name},
        kswapd=node_pb2.KswapdState(
            running=node.kswapd.running,
            wakeups=node.kswapd.wakeups,
            reclaimed_pages=node.kswapd.reclaimed,
            order=node.kswapd_order,
            failures=int(pg.kswapd[KSWAPD_FAILURES]),
        ),
        sessions=len(node.sessions),
        held_pages=node.held_pages(),
        swap_total_pages=int(pg.reclaim_stat[SWAP_TOTAL]),
        swap_used_pages=node.swap_used,
        digest=digest,
        log_length=node.log_length,
    )


def zone_summaries(node: Node) -> list[types_pb2.ZoneSummary]:
    """Current pages, watermarks and lists of the node's populated zones."""
    return [_zone_summary(node.pgdat, extent) for extent in node.pgdat.extents if extent.present]


def _zone_summary(pgdat: Pgdat, extent: ZoneExtent) -> types_pb2.ZoneSummary:
    pg, zone = pgdat.pg, extent.index
    lru = pg.vm_stat[zone, NR_ZONE_LRU_BASE:].tolist()
    return types_pb2.ZoneSummary(
        zone=extent.name,
        free_pages=pgdat.free_pages(zone),
        managed_pages=extent.managed,
        present_pages=extent.present,
        spanned_pages=extent.spanned,
        start_pfn=extent.start_pfn,
        min_pages=int(pg.watermark[zone, WMARK_MIN]),
        low_pages=int(pg.watermark[zone, WMARK_LOW]),
        high_pages=int(pg.watermark[zone, WMARK_HIGH]),
        protection_pages=pg.lowmem_reserve[zone].tolist(),
        free_blocks=pg.nr_free[zone].tolist(),
        pageset_pages=int(pg.pcp_count[:, zone].sum()),
        inactive_anon_pages=lru[0],
        active_anon_pages=lru[1],
        inactive_file_pages=lru[2],
        active_file_pages=lru[3],
    )
