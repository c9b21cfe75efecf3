"""A whole machine on the loopback interface in one process, without Ray: a MachineServer, and NodeServers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numa_client import AsyncMachine, MachineInfo, NodeInfo, SessionInfo

from numa_service.machine.presets import load_preset
from numa_service.machine.record import MachineRecord, MemoryState
from numa_service.machine.spec import MachineSpec
from numa_service.metrics.collector import NodeCollector
from numa_service.node.node import Node
from numa_service.node.ops.op import Op
from numa_service.rpc.machine_server import MachineServer
from numa_service.rpc.record_keeper import RecordKeeper
from numa_service.rpc.server import Addresses, NodeServer
from numa_service.rpc.workload import Pace


class Clock:
    """The clock of leases, in ns, which stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns


class Loopback:
    """A machine on the loopback interface, and what tests do with it."""

    def __init__(
        self,
        preset: str | MachineSpec = "demo",
        profile: str = "linux-6.1",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        pace: Pace | None = None,
    ) -> None:
        spec = load_preset(preset) if isinstance(preset, str) else preset
        # a test says when a vmstat tick comes
        sysctls = {"vm.stat_interval": "3600"} | spec.sysctls
        self.spec = replace(spec.with_profile(profile), sysctls=sysctls)
        self.clock = Clock()
        self.servers: dict[int, NodeServer] = {}
        self.addresses: dict[int, Addresses] = {}
        self.applied: list[tuple[int, Op[Any]]] = []
        self.changed = asyncio.Condition()
        self.keeper = RecordKeeper(self.spec, self._tell)
        for node in self.spec.nodes:
            server = NodeServer(Node.boot(self.spec, node.nid), self.clock, sleep, pace, machine=self.keeper)
            server.registry.register(NodeCollector(server))
            server.node.observer = self._observe
            self.servers[node.nid] = server
        self.machine_server = MachineServer(self.info, self.spec, self.keeper)
        self.address = ""

    async def _tell(self, nid: int, record: MachineRecord) -> MemoryState | None:
        return self.servers[nid].follow(record)

    def _observe(self, node: Node, op: Op[Any], result: Any) -> None:
        self.applied.append((node.nid, op))
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self._notify()))

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Any) -> None:
        """Wait until a condition holds; it is checked after every op."""
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(condition)

    async def start(self) -> None:
        for nid, server in self.servers.items():
            self.addresses[nid] = await server.start()
            self.keeper.came_up(nid)
        self.connect()
        self.address = await self.machine_server.start()

    def connect(self) -> None:
        for server in self.servers.values():
            server.connect({nid: address.peers for nid, address in self.addresses.items()})

    async def stop(self) -> None:
        await self.machine_server.stop(0)
        self.keeper.close()
        for server in self.servers.values():
            await server.stop(0)

    async def kill(self, nid: int) -> None:
        """Stop a node's server; its address stays known."""
        self.keeper.went_away(nid)
        await self.servers[nid].stop(0)

    async def revive(self, nid: int) -> None:
        """Start a new server for the same node, at another address."""
        server = NodeServer(self.node(nid), self.clock, machine=self.keeper)
        self.servers[nid] = server
        self.addresses[nid] = await server.start()
        self.keeper.came_up(nid)
        self.connect()

    async def restart(self, nid: int) -> None:
        """Kill a node, boot it again, empty, and tell the others."""
        await self.kill(nid)
        node = Node.boot(self.spec, nid, self.node(nid).lineage + 1)
        node.observer = self._observe
        self.servers[nid] = NodeServer(node, self.clock, machine=self.keeper)
        self.servers[nid].follow(self.keeper.record)
        self.addresses[nid] = await self.servers[nid].start()
        self.connect()
        for other in self.servers.values():
            if other.node is not node:
                await other.restarted(nid, node.lineage)
        self.keeper.came_up(nid)

    async def client(self, timeout: float = 30) -> AsyncMachine:
        return await AsyncMachine.connect(self.address, timeout=timeout)

    def node(self, nid: int) -> Node:
        return self.servers[nid].node

    def digests(self) -> dict[int, str]:
        return {nid: server.node.digest() for nid, server in self.servers.items()}

    def free_pages(self) -> dict[int, int]:
        """nid → free pages, including those on pagesets."""
        return {
            nid: sum(
                server.node.pgdat.free_pages(e.index) + int(server.node.pgdat.pg.pcp_count[:, e.index].sum())
                for e in server.node.pgdat.extents
            )
            for nid, server in self.servers.items()
        }

    def of(self, nid: int, kind: type[Op[Any]]) -> list[Any]:
        """The ops of a kind that a node has applied."""
        return [op for at, op in self.applied if at == nid and isinstance(op, kind)]

    async def kswapd(self, nid: int) -> int:
        """Do what the Kswapd actor does, steps until it sleeps; returns the pages reclaimed."""
        server = self.servers[nid]
        before = server.node.kswapd.reclaimed
        while await server.kswapd_step():
            pass
        return server.node.kswapd.reclaimed - before

    def info(self) -> MachineInfo:
        nodes = tuple(
            NodeInfo(
                node=nid,
                cpus=server.node.pgdat.cpus,
                managed_pages=sum(e.managed for e in server.node.pgdat.extents),
                address=self.addresses[nid].grpc,
                metrics_url=self.addresses[nid].metrics_url,
                lineage=server.node.lineage,
                fallback_order=server.node.machine.zonelists[nid].node_order,
            )
            for nid, server in self.servers.items()
        )
        return MachineInfo(self.spec.name, self.spec.profile, nodes, self.spec.distances)

    def check(self) -> None:
        """Check that every node's invariants hold, and that replaying its log gives its state."""
        for nid, server in self.servers.items():
            node = server.node
            assert node.check() == []
            assert node.log_dropped == 0
            assert Node.replay(self.spec, nid, list(node.log), node.lineage).digest() == node.digest()


def of(session: SessionInfo) -> dict[str, Any]:
    """Fields that every request of a session has."""
    return {"session": session.session, "session_token": session.token}


def pack(pfns: list[int]) -> bytes:
    return np.array(pfns, "<u8").tobytes()
