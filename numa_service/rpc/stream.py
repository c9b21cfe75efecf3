"""Answers to the requests of a bidirectional stream, in order, while gRPC reads and writes.

One request is read ahead and one answer written behind: each takes a turn through gRPC's own thread, and
they are as long as an answer takes. There is never more of either, so a client that does not read is not
read from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

import grpc.aio

from numa_service.node.errors import LimitExceeded

#: How long a stream waits for its client to read.
UNREAD_SECONDS = 30.0

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]

_log = logging.getLogger(__name__)


class _Begun(Generic[T]):
    """A coroutine that runs up to the first thing that it waits for; awaiting it is the rest.

    As good as a task for one that waits once, without a task's two turns of the event loop.
    """

    __slots__ = ("_coroutine", "_result", "_waits")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        #: What it waits for; None: it did not have to.
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
        """Whether what it waited for first is still to come."""
        return self._waits is not None and not self._waits.done()


class _Unread:
    """The last answer, and since when it waits to be taken, by the loop's clock."""

    __slots__ = ("since", "write")

    def __init__(self) -> None:
        self.write: _Begun[None] | None = None
        self.since = 0.0


@contextlib.asynccontextmanager
async def _patience() -> AsyncIterator[_Unread]:
    """TimeoutError in the body once an answer has waited for UNREAD_SECONDS.

    Looked at now and then: a timer for every answer took a fifth of the answer's time.
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
    """Read requests until there are no more, and write what `answer` makes of each.

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
        # the status reaches the client behind the answers that it has not read
        _log.warning("%s: cut off, its answers are unread", context.peer())
        raise LimitExceeded(f"answers were left unread for {UNREAD_SECONDS:g} s") from None
