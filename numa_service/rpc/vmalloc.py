"""VmallocService: kernel virtual addresses, for clients that act as tasks on a CPU of this node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
from numa_client._gen.numa.v1 import vmalloc_service_pb2 as pb2
from numa_client._gen.numa.v1 import vmalloc_service_pb2_grpc as pb2_grpc

from numa_service.mm.vmalloc.pages import NUMA_NO_NODE
from numa_service.node import ops
from numa_service.node.ask import Steps
from numa_service.node.kmap import kmap, kmap_atomic, kunmap
from numa_service.node.node import Node
from numa_service.node.ops.highmem import linear_address
from numa_service.node.vmalloc import vfree, vmalloc, vmap, vunmap
from numa_service.rpc.requests import M, Requests
from numa_service.rpc.tokens import session_of

Context = grpc.aio.ServicerContext[Any, Any]


class VmallocServicer(pb2_grpc.VmallocServiceServicer):
    """vmalloc, vmap and kmap for sessions of this node. Every request is carried out once per request id."""

    def __init__(self, node: Node, requests: Requests) -> None:
        self._node = node
        self._requests = requests

    def Vmalloc(
        self, request: pb2.VmallocRequest, context: Context
    ) -> pb2.VmallocResponse | Awaitable[pb2.VmallocResponse]:
        """Map new pages one behind the other."""
        return self._once(request, self._vmalloc, context)

    def _vmalloc(self, request: pb2.VmallocRequest) -> Steps[pb2.VmallocResponse]:
        nid = request.node if request.HasField("node") else NUMA_NO_NODE
        size = request.size_bytes
        made = yield from vmalloc(
            self._node, request.session, size, request.caller, request.cpu, nid, huge=request.huge
        )
        pages = [pb2.VmallocPages(node=nid, pages=pages) for nid, pages in sorted(made.pages.items())]
        return pb2.VmallocResponse(address=made.addr, pages=pages)

    def Vfree(
        self, request: pb2.VfreeRequest, context: Context
    ) -> pb2.VfreeResponse | Awaitable[pb2.VfreeResponse]:
        """Free the area that has an address, and its pages."""
        return self._once(request, self._vfree, context)

    def _vfree(self, request: pb2.VfreeRequest) -> Steps[pb2.VfreeResponse]:
        freed = yield from vfree(self._node, request.session, request.address, request.cpu)
        return pb2.VfreeResponse(freed_pages=freed)

    def Vmap(
        self, request: pb2.VmapRequest, context: Context
    ) -> pb2.VmapResponse | Awaitable[pb2.VmapResponse]:
        """Take addresses for pages that the session has."""
        return self._once(request, self._vmap, context)

    def _vmap(self, request: pb2.VmapRequest) -> Steps[pb2.VmapResponse]:
        count, caller = request.count_pages, request.caller
        address = yield from vmap(self._node, request.session, count, caller, request.cpu)
        return pb2.VmapResponse(address=address)

    def Vunmap(
        self, request: pb2.VunmapRequest, context: Context
    ) -> pb2.VunmapResponse | Awaitable[pb2.VunmapResponse]:
        """End a mapping by Vmap."""
        return self._once(request, self._vunmap, context)

    def _vunmap(self, request: pb2.VunmapRequest) -> Steps[pb2.VunmapResponse]:
        yield from vunmap(self._node, request.session, request.address)
        return pb2.VunmapResponse()

    def Kmap(
        self, request: pb2.KmapRequest, context: Context
    ) -> pb2.KmapResponse | Awaitable[pb2.KmapResponse]:
        """Map a page of the session in the pool of kmap, and wait for an entry."""
        return self._once(request, self._kmap, context)

    def _kmap(self, request: pb2.KmapRequest) -> Steps[pb2.KmapResponse]:
        inbox = self._requests.inbox
        address = yield from kmap(inbox, request.session, request.pfn, atomic=request.atomic)
        return pb2.KmapResponse(address=address)

    def Kunmap(
        self, request: pb2.KunmapRequest, context: Context
    ) -> pb2.KunmapResponse | Awaitable[pb2.KunmapResponse]:
        """Give up a mapping by Kmap."""
        return self._once(request, self._kunmap, context)

    def _kunmap(self, request: pb2.KunmapRequest) -> Steps[pb2.KunmapResponse]:
        yield from kunmap(self._requests.inbox, request.session, request.pfn)
        return pb2.KunmapResponse()

    def KmapAtomic(
        self, request: pb2.KmapAtomicRequest, context: Context
    ) -> pb2.KmapAtomicResponse | Awaitable[pb2.KmapAtomicResponse]:
        """Map a page of the session in the next slot."""
        return self._once(request, self._kmap_atomic, context)

    def _kmap_atomic(self, request: pb2.KmapAtomicRequest) -> Steps[pb2.KmapAtomicResponse]:
        ops.KmapLocal(request.session, request.pfn, request.cpu).check(self._node)
        inbox = self._requests.inbox
        slot = yield from kmap_atomic(inbox, request.session, request.pfn, request.cpu)
        if slot >= 0:
            return pb2.KmapAtomicResponse(slot=slot)
        return pb2.KmapAtomicResponse(address=linear_address(self._node, request.pfn) or 0)

    def KunmapAtomic(
        self, request: pb2.KunmapAtomicRequest, context: Context
    ) -> pb2.KunmapAtomicResponse | Awaitable[pb2.KunmapAtomicResponse]:
        """Give up the last slot."""
        return self._once(request, self._kunmap_atomic, context)

    def _kunmap_atomic(self, request: pb2.KunmapAtomicRequest) -> pb2.KunmapAtomicResponse:
        op = ops.KunmapLocal(request.session, request.pfn, request.cpu)
        op.check(self._node)
        self._node.apply(op)
        return pb2.KunmapAtomicResponse()

    def _once(self, request: Any, begin: Callable[[Any], M | Steps[M]], context: Context) -> M | Awaitable[M]:
        session = session_of(self._node, request)
        return self._requests.once(session, request, begin, context.time_remaining())
