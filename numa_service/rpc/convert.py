"""Protobuf messages and the node's own types: the one mapping between them, both ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, TypeAlias

import numa_client
from google.protobuf.message import Message
from numa_client._gen.numa.v1 import memory_service_pb2 as memory_pb2
from numa_client._gen.numa.v1 import node_service_pb2 as node_pb2
from numa_client._gen.numa.v1 import types_pb2
from numa_client._gen.numa.v1 import zonelist_service_pb2 as zonelist_pb2

from numa_service.machine.record import MemoryState
from numa_service.mm.gfp import parse_gfp
from numa_service.mm.mmzone import WMARK_HIGH, WMARK_LOW, WMARK_MIN
from numa_service.mm.pgdat import Pgdat, ZoneExtent
from numa_service.mm.pgdata import KSWAPD_FAILURES, SWAP_TOTAL
from numa_service.mm.vmstat import NR_ZONE_LRU_BASE, NUMASTAT_NAMES, vm_event_names
from numa_service.node import ops
from numa_service.node.cost import Cost
from numa_service.node.errors import InvalidRequest
from numa_service.node.free_pages import Freed
from numa_service.node.load import Report
from numa_service.node.mempolicy import Policy
from numa_service.node.node import Node
from numa_service.node.ops.op import Op, Tagged, decode, encode
from numa_service.node.owners import Owner
from numa_service.node.page_alloc import Allocation
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import Touched
from numa_service.node.requests import CloseSession, Request
from numa_service.rpc import explain

LEASE_SECONDS_DEFAULT = 30.0
LEASE_SECONDS_MIN = 1.0
LEASE_SECONDS_MAX = 3600.0

DEFAULT_POLICY = Policy()

# requests of clients


def gfp(text: str) -> int:
    """gfp_flags as bits; InvalidRequest."""
    try:
        return parse_gfp(text)
    except ValueError as e:
        raise InvalidRequest("gfp_flags", str(e)) from None


def policy(message: types_pb2.Policy, node: Node) -> Policy:
    """A memory policy over the machine's nodes; InvalidRequest."""
    if not message.mode and not message.nodes:
        return DEFAULT_POLICY
    return Policy.checked(message.mode, list(message.nodes), node.machine.spec.nids)


def lease_ns(seconds: float) -> int:
    """A lease in ns; 0 is the default. InvalidRequest."""
    seconds = seconds or LEASE_SECONDS_DEFAULT
    if not LEASE_SECONDS_MIN <= seconds <= LEASE_SECONDS_MAX:
        raise InvalidRequest(
            "lease_seconds", f"{seconds:g} is not in {LEASE_SECONDS_MIN:g}…{LEASE_SECONDS_MAX:g} (0 is 30)"
        )
    return int(seconds * 1e9)


def alloc_request(message: memory_pb2.AllocPagesRequest, node: Node) -> AllocRequest:
    """AllocPages as the node takes it; InvalidRequest for flags and policy."""
    wanted = policy(message.policy, node) if message.HasField("policy") else DEFAULT_POLICY
    flags, order, count, cpu = gfp(message.gfp_flags), message.order, message.count, message.cpu
    return AllocRequest(message.session, flags, order, count, cpu, wanted, message.partial, message.explain)


# replies to clients


def cost(cost: Cost | numa_client.Cost) -> types_pb2.Cost:
    """The cost account of a request."""
    message = types_pb2.Cost()
    put_cost(message, cost)
    return message


def put_cost(message: types_pb2.Cost, cost: Cost | numa_client.Cost) -> None:
    """The same, into a part of a reply: quicker than a message made of arguments, by more than the page.

    What is zero is not put: most of it is, for most requests.
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
    """Blocks in the order of the walk."""
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
    """What FreePages did."""
    reply = memory_pb2.FreePagesResponse()
    reply.freed_pages = freed.pages
    put_cost(reply.cost, freed.cost)
    return reply


def unserved(explained: numa_client.Explanation) -> memory_pb2.AllocPagesResponse:
    """The answer to a request that could not be served, and asked why."""
    spent = cost(explained.cost)
    return memory_pb2.AllocPagesResponse(cost=spent, explanation=explain.explanation(explained, spent))


def touched(touched: Touched) -> memory_pb2.TouchRegionResponse:
    """What an access found and did."""
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
    """The node now. Reads only counters: no list is walked."""
    pg = node.pgdat.pg
    events = zip(vm_event_names(node.pgdat.zone_names), pg.vm_event.tolist(), strict=True)
    return node_pb2.GetNodeResponse(
        node=node.nid,
        incarnation=node.lineage,
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
    """The node's populated zones now."""
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


# questions between nodes: ops and the messages of ZonelistService

#: A request of ZonelistService.
Question: TypeAlias = Message


@dataclass(frozen=True, slots=True)
class Wire:
    """How an op travels."""

    #: Method of ZonelistService.
    method: str
    request: Callable[[Any, str], Question]
    #: The op's result, from the response.
    result: Callable[[Any], Any]
    #: The response, from the op's result.
    response: Callable[[Any], Message]


def _owner(owner: Owner) -> zonelist_pb2.Owner:
    return zonelist_pb2.Owner(node=owner.nid, incarnation=owner.lineage, id=owner.id)


def _owner_of(message: zonelist_pb2.Owner) -> Owner:
    return Owner(message.node, message.incarnation, message.id)


def _report(report: Report | None) -> zonelist_pb2.TrafficReport | None:
    if report is None:
        return None
    return zonelist_pb2.TrafficReport(node=report.nid, window_ns=report.ns, moved_bytes=report.bytes)


def _report_of(m: Any) -> Report | None:
    """Of a message that may carry one."""
    return Report(m.report.node, m.report.window_ns, m.report.moved_bytes) if m.HasField("report") else None


def _lookup(op: ops.Alloc, request_id: str) -> Question:
    return zonelist_pb2.LookupRequest(
        request_id=request_id,
        owner=_owner(op.owner),
        order=op.order,
        count=op.count,
        migratetype=op.migratetype,
        highest_zoneidx=op.highest_zoneidx,
        zones=op.zones,
        cpu=op.cpu,
        alloc_flags=op.alloc_flags,
        numa_how=op.numa_how,
        lru_kind=op.lru_kind,
        indexes=op.indexes,
        dirty=op.dirty,
        explain=op.explain,
        report=_report(op.report),
        gfp_flags=op.gfp,
    )


def _alloc_result(m: zonelist_pb2.LookupResponse) -> ops.AllocResult:
    account = explain.account_of(m.account) if m.HasField("account") else None
    return ops.AllocResult(m.pfns, tuple(m.path), account, tuple(m.full_zones), m.wait_ns)


def _lookup_response(result: ops.AllocResult) -> Message:
    return zonelist_pb2.LookupResponse(
        pfns=result.pfns,
        path=result.path,
        account=explain.account(result.account) if result.account else None,
        full_zones=result.full,
        wait_ns=result.wait_ns,
    )


def _free(op: ops.Free, request_id: str) -> Question:
    if op.cpu is None:
        raise ValueError("blocks held by hand are freed by a CPU: the wire has no word for none")
    return zonelist_pb2.ReleaseRequest(
        request_id=request_id, owner=_owner(op.owner), order=op.order, pfns=op.pfns, cpu=op.cpu
    )


def _release(op: ops.Release, request_id: str) -> Question:
    if op.cpu is not None:
        raise ValueError("pages of a region go to the buddy lists: the wire has no CPU for them")
    return zonelist_pb2.ReleaseRequest(
        request_id=request_id, owner=_owner(op.owner), pfns=op.pfns, indexes=op.indexes
    )


def _free_owner(op: ops.FreeOwner, request_id: str) -> Question:
    return zonelist_pb2.ReleaseOwnerRequest(request_id=request_id, owner=_owner(op.owner))


def _touch(op: ops.Touch, request_id: str) -> Question:
    return zonelist_pb2.TouchRequest(
        request_id=request_id,
        owner=_owner(op.owner),
        indexes=op.indexes,
        write=op.write,
        report=_report(op.report),
    )


def _freed_pages(m: Any) -> int:
    return int(m.freed_pages)


_RELEASED = (_freed_pages, lambda pages: zonelist_pb2.ReleaseResponse(freed_pages=pages))

#: Every op that may be asked of another node.
WIRE: dict[type[Tagged[Any]], Wire] = {
    ops.Alloc: Wire("Lookup", _lookup, _alloc_result, _lookup_response),
    ops.Free: Wire("Release", _free, *_RELEASED),
    ops.Release: Wire("Release", _release, *_RELEASED),
    ops.FreeOwner: Wire(
        "ReleaseOwner",
        _free_owner,
        _freed_pages,
        lambda pages: zonelist_pb2.ReleaseOwnerResponse(freed_pages=pages),
    ),
    ops.Touch: Wire(
        "Touch",
        _touch,
        lambda m: ops.TouchResult(m.gone, m.swapped_in_pages, tuple(m.path), m.wait_ns),
        lambda r: zonelist_pb2.TouchResponse(
            gone=r.gone, swapped_in_pages=r.swapped_in, path=r.path, wait_ns=r.wait_ns
        ),
    ),
    ops.WakeKswapd: Wire(
        "WakeKswapd",
        lambda op, request_id: zonelist_pb2.WakeKswapdRequest(
            request_id=request_id, order=op.order, highest_zoneidx=op.highest_zoneidx, gfp_flags=op.gfp
        ),
        lambda m: m.woken,
        lambda woken: zonelist_pb2.WakeKswapdResponse(woken=woken),
    ),
    ops.Reclaim: Wire(
        "Reclaim",
        lambda op, request_id: zonelist_pb2.ReclaimRequest(
            request_id=request_id,
            highest_zoneidx=op.highest_zoneidx,
            priority=op.priority,
            nr_to_reclaim_pages=op.nr_to_reclaim,
        ),
        lambda m: ops.ReclaimResult(m.scanned_pages, m.reclaimed_pages, tuple(m.path)),
        lambda r: zonelist_pb2.ReclaimResponse(
            scanned_pages=r.scanned, reclaimed_pages=r.reclaimed, path=r.path
        ),
    ),
    ops.DrainPagesets: Wire(
        "Drain",
        lambda op, request_id: zonelist_pb2.DrainRequest(
            request_id=request_id, zones=op.zones, migratetype=op.migratetype, force=op.force
        ),
        lambda m: m.drained_pages,
        lambda pages: zonelist_pb2.DrainResponse(drained_pages=pages),
    ),
    ops.Remap: Wire(
        "Remap",
        lambda op, request_id: zonelist_pb2.RemapRequest(
            request_id=request_id,
            owner=_owner(op.owner),
            indexes=op.indexes,
            from_node=op.from_nid,
            to_node=op.to_nid,
        ),
        lambda m: m.entered,
        lambda entered: zonelist_pb2.RemapResponse(entered=entered),
    ),
    ops.MemoryNotify: Wire(
        "MemoryNotify",
        lambda op, request_id: zonelist_pb2.MemoryNotifyRequest(
            request_id=request_id,
            node=op.state.nid,
            zones=[
                zonelist_pb2.PresentZone(zone=zone, present_pages=present, managed_pages=managed)
                for zone, present, managed in op.state.zones
            ],
            online=op.state.online,
            sequence=op.state.sequence,
        ),
        lambda m: None,
        lambda _: zonelist_pb2.MemoryNotifyResponse(),
    ),
    CloseSession: Wire(
        "Run",
        lambda request, request_id: zonelist_pb2.RunRequest(request_id=request_id, request=encode(request)),
        lambda m: m.pages,
        lambda pages: zonelist_pb2.RunResponse(pages=pages),
    ),
    ops.CountForeign: Wire(
        "CountForeign",
        lambda op, request_id: zonelist_pb2.CountForeignRequest(
            request_id=request_id, zone=op.zone, count=op.count
        ),
        lambda m: None,
        lambda _: zonelist_pb2.CountForeignResponse(),
    ),
}


@singledispatch
def op_of(question: Any) -> Tagged[Any]:
    """The op, or the request of this node, that a request of ZonelistService stands for."""
    raise TypeError(f"not a question between nodes: {type(question).__name__}")


@op_of.register
def _(m: zonelist_pb2.LookupRequest) -> Op[Any]:
    return ops.Alloc(
        owner=_owner_of(m.owner),
        zones=tuple(m.zones),
        cpu=m.cpu,
        order=m.order,
        count=m.count,
        migratetype=m.migratetype,
        highest_zoneidx=m.highest_zoneidx,
        alloc_flags=m.alloc_flags,
        numa_how=m.numa_how,
        lru_kind=m.lru_kind,
        indexes=m.indexes,
        dirty=m.dirty,
        explain=m.explain,
        report=_report_of(m),
        gfp=m.gfp_flags,
    )


@op_of.register
def _(m: zonelist_pb2.ReleaseRequest) -> Op[Any]:
    if m.HasField("indexes"):
        return ops.Release(_owner_of(m.owner), None, m.indexes, m.pfns)
    return ops.Free(_owner_of(m.owner), m.cpu, m.order, m.pfns)


@op_of.register
def _(m: zonelist_pb2.ReleaseOwnerRequest) -> Op[Any]:
    return ops.FreeOwner(_owner_of(m.owner))


@op_of.register
def _(m: zonelist_pb2.TouchRequest) -> Op[Any]:
    return ops.Touch(_owner_of(m.owner), m.indexes, m.write, _report_of(m))


@op_of.register
def _(m: zonelist_pb2.WakeKswapdRequest) -> Op[Any]:
    return ops.WakeKswapd(m.order, m.highest_zoneidx, m.gfp_flags)


@op_of.register
def _(m: zonelist_pb2.ReclaimRequest) -> Op[Any]:
    return ops.Reclaim(m.highest_zoneidx, m.priority, m.nr_to_reclaim_pages)


@op_of.register
def _(m: zonelist_pb2.DrainRequest) -> Op[Any]:
    return ops.DrainPagesets(tuple(m.zones), m.migratetype, m.force)


@op_of.register
def _(m: zonelist_pb2.CountForeignRequest) -> Op[Any]:
    return ops.CountForeign(m.zone, m.count)


@op_of.register
def _(m: zonelist_pb2.RemapRequest) -> Op[Any]:
    return ops.Remap(_owner_of(m.owner), m.indexes, m.from_node, m.to_node)


@op_of.register
def _(m: zonelist_pb2.MemoryNotifyRequest) -> Op[Any]:
    zones = tuple((z.zone, z.present_pages, z.managed_pages) for z in m.zones)
    return ops.MemoryNotify(MemoryState(m.node, zones, m.online, m.sequence))


@op_of.register
def _(m: zonelist_pb2.RunRequest) -> Tagged[Any]:
    try:
        request = decode(m.request)
    except ValueError as error:
        raise InvalidRequest("request", str(error)) from None
    if not isinstance(request, Request):
        raise InvalidRequest("request", f"{request.tag} is a method of its own")
    return request
