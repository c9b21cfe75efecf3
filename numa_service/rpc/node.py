"""NodeService: one node, looked at and tuned."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Awaitable
from typing import Any

import grpc.aio
from numa_client._gen.numa.v1 import node_service_pb2 as pb2
from numa_client._gen.numa.v1 import node_service_pb2_grpc as pb2_grpc

from numa_service.node.ask import Steps
from numa_service.node.inspect import cpu_time, page_view, pgdat_view, zone_view
from numa_service.node.machine_record import own_memory
from numa_service.node.memory_hotplug import change_memory_block
from numa_service.node.node import Node
from numa_service.rpc import convert
from numa_service.rpc.owners import check_homes
from numa_service.rpc.peers import Peers
from numa_service.rpc.record_keeper import MachineDoor
from numa_service.rpc.requests import Requests

Context = grpc.aio.ServicerContext[Any, Any]


class NodeServicer(pb2_grpc.NodeServiceServicer):
    """State of the node now, sysctls and self-checks."""

    def __init__(
        self,
        node: Node,
        requests: Requests,
        peers: Peers,
        machine: MachineDoor,
    ) -> None:
        """`machine` is asked for what is the whole machine's, and told what it has to know."""
        self._node = node
        self._requests = requests
        self._peers = peers
        self._booted = time.time()
        self._machine = machine

    async def GetNode(self, request: pb2.GetNodeRequest, context: Context) -> pb2.GetNodeResponse:
        """Zones, counters, kswapd, sessions; the digest if asked for."""
        return convert.node_state(self._node, self._node.digest() if request.with_digest else "")

    async def WriteSysctl(self, request: pb2.WriteSysctlRequest, context: Context) -> pb2.WriteSysctlResponse:
        """Write a sysctl of the machine: this node has it then, and every other one that is up."""
        return pb2.WriteSysctlResponse(note=await self._machine.write_sysctl(request.key, request.value))

    async def GetSnapshot(self, request: pb2.GetSnapshotRequest, context: Context) -> pb2.GetSnapshotResponse:
        """The node as the files of /proc and /sys show it."""
        part = self._node.machine.node_part(self._node.nid, cpu_time(self._node), self._booted)
        return pb2.GetSnapshotResponse(json=part.to_json())

    async def Inspect(self, request: pb2.InspectRequest, context: Context) -> pb2.InspectResponse:
        """One structure, field by field."""
        match request.WhichOneof("what"):
            case "zone":
                view: Any = zone_view(self._node, request.zone)
            case "pfn":
                view = page_view(self._node, request.pfn)
            case _:
                view = pgdat_view(self._node)
        return pb2.InspectResponse(json=json.dumps(dataclasses.asdict(view)))

    async def ChangeMemoryBlock(
        self, request: pb2.ChangeMemoryBlockRequest, context: Context
    ) -> pb2.ChangeMemoryBlockResponse:
        """Take a memory block of this node off-line or on-line."""

        reply = self._requests.once(0, request, self._change_memory_block, context.time_remaining())
        changed = await reply if isinstance(reply, Awaitable) else reply
        if (memory := own_memory(self._node)) is not None:
            await self._machine.remember_memory(memory)
        return changed

    def _change_memory_block(
        self, request: pb2.ChangeMemoryBlockRequest
    ) -> Steps[pb2.ChangeMemoryBlockResponse]:
        yield from change_memory_block(self._node, request.block, request.state)
        return pb2.ChangeMemoryBlockResponse(zones=convert.zone_summaries(self._node))

    async def CheckInvariants(
        self, request: pb2.CheckInvariantsRequest, context: Context
    ) -> pb2.CheckInvariantsResponse:
        """Recount everything that must hold; whether owners live, their homes are asked."""
        violations = self._node.check() + await check_homes(self._node, self._peers)
        return pb2.CheckInvariantsResponse(violations=violations)
