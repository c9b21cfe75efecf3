"""ZonelistService: what this node answers when another one walks its zonelist."""

from __future__ import annotations

from typing import Any

import grpc.aio
from google.protobuf.message import Message
from numa_client._gen.numa.v1 import zonelist_service_pb2 as pb2
from numa_client._gen.numa.v1 import zonelist_service_pb2_grpc as pb2_grpc

from numa_service.mm.mmzone import DEF_PRIORITY, MIGRATE_PCPTYPES, NR_ORDERS
from numa_service.mm.page_alloc import LRU_KIND_FILE, LRU_KIND_NONE
from numa_service.node import ops
from numa_service.node.books import unpack_indexes
from numa_service.node.errors import InvalidRequest
from numa_service.node.load import Report
from numa_service.node.node import Node
from numa_service.node.ops import Op
from numa_service.node.prepare import MAX_COUNT, MAX_REQUEST_PAGES
from numa_service.rpc.convert import WIRE, op_of
from numa_service.rpc.requests import Requests

Context = grpc.aio.ServicerContext[Any, Any]

#: 64 TiB and a page: more than a machine file can describe.
MAX_NODE_PAGES = (64 << 28) + 1


class ZonelistServicer(pb2_grpc.ZonelistServiceServicer):
    """Every question is one op, carried out at once: a lookup is never forwarded."""

    def __init__(self, node: Node, requests: Requests) -> None:
        self._node = node
        self._requests = requests

    def _answer(self, request: Message) -> Any:
        def apply() -> Message:
            op = op_of(request)
            check_op(self._node, op)
            return WIRE[type(op)].response(self._node.apply(op))

        return self._requests.once_now(request, apply)

    async def Lookup(self, request: pb2.LookupRequest, context: Context) -> pb2.LookupResponse:
        """Take blocks for an owner of the calling node."""
        return self._answer(request)  # type: ignore[no-any-return]

    async def Release(self, request: pb2.ReleaseRequest, context: Context) -> pb2.ReleaseResponse:
        """Free blocks held by hand, or pages of a region that are still its own."""
        return self._answer(request)  # type: ignore[no-any-return]

    async def ReleaseOwner(
        self, request: pb2.ReleaseOwnerRequest, context: Context
    ) -> pb2.ReleaseOwnerResponse:
        """Free everything that an owner has here."""
        return self._answer(request)  # type: ignore[no-any-return]

    async def Touch(self, request: pb2.TouchRequest, context: Context) -> pb2.TouchResponse:
        """Access pages of a region."""
        return self._answer(request)  # type: ignore[no-any-return]

    async def WakeKswapd(self, request: pb2.WakeKswapdRequest, context: Context) -> pb2.WakeKswapdResponse:
        """wakeup_kswapd()."""
        return self._answer(request)  # type: ignore[no-any-return]

    async def Reclaim(self, request: pb2.ReclaimRequest, context: Context) -> pb2.ReclaimResponse:
        """One pass of direct reclaim."""
        return self._answer(request)  # type: ignore[no-any-return]

    async def Drain(self, request: pb2.DrainRequest, context: Context) -> pb2.DrainResponse:
        """drain_all_pages()."""
        return self._answer(request)  # type: ignore[no-any-return]

    async def Remap(self, request: pb2.RemapRequest, context: Context) -> pb2.RemapResponse:
        """Migrated pages of a region at home here."""
        return self._answer(request)  # type: ignore[no-any-return]

    async def MemoryNotify(
        self, request: pb2.MemoryNotifyRequest, context: Context
    ) -> pb2.MemoryNotifyResponse:
        """Memory of another node came or went."""
        return self._answer(request)  # type: ignore[no-any-return]

    async def CountForeign(
        self, request: pb2.CountForeignRequest, context: Context
    ) -> pb2.CountForeignResponse:
        """numa_foreign."""
        return self._answer(request)  # type: ignore[no-any-return]


def check_op(node: Node, op: Op[Any]) -> None:
    """What another node's op must be before it may touch arrays: compiled kernels check no bounds.

    InvalidRequest names the field.
    """
    match op:
        case ops.Alloc():
            _check_owner(node, op.owner)
            _check_report(node, op.report)
            _below("order", op.order, NR_ORDERS)
            _below("count", op.count - 1, MAX_COUNT)
            _below("count", (op.count << op.order) - 1, MAX_REQUEST_PAGES)
            _below("migratetype", op.migratetype, MIGRATE_PCPTYPES)
            _below("highest_zoneidx", op.highest_zoneidx, len(node.pgdat.zone_names))
            for zone in op.zones:
                _below("zones", zone, len(node.pgdat.zone_names))
            _check_cpu(node, op.cpu)
            _below("lru_kind", op.lru_kind, LRU_KIND_FILE + 1)
            if op.lru_kind != LRU_KIND_NONE and op.order:
                raise InvalidRequest("order", "pages of a region are single")
            if len(op.indexes) != (4 * op.count if op.lru_kind != LRU_KIND_NONE else 0):
                raise InvalidRequest("indexes", f"{len(op.indexes)} bytes do not fit {op.count} pages")
        case ops.Free():
            _check_owner(node, op.owner)
            _below("order", op.order, NR_ORDERS)
            if op.cpu is not None:
                _check_cpu(node, op.cpu)
        case ops.Touch() | ops.Release() | ops.FreeOwner():
            _check_owner(node, op.owner)
            if isinstance(op, ops.Touch):
                _check_report(node, op.report)
            if len(op.pfns) % 8 or len(op.indexes) * 2 != len(op.pfns):
                raise InvalidRequest(
                    "indexes", f"{len(op.indexes)} bytes do not fit {len(op.pfns)} bytes of pfns"
                )
        case ops.WakeKswapd():
            _below("order", op.order, NR_ORDERS)
            _below("highest_zoneidx", op.highest_zoneidx, len(node.pgdat.zone_names))
        case ops.Reclaim():
            _below("highest_zoneidx", op.highest_zoneidx, len(node.pgdat.zone_names))
            _below("priority", op.priority, DEF_PRIORITY + 1)
            _below("nr_to_reclaim_pages", op.nr_to_reclaim, MAX_REQUEST_PAGES + 1)
        case ops.Remap():
            _check_remap(node, op)
        case ops.MemoryNotify():
            _check_node(node, "node", op.state.nid)
            if op.state.nid == node.nid:
                raise InvalidRequest("node", "its own memory a node knows")
            for zone, present, managed in op.state.zones:
                _below("zones", zone, len(node.pgdat.zone_names))
                _below("managed_pages", managed, present + 1)
                _below("present_pages", present, MAX_NODE_PAGES)
        case ops.CountForeign():
            _below("zone", op.zone, len(node.pgdat.zone_names))
            _below("count", op.count, MAX_COUNT + 1)


def _below(field: str, value: int, limit: int) -> None:
    if not 0 <= value < limit:
        raise InvalidRequest(field, f"{value} is not in 0…{limit - 1}")


def _check_cpu(node: Node, cpu: int) -> None:
    if cpu not in node.pgdat.cpu_index:
        raise InvalidRequest("cpu", f"{cpu} is not a CPU of the machine")


def _check_remap(node: Node, op: ops.Remap) -> None:
    _check_owner(node, op.owner)
    _check_node(node, "from_node", op.from_nid)
    _check_node(node, "to_node", op.to_nid)
    for field, pfns in (("from_pfns", op.from_pfns), ("to_pfns", op.to_pfns)):
        if len(op.indexes) % 4 or len(pfns) != 2 * len(op.indexes):
            raise InvalidRequest(field, f"{len(pfns)} bytes do not fit {len(op.indexes)} bytes of indexes")
    region = node.regions.get(op.owner.id)
    if region is not None and op.indexes:
        _below("indexes", int(unpack_indexes(op.indexes).max()), len(region.pfns))


def _check_owner(node: Node, owner: ops.Owner) -> None:
    _check_node(node, "owner.node", owner.nid)


def _check_node(node: Node, field: str, nid: int) -> None:
    if all(n.nid != nid for n in node.machine.spec.nodes):
        raise InvalidRequest(field, f"there is no node {nid}")


def _check_report(node: Node, report: Report | None) -> None:
    if report:
        _check_node(node, "report.node", report.nid)
        if report.nid == node.nid:
            raise InvalidRequest("report.node", f"{report.nid} is this node: reports are of others")
