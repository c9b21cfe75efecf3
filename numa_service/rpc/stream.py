"""Answers the requests of a bidirectional stream in order, while gRPC reads ahead and writes behind.

A read and a write each take a turn through gRPC's own thread, which is as long as answering a request takes.
So the next request is read and the last answer is written while a request is answered. There is never more
than one of each: from a client that does not read its answers no more requests are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

import grpc.aio

from numa_service.node.errors import LimitExceeded

#: How long an answer may wait for the client to read it before the stream is ended.
UNREAD_SECONDS = 30.0

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]

_log = logging.getLogger(__name__)


class _Begun(Generic[T]):
    """A coroutine that has been started and runs up to its first wait; awaiting this object runs the rest.

    For a coroutine that waits only once this does what a task does, without the task's two turns of the event
    loop.
    """

    __slots__ = ("_coroutine", "_result", "_waits")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        #: The future that it waits for first; None if it ended without waiting.
        self._waits: asyncio.Future[Any] | None = None
        try:
            self._waits = coroutine.send(None)
        except StopIteration as end:
            self._result: T = end.value

    def __await__(self) -> Generator[Any, Any, T]:
        if self._waits is None:
            return self._result
        waits = self._waits
        while True:
            yield waits
            try:
                waits = self._coroutine.send(None)
            except StopIteration as end:
                result: T = end.value
                return result

    @property
    def waits(self) -> bool:
        """Whether the future that it waits for first is still pending."""
        return self._waits is not None and not self._waits.done()


class _Unread:
    """The write of the last answer, and when it began by the event loop's clock (seconds)."""

    __slots__ = ("since", "write")

    def __init__(self) -> None:
        self.write: _Begun[None] | None = None
        self.since = 0.0


@contextlib.asynccontextmanager
async def _patience() -> AsyncIterator[_Unread]:
    """Raise TimeoutError in the body once an answer has been unread for UNREAD_SECONDS.

    A timer looks at it every quarter of that time: a timer for each answer took a fifth of an answer's time.
    """
    loop = asyncio.get_running_loop()
    unread = _Unread()
    async with asyncio.timeout(None) as timeout:
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            if unread.write and unread.write.waits and loop.time() - unread.since >= UNREAD_SECONDS:
                timeout.reschedule(loop.time())
            else:
                timer = loop.call_later(UNREAD_SECONDS / 4, look)

        timer = loop.call_later(UNREAD_SECONDS / 4, look)
        try:
            yield unread
        finally:
            timer.cancel()


async def answer_in_order(context: Context, answer: Callable[[Any], Awaitable[Any]]) -> None:
    """Read requests until the client has sent its last one, and write `answer(request)` for each.

    LimitExceeded when the client leaves its answers unread.
    """
    clock = asyncio.get_running_loop().time
    try:
        async with _patience() as unread:
            ahead = _Begun[Any](context.read())
            while (request := await ahead) is not grpc.aio.EOF:
                ahead = _Begun(context.read())
                reply = await answer(request)
                if unread.write:
                    await unread.write
                unread.write, unread.since = _Begun(context.write(reply)), clock()
            if unread.write:
                await unread.write
    except TimeoutError:
        # the client gets this status after the answers that it has not read yet
        _log.warning("%s: cut off, its answers are unread", context.peer())
        raise LimitExceeded(f"answers were left unread for {UNREAD_SECONDS:g} s") from None
