"""The servers: what one node, and the machine as a whole, put on the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from numa_service.node.node import Node
from numa_service.node.ops import Op
from numa_service.rpc.machine import MachineInfo


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a node answers."""

    #: host:port of the gRPC server.
    grpc: str
    #: URL of the Prometheus metrics.
    metrics_url: str


class NodeServer:
    """A node's gRPC services, its leases, and its metrics endpoint, all on one event loop.

    `registry` holds the RPC metrics; whoever boots a node adds `metrics.collector.NodeCollector(server)`.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.registry = CollectorRegistry()

    async def start(self, host: str = "127.0.0.1", port: int = 0, metrics_port: int = 0) -> Addresses: ...

    def connect(self, peers: dict[int, str]) -> None:
        """Tell where the other nodes answer: nid → host:port. Again whenever one has moved."""

    async def stop(self, grace: float = 1.0) -> None: ...

    async def kswapd_wait(self, timeout: float) -> bool:
        """Wait until the node wants its kswapd; False after `timeout` seconds."""

    async def kswapd_step(self, op: Op) -> object:
        """Apply one op of balance_pgdat on this node; its result."""


class MachineServer:
    """MachineService: topology and addresses, as the callable tells them now."""

    def __init__(self, machine: Callable[[], MachineInfo]) -> None: ...

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Serve; host:port."""

    async def stop(self, grace: float = 1.0) -> None: ...
