"""Requests that must happen once: first replies, duplicates in flight, and sessions that come to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import GeneratorType
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import grpc.aio
from google.protobuf.message import Message
from numa_client._gen.numa.v1 import memory_service_pb2 as pb2
from numa_client._gen.numa.v1 import zonelist_service_pb2

from numa_service.node.ask import Steps
from numa_service.node.errors import InvalidRequest, NotFound
from numa_service.node.first_replies import Key
from numa_service.node.node import Node
from numa_service.rpc.folded import FOLD_BYTES, FOLD_FROM_BYTES, Folded, fold
from numa_service.rpc.peers import Peers, drive

M = TypeVar("M", bound=Message)
Q = TypeVar("Q", pb2.AllocPagesRequest, pb2.FreePagesRequest)
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

#: Longest request id, in characters.
MAX_REQUEST_ID = 256
#: Requests to which room for a first reply is never refused: they give back, and what they get is small.
_GIVING_BACK = (pb2.FreePagesRequest, pb2.UnmapRegionRequest, pb2.CloseSessionRequest)
#: Other nodes' questions to which it may be.
_GETTING = (zonelist_service_pb2.LookupRequest, zonelist_service_pb2.TouchRequest)


class FirstReply(NamedTuple):
    """What ``node.replies`` holds: the reply, and which request it answered."""

    digest: int
    kind: type[Message]
    #: Serialised: a message takes more.
    reply: bytes | Folded

    @property
    def message(self) -> Message:
        """The reply to give again."""
        return self.kind.FromString(bytes(self.reply))


@dataclass(frozen=True, slots=True)
class _Running:
    session: int
    digest: int
    task: asyncio.Task[Any]


class Requests:
    """Mutating requests of a node. Each runs as its own task: a client that goes away does not stop it."""

    def __init__(self, node: Node, peers: Peers) -> None:
        self._node = node
        self._replies = node.replies
        #: How question ids of other nodes begin → who asks.
        self._nodes = {str(nid): f"node {nid}" for nid in node.machine.spec.nids}
        self._peers = peers
        self._running: dict[Key, _Running] = {}
        self._ending: set[int] = set()
        self._regions: dict[int, asyncio.Lock] = {}

    async def once(self, session: int, request: Message, work: Callable[[], Awaitable[M]]) -> M:
        """The reply to a client's request, carried out now, before, or by a duplicate still in flight.

        A failed attempt is not remembered: the same id may try again. InvalidRequest for an id that is
        missing, or was used for something else; TooMany when its reply could not be kept. Session 0: a
        request that opens one.
        """
        key, digest = _key_and_digest(session, request)
        known = self._known(key, digest)
        if known is not None:
            return cast("M", await known)
        if session:
            self.check_session(session)
        self._check_room(key, request)
        return await self._start(key, session, digest, work())

    def once_in_steps(
        self, request: Q, begin: Callable[[Q], M | Steps[M]], context: Context
    ) -> M | Awaitable[M]:
        """:meth:`once` for work that may take steps: done at once, unless they ask another node.

        What asks nobody is over before anybody could repeat it, or go away; the rest is done in a task.
        """
        session = request.session or session_of(request)
        key, digest = _key_and_digest(session, request)
        if key in self._replies or key in self._running:
            return cast("Awaitable[M]", self._known(key, digest))
        if session in self._ending:
            self.check_session(session)
        if self._replies.crowded:
            self._check_room(key, request)
        begun = begin(request)
        if isinstance(begun, GeneratorType):
            try:
                ask = next(begun)
            except StopIteration as end:
                begun = cast("M", end.value)
            else:
                rest = drive(begun, self._peers, context.time_remaining(), ask)
                return self._start(key, session, digest, rest)
        reply = cast("M", begun)
        self._remember(key, digest, reply)
        return reply

    def _check_room(self, key: Key, request: Message) -> None:
        if self._replies.crowded and not isinstance(request, _GIVING_BACK):
            self._replies.check_room(key[0])

    def _known(self, key: Key, digest: int) -> Awaitable[Message] | None:
        """What an earlier request of that id leads, or led, to."""
        first = self._replies.get(key)
        if first is not None:
            return _done(_same(first, digest).message)
        running = self._running.get(key)
        return asyncio.shield(_same(running, digest).task) if running else None

    async def _start(self, key: Key, session: int, digest: int, work: Awaitable[M]) -> M:
        task = asyncio.create_task(self._carry_out(key, digest, work), name=f"request-{key[0]}:{key[1]}")
        task.add_done_callback(lambda done: self._ended(key, done))
        self._running[key] = _Running(session, digest, task)
        return await asyncio.shield(task)

    def _ended(self, key: Key, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # looked at: the client may be gone, and then nobody else does

    async def _carry_out(self, key: Key, digest: int, work: Awaitable[M]) -> M:
        reply = await work
        self._remember(key, digest, reply)
        return reply

    def once_now(self, request: Message, work: Callable[[], Message]) -> Message:
        """The reply to another node's question, which is carried out in one step."""
        # every question has a request_id; Message, which they have in common, does not say so
        asker = self._nodes.get(request.request_id.partition(".")[0], "node")  # type: ignore[attr-defined]
        key, digest = _key_and_digest(asker, request)
        first = self._replies.get(key)
        if first is not None:
            return cast("FirstReply", _same(first, digest)).message
        if self._replies.crowded and isinstance(request, _GETTING):
            self._replies.check_room(asker)
        reply = work()
        self._remember(key, digest, reply)
        return reply

    def _remember(self, key: Key, digest: int, reply: Message) -> None:
        packed: bytes | Folded = reply.SerializeToString()
        if len(packed) >= FOLD_BYTES and self._replies.bytes_of(key[0]) >= FOLD_FROM_BYTES:
            packed = fold(reply, bytes(packed))
        self._replies.remember(key, FirstReply(digest, reply.__class__, packed), len(packed))

    def check_session(self, session: int) -> None:
        """NotFound for a session that does not live, or is about to end."""
        self._node.session(session)
        if session in self._ending:
            raise NotFound("session", str(session), "is being closed")

    def region_lock(self, region: int) -> asyncio.Lock:
        """mmap_lock of a region: one fault or unmap at a time, as each waits for other nodes."""
        return self._regions.setdefault(region, asyncio.Lock())

    def forget_region(self, region: int) -> None:
        """The region is no more."""
        self._regions.pop(region, None)

    async def end_session(self, session: int, close: Callable[[], Awaitable[M]]) -> M:
        """Close a session when nothing that it asked for is in flight any more; nothing new is let in.

        NotFound for one that is gone or already ending.
        """
        self.check_session(session)
        self._ending.add(session)
        try:
            me = asyncio.current_task()
            others = [r.task for r in self._running.values() if r.session == session and r.task is not me]
            if others:
                await asyncio.wait(others)
            regions = sorted(self._node.session(session).regions)
            reply = await close()
            for region in regions:
                self.forget_region(region)
            return reply
        finally:
            self._ending.discard(session)

    def is_ending(self, session: int) -> bool:
        """Whether a session is being closed."""
        return session in self._ending

    async def finish(self, timeout: float) -> None:
        """Wait for what is in flight; cancel what is left after `timeout` seconds."""
        tasks = [running.task for running in self._running.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def check_request_id(request_id: str) -> None:
    """InvalidRequest unless it is 1 to MAX_REQUEST_ID characters."""
    if not request_id:
        raise InvalidRequest("request_id", "a request that changes something needs one")
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidRequest("request_id", f"{len(request_id)} characters: at most {MAX_REQUEST_ID}")


def session_of(request: Any) -> int:
    """The session that asks; InvalidRequest."""
    session: int = request.session
    if not session:
        raise InvalidRequest("session", "is not set")
    return session


def _key_and_digest(asker: int | str, request: Any) -> tuple[Key, int]:
    """Under which a request's first reply is kept; and what tells it from another one under the same id.

    The second is a hash of its kind and bytes, as quick as may be: a FreePages has hundreds of KiB.
    InvalidRequest for a request id that is none.
    """
    request_id: str = request.request_id
    if not 0 < len(request_id) <= MAX_REQUEST_ID:
        check_request_id(request_id)
    return (asker, request_id), hash((request.__class__, request.SerializeToString()))


async def _done(reply: Message) -> Message:
    return reply


D = TypeVar("D", FirstReply, _Running)


def _same(first: D, digest: int) -> D:
    if first.digest != digest:
        raise InvalidRequest("request_id", "was used for a different request")
    return first
