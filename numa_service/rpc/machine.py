"""MachineService: what the machine is, and where its nodes answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio
from numa_client._gen.numa.v1 import machine_service_pb2 as pb2
from numa_client._gen.numa.v1 import machine_service_pb2_grpc as pb2_grpc


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node, as clients are told of it."""

    nid: int
    cpus: tuple[int, ...]
    managed_pages: int
    #: host:port of its gRPC server; empty while it restarts.
    address: str
    metrics_url: str
    incarnation: int
    #: Nodes in the order in which this one falls back, itself included.
    fallback_order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """The machine now."""

    name: str
    profile: str
    nodes: tuple[NodeInfo, ...]
    #: distances[i][j]: SLIT distance from the i-th to the j-th node listed.
    distances: tuple[tuple[int, ...], ...]


class MachineServicer(pb2_grpc.MachineServiceServicer):
    """Answers with what the callable says at that moment."""

    def __init__(self, machine: Callable[[], MachineInfo]) -> None:
        self._machine = machine

    async def GetMachine(
        self, request: pb2.GetMachineRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb2.GetMachineResponse:
        """Topology, and the address of every node's own server."""
        machine = self._machine()
        return pb2.GetMachineResponse(
            name=machine.name,
            profile=machine.profile,
            nodes=[
                pb2.NodeInfo(
                    node=node.nid,
                    cpus=node.cpus,
                    managed_pages=node.managed_pages,
                    address=node.address,
                    metrics_url=node.metrics_url,
                    incarnation=node.incarnation,
                    fallback_order=node.fallback_order,
                )
                for node in machine.nodes
            ],
            distances=[distance for row in machine.distances for distance in row],
        )
