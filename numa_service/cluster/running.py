"""The description of a machine that is up, which its supervisor gives to commands."""

from __future__ import annotations

from dataclasses import dataclass

from numa_client import MachineInfo, NodeInfo


@dataclass(frozen=True, slots=True)
class FailingNode:
    """A node that fails to boot, or is restarted again and again."""

    nid: int
    reason: str


@dataclass(frozen=True, slots=True)
class ServingNode:
    """A node that serves, as the machine's own processes know it."""

    #: The node's description for clients.
    info: NodeInfo
    #: host:port of its gRPC server for other nodes.
    peer_address: str


@dataclass(frozen=True, slots=True)
class RunningMachine:
    """A machine on Ray, as its supervisor describes it."""

    info: MachineInfo
    #: host:port of MachineService.
    address: str
    #: URL for http_sd_configs of Prometheus.
    targets_url: str
    #: URL of the web console, on the host of the machine's supervisor; empty if there is none.
    console_url: str = ""
    #: Nodes that keep failing.
    failing: tuple[FailingNode, ...] = ()

    @property
    def nodes_up(self) -> int:
        """Number of nodes that serve."""
        return sum(1 for node in self.info.nodes if node.address)
