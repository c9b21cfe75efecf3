"""MemoryService: sessions, pages and regions, for clients that act as tasks on a CPU of this node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc.aio
from numa_client._gen.numa.v1 import memory_service_pb2 as pb2
from numa_client._gen.numa.v1 import memory_service_pb2_grpc as pb2_grpc

from numa_service.node import ops
from numa_service.node.ask import Steps
from numa_service.node.errors import InvalidRequest, NodeError, Precondition
from numa_service.node.free_pages import Freed, begin_free
from numa_service.node.node import Node
from numa_service.node.page_alloc import Allocation, begin_alloc
from numa_service.node.region import map_region
from numa_service.node.requests import close, mbind, migrate, move, touch, unmap
from numa_service.node.unserved import Unserved
from numa_service.rpc import convert
from numa_service.rpc.instruments import Instruments
from numa_service.rpc.requests import M, Requests
from numa_service.rpc.status import to_status
from numa_service.rpc.stream import answer_in_order
from numa_service.rpc.tokens import new_token, session_of

#: Longest delay of one reply under the latency mode `inject`, in real seconds.
INJECT_SECONDS_MAX = 10.0

Context = grpc.aio.ServicerContext[Any, Any]
R = TypeVar("R", pb2.AllocPagesResponse, pb2.FreePagesResponse, pb2.TouchRegionResponse)


class MemoryServicer(pb2_grpc.MemoryServiceServicer):
    """Sessions, pages and regions. Every request that changes something is carried out once per request id.

    Methods reply at once when no other node has to be asked, else they return an awaitable.
    """

    def __init__(
        self,
        node: Node,
        requests: Requests,
        instruments: Instruments,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`clock` gives the time of leases in ns; `sleep` injects latency (in seconds)."""
        self._node = node
        self._requests = requests
        self._instruments = instruments
        self._clock = clock
        self._sleep = sleep
        model = node.machine.spec.latency
        #: Real seconds that a reply is delayed per virtual ns; 0: replies are not delayed.
        self._dilation = model.time_dilation / 1e9 if model.mode == "inject" else 0.0

    def OpenSession(
        self, request: pb2.OpenSessionRequest, context: Context
    ) -> pb2.OpenSessionResponse | Awaitable[pb2.OpenSessionResponse]:
        """Start a session and its lease."""
        return self._requests.once(0, request, self._open, None)

    def _open(self, request: pb2.OpenSessionRequest) -> pb2.OpenSessionResponse:
        if not self._node.pgdat.cpus:
            raise Precondition(f"node {self._node.nid} has no CPUs: open the session on one that has")
        lease_ns = convert.lease_ns(request.lease_seconds)
        op = ops.OpenSession(request.client_name, lease_ns, self._clock(), new_token())
        op.check(self._node)
        return pb2.OpenSessionResponse(
            session=self._node.apply(op),
            session_token=op.token,
            lease_seconds=lease_ns / 1e9,
            node=self._node.nid,
            lineage=self._node.lineage,
        )

    async def RenewSession(
        self, request: pb2.RenewSessionRequest, context: Context
    ) -> pb2.RenewSessionResponse:
        """Renew a session's lease."""
        session = session_of(self._node, request)
        self._requests.inbox.check_session(session)
        lease_ns = self._node.apply(ops.RenewSession(session, self._clock()))
        return pb2.RenewSessionResponse(lease_seconds=lease_ns / 1e9)

    def CloseSession(
        self, request: pb2.CloseSessionRequest, context: Context
    ) -> pb2.CloseSessionResponse | Awaitable[pb2.CloseSessionResponse]:
        """End a session, and free everything that it holds on every node."""
        return self._once(request, self._close, context)

    def _close(self, request: pb2.CloseSessionRequest) -> Steps[pb2.CloseSessionResponse]:
        mine = request.session, request.request_id
        freed = yield from close(self._requests.inbox, request.session, mine)
        return pb2.CloseSessionResponse(freed_pages=freed)

    def AllocPages(
        self, request: pb2.AllocPagesRequest, context: Context
    ) -> pb2.AllocPagesResponse | Awaitable[pb2.AllocPagesResponse]:
        """Allocate blocks of 2^order pages that the session holds until it frees them."""
        reply = self._once(request, self._alloc, context)
        return self._injected(reply) if self._dilation else reply

    def _alloc(
        self, request: pb2.AllocPagesRequest
    ) -> pb2.AllocPagesResponse | Steps[pb2.AllocPagesResponse]:
        begun = begin_alloc(self._node, convert.alloc_request(request, self._node))
        return self._allocated(begun) if isinstance(begun, Allocation) else self._alloc_rest(begun)

    def _alloc_rest(self, begun: Steps[Allocation]) -> Steps[pb2.AllocPagesResponse]:
        try:
            return self._allocated((yield from begun))
        except Unserved as failed:
            if failed.explanation is None:
                raise
            return convert.unserved(failed.explanation)

    def _allocated(self, got: Allocation) -> pb2.AllocPagesResponse:
        reply = convert.allocation(got)
        self._instruments.allocated(self._node.nid, got)
        return reply

    def FreePages(
        self, request: pb2.FreePagesRequest, context: Context
    ) -> pb2.FreePagesResponse | Awaitable[pb2.FreePagesResponse]:
        """Free blocks: all of them, or none if one of them is not the session's."""
        reply = self._once(request, self._free, context)
        return self._injected(reply) if self._dilation else reply

    def _free(self, request: pb2.FreePagesRequest) -> pb2.FreePagesResponse | Steps[pb2.FreePagesResponse]:
        # a slice is a plain list; iterating the repeated field itself ends with an IndexError, which is slow
        pages = [(p.node, p.pfns) for p in request.pages[:]]
        begun = begin_free(self._node, request.session, request.order, pages, request.cpu, request.request_id)
        return convert.freed(begun) if isinstance(begun, Freed) else self._free_rest(begun)

    def _free_rest(self, begun: Steps[Freed]) -> Steps[pb2.FreePagesResponse]:
        return convert.freed((yield from begun))

    async def StreamPages(  # type: ignore[override]  # grpc.aio takes a coroutine that reads and writes, too
        self, requests: Any, context: Context
    ) -> None:
        """AllocPages and FreePages requests, carried out one by one and answered in order."""
        await answer_in_order(context, lambda request: self._stream_step(request, context))

    async def _stream_step(
        self, request: pb2.StreamPagesRequest, context: Context
    ) -> pb2.StreamPagesResponse:
        try:
            match request.WhichOneof("call"):
                case "alloc":
                    got = self.AllocPages(request.alloc, context)
                    if not isinstance(got, pb2.AllocPagesResponse):
                        got = await got
                    return pb2.StreamPagesResponse(alloc=got)
                case "free":
                    freed = self.FreePages(request.free, context)
                    if not isinstance(freed, pb2.FreePagesResponse):
                        freed = await freed
                    return pb2.StreamPagesResponse(free=freed)
                case _:
                    raise InvalidRequest("call", "neither alloc nor free is set")
        except NodeError as error:
            return pb2.StreamPagesResponse(error=to_status(error).SerializeToString())

    def MapRegion(
        self, request: pb2.MapRegionRequest, context: Context
    ) -> pb2.MapRegionResponse | Awaitable[pb2.MapRegionResponse]:
        """Map a region of pageable memory; it has no pages until they are touched."""
        return self._once(request, self._map, context)

    def _map(self, request: pb2.MapRegionRequest) -> pb2.MapRegionResponse:
        self._node.session(request.session)
        policy = convert.policy(request.policy, self._node)
        region = map_region(self._node, request.session, request.kind, request.nr_pages, policy)
        return pb2.MapRegionResponse(region=region)

    def TouchRegion(
        self, request: pb2.TouchRegionRequest, context: Context
    ) -> pb2.TouchRegionResponse | Awaitable[pb2.TouchRegionResponse]:
        """Access pages of a region."""
        reply = self._once(request, self._touch, context)
        return self._injected(reply) if self._dilation else reply

    def _touch(self, request: pb2.TouchRegionRequest) -> Steps[pb2.TouchRegionResponse]:
        steps = touch(
            self._requests.inbox,
            request.session,
            request.region,
            request.first_page,
            request.count,
            request.write,
            request.cpu,
        )
        return convert.touched((yield from steps))

    def BindRegion(
        self, request: pb2.BindRegionRequest, context: Context
    ) -> pb2.BindRegionResponse | Awaitable[pb2.BindRegionResponse]:
        """Give pages of a region a policy, and move those that are elsewhere (mbind)."""
        return self._once(request, self._bind, context)

    def _bind(self, request: pb2.BindRegionRequest) -> Steps[pb2.BindRegionResponse]:
        self._node.session(request.session)
        done = yield from mbind(
            self._requests.inbox,
            request.session,
            request.region,
            request.first_page,
            request.nr_pages,
            convert.policy(request.policy, self._node),
            request.cpu,
            move=request.move,
            strict=request.strict,
        )
        return pb2.BindRegionResponse(moved_pages=done.moved, failed_pages=done.failed)

    def MigratePages(
        self, request: pb2.MigratePagesRequest, context: Context
    ) -> pb2.MigratePagesResponse | Awaitable[pb2.MigratePagesResponse]:
        """Move the pages of a session's regions from some nodes to others (migrate_pages)."""
        return self._once(request, self._migrate, context)

    def _migrate(self, request: pb2.MigratePagesRequest) -> Steps[pb2.MigratePagesResponse]:
        old, new = list(request.old_nodes), list(request.new_nodes)
        done = yield from migrate(self._requests.inbox, request.session, old, new, request.cpu)
        return pb2.MigratePagesResponse(moved_pages=done.moved, failed_pages=done.failed)

    def MovePages(
        self, request: pb2.MovePagesRequest, context: Context
    ) -> pb2.MovePagesResponse | Awaitable[pb2.MovePagesResponse]:
        """Move single pages of a region, or say where they are (move_pages)."""
        return self._once(request, self._move, context)

    def _move(self, request: pb2.MovePagesRequest) -> Steps[pb2.MovePagesResponse]:
        pages, nodes = list(request.pages), list(request.nodes) or None
        inbox, session = self._requests.inbox, request.session
        status, errno = yield from move(inbox, session, request.region, pages, nodes, request.cpu)
        return pb2.MovePagesResponse(status=status, errno=errno)

    def UnmapRegion(
        self, request: pb2.UnmapRegionRequest, context: Context
    ) -> pb2.UnmapRegionResponse | Awaitable[pb2.UnmapRegionResponse]:
        """Unmap a region, and free its pages on every node."""
        return self._once(request, self._unmap, context)

    def _unmap(self, request: pb2.UnmapRegionRequest) -> Steps[pb2.UnmapRegionResponse]:
        freed = yield from unmap(self._requests.inbox, request.session, request.region)
        return pb2.UnmapRegionResponse(freed_pages=freed)

    async def _injected(self, reply: R | Awaitable[R]) -> R:
        """The reply, delayed by its modelled latency times the time dilation. Errors are not delayed."""
        if isinstance(reply, Awaitable):
            reply = await reply
        await self._sleep(min(reply.cost.latency_ns * self._dilation, INJECT_SECONDS_MAX))
        return reply

    def _once(self, request: Any, begin: Callable[[Any], M | Steps[M]], context: Context) -> M | Awaitable[M]:
        session = session_of(self._node, request)
        return self._requests.once(session, request, begin, context.time_remaining())
