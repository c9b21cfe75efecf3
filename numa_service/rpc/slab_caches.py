"""Slab caches of the whole machine: kmem_cache_create and kmem_cache_destroy, for clients.

The machine's record has the caches; a cache that is to go is first marked in it as dying, so that no node
gives objects of it any more, and goes when no node has found any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import uuid4

from google.protobuf.message import Message
from numa_client._gen.numa.v1 import kmem_service_pb2, kmem_service_pb2_grpc
from numa_client._gen.numa.v1 import machine_service_pb2 as pb2

from numa_service.machine.record import CacheArgs, MachineRecord
from numa_service.machine.spec import MachineSpec
from numa_service.node.errors import NodeError, PeerUnavailable
from numa_service.node.inbox import check_request_id
from numa_service.node.kmem_calls import Shutdown
from numa_service.node.slab_caches import (
    kmem_cache_create,
    kmem_cache_destroy,
    parse_flags,
    revive,
    shut_down,
    shutdown_on_all,
)
from numa_service.rpc.node_calls import NodeCalls
from numa_service.rpc.record_keeper import RecordKeeper

M = TypeVar("M", bound=Message)

#: Requests whose replies are kept, for repeats.
_REPLIES = 256


_KMEM = kmem_service_pb2_grpc.KmemServiceStub
#: Method and request of each step of :func:`shutdown_on_all`.
_CALLS: dict[str, tuple[str, Callable[..., Message]]] = {
    "flush": ("FlushCache", kmem_service_pb2.FlushCacheRequest),
    "shutdown": ("ShutdownCache", kmem_service_pb2.ShutdownCacheRequest),
}


class SlabCacheRequests:
    """Makes and destroys caches, one after the other; a repeated request gets the first reply."""

    def __init__(self, nodes: NodeCalls, spec: MachineSpec, keeper: RecordKeeper) -> None:
        self._nodes = nodes
        self._spec = spec
        self._keeper = keeper
        self._one_at_a_time = asyncio.Lock()
        #: By request: it goes on when its client goes away.
        self._tasks: dict[bytes, asyncio.Task[Any]] = {}

    async def create(self, request: pb2.CreateCacheRequest) -> pb2.CreateCacheResponse:
        """Make a cache."""
        return await self._once(request, lambda: self._create(request))

    async def destroy(self, request: pb2.DestroyCacheRequest) -> pb2.DestroyCacheResponse:
        """A creator needs its cache no more."""
        return await self._once(request, lambda: self._destroy(request.name))

    async def _once(
        self, request: pb2.CreateCacheRequest | pb2.DestroyCacheRequest, work: Callable[[], Awaitable[M]]
    ) -> M:
        check_request_id(request.request_id)

        async def in_turn() -> M:
            async with self._one_at_a_time:
                return await work()

        key = type(request).__name__.encode() + request.SerializeToString()
        task: asyncio.Task[M] | None = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(in_turn())
            for old in [old for old, of in self._tasks.items() if of.done()][: len(self._tasks) - _REPLIES]:
                del self._tasks[old]
        return await asyncio.shield(task)

    async def _create(self, request: pb2.CreateCacheRequest) -> pb2.CreateCacheResponse:
        flags = parse_flags(request.flags)
        args = CacheArgs(request.size, request.align, flags, request.ctor, request.usersize)

        def created(record: MachineRecord) -> MachineRecord:
            return record.with_caches(kmem_cache_create(self._spec, record.caches[1], request.name, args))

        record = await self._keeper.change(created)
        own = next(cache.name for cache in record.caches[1].caches if request.name in cache.users)
        return pb2.CreateCacheResponse(cache=own)

    async def _destroy(self, name: str) -> pb2.DestroyCacheResponse:
        dying = ""

        def begun(record: MachineRecord) -> MachineRecord:
            nonlocal dying
            caches, dying = kmem_cache_destroy(self._spec, record.caches[1], name)
            return record.with_caches(caches)

        await self._keeper.change(begun)
        if not dying:
            return pb2.DestroyCacheResponse(shared=True)
        try:
            await self._shutdown(dying)
        except NodeError:
            await self._keeper.change(lambda r: r.with_caches(revive(r.caches[1], dying)))
            raise
        await self._keeper.change(lambda r: r.with_caches(shut_down(r.caches[1], dying)))
        return pb2.DestroyCacheResponse()

    async def _shutdown(self, cache: str) -> None:
        """Have all nodes give up the slabs of a cache. SlabBug, and other NodeErrors, if it has to stay."""
        for nid in self._keeper.behind():
            raise PeerUnavailable(nid, f"it has not heard that cache {cache} is being destroyed")
        nodes = {node.node: node for node in self._nodes.nodes}
        steps = shutdown_on_all(nodes, cache)
        step = next(steps, None)
        while step:
            method, kind = _CALLS[step.call]
            request = kind(request_id=uuid4().hex, cache=cache)
            answer = await self._nodes.ask(nodes[step.nid], method, request, stub=_KMEM)
            found = Shutdown(answer.slabs, tuple(answer.report)) if step.call == "shutdown" else None
            try:
                step = steps.send(found)
            except StopIteration:
                return
