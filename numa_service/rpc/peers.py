"""Asks other nodes over gRPC. This is the shell that drives the node's generators (``node/ask.py``)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from numa_client._channel import CONNECTION, async_channel
from numa_client._gen.numa.v1 import zonelist_service_pb2_grpc

from numa_service.node import ops
from numa_service.node.ask import Ask, Park, Steps
from numa_service.node.errors import NeverSent, NodeError, PeerUnavailable
from numa_service.node.node import Node
from numa_service.rpc.grpc_server import ASK_SECONDS, MAX_MESSAGE_BYTES
from numa_service.rpc.questions import WIRE
from numa_service.rpc.status import from_rpc_error
from numa_service.rpc.tracing import Tracing

T = TypeVar("T")

#: Time that a request has for all its questions when the client sets no deadline.
DEFAULT_TIMEOUT_SECONDS = 10.0

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    *CONNECTION,
    # Peers.ask() itself repeats questions: it knows which ones are safe to repeat, the channel does not.
    ("grpc.enable_retries", 0),
)

_log = logging.getLogger(__name__)


class Peers:
    """Channels to the other nodes, and the questions asked through them."""

    def __init__(
        self,
        node: Node,
        got_pages: Callable[[int, int], None] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._node = node
        #: Interceptors of every channel; None without tracing.
        self._interceptors = [tracing.client_spans()] if tracing else None
        self._channels: dict[int, tuple[str, grpc.aio.Channel]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        #: Called with (nid, pages) for each answer to a Lookup.
        self._got_pages = got_pages

    def connect(self, addresses: dict[int, str]) -> None:
        """Set where the other nodes answer: nid → host:port. A node not named is away.

        Call it on the event loop. A node that was away and has an address again is asked what it owes.
        """
        for nid in sorted(self._channels.keys() - addresses.keys()):
            self._drop(nid)
        for nid, address in sorted(addresses.items()):
            if nid in self._channels:
                if self._channels[nid][0] == address:
                    continue
                self._drop(nid)
            self._channels[nid] = (
                address,
                async_channel(address, _OPTIONS, self._interceptors),
            )
            if self._node.outbox.is_away(nid):
                self._node.apply(ops.PeerBack(nid, self._node.clock()))

    def _drop(self, nid: int) -> None:
        _, channel = self._channels.pop(nid)
        task = asyncio.ensure_future(channel.close(ASK_SECONDS))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the channels."""
        for nid in sorted(self._channels):
            self._drop(nid)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def ask(self, ask: Ask[Any], timeout: float) -> Any:
        """Ask another node, and return its answer; `timeout` is in seconds.

        When the connection breaks, the question is repeated once under the same request id. Raises the
        NodeError that the other node refused with; PeerUnavailable when it did not answer, or its subclass
        NeverSent when it cannot have received the question.
        """
        asking = self._node.outbox.asking
        asking[id(ask)] = ask.nid, getattr(ask.op, "owner", None)
        try:
            return await self._ask(ask, timeout)
        finally:
            asking.pop(id(ask), None)

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
        """The stub of a node's ZonelistService. NeverSent when the node has no address."""
        if nid not in self._channels:
            raise NeverSent(nid, "no address")
        # one stub class serves blocking and asyncio channels; only the type annotations differ
        stub: Any = zonelist_service_pb2_grpc.ZonelistServiceStub(self._channels[nid][1])
        return stub  # type: ignore[no-any-return]

    def _count_pages(self, ask: Ask[Any], answer: Any) -> None:
        """Report the pages that a Lookup brought."""
        if self._got_pages and isinstance(ask.op, ops.Alloc) and isinstance(answer, ops.AllocResult):
            self._got_pages(ask.nid, len(answer.pfns) // 8 << ask.op.order)

    def carrier(self, timeout: float | None = None) -> Callable[[Ask[Any] | Park], Awaitable[Any]]:
        """A function that carries out the effects of one request, which has `timeout` seconds in all.

        Each question may take half of the time that is left, and at most ASK_SECONDS.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (DEFAULT_TIMEOUT_SECONDS if timeout is None else timeout)

        async def carry(effect: Ask[Any] | Park) -> Any:
            if isinstance(effect, Park):
                if effect.woken:
                    return await asyncio.sleep(0)
                woken = asyncio.Event()
                effect.when_woken(woken.set)
                return await woken.wait()
            answer = await self.ask(effect, min(ASK_SECONDS, max(0.0, deadline - loop.time()) / 2))
            self._count_pages(effect, answer)
            return answer

        return carry

    async def run(self, steps: Steps[T], timeout: float | None = None) -> T:
        """Run a generator of effects to its end, and return its result.

        Unless it settles what another node owes, wrap it in ``through_outbox`` (``node/ask.py``), which keeps
        it from asking a node that owes answers.
        """
        carry = self.carrier(timeout)
        with contextlib.closing(steps):
            try:
                effect = next(steps)
                while True:
                    try:
                        answer = await carry(effect)
                    except NodeError as error:
                        effect = steps.throw(error)
                    else:
                        effect = steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
