"""Background work of the clients, heartbeats and streams: in tasks for one client, in threads for the other.

The two clients differ only here. The rest of the blocking client is generated from the asyncio one
(``clients/python/make_sync.py``).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, Self

import grpc
import grpc.aio

from numa_client import _codec as codec
from numa_client import _types as t
from numa_client._errors import Aborted, InvalidRequest, NumaError
from numa_client._gen.numa.v1 import memory_service_pb2
from numa_client._policy import Policy
from numa_client._status import from_rpc_error, from_status

if TYPE_CHECKING:
    from numa_client._gen.numa.v1 import memory_service_pb2_grpc


class AsyncHeartbeat:
    """Renews a lease from a task.

    `beat` gets the seconds that it may take, and returns the seconds until the next beat; 0 means that the
    session is gone, and ends the heartbeat.
    """

    def __init__(self, beat: Callable[[float], Awaitable[float]], seconds: float) -> None:
        self._beat = beat
        self._task = asyncio.create_task(self._run(seconds), name="numa-heartbeat")

    async def _run(self, seconds: float) -> None:
        while seconds:
            await asyncio.sleep(seconds)
            seconds = await self._beat(seconds)

    async def stop(self) -> None:
        """Ends the heartbeat; a beat that is under way is cancelled."""
        self._task.cancel()
        await asyncio.wait([self._task])


class Heartbeat:
    """Like :class:`AsyncHeartbeat`, but from a thread."""

    def __init__(self, beat: Callable[[float], float], seconds: float) -> None:
        self._beat = beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(seconds,), name="numa-heartbeat", daemon=True)
        self._thread.start()

    def _run(self, seconds: float) -> None:
        while seconds and not self._stop.wait(seconds):
            seconds = self._beat(seconds)

    def stop(self) -> None:
        """Ends the heartbeat, after a beat that is under way."""
        self._stop.set()
        self._thread.join()


class _Requests(Protocol):
    """What a stream needs of its session, blocking or asyncio."""

    def _alloc_request(
        self, order: int, count: int, gfp: str, cpu: int | None, policy: Policy | None, partial: bool
    ) -> memory_service_pb2.AllocPagesRequest: ...

    def _free_request(self, blocks: t.Blocks, cpu: int | None) -> memory_service_pb2.FreePagesRequest: ...

    def _doubt_home(self) -> None: ...


class _AsyncHome(_Requests, Protocol):
    async def _go_home(self) -> memory_service_pb2_grpc.MemoryServiceAsyncStub: ...


class _Home(_Requests, Protocol):
    def _go_home(self) -> memory_service_pb2_grpc.MemoryServiceStub: ...


class AsyncPageStream:
    """A pipeline for alloc and free: start several calls at a time instead of waiting for each answer.

    Made by :meth:`AsyncSession.stream`; an async context manager. Requests are carried out in the order of
    the calls. When the stream itself breaks, the calls under way raise the error that broke it.
    """

    def __init__(self, session: _AsyncHome, window: int) -> None:
        _check_window(window)
        self._session = session
        self._room = asyncio.Semaphore(window)
        self._writing = asyncio.Lock()
        self._unanswered: deque[asyncio.Future[memory_service_pb2.StreamPagesResponse]] = deque()
        self._broken: NumaError | None = None

    async def alloc(
        self,
        order: int = 0,
        count: int = 1,
        gfp: str = "GFP_KERNEL",
        *,
        cpu: int | None = None,
        policy: Policy | None = None,
        partial: bool = False,
    ) -> t.Allocation:
        """As :meth:`AsyncSession.alloc`."""
        request = self._session._alloc_request(order, count, gfp, cpu, policy, partial)
        answer = await self._ask(memory_service_pb2.StreamPagesRequest(alloc=request))
        return codec.allocation(answer.alloc, order)

    async def free(self, blocks: t.Blocks, *, cpu: int | None = None) -> t.Freed:
        """As :meth:`AsyncSession.free`."""
        request = self._session._free_request(blocks, cpu)
        return codec.freed((await self._ask(memory_service_pb2.StreamPagesRequest(free=request))).free)

    async def _ask(
        self, request: memory_service_pb2.StreamPagesRequest
    ) -> memory_service_pb2.StreamPagesResponse:
        async with self._room:
            answered = asyncio.get_running_loop().create_future()
            async with self._writing:
                if self._broken:
                    raise self._broken
                self._unanswered.append(answered)
                try:
                    await self._call.write(request)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await self._reader  # the reader gets the status, and fails every call under way with it
            answer: memory_service_pb2.StreamPagesResponse = await answered
        if answer.WhichOneof("answer") == "error":
            raise from_status(answer.error)
        return answer

    async def _read(self) -> None:
        broken: NumaError = Aborted("the stream is closed")
        try:
            while (answer := await self._call.read()) is not grpc.aio.EOF:
                assert isinstance(answer, memory_service_pb2.StreamPagesResponse)
                answered = self._unanswered.popleft()
                if not answered.done():  # its caller may have been cancelled
                    answered.set_result(answer)
        except grpc.aio.AioRpcError as error:
            self._session._doubt_home()
            broken = from_rpc_error(error)
        finally:
            self._broken = broken
            for answered in self._unanswered:
                if not answered.done():
                    answered.set_exception(broken)

    async def close(self) -> None:
        """Waits for the answers to come, and ends the stream. The session lives on."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.done_writing()
        await self._reader

    async def __aenter__(self) -> Self:
        home = await self._session._go_home()
        self._call = home.StreamPages()
        self._reader = asyncio.create_task(self._read(), name="numa-stream")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class PageStream:
    """A pipeline for alloc and free: each call returns a future instead of waiting for the answer.

    Made by :meth:`Session.stream`; a context manager. Requests are carried out in the order of the calls. A
    call waits while the window is full. When the stream itself breaks, all futures get the error that broke
    it.
    """

    def __init__(self, session: _Home, window: int) -> None:
        _check_window(window)
        self._session = session
        self._room = threading.BoundedSemaphore(window)
        self._writing = threading.Lock()
        self._requests: SimpleQueue[memory_service_pb2.StreamPagesRequest | None] = SimpleQueue()
        self._unanswered: deque[tuple[Future[Any], Callable[[Any], Any]]] = deque()
        self._broken: NumaError | None = None

    def alloc(
        self,
        order: int = 0,
        count: int = 1,
        gfp: str = "GFP_KERNEL",
        *,
        cpu: int | None = None,
        policy: Policy | None = None,
        partial: bool = False,
    ) -> Future[t.Allocation]:
        """As :meth:`Session.alloc`."""
        request = self._session._alloc_request(order, count, gfp, cpu, policy, partial)
        message = memory_service_pb2.StreamPagesRequest(alloc=request)
        return self._ask(message, lambda answer: codec.allocation(answer.alloc, order))

    def free(self, blocks: t.Blocks, *, cpu: int | None = None) -> Future[t.Freed]:
        """As :meth:`Session.free`."""
        request = memory_service_pb2.StreamPagesRequest(free=self._session._free_request(blocks, cpu))
        return self._ask(request, lambda answer: codec.freed(answer.free))

    def _ask(
        self, request: memory_service_pb2.StreamPagesRequest, decode: Callable[[Any], Any]
    ) -> Future[Any]:
        self._room.acquire()
        answered: Future[Any] = Future()
        with self._writing:
            if self._broken:
                self._room.release()
                raise self._broken
            self._unanswered.append((answered, decode))
            self._requests.put(request)
        return answered

    def _read(self) -> None:
        broken: NumaError = Aborted("the stream is closed")
        try:
            for answer in self._call:
                answered, decode = self._unanswered.popleft()
                self._room.release()
                if answer.WhichOneof("answer") == "error":
                    answered.set_exception(from_status(answer.error))
                else:
                    answered.set_result(decode(answer))
        except grpc.RpcError as error:
            self._session._doubt_home()
            broken = from_rpc_error(error)
        with self._writing:
            self._broken = broken
            for answered, _ in self._unanswered:
                self._room.release()
                answered.set_exception(broken)

    def close(self) -> None:
        """Waits for the answers to come, and ends the stream. The session lives on."""
        self._requests.put(None)
        self._reader.join()

    def __enter__(self) -> Self:
        home = self._session._go_home()
        self._call = home.StreamPages(iter(self._requests.get, None))
        self._reader = threading.Thread(target=self._read, name="numa-stream", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_window(window: int) -> None:
    if window < 1:
        raise InvalidRequest(f"a window of {window}: at least 1", field="window")
