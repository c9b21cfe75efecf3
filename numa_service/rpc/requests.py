"""Requests over gRPC: converts messages for the node's inbox, and runs a task for each request under way."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from numa_client._gen.numa.v1 import (
    kmem_service_pb2,
    memory_service_pb2,
    node_service_pb2,
    task_service_pb2,
    vmalloc_service_pb2,
    workload_service_pb2,
    zonelist_service_pb2,
)

from numa_service.node.ask import Steps
from numa_service.node.errors import InvalidRequest, PeerUnavailable
from numa_service.node.first_replies import FirstReply, node_asker
from numa_service.node.folded import FOLD_BYTES, FOLD_FROM_BYTES
from numa_service.node.inbox import Call, Inbox, Packed, Running, check_request_id
from numa_service.node.node import Node
from numa_service.rpc.last_bytes import PACKED, RECEIVED
from numa_service.rpc.peers import Peers

M = TypeVar("M", bound=Message)
Q = TypeVar("Q", bound=Message)

#: A list of PFNs is searched for in the serialised reply by so many bytes of its beginning: a search for all
#: of it takes longer than making the list.
PREFIX_BYTES = 64

_SERVICES: tuple[ServiceDescriptor, ...] = (
    memory_service_pb2.DESCRIPTOR.services_by_name["MemoryService"],
    node_service_pb2.DESCRIPTOR.services_by_name["NodeService"],
    workload_service_pb2.DESCRIPTOR.services_by_name["WorkloadService"],
    zonelist_service_pb2.DESCRIPTOR.services_by_name["ZonelistService"],
    kmem_service_pb2.DESCRIPTOR.services_by_name["KmemService"],
    vmalloc_service_pb2.DESCRIPTOR.services_by_name["VmallocService"],
    task_service_pb2.DESCRIPTOR.services_by_name["TaskService"],
)
#: Message name → class, for every reply; _NAMES is its inverse.
_REPLIES: dict[str, type[Message]] = {
    method.output_type.name: GetMessageClass(method.output_type)
    for service in _SERVICES
    for method in service.methods
}
_NAMES = {kind: name for name, kind in _REPLIES.items()}
#: Start value of the digest of each kind of request, so that two kinds under one request id differ.
_SEEDS: dict[type[Message], int] = {
    GetMessageClass(method.input_type): zlib.crc32(method.full_name.encode())
    for service in _SERVICES
    for method in service.methods
}
#: Requests whose first replies are kept even when there is no room left: they free memory, and their replies
#: are small. Of the questions of other nodes these are all but Lookup and Touch.
_GIVING_BACK = {
    memory_service_pb2.FreePagesRequest,
    memory_service_pb2.BindRegionRequest,
    memory_service_pb2.MigratePagesRequest,
    memory_service_pb2.MovePagesRequest,
    memory_service_pb2.UnmapRegionRequest,
    memory_service_pb2.CloseSessionRequest,
    kmem_service_pb2.FreeObjectsRequest,
    kmem_service_pb2.ShrinkCacheRequest,
    kmem_service_pb2.FlushCacheRequest,
    kmem_service_pb2.ShutdownCacheRequest,
    vmalloc_service_pb2.VfreeRequest,
    vmalloc_service_pb2.VunmapRequest,
    vmalloc_service_pb2.KunmapRequest,
    vmalloc_service_pb2.KunmapAtomicRequest,
    *(GetMessageClass(method.input_type) for method in _SERVICES[3].methods),
} - {zonelist_service_pb2.LookupRequest, zonelist_service_pb2.TouchRequest}
#: The lists of PFNs in a reply, in the order in which they are serialised.
_LISTS: dict[type[Message], Callable[[Any], list[bytes]]] = {
    memory_service_pb2.AllocPagesResponse: lambda reply: [pages.pfns for pages in reply.pages],
    zonelist_service_pb2.LookupResponse: lambda reply: [reply.pfns],
}


class Requests:
    """The mutating requests to a node, each carried out once per request id.

    A request that asks other nodes runs in a task of its own, which goes on when its client goes away.
    """

    def __init__(self, node: Node, peers: Peers) -> None:
        self.inbox = Inbox(node, self._pack)
        self._replies = node.replies
        #: First part of the request ids of another node's questions → asker.
        self._nodes = {str(nid): node_asker(nid) for nid in node.machine.spec.nids}
        self._peers = peers
        self._tasks: dict[Running, asyncio.Task[None]] = {}

    def once(
        self, session: int, request: Q, begin: Callable[[Q], M | Steps[M]], timeout: float | None
    ) -> M | Awaitable[M]:
        """The reply to a client's request, which is carried out unless it already was, or is under way.

        See :meth:`Inbox.once`, also for errors. `begin` returns the reply, or steps that lead to it; steps
        that ask other nodes run in a task, and the result is an awaitable. `timeout` is the client's deadline
        in seconds. Session 0 stands for a request that opens a session.
        """
        call = call_of(session, request)
        return self._answer(self.inbox.once(call, lambda: begin(request)), timeout)

    def once_between_nodes(self, request: Q, begin: Callable[[Q], M | Steps[M]]) -> M | Awaitable[M]:
        """The reply to another node's question. InvalidRequest for a request id that names no node."""
        # every question has a request_id; Message, which they have in common, does not say so
        request_id: str = request.request_id  # type: ignore[attr-defined]
        check_request_id(request_id)
        asker = self._nodes.get(request_id.partition(".")[0])
        if asker is None:
            raise InvalidRequest("request_id", "does not begin with the node that asks, and a dot")
        call = call_of(asker, request)
        return self._answer(self.inbox.once(call, lambda: begin(request)), None)

    async def once_in_task(
        self, session: int, request: Message, work: Callable[[], Awaitable[Message]]
    ) -> Any:
        """:meth:`once` for work that is a coroutine. It runs in a task, which goes on without its client."""
        call = call_of(session, request)
        known = self.inbox.known(call)
        if known is not None:
            answer: Any = self._answer(known, None)
            return await answer if isinstance(answer, Awaitable) else answer
        self.inbox.check_session(session)
        running = self.inbox.start(call)
        task = asyncio.create_task(self._work(running, work), name=f"request-{session}:{call.request_id}")
        self._tasks[running] = task
        task.add_done_callback(lambda _: self._tasks.pop(running, None))
        return await reply_of(running)

    async def _work(self, running: Running, work: Callable[[], Awaitable[Message]]) -> None:
        try:
            reply = await work()
        except BaseException as error:
            self.inbox.end(running, None, error)
            if not isinstance(error, Exception):
                raise
        else:
            self.inbox.end(running, reply)

    def _answer(self, got: M | FirstReply | Running, timeout: float | None) -> M | Awaitable[M]:
        if isinstance(got, FirstReply):
            return cast("M", _REPLIES[got.kind].FromString(bytes(got.reply)))
        if not isinstance(got, Running):
            return got
        if got.effect is not None and got not in self._tasks:
            name = f"request-{got.call.asker}:{got.call.request_id}"
            task = asyncio.create_task(self._drive(got, timeout), name=name)
            self._tasks[got] = task
            task.add_done_callback(lambda _: self._tasks.pop(got, None))
        return reply_of(got)

    async def _drive(self, running: Running, timeout: float | None) -> None:
        """Carry out the effects of a request until it is over."""
        drive = self._peers.carrier(timeout)
        try:
            while running.effect is not None:
                try:
                    answer = await drive(running.effect)
                except Exception as error:
                    # what is no NodeError is a fault of ours, of which the client is told: INTERNAL
                    self.inbox.advance(running, error=error)
                else:
                    self.inbox.advance(running, answer)
        except Exception:
            # whoever waits for the reply gets the exception
            assert running.over
        finally:
            self.inbox.abandon(running, PeerUnavailable(self.inbox.node.nid, "the node stops"))

    def _pack(self, asker: int, reply: Message) -> Packed:
        data = reply.SerializeToString()
        PACKED.note(reply, data)
        kind = reply.__class__
        if len(data) < FOLD_BYTES or kind not in _LISTS or self._replies.bytes_of(asker) < FOLD_FROM_BYTES:
            return Packed(_NAMES[kind], data)
        return Packed(_NAMES[kind], data, _lists_in(reply, data))

    async def finish(self, timeout: float) -> None:
        """Wait for the requests under way, and cancel those that are left after `timeout` seconds."""
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


async def reply_of(running: Running) -> Any:
    """Wait until a request is over, and return its reply or raise its error."""
    over = asyncio.Event()
    running.when_over(over.set)
    await over.wait()
    return running.reply


def call_of(asker: int, request: Any) -> Call:
    """Describe a request to the inbox. Its digest is a CRC-32 of its kind and its bytes."""
    kind = request.__class__
    digest = zlib.crc32(RECEIVED.of(request), _SEEDS[kind])
    return Call(asker, request.request_id, digest, kind in _GIVING_BACK)


def _lists_in(reply: Message, data: bytes) -> tuple[tuple[int, int], ...]:
    """[start, end) of each list of PFNs in a serialised reply; none at all if one cannot be located."""
    found: list[tuple[int, int]] = []
    at = 0
    for pfns in _LISTS[reply.__class__](reply):
        start = data.index(pfns[:PREFIX_BYTES], at)
        at = start + len(pfns)
        if data[start:at] != pfns:
            return ()  # an earlier part of the reply has the same beginning
        found.append((start, at))
    return tuple(found)
