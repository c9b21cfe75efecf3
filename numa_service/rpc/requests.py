"""Requests over gRPC: messages as the node's inbox knows them, and the tasks that drive those under way."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from numa_client._gen.numa.v1 import (
    memory_service_pb2,
    node_service_pb2,
    workload_service_pb2,
    zonelist_service_pb2,
)

from numa_service.node.ask import Steps
from numa_service.node.errors import InvalidRequest, NodeError, PeerUnavailable
from numa_service.node.first_replies import FirstReply, node_asker
from numa_service.node.folded import FOLD_BYTES
from numa_service.node.inbox import Call, Inbox, Packed, Running, check_request_id
from numa_service.node.node import Node
from numa_service.rpc.peers import Peers

M = TypeVar("M", bound=Message)
Q = TypeVar("Q", bound=Message)

#: Replies are looked at for page numbers to be kept short when those to an asker take so many bytes.
FOLD_FROM_BYTES = 32 << 20
#: Of a list, to find it by: to look for all of it takes longer than to make it.
PREFIX_BYTES = 64

_SERVICES: tuple[ServiceDescriptor, ...] = (
    memory_service_pb2.DESCRIPTOR.services_by_name["MemoryService"],
    node_service_pb2.DESCRIPTOR.services_by_name["NodeService"],
    workload_service_pb2.DESCRIPTOR.services_by_name["WorkloadService"],
    zonelist_service_pb2.DESCRIPTOR.services_by_name["ZonelistService"],
)
#: Every reply by its name, and the other way round.
_REPLIES: dict[str, type[Message]] = {
    method.output_type.name: GetMessageClass(method.output_type)
    for service in _SERVICES
    for method in service.methods
}
_NAMES = {kind: name for name, kind in _REPLIES.items()}
#: What tells a request from another kind of request under the same id.
_SEEDS: dict[type[Message], int] = {
    GetMessageClass(method.input_type): zlib.crc32(method.full_name.encode())
    for service in _SERVICES
    for method in service.methods
}
#: Requests whose replies are kept whatever room there is: they give back, and what they get is small.
#: Of other nodes' questions these are all but two.
_GIVING_BACK = {
    memory_service_pb2.FreePagesRequest,
    memory_service_pb2.UnmapRegionRequest,
    memory_service_pb2.CloseSessionRequest,
    *(GetMessageClass(method.input_type) for method in _SERVICES[3].methods),
} - {zonelist_service_pb2.LookupRequest, zonelist_service_pb2.TouchRequest}
#: Lists of page numbers in a reply, in the order in which they are serialised.
_LISTS: dict[type[Message], Callable[[Any], list[bytes]]] = {
    memory_service_pb2.AllocPagesResponse: lambda reply: [pages.pfns for pages in reply.pages],
    zonelist_service_pb2.LookupResponse: lambda reply: [reply.pfns],
}


class Requests:
    """Mutating requests of a node. Each runs as its own task: a client that goes away does not stop it."""

    def __init__(self, node: Node, peers: Peers) -> None:
        self.inbox = Inbox(node, self._pack)
        self._replies = node.replies
        #: How question ids of other nodes begin → who asks.
        self._nodes = {str(nid): node_asker(nid) for nid in node.machine.spec.nids}
        self._peers = peers
        self._tasks: dict[Running, asyncio.Task[None]] = {}

    def once(
        self, session: int, request: Q, begin: Callable[[Q], M | Steps[M]], timeout: float | None
    ) -> M | Awaitable[M]:
        """The reply to a client's request, carried out now, before, or by a duplicate still in flight.

        See :meth:`Inbox.once`; `timeout` is what the client gives it, in seconds. What asks nobody is over
        before anybody could repeat it, or go away; the rest is done in a task. Session 0: a request that
        opens one.
        """
        call = call_of(session, request)
        return self._answer(self.inbox.once(call, lambda: begin(request)), timeout)

    def once_between_nodes(self, request: Q, begin: Callable[[Q], M | Steps[M]]) -> M | Awaitable[M]:
        """The reply to another node's question."""
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
        """:meth:`once` for what is more than steps: a task of its own, which a client's end does not stop."""
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
        """Carry out the effects of a request to its end."""
        drive = self._peers.carrier(timeout)
        try:
            while running.effect is not None:
                try:
                    answer = await drive(running.effect)
                except NodeError as error:
                    self.inbox.advance(running, error=error)
                else:
                    self.inbox.advance(running, answer)
        except Exception:
            # who waits for the reply is told of it
            assert running.over
        finally:
            self.inbox.abandon(running, PeerUnavailable(self.inbox.node.nid, "the node stops"))

    def _pack(self, asker: int, reply: Message) -> Packed:
        data = reply.SerializeToString()
        kind = reply.__class__
        if len(data) < FOLD_BYTES or kind not in _LISTS or self._replies.bytes_of(asker) < FOLD_FROM_BYTES:
            return Packed(_NAMES[kind], data)
        return Packed(_NAMES[kind], data, _lists_in(reply, data))

    async def finish(self, timeout: float) -> None:
        """Wait for what is in flight; cancel what is left after `timeout` seconds."""
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


async def reply_of(running: Running) -> Any:
    """The reply of a request under way, when it is there."""
    over = asyncio.Event()
    running.when_over(over.set)
    await over.wait()
    return running.reply


def call_of(asker: int, request: Any) -> Call:
    """A request as the inbox looks at it; its digest is a checksum of its kind and bytes."""
    kind = request.__class__
    digest = zlib.crc32(request.SerializeToString(), _SEEDS[kind])
    return Call(asker, request.request_id, digest, kind in _GIVING_BACK)


def _lists_in(reply: Message, data: bytes) -> tuple[tuple[int, int], ...]:
    """Where the lists of page numbers stand in a serialised reply; none if they cannot be told apart."""
    found: list[tuple[int, int]] = []
    at = 0
    for pfns in _LISTS[reply.__class__](reply):
        start = data.index(pfns[:PREFIX_BYTES], at)
        at = start + len(pfns)
        if data[start:at] != pfns:
            return ()  # it begins as something before it does
        found.append((start, at))
    return tuple(found)
