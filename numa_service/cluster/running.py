"""A machine that is up, as told to whoever asks."""

from __future__ import annotations

from dataclasses import dataclass

from numa_client import MachineInfo, NodeInfo


@dataclass(frozen=True, slots=True)
class FailingNode:
    """A node that does not boot any more, or is restarted again and again."""

    nid: int
    reason: str


@dataclass(frozen=True, slots=True)
class ServingNode:
    """A node that serves, as the machine's own processes know it."""

    #: As clients are told of it.
    info: NodeInfo
    #: host:port of its gRPC server for other nodes.
    peer_address: str


@dataclass(frozen=True, slots=True)
class RunningMachine:
    """A machine on Ray, as its supervisor sees it now."""

    info: MachineInfo
    #: host:port of MachineService.
    address: str
    #: For http_sd_configs of Prometheus.
    targets_url: str
    #: Of the web console, on the host of the machine's supervisor; empty if there is none.
    console_url: str = ""
    #: Nodes that are more than away for a moment.
    failing: tuple[FailingNode, ...] = ()

    @property
    def nodes_up(self) -> int:
        """Nodes that serve."""
        return sum(1 for node in self.info.nodes if node.address)
