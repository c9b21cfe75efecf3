"""Requests that must happen once: first replies, duplicates in flight, and sessions that come to an end."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from numa_service.node.errors import InvalidRequest, NotFound
from numa_service.node.node import Node

M = TypeVar("M", bound=Message)

#: Longest request id, in characters.
MAX_REQUEST_ID = 256


@dataclass(frozen=True, slots=True)
class FirstReply:
    """What ``node.replies`` holds: the reply, and which request it answered."""

    digest: bytes
    reply: Message


@dataclass(frozen=True, slots=True)
class _Running:
    session: int
    digest: bytes
    task: asyncio.Task[Any]


class Requests:
    """Mutating requests of a node. Each runs as its own task: a client that goes away does not stop it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._running: dict[str, _Running] = {}
        self._ending: set[int] = set()
        self._regions: dict[int, asyncio.Lock] = {}

    async def once(self, session: int, request: Message, work: Callable[[], Awaitable[M]]) -> M:
        """The reply to a client's request, carried out now, before, or by a duplicate still in flight.

        A failed attempt is not remembered: the same id may try again. InvalidRequest for an id that is
        missing, or was used for something else. Session 0: a request that opens one.
        """
        request_id: str = request.request_id  # type: ignore[attr-defined]
        check_request_id(request_id)
        key, digest = f"{session}:{request_id}", digest_of(request)
        first = self._node.replies.get(key)
        if first is not None:
            return cast("M", _same(first, digest).reply)
        running = self._running.get(key)
        if running is None:
            if session:
                self.check_session(session)
            task = asyncio.create_task(self._carry_out(key, digest, work), name=f"request-{key}")
            task.add_done_callback(lambda _: self._running.pop(key))
            running = self._running[key] = _Running(session, digest, task)
        else:
            _same(running, digest)
        return cast("M", await asyncio.shield(running.task))

    async def _carry_out(self, key: str, digest: bytes, work: Callable[[], Awaitable[M]]) -> M:
        reply = await work()
        self.remember(key, FirstReply(digest, reply))
        return reply

    def once_now(self, request: Message, work: Callable[[], Message]) -> Message:
        """The reply to another node's question, which is carried out in one step."""
        request_id: str = request.request_id  # type: ignore[attr-defined]
        check_request_id(request_id)
        key, digest = f"node:{request_id}", digest_of(request)
        first = self._node.replies.get(key)
        if first is not None:
            return cast("FirstReply", _same(first, digest)).reply
        reply = work()
        self.remember(key, FirstReply(digest, reply))
        return reply

    def remember(self, key: str, first: FirstReply) -> None:
        """Keep a first reply, as long as there is room."""
        self._node.remember(key, first, first.reply.ByteSize())

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


def digest_of(request: Message) -> bytes:
    """blake2b of a request and its kind: equal requests, equal digests."""
    digest = hashlib.blake2b(request.DESCRIPTOR.full_name.encode(), digest_size=16)
    digest.update(request.SerializeToString(deterministic=True))
    return digest.digest()


D = TypeVar("D", FirstReply, _Running)


def _same(first: D, digest: bytes) -> D:
    if first.digest != digest:
        raise InvalidRequest("request_id", "was used for a different request")
    return first
