"""NumaNode: the actor that is one NUMA node, in a process of its own.

What makes it large, the kernels and the servers, is imported where the node boots: whoever has a handle of
the actor, its kswapd and its supervisor, imports this module too.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

import ray

from numa_service.cluster import registry
from numa_service.cluster.logs import configure_logs

if TYPE_CHECKING:
    from numa_service.cluster.running import ServingNode
    from numa_service.machine.record import MachineRecord, MemoryState
    from numa_service.machine.spec import MachineSpec
    from numa_service.rpc.server import NodeServer

_log = logging.getLogger(__name__)


class NumaNode:
    """Boots its node and serves it. Restarted by Ray, it boots again, empty, as the next incarnation.

    What all nodes have in common, the sysctls above all, it has from the registry before it serves, and from
    its supervisor when it changes.
    """

    def __init__(self, spec: MachineSpec, machine: str, nid: int) -> None:
        configure_logs(machine=machine, node=nid)
        # In a task, for its failure to be told to whoever asks: a constructor that raises ends the actor.
        self._boot = asyncio.get_running_loop().create_task(self._start(spec, machine, nid))
        #: Incarnations of the other nodes, as last told.
        self._incarnations: dict[int, int] = {}

    async def _start(self, spec: MachineSpec, machine: str, nid: int) -> tuple[NodeServer, ServingNode]:
        from numa_client import NodeInfo

        from numa_service.cluster.running import ServingNode
        from numa_service.cluster.supervisor_door import SupervisorDoor
        from numa_service.metrics.collector import NodeCollector
        from numa_service.node.node import Node
        from numa_service.rpc.server import NodeServer, freeze_heap
        from numa_service.rpc.tracing import tracing_from_environment

        node = Node.boot(spec, nid, registry.next_incarnation(machine, nid))
        tracing = tracing_from_environment(f"{machine}/node-{nid}")
        server = NodeServer(node, tracing=tracing, machine=SupervisorDoor(machine))
        server.follow(await asyncio.to_thread(registry.record, machine))
        server.registry.register(NodeCollector(server))
        addresses = await server.start(host=ray.util.get_node_ip_address())
        freeze_heap()
        _log.info("node %d serves: incarnation %d at %s", nid, node.lineage, addresses.grpc)
        info = NodeInfo(
            node=nid,
            cpus=spec.node(nid).cpus,
            managed_pages=sum(extent.managed for extent in node.pgdat.extents),
            address=addresses.grpc,
            metrics_url=addresses.metrics_url,
            incarnation=node.lineage,
            fallback_order=node.machine.zonelists[nid].node_order,
        )
        return server, ServingNode(info, addresses.peers)

    async def describe(self) -> ServingNode:
        """Who and where it is, once it serves; raises what boot raised."""
        _, me = await self._boot
        return me

    async def pid(self) -> int:
        """Of this process, on its host."""
        return os.getpid()

    async def until_gone(self) -> None:
        """Never returns: the caller learns of the end of this process by the call's failure."""
        await asyncio.Event().wait()

    async def connect(self, nodes: list[ServingNode]) -> None:
        """The nodes that are up now. What owners of their earlier incarnations hold here is freed."""
        server, me = await self._boot
        others = [node for node in nodes if node.info.node != me.info.node]
        server.connect({node.info.node: node.peer_address for node in others})
        for info in (node.info for node in others):
            # nobody can be left over from before a first incarnation
            if info.incarnation > self._incarnations.get(info.node, 1):
                await server.restarted(info.node, info.incarnation)
            self._incarnations[info.node] = info.incarnation

    async def follow(self, record: MachineRecord) -> MemoryState | None:
        """Apply what is new in the machine's record; what it is to say of this node's memory, if anything."""
        server, _ = await self._boot
        return server.follow(record)

    async def kswapd_wait(self, timeout: float) -> bool:
        """Wait until this node wants its kswapd; False after `timeout` seconds."""
        server, _ = await self._boot
        return await server.kswapd_wait(timeout)

    async def kswapd_step(self) -> bool:
        """Let kswapd go on by one step; whether another one is to follow."""
        server, _ = await self._boot
        return await server.kswapd_step()
