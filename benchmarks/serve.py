"""Pages through gRPC: a node in one process, a client in another, beside a bare echo of the same bytes."""

from __future__ import annotations

import asyncio
import itertools
import mmap
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
from numa_client._gen.numa.v1 import memory_service_pb2 as pb2
from numa_client._gen.numa.v1 import memory_service_pb2_grpc as pb2_grpc
from servers import SIZE_BYTES, serving
from table import Row

#: CPUs that are needed at once: for a client and a server.
CPUS = 2
_OPTIONS = (("grpc.max_receive_message_length", 64 << 20),)
#: Many short rounds, in turns, as the speed of a shared host changes from second to second.
_ROUNDS = 15


def host_faults_per_second() -> float:
    """Pages of 4 KiB per second that this host's kernel faults in and drops again; best of three rounds."""
    size = 1 << 30
    best = 0.0
    for _ in range(3):
        with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            if hasattr(mmap, "MADV_NOHUGEPAGE"):
                memory.madvise(mmap.MADV_NOHUGEPAGE)
            pages = np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE]
            start = time.perf_counter()
            pages[:] = 1
            memory.madvise(mmap.MADV_DONTNEED)
            best = max(best, len(pages) / (time.perf_counter() - start))
            del pages
    return best


class Served:
    """A session on the node that makes pairs of calls."""

    def __init__(self, channel: Any) -> None:
        self._stub = pb2_grpc.MemoryServiceStub(channel)
        self._ids = itertools.count()
        #: Fields that every request of the session has.
        self.session: dict[str, Any] = {}

    async def open(self) -> None:
        """Open the session."""
        request = pb2.OpenSessionRequest(client_name="bench", lease_seconds=3600, request_id="open")
        opened = await self._stub.OpenSession(request)
        self.session = {"session": opened.session, "session_token": opened.session_token}

    async def sizes(self, count: int) -> tuple[int, int]:
        """Bytes of the request and of the reply that carry the pages of a :meth:`pair`."""
        free, got = await self.pair(count)
        return free.ByteSize(), got.ByteSize()

    async def pair(self, count: int) -> tuple[pb2.FreePagesRequest, pb2.AllocPagesResponse]:
        """Allocate pages and free them; returns the request and the reply that carry them."""
        request_id = str(next(self._ids))
        got = await self._stub.AllocPages(
            pb2.AllocPagesRequest(**self.session, request_id=request_id, count=count)
        )
        free = pb2.FreePagesRequest(**self.session, request_id=request_id + "f", pages=got.pages)
        await self._stub.FreePages(free)
        return free, got


class Echoed:
    """Two calls of a bare echo server with messages of the same sizes."""

    def __init__(self, channel: Any) -> None:
        self._echo = channel.unary_unary("/bare/Echo")

    async def pair(self, up: int, down: int) -> None:
        """A small request and a reply of `down` bytes; a request of `up` bytes and a small reply."""
        await self._echo(down.to_bytes(SIZE_BYTES, "little") + bytes(32))
        await self._echo((32).to_bytes(SIZE_BYTES, "little") + bytes(max(up - SIZE_BYTES, 0)))


class Streamed:
    """Pairs of calls through one stream, of which `window` are unanswered at a time."""

    def __init__(self, call: Any, window: int) -> None:
        self._call = call
        self._window = window

    async def run(self, requests: Callable[[Any], Any], pairs: int) -> float:
        """Pairs per second. `requests` makes a pair's first request of None, and its second of the answer."""
        call, answered = self._call, 0
        start = time.perf_counter()
        for _ in range(min(self._window, pairs)):
            await call.write(requests(None))
        sent = min(self._window, pairs)
        while answered < pairs:
            first = await call.read()
            second = requests(first)
            if second is not None:
                await call.write(second)
                continue
            answered += 1
            if sent < pairs:
                await call.write(requests(None))
                sent += 1
        return pairs / (time.perf_counter() - start)


async def rate(pair: Callable[[], Awaitable[Any]], pairs: int, in_flight: int) -> tuple[float, list[float]]:
    """Pairs per second with so many under way at a time, and how many seconds each took."""
    took: list[float] = []
    left = itertools.count(1)

    async def worker() -> None:
        while next(left) <= pairs:
            start = time.perf_counter()
            await pair()
            took.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return pairs / (time.perf_counter() - start), took


async def _compare(
    served: Served, echoed: Echoed, count: int, pairs: int, in_flight: int, rounds: int = _ROUNDS
) -> tuple[float, float, list[float], list[float]]:
    """The median rates of both, measured in turns, and the times of all pairs."""
    up, down = await served.sizes(count)
    ours: list[float] = []
    theirs: list[float] = []
    our_times: list[float] = []
    their_times: list[float] = []
    for _ in range(rounds):
        found, took = await rate(lambda: served.pair(count), pairs, in_flight)
        ours.append(found)
        our_times += took
        found, took = await rate(lambda: echoed.pair(up, down), pairs, in_flight)
        theirs.append(found)
        their_times += took
    return statistics.median(ours), statistics.median(theirs), our_times, their_times


def _percentile(times: list[float], percent: float) -> float:
    return float(np.percentile(times, percent)) * 1e6


async def _measure(node: str, echo: str) -> list[Row]:
    rows = []
    async with (
        grpc.aio.insecure_channel(node, options=_OPTIONS) as to_node,
        grpc.aio.insecure_channel(echo, options=_OPTIONS) as to_echo,
    ):
        served, echoed = Served(to_node), Echoed(to_echo)
        await served.open()
        for _ in range(20):
            await served.pair(32768)
        ours, theirs, _, _ = await _compare(served, echoed, 32768, 7, 1)
        faults = host_faults_per_second()
        rows += [
            Row("grpc_32k_pages", ours * 32768, "pages/s", "host kernel, faulted in and dropped", faults, 10),
            Row("grpc_32k_pages_vs_echo", ours * 32768, "pages/s", "bare echo, same bytes", theirs * 32768),
        ]
        ours, theirs, _, _ = await _compare(served, echoed, 512, 100, 1)
        rows.append(Row("grpc_512_pages", ours * 512, "pages/s", "bare echo, same bytes", theirs * 512, 0.8))
        for in_flight in (1, 64):
            # one pause of the host delays all 64 pairs that are under way: with 6,000 pairs in all that would
            # be more than one in a hundred, and decide the 99th percentile
            rounds = _ROUNDS if in_flight == 1 else 3 * _ROUNDS
            ours, theirs, took, bare = await _compare(served, echoed, 1, 400, in_flight, rounds)
            name = f"grpc_1_page_{in_flight}_in_flight"
            rows.append(Row(name, 2 * ours, "calls/s", "bare echo", 2 * theirs, 0.85))
            for percent, goal in ((50, None), (99, 1.3)):
                rows.append(
                    Row(
                        f"{name}_p{percent}",
                        _percentile(took, percent),
                        "µs/pair",
                        "bare echo",
                        _percentile(bare, percent),
                        goal,
                        at_least=False,
                    )
                )
        rows.append(await _streams(served, to_node, to_echo))
    return rows


async def _streams(served: Served, to_node: Any, to_echo: Any) -> Row:
    """Streams with 32 pages a request and a window of 16 requests."""
    count, window, pairs = 32, 16, 600
    up, down = await served.sizes(count)
    ids = itertools.count()

    def pages(answer: Any) -> Any:
        request_id = f"stream{next(ids)}"
        if answer is None:
            alloc = pb2.AllocPagesRequest(**served.session, request_id=request_id, count=count)
            return pb2.StreamPagesRequest(alloc=alloc)
        if answer.WhichOneof("answer") == "free":
            return None
        free = pb2.FreePagesRequest(**served.session, request_id=request_id, pages=answer.alloc.pages)
        return pb2.StreamPagesRequest(free=free)

    small = 32

    def blobs(answer: Any) -> Any:
        if answer is None:
            return down.to_bytes(SIZE_BYTES, "little") + bytes(32)
        if len(answer) == small:
            return None
        return small.to_bytes(SIZE_BYTES, "little") + bytes(up - SIZE_BYTES)

    node_call = pb2_grpc.MemoryServiceStub(to_node).StreamPages()
    echo_call = to_echo.stream_stream("/bare/EchoStream")()
    ours, theirs = [], []
    for _ in range(_ROUNDS):
        ours.append(await Streamed(node_call, window).run(pages, pairs))
        theirs.append(await Streamed(echo_call, window).run(blobs, pairs))
    for call in (node_call, echo_call):
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    return Row(
        "grpc_stream_32_pages",
        2 * statistics.median(ours),
        "calls/s",
        "bare echo stream, same bytes",
        2 * statistics.median(theirs),
        0.85,
    )


def rows() -> list[Row]:
    """Every row of this part."""
    with serving("node") as (node, _), serving("echo") as (echo,):
        return asyncio.run(_measure(node, echo))


if __name__ == "__main__":
    from table import show

    show(rows())
