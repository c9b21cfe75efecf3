"""What nodes ask each other: ops and requests, and the messages of ZonelistService that carry them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.message import Message
from numa_client._gen.numa.v1 import zonelist_service_pb2 as zonelist_pb2

from numa_service.node import ops
from numa_service.node.errors import InvalidRequest
from numa_service.node.hugetlb import AllocHugePage, GrowPool, ReserveHugePages
from numa_service.node.kmap import MapPage, MappingsEnded, PageAddress, PageOwner, UnmapPage, WakePkmap
from numa_service.node.kmem_calls import pack, unpack
from numa_service.node.load import Report
from numa_service.node.oom_kill import OomKill, OomLook, OomSeen
from numa_service.node.ops.op import Op, Tagged, decode, encode
from numa_service.node.ops.vmalloc import GotVmArea
from numa_service.node.owners import Owner
from numa_service.node.request import Request
from numa_service.node.requests import CloseSession, MoveAway
from numa_service.node.task_memory_failure import PageLost
from numa_service.rpc import explain

#: A request message of ZonelistService.
Question: TypeAlias = Message


@dataclass(frozen=True, slots=True)
class Wire:
    """How an op is asked of another node: the method, and the converters of request and response."""

    #: Method of ZonelistService.
    method: str
    #: Makes the request message of an op and a request id.
    request: Callable[[Any, str], Question]
    #: Makes the op's result of a response message.
    result: Callable[[Any], Any]
    #: Makes a response message of the op's result.
    response: Callable[[Any], Message]


def _owner(owner: Owner) -> zonelist_pb2.Owner:
    return zonelist_pb2.Owner(node=owner.nid, lineage=owner.lineage, id=owner.id)


def _owner_of(message: zonelist_pb2.Owner) -> Owner:
    return Owner(message.node, message.lineage, message.id)


def _report(report: Report | None) -> zonelist_pb2.TrafficReport | None:
    if report is None:
        return None
    return zonelist_pb2.TrafficReport(node=report.nid, window_ns=report.ns, moved_bytes=report.bytes)


def _report_of(m: Any) -> Report | None:
    """The traffic report in a request of ZonelistService, or None if it carries none."""
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
        slab=op.slab,
        slab_objects=op.slab_objects,
    )


def _alloc_result(m: zonelist_pb2.LookupResponse) -> ops.AllocResult:
    account = explain.account_of(m.account) if m.HasField("account") else None
    full = tuple(m.full_zones)
    return ops.AllocResult(
        m.pfns, tuple(m.path), account, full, m.wait_ns, objects=m.objects, lineage=m.lineage
    )


def _lookup_response(result: ops.AllocResult) -> Message:
    return zonelist_pb2.LookupResponse(
        pfns=result.pfns,
        path=result.path,
        account=explain.account(result.account) if result.account else None,
        full_zones=result.full,
        wait_ns=result.wait_ns,
        objects=result.objects,
        lineage=result.lineage if result.objects else 0,
    )


def _free(op: ops.Free, request_id: str) -> Question:
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


def _kmem(op: ops.KmemCall, request_id: str) -> Question:
    return zonelist_pb2.KmemRequest(
        request_id=request_id,
        owner=_owner(op.owner),
        call=op.call,
        cache=op.cache,
        cpu=op.cpu,
        lineage=op.lineage,
        pfns=op.pfns,
        objects=op.objects,
        count=op.count,
    )


def _kmem_write(op: ops.KmemWrite, request_id: str) -> Question:
    return zonelist_pb2.KmemRequest(
        request_id=request_id,
        owner=_owner(op.owner),
        call="write",
        objects=pack([op.object]),
        offset=op.offset,
        data=op.data,
    )


def _hugetlb(op: ops.HugetlbCall, request_id: str) -> Question:
    return zonelist_pb2.HugetlbRequest(
        request_id=request_id,
        call=op.call,
        huge_page_kb=op.kb,
        count=op.count,
        owner=_owner(op.owner) if op.owner else None,
        pfn=op.pfn,
    )


def _hugetlb_reserve(op: ops.HugetlbReserve, request_id: str) -> Question:
    return zonelist_pb2.HugetlbRequest(
        request_id=request_id, call="reserve", huge_page_kb=op.kb, count=op.count, owner=_owner(op.owner)
    )


def _freed_pages(m: Any) -> int:
    return int(m.freed_pages)


#: A request that the other node runs, with one number as its result.
_RUN = Wire(
    "Run",
    lambda request, request_id: zonelist_pb2.RunRequest(request_id=request_id, request=encode(request)),
    lambda m: m.pages,
    lambda pages: zonelist_pb2.RunResponse(pages=pages),
)

_RELEASED = (_freed_pages, lambda pages: zonelist_pb2.ReleaseResponse(freed_pages=pages))


def _vm_area_response(result: Any) -> Question:
    """The answer to any question about an area: what its fields are to each is what the op's result says."""
    found = isinstance(result, ops.VmAreaPages)
    got = result if isinstance(result, GotVmArea) else GotVmArea(result.addr if found else 0)
    order, pfns, array = result[1:] if found else (0, b"", 0)
    return zonelist_pb2.VmAreaResponse(
        addr=got.addr, report=got.report, order=order, pfns=pfns, array=array, found=found
    )


def _vm_area_result(m: zonelist_pb2.VmAreaResponse) -> Any:
    if m.found:
        return ops.VmAreaPages(m.addr, m.order, m.pfns, m.array)
    return GotVmArea(m.addr, m.report)


_VM_AREA = Wire(
    "VmArea",
    lambda op, request_id: zonelist_pb2.VmAreaRequest(request_id=request_id, op=encode(op)),
    _vm_area_result,
    _vm_area_response,
)

#: Every op, and every request for the other node to run, that may be asked of another node.
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
    ops.KmemCall: Wire(
        "Kmem",
        _kmem,
        lambda m: ops.KmemAnswer(m.lineage, tuple(m.pfns), m.objects, m.frozen, tuple(m.report)),
        lambda r: zonelist_pb2.KmemResponse(
            lineage=r.lineage, pfns=r.pfns, objects=r.objects, frozen=r.frozen, report=r.report
        ),
    ),
    ops.KmemWrite: Wire("Kmem", _kmem_write, lambda m: None, lambda _: zonelist_pb2.KmemResponse()),
    ops.GetVmArea: _VM_AREA,
    ops.MapVmArea: _VM_AREA,
    ops.FindVmArea: _VM_AREA,
    ops.FreeVmArea: _VM_AREA,
    ops.HugetlbCall: Wire(
        "Hugetlb",
        _hugetlb,
        lambda m: ops.HugetlbAnswer(m.nr, m.free, m.surplus, m.changed, m.pfn),
        lambda r: zonelist_pb2.HugetlbResponse(**r._asdict()),
    ),
    ops.HugetlbReserve: Wire(
        "Hugetlb",
        _hugetlb_reserve,
        lambda m: m.changed,
        lambda count: zonelist_pb2.HugetlbResponse(changed=count),
    ),
    CloseSession: _RUN,
    GrowPool: _RUN,
    ReserveHugePages: _RUN,
    AllocHugePage: _RUN,
    PageAddress: _RUN,
    PageOwner: _RUN,
    MapPage: _RUN,
    UnmapPage: _RUN,
    MappingsEnded: _RUN,
    WakePkmap: _RUN,
    OomKill: _RUN,
    PageLost: _RUN,
    OomLook: Wire(
        "Run",
        lambda request, request_id: zonelist_pb2.RunRequest(request_id=request_id, request=encode(request)),
        lambda m: OomSeen.unpack(m.told),
        lambda seen: zonelist_pb2.RunResponse(told=seen.pack()),
    ),
    MoveAway: Wire(
        "Run",
        lambda request, request_id: zonelist_pb2.RunRequest(request_id=request_id, request=encode(request)),
        lambda m: m.fates,
        lambda fates: zonelist_pb2.RunResponse(fates=fates),
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


def _alloc_op(m: zonelist_pb2.LookupRequest) -> Op[Any]:
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
        slab=m.slab,
        slab_objects=m.slab_objects,
    )


def _free_or_release_op(m: zonelist_pb2.ReleaseRequest) -> Op[Any]:
    """Free for blocks of an order, Release for pages of a region, which have indexes."""
    if m.HasField("indexes"):
        return ops.Release(_owner_of(m.owner), None, m.indexes, m.pfns)
    return ops.Free(_owner_of(m.owner), m.cpu if m.HasField("cpu") else None, m.order, m.pfns)


def _free_owner_op(m: zonelist_pb2.ReleaseOwnerRequest) -> Op[Any]:
    return ops.FreeOwner(_owner_of(m.owner))


def _touch_op(m: zonelist_pb2.TouchRequest) -> Op[Any]:
    return ops.Touch(_owner_of(m.owner), m.indexes, m.write, _report_of(m))


def _wake_kswapd_op(m: zonelist_pb2.WakeKswapdRequest) -> Op[Any]:
    return ops.WakeKswapd(m.order, m.highest_zoneidx, m.gfp_flags)


def _reclaim_op(m: zonelist_pb2.ReclaimRequest) -> Op[Any]:
    return ops.Reclaim(m.highest_zoneidx, m.priority, m.nr_to_reclaim_pages)


def _drain_pagesets_op(m: zonelist_pb2.DrainRequest) -> Op[Any]:
    return ops.DrainPagesets(tuple(m.zones), m.migratetype, m.force)


def _count_foreign_op(m: zonelist_pb2.CountForeignRequest) -> Op[Any]:
    return ops.CountForeign(m.zone, m.count)


def _remap_op(m: zonelist_pb2.RemapRequest) -> Op[Any]:
    return ops.Remap(_owner_of(m.owner), m.indexes, m.from_node, m.to_node)


def _kmem_op(m: zonelist_pb2.KmemRequest) -> Op[Any]:
    if m.call == "write":
        if len(m.objects) != 8:
            raise InvalidRequest("objects", "write is about one object")
        return ops.KmemWrite(_owner_of(m.owner), 0, unpack(m.objects)[0], m.offset, m.data)
    return ops.KmemCall(
        _owner_of(m.owner), m.call, m.cache, m.cpu, m.lineage, tuple(m.pfns), m.objects, m.count
    )


def _vm_area_op(m: zonelist_pb2.VmAreaRequest) -> Tagged[Any]:
    try:
        op = decode(m.op)
    except ValueError as error:
        raise InvalidRequest("op", str(error)) from None
    if WIRE.get(type(op)) is not _VM_AREA:
        raise InvalidRequest("op", f"{op.tag} is a method of its own")
    return op


def _hugetlb_op(m: zonelist_pb2.HugetlbRequest) -> Op[Any]:
    owner = _owner_of(m.owner) if m.HasField("owner") else None
    if m.call == "reserve":
        if owner is None:
            raise InvalidRequest("owner", "reserve needs one")
        return ops.HugetlbReserve(m.huge_page_kb, owner, m.count)
    return ops.HugetlbCall(m.call, m.huge_page_kb, m.count, owner, m.pfn)


def _run_request(m: zonelist_pb2.RunRequest) -> Tagged[Any]:
    try:
        request = decode(m.request)
    except ValueError as error:
        raise InvalidRequest("request", str(error)) from None
    if not isinstance(request, Request):
        raise InvalidRequest("request", f"{request.tag} is a method of its own")
    return request


#: Decoder of each request of ZonelistService but CheckOwners, which changes nothing and is no op.
_DECODERS: dict[type[Message], Callable[[Any], Tagged[Any]]] = {
    zonelist_pb2.LookupRequest: _alloc_op,
    zonelist_pb2.ReleaseRequest: _free_or_release_op,
    zonelist_pb2.ReleaseOwnerRequest: _free_owner_op,
    zonelist_pb2.TouchRequest: _touch_op,
    zonelist_pb2.WakeKswapdRequest: _wake_kswapd_op,
    zonelist_pb2.ReclaimRequest: _reclaim_op,
    zonelist_pb2.DrainRequest: _drain_pagesets_op,
    zonelist_pb2.CountForeignRequest: _count_foreign_op,
    zonelist_pb2.RemapRequest: _remap_op,
    zonelist_pb2.KmemRequest: _kmem_op,
    zonelist_pb2.VmAreaRequest: _vm_area_op,
    zonelist_pb2.HugetlbRequest: _hugetlb_op,
    zonelist_pb2.RunRequest: _run_request,
}


def op_of(question: Message) -> Tagged[Any]:
    """The op, or the request for this node to run, that a message of ZonelistService carries.

    Values are not checked yet: see ``node/ask.py``. InvalidRequest for a RunRequest that cannot be decoded,
    TypeError for any other message.
    """
    decoder = _DECODERS.get(type(question))
    if decoder is None:
        raise TypeError(f"not a question between nodes: {type(question).__name__}")
    return decoder(question)
