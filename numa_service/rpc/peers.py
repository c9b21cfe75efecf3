"""Questions to other nodes over gRPC: the shell around the node's generators."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from numa_client._channel import CONNECTION
from numa_client._gen.numa.v1 import zonelist_service_pb2_grpc

from numa_service.node import ops
from numa_service.node.ask import Ask, Steps
from numa_service.node.errors import NodeError, PeerUnavailable
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner
from numa_service.rpc.convert import WIRE
from numa_service.rpc.grpc_server import MAX_MESSAGE_BYTES
from numa_service.rpc.status import from_rpc_error
from numa_service.rpc.tracing import Tracing

T = TypeVar("T")

#: Time that a request has for its questions when the client sets no deadline.
DEFAULT_TIMEOUT_SECONDS = 10.0
#: Longest wait for one answer. A node answers in a millisecond; one that takes longer is away.
ASK_SECONDS = 2.0
#: How long to wait before a node that is away is asked again; doubles up to the second.
SETTLE_SECONDS = (0.1, 1.0)

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    *CONNECTION,
    # Which retries are safe is known here, not by the channel.
    ("grpc.enable_retries", 0),
)

_log = logging.getLogger(__name__)


class NeverSent(PeerUnavailable):
    """The node cannot have heard the question."""


class Peers:
    """Channels to the other nodes, and what is still owed to or by nodes that did not answer.

    A lookup without an answer may have been carried out: it is asked again, under its own id, until the node
    answers, and what it gave is given back. An owner's end that a node has not heard of is repeated likewise.
    While a node owes answers it counts as away, and nobody waits for it.
    """

    def __init__(
        self, got_pages: Callable[[int, int], None] | None = None, tracing: Tracing | None = None
    ) -> None:
        #: Of every channel; none at all without tracing.
        self._interceptors = [tracing.client_spans()] if tracing else None
        self._channels: dict[int, tuple[str, grpc.aio.Channel]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        #: Questions under way.
        self._asking: dict[int, Ask[Any]] = {}
        self._debts: dict[int, deque[Ask[Any]]] = {}
        self._settling: dict[int, asyncio.Task[None]] = {}
        self._moved = asyncio.Event()
        #: Told how many pages each lookup's answer brought: (nid, pages).
        self._got_pages = got_pages

    def connect(self, addresses: dict[int, str]) -> None:
        """Where the other nodes answer: nid → host:port; a node not named is away. Call on the loop."""
        for nid in sorted(self._channels.keys() - addresses.keys()):
            self._drop(nid)
        for nid, address in sorted(addresses.items()):
            if nid in self._channels:
                if self._channels[nid][0] == address:
                    continue
                self._drop(nid)
            self._channels[nid] = (
                address,
                grpc.aio.insecure_channel(address, _OPTIONS, interceptors=self._interceptors),
            )
        self._moved.set()

    def _drop(self, nid: int) -> None:
        _, channel = self._channels.pop(nid)
        task = asyncio.ensure_future(channel.close(ASK_SECONDS))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the channels and forget the debts."""
        for task in self._settling.values():
            task.cancel()
        await asyncio.gather(*self._settling.values(), return_exceptions=True)
        for nid in sorted(self._channels):
            self._drop(nid)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def ask(self, ask: Ask[Any], timeout: float) -> Any:
        """One question; once more, under its own id, when the connection broke. NodeError: what it said."""
        self._asking[id(ask)] = ask
        try:
            return await self._ask(ask, timeout)
        finally:
            self._asking.pop(id(ask), None)

    async def _ask(self, ask: Ask[Any], timeout: float) -> Any:
        wire = WIRE[type(ask.op)]
        request = wire.request(ask.op, ask.request_id)
        for attempt in (1, 2):
            if ask.nid not in self._channels:
                raise (NeverSent if attempt == 1 else PeerUnavailable)(ask.nid, "no address")
            channel = self._channels[ask.nid][1]
            stub = self.stub(ask.nid)
            try:
                lost = channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
                return wire.result(await getattr(stub, wire.method)(request, timeout=timeout))
            except grpc.aio.AioRpcError as error:
                unavailable = error.code() is grpc.StatusCode.UNAVAILABLE
                if unavailable and attempt == 1:
                    if lost:
                        raise NeverSent(ask.nid, error.details() or "no connection") from None
                    continue
                raise from_rpc_error(ask.nid, error) from None
            except grpc.aio.UsageError as error:  # the channel was closed by a new address
                if attempt == 2:
                    raise PeerUnavailable(ask.nid, str(error)) from None
        raise AssertionError("unreachable")

    def stub(self, nid: int) -> zonelist_service_pb2_grpc.ZonelistServiceAsyncStub:
        """Of a node's ZonelistService; NeverSent when it has no address."""
        if nid not in self._channels:
            raise NeverSent(nid, "no address")
        # the stub of synchronous channels serves both; only the types differ
        stub: Any = zonelist_service_pb2_grpc.ZonelistServiceStub(self._channels[nid][1])
        return stub  # type: ignore[no-any-return]

    def count_pages(self, ask: Ask[Any], answer: Any) -> None:
        """Note what a lookup brought."""
        if self._got_pages and isinstance(ask.op, ops.Alloc) and isinstance(answer, ops.AllocResult):
            self._got_pages(ask.nid, len(answer.pfns) // 8 << ask.op.order)

    # debts

    def owe(self, ask: Ask[Any], sent: bool) -> None:
        """A question went unanswered; keep what must not be lost. `sent`: the node may have heard it."""
        if isinstance(ask.op, ops.FreeOwner | ops.Release | ops.MemoryNotify) or (
            sent and isinstance(ask.op, ops.Alloc)
        ):
            self._debts.setdefault(ask.nid, deque()).append(ask)
            if ask.nid not in self._settling:
                task = asyncio.create_task(self._settle(ask.nid), name=f"settle-node-{ask.nid}")
                self._settling[ask.nid] = task
                task.add_done_callback(lambda _: self._settling.pop(ask.nid, None))

    async def _settle(self, nid: int) -> None:
        debts = self._debts[nid]
        delay, longest = SETTLE_SECONDS
        while debts:
            ask = debts[0]
            try:
                answer = await self.ask(ask, ASK_SECONDS)
            except PeerUnavailable:
                self._moved.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._moved.wait(), delay)
                delay = min(2 * delay, longest)
                continue
            except NodeError as error:
                _log.info("node %d refused %s: %s", nid, type(ask.op).__name__, error)
                answer = None
            debts.popleft()
            if isinstance(ask.op, ops.Alloc) and isinstance(answer, ops.AllocResult) and answer.pfns:
                debts.appendleft(Ask(nid, _give_back(ask.op, answer.pfns), f"{ask.request_id}.back"))

    def unsettled(self, nid: int) -> set[Owner]:
        """Owners of whom a node is asked something now, or owes an answer."""
        asks = (*self._asking.values(), *self._debts.get(nid, ()))
        owners = (getattr(ask.op, "owner", None) for ask in asks if ask.nid == nid)
        return {owner for owner in owners if owner is not None}

    def owed(self) -> dict[int, int]:
        """nid → questions that it has not answered, of the nodes that owe any."""
        return {nid: len(self._debts[nid]) for nid in sorted(self._settling)}

    def is_away(self, nid: int) -> bool:
        """Whether a node owes answers."""
        return nid in self._settling

    async def settled(self) -> None:
        """Until no node owes an answer."""
        while self._settling:
            await asyncio.wait(self._settling.values())


def _give_back(op: ops.Alloc, pfns: bytes) -> Op[int]:
    if op.lru_kind:
        return ops.Release(op.owner, None, pfns, op.indexes[: len(pfns) // 2])
    return ops.Free(op.owner, op.cpu, op.order, pfns)


async def drive(
    steps: Steps[T], peers: Peers, timeout: float | None = None, ask: Ask[Any] | None = None
) -> T:
    """Run a generator to its end, each Ask being one call to the node it names.

    `ask` is the question at which it stands; None when it has not begun.
    A question gets half of the time that is left, at most ASK_SECONDS. A node that has not answered once is
    not asked again for this request: its generator is told so at once.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (DEFAULT_TIMEOUT_SECONDS if timeout is None else timeout)
    away: set[int] = set()
    with contextlib.closing(steps):
        try:
            ask = ask or next(steps)
            while True:
                try:
                    if ask.nid in away or peers.is_away(ask.nid):
                        raise NeverSent(ask.nid, "it owes answers to earlier questions")
                    budget = min(ASK_SECONDS, max(0.0, deadline - loop.time()) / 2)
                    answer = await peers.ask(ask, budget)
                except NodeError as error:
                    if isinstance(error, PeerUnavailable):
                        away.add(ask.nid)
                        peers.owe(ask, sent=not isinstance(error, NeverSent))
                    ask = steps.throw(error)
                else:
                    peers.count_pages(ask, answer)
                    ask = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
