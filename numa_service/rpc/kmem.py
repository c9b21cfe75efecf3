"""KmemService: objects of slab caches, for clients that act as tasks on a CPU of this node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
from numa_client._gen.numa.v1 import kmem_service_pb2 as pb2
from numa_client._gen.numa.v1 import kmem_service_pb2_grpc as pb2_grpc

from numa_service.mm.slab.pages import NUMA_NO_NODE
from numa_service.node import ops
from numa_service.node.ask import Steps
from numa_service.node.cost import Cost
from numa_service.node.errors import InvalidRequest
from numa_service.node.kmem import (
    begin_kmalloc,
    begin_kmem_cache_alloc,
    begin_kmem_cache_free,
    flush_all,
    kmem_cache_shrink,
    write_object,
)
from numa_service.node.kmem_calls import pack, unpack
from numa_service.node.node import Node
from numa_service.node.ops.kmem import MAX_REQUEST_OBJECTS
from numa_service.rpc import convert
from numa_service.rpc.requests import M, Requests
from numa_service.rpc.tokens import session_of

Context = grpc.aio.ServicerContext[Any, Any]


class KmemServicer(pb2_grpc.KmemServiceServicer):
    """Objects of slab caches. Every request that changes something is carried out once per request id."""

    def __init__(self, node: Node, requests: Requests) -> None:
        self._node = node
        self._requests = requests

    def AllocObjects(
        self, request: pb2.AllocObjectsRequest, context: Context
    ) -> pb2.AllocObjectsResponse | Awaitable[pb2.AllocObjectsResponse]:
        """Allocate objects of a cache, which the session holds until it frees them."""
        return self._once(request, self._alloc, context)

    def _alloc(
        self, request: pb2.AllocObjectsRequest
    ) -> pb2.AllocObjectsResponse | Steps[pb2.AllocObjectsResponse]:
        gfp, nid, cost = convert.gfp(request.gfp_flags), _node_of(request), Cost()
        report: list[str] = []
        begun = begin_kmem_cache_alloc(
            self._node,
            request.session,
            request.cache,
            gfp,
            request.count,
            request.cpu,
            nid,
            cost,
            report=report,
        )
        return (
            _allocated(begun, cost, report) if isinstance(begun, list) else _alloc_rest(begun, cost, report)
        )

    def Kmalloc(
        self, request: pb2.KmallocRequest, context: Context
    ) -> pb2.KmallocResponse | Awaitable[pb2.KmallocResponse]:
        """Allocate objects of so many bytes."""
        return self._once(request, self._kmalloc, context)

    def _kmalloc(self, request: pb2.KmallocRequest) -> pb2.KmallocResponse | Steps[pb2.KmallocResponse]:
        gfp, nid, cost = convert.gfp(request.gfp_flags), _node_of(request), Cost()
        report: list[str] = []
        begun = begin_kmalloc(
            self._node, request.session, request.size, gfp, request.count, request.cpu, nid, cost, report
        )
        if isinstance(begun, list):
            return _kmalloced(begun, cost, report)
        return _kmalloc_rest(begun, cost, report)

    def FreeObjects(
        self, request: pb2.FreeObjectsRequest, context: Context
    ) -> pb2.FreeObjectsResponse | Awaitable[pb2.FreeObjectsResponse]:
        """Free objects: all of them, or none if one of them cannot be freed."""
        return self._once(request, self._free, context)

    def _free(
        self, request: pb2.FreeObjectsRequest
    ) -> pb2.FreeObjectsResponse | Steps[pb2.FreeObjectsResponse]:
        count, rest = divmod(len(request.objects), 8)
        if rest:
            raise InvalidRequest(
                "objects", f"{len(request.objects)} bytes: not a sequence of 64-bit addresses"
            )
        if count > MAX_REQUEST_OBJECTS:  # before a list is made of them
            raise InvalidRequest("objects", f"{count} is not in 1…{MAX_REQUEST_OBJECTS}")
        objects, cost = unpack(request.objects), Cost()
        begun = begin_kmem_cache_free(self._node, request.session, request.cache, objects, request.cpu, cost)
        return _freed(count, cost) if begun is None else _free_rest(begun, count, cost)

    def ShrinkCache(
        self, request: pb2.ShrinkCacheRequest, context: Context
    ) -> pb2.ShrinkCacheResponse | Awaitable[pb2.ShrinkCacheResponse]:
        """Take a cache's slabs from the CPUs of this node, and free empty slabs in its memory."""
        return self._requests.once(0, request, self._shrink, context.time_remaining())

    def _shrink(self, request: pb2.ShrinkCacheRequest) -> Steps[pb2.ShrinkCacheResponse]:
        kmem = self._node.kmem
        yield from kmem_cache_shrink(self._node, request.cache)
        return pb2.ShrinkCacheResponse(slabs=kmem.count(kmem.own_name(request.cache)).slabs)

    def FlushCache(
        self, request: pb2.FlushCacheRequest, context: Context
    ) -> pb2.FlushCacheResponse | Awaitable[pb2.FlushCacheResponse]:
        """Take a cache's slabs from the CPUs of this node."""
        return self._requests.once(0, request, self._flush, context.time_remaining())

    def _flush(self, request: pb2.FlushCacheRequest) -> Steps[pb2.FlushCacheResponse]:
        self._node.kmem.own_name(request.cache)
        yield from flush_all(self._node, request.cache)
        return pb2.FlushCacheResponse()

    def ShutdownCache(
        self, request: pb2.ShutdownCacheRequest, context: Context
    ) -> pb2.ShutdownCacheResponse | Awaitable[pb2.ShutdownCacheResponse]:
        """Free the empty slabs of a cache that is being destroyed, and report others."""
        return self._requests.once(0, request, self._shutdown, context.time_remaining())

    def _shutdown(self, request: pb2.ShutdownCacheRequest) -> pb2.ShutdownCacheResponse:
        slabs, report = self._node.apply(ops.KmemShutdown(request.cache))
        return pb2.ShutdownCacheResponse(slabs=slabs, report=report)

    def WriteObject(
        self, request: pb2.WriteObjectRequest, context: Context
    ) -> pb2.WriteObjectResponse | Awaitable[pb2.WriteObjectResponse]:
        """Note bytes that a task writes to where they are not an object's own."""
        return self._once(request, self._write, context)

    def _write(self, request: pb2.WriteObjectRequest) -> Steps[pb2.WriteObjectResponse]:
        of = self._node, request.session, request.object
        yield from write_object(*of, request.offset, request.data, request.cpu)
        return pb2.WriteObjectResponse()

    def ValidateCache(
        self, request: pb2.ValidateCacheRequest, context: Context
    ) -> pb2.ValidateCacheResponse | Awaitable[pb2.ValidateCacheResponse]:
        """Check the objects of a cache that this node knows of."""
        return self._requests.once(0, request, self._validate, context.time_remaining())

    def _validate(self, request: pb2.ValidateCacheRequest) -> pb2.ValidateCacheResponse:
        name = self._node.kmem.own_name(request.cache)
        return pb2.ValidateCacheResponse(report=self._node.apply(ops.KmemValidate(name)))

    async def ListCaches(self, request: pb2.ListCachesRequest, context: Context) -> pb2.ListCachesResponse:
        """The caches of the machine, with the slabs that each has in the memory of this node."""
        kmem = self._node.kmem
        return pb2.ListCachesResponse(caches=[self._cache(name) for name in kmem.names])

    def _cache(self, name: str) -> pb2.SlabCache:
        kmem = self._node.kmem
        cache, count = kmem.cache(name), kmem.count(name)
        return pb2.SlabCache(
            name=name,
            aliases=cache.aliases,
            object_bytes=cache.size,
            objects_per_slab=cache.objects,
            order=cache.order,
            slabs=count.slabs,
            objects=count.objects,
            active_objects=count.objects - count.free,
        )

    def _once(self, request: Any, begin: Callable[[Any], M | Steps[M]], context: Context) -> M | Awaitable[M]:
        session = session_of(self._node, request)
        return self._requests.once(session, request, begin, context.time_remaining())


def _allocated(objects: list[int], cost: Cost, report: list[str]) -> pb2.AllocObjectsResponse:
    reply = pb2.AllocObjectsResponse(objects=pack(objects), report=report)
    convert.put_cost(reply.cost, cost)
    return reply


def _alloc_rest(begun: Steps[list[int]], cost: Cost, report: list[str]) -> Steps[pb2.AllocObjectsResponse]:
    return _allocated((yield from begun), cost, report)


def _kmalloced(objects: list[int], cost: Cost, report: list[str]) -> pb2.KmallocResponse:
    reply = pb2.KmallocResponse(objects=pack(objects), report=report)
    convert.put_cost(reply.cost, cost)
    return reply


def _kmalloc_rest(begun: Steps[list[int]], cost: Cost, report: list[str]) -> Steps[pb2.KmallocResponse]:
    return _kmalloced((yield from begun), cost, report)


def _freed(count: int, cost: Cost) -> pb2.FreeObjectsResponse:
    reply = pb2.FreeObjectsResponse(freed_objects=count)
    convert.put_cost(reply.cost, cost)
    return reply


def _free_rest(begun: Steps[None], count: int, cost: Cost) -> Steps[pb2.FreeObjectsResponse]:
    yield from begun
    return _freed(count, cost)


def _node_of(request: pb2.AllocObjectsRequest | pb2.KmallocRequest) -> int:
    """The node that a request asks for, or NUMA_NO_NODE."""
    return request.node if request.HasField("node") else NUMA_NO_NODE
