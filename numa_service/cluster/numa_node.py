"""NumaNode: the actor that is one NUMA node, in a process of its own.

The kernels and the servers, which are large, are imported only when the node boots: processes with a handle
of the actor, its kswapd and its supervisor, import this module too and do not need them.
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
    """Boots its node and serves it. When Ray restarts it, the node boots again, empty, as a new lineage.

    The machine's record, which holds what all nodes have in common, such as sysctls, is read from the
    registry before the node serves; later changes come from the supervisor.
    """

    def __init__(self, spec: MachineSpec, machine: str, nid: int) -> None:
        configure_logs(machine=machine, node=nid)
        # In a task, so that describe() can report a failure: a constructor that raises ends the actor.
        self._boot = asyncio.get_running_loop().create_task(self._start(spec, machine, nid))
        #: nid → lineage of the other nodes, as told by the last connect().
        self._lineages: dict[int, int] = {}

    async def _start(self, spec: MachineSpec, machine: str, nid: int) -> tuple[NodeServer, ServingNode]:
        from numa_client import NodeInfo

        from numa_service.cluster.running import ServingNode
        from numa_service.cluster.supervisor_door import SupervisorDoor
        from numa_service.metrics.collector import NodeCollector
        from numa_service.node.node import Node
        from numa_service.node.occupy import start_in_use
        from numa_service.rpc.server import NodeServer, freeze_heap
        from numa_service.rpc.tracing import tracing_from_environment

        node = Node.boot(spec, nid, registry.next_lineage(machine, nid))
        for note in start_in_use(spec, [node]):
            _log.info("%s", note)
        tracing = tracing_from_environment(f"{machine}/node-{nid}")
        server = NodeServer(node, tracing=tracing, machine=SupervisorDoor(machine))
        server.follow(await asyncio.to_thread(registry.record, machine))
        server.registry.register(NodeCollector(server))
        addresses = await server.start(host=ray.util.get_node_ip_address())
        freeze_heap()
        _log.info("node %d serves: lineage %d at %s", nid, node.lineage, addresses.grpc)
        info = NodeInfo(
            node=nid,
            cpus=spec.node(nid).cpus,
            managed_pages=sum(extent.managed for extent in node.pgdat.extents),
            address=addresses.grpc,
            metrics_url=addresses.metrics_url,
            lineage=node.lineage,
            fallback_order=node.machine.zonelists[nid].node_order,
        )
        return server, ServingNode(info, addresses.peers)

    async def describe(self) -> ServingNode:
        """Wait until the node serves; returns its description and addresses, or raises its boot's error."""
        _, me = await self._boot
        return me

    async def pid(self) -> int:
        """The pid of this process on its host."""
        return os.getpid()

    async def until_gone(self) -> None:
        """Never return: the call fails when this process ends, which is how the caller learns of it."""
        await asyncio.Event().wait()

    async def connect(self, nodes: list[ServingNode]) -> None:
        """Set the nodes that are up now. Pages here of owners of their earlier lineages are freed."""
        server, me = await self._boot
        others = [node for node in nodes if node.info.node != me.info.node]
        server.connect({node.info.node: node.peer_address for node in others})
        for info in (node.info for node in others):
            # before a node's first lineage, 1, it had no owners that could have pages here
            if info.lineage > self._lineages.get(info.node, 1):
                await server.restarted(info.node, info.lineage)
            self._lineages[info.node] = info.lineage

    async def follow(self, record: MachineRecord) -> MemoryState | None:
        """Apply what is new in the machine's record.

        Returns this node's memory as the record should have it, or None if the record is right.
        """
        server, _ = await self._boot
        return server.follow(record)

    async def kswapd_wait(self, timeout: float) -> bool:
        """Wait until this node wakes its kswapd; False after `timeout` seconds."""
        server, _ = await self._boot
        return await server.kswapd_wait(timeout)

    async def kswapd_step(self) -> bool:
        """Run one bounded step of kswapd; returns whether another one should follow at once."""
        server, _ = await self._boot
        return await server.kswapd_step()
