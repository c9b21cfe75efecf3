"""Machine: the actor that places the nodes of a machine, follows them, and tells everybody where they are."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, get_placement_group, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from numa_service.cluster import registry
from numa_service.cluster.errors import ClusterError
from numa_service.cluster.kswapd import Kswapd
from numa_service.cluster.names import NAMESPACE, kswapd_name, node_name
from numa_service.cluster.numa_node import NumaNode
from numa_service.machine.spec import MachineSpec
from numa_service.metrics.discovery import TargetServer
from numa_service.rpc.machine import MachineInfo, NodeInfo
from numa_service.rpc.server import MachineServer

#: What a node books of a host: next to nothing, so that 64 nodes fit on two CPUs.
CPUS_PER_NODE = 0.01
PLACE_SECONDS = 60.0
#: Before a node that is away is asked again.
RETRY_SECONDS = 0.2

_log = logging.getLogger(__name__)


class Machine:
    """Supervisor of one machine. Restarted by Ray, it finds the nodes by name and follows them again."""

    def __init__(self, spec: MachineSpec, name: str) -> None:
        self._spec = spec
        self._name = name
        #: In nid order; a node that is not up has no address.
        self._nodes = {
            n.nid: NodeInfo(n.nid, n.cpus, sum(z.managed or 0 for z in n.zones), "", "", 0, ()) for n in spec.nodes
        }
        self._handles: dict[int, ActorHandle] = {}
        self._changed = asyncio.Condition()
        self._failure: Exception | None = None
        self._server = MachineServer(self._info)
        self._targets = TargetServer(self._info)
        self._work = [asyncio.get_running_loop().create_task(self._start())]

    async def pid(self) -> int:
        """Of this process, on its host."""
        return os.getpid()

    async def booted(self) -> int:
        """How many nodes are up."""
        return sum(1 for node in self._nodes.values() if node.address)
