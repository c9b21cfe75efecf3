"""Calls of the machine's own server to the nodes' servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc.aio
from numa_client import MachineInfo, NodeInfo
from numa_client._channel import async_channel
from numa_client._gen.numa.v1 import node_service_pb2_grpc

from numa_service.node.errors import PeerUnavailable
from numa_service.rpc.grpc_server import ASK_SECONDS, MAX_MESSAGE_BYTES
from numa_service.rpc.status import from_rpc_error

_OPTIONS = (("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.max_reconnect_backoff_ms", 1000))


class NodeCalls:
    """The channels to the nodes of a machine, each made when it is needed."""

    def __init__(self, machine: Callable[[], MachineInfo]) -> None:
        """`machine` is called for each call, so that the addresses are current."""
        self._machine = machine
        #: nid → (address, channel to it).
        self._channels: dict[int, tuple[str, grpc.aio.Channel]] = {}

    @property
    def nodes(self) -> tuple[NodeInfo, ...]:
        """The nodes, by nid."""
        return self._machine().nodes

    async def ask(
        self,
        node: NodeInfo,
        method: str,
        request: Any,
        timeout: float = ASK_SECONDS,
        stub: Callable[[grpc.aio.Channel], Any] = node_service_pb2_grpc.NodeServiceStub,
    ) -> Any:
        """Call a node. NodeError is what it refused with, PeerUnavailable means that it did not answer."""
        if not node.address:
            raise PeerUnavailable(node.node, "it restarts")
        known = self._channels.get(node.node)
        if known is None or known[0] != node.address:
            moved = known
            known = node.address, async_channel(node.address, _OPTIONS)
            self._channels[node.node] = known
            if moved is not None:
                await moved[1].close(None)
        try:
            return await getattr(stub(known[1]), method)(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(node.node, error) from None

    async def close(self) -> None:
        """Close the channels to the nodes."""
        for _, channel in self._channels.values():
            await channel.close(None)
        self._channels.clear()
