"""Supervisor: the actor that places a machine's nodes, follows them, and tells everybody their addresses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import ray
from numa_client import MachineInfo, NodeInfo
from prometheus_client import ProcessCollector
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, get_placement_group, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from numa_service.cluster import registry
from numa_service.cluster.actor_names import NAMESPACE, kswapd_name, node_name
from numa_service.cluster.errors import ClusterError, reason
from numa_service.cluster.kswapd import Kswapd
from numa_service.cluster.logs import configure_logs
from numa_service.cluster.numa_node import NumaNode
from numa_service.cluster.running import FailingNode, RunningMachine, ServingNode
from numa_service.machine.record import MachineRecord, MemoryState
from numa_service.machine.spec import MachineSpec
from numa_service.node.errors import InvalidRequest
from numa_service.rpc.record_keeper import RecordKeeper

if TYPE_CHECKING:
    from numa_service.metrics.discovery import MachineCollector, TargetServer
    from numa_service.rpc.machine_server import MachineServer
    from numa_service.web.console import ConsoleServer
    from numa_service.web.options import ConsoleOptions

#: CPUs that a node reserves in Ray: next to none, so that 64 nodes fit on two CPUs.
CPUS_PER_NODE = 0.01
#: Longest wait for Ray to place the nodes.
PLACE_SECONDS = 60.0
#: Longest wait for nodes to take the addresses of the others.
TELL_SECONDS = 5.0
#: Pause before a node that is away is asked again.
RETRY_SECONDS = 0.1

_log = logging.getLogger(__name__)


def place(spec: MachineSpec, name: str) -> PlacementGroup:
    """Find or create the machine's placement group: a bundle for each node, spread over the hosts.

    Whether there is room for it is known when its `wait` returns.
    """
    with contextlib.suppress(ValueError):
        return get_placement_group(name)
    return placement_group(
        [{"CPU": CPUS_PER_NODE} for _ in spec.nodes],
        strategy="STRICT_SPREAD" if len(_hosts()) >= len(spec.nodes) else "SPREAD",
        name=name,
        lifetime="detached",
    )


def _hosts() -> list[object]:
    return [host for host in ray.nodes() if host["Alive"] and host["Resources"].get("CPU")]


def create_actors(spec: MachineSpec, name: str, group: PlacementGroup) -> dict[int, ActorHandle]:
    """Find or create the node and kswapd actors of a machine; returns nid → the node's actor.

    Processes start in the order of creation; nodes come first, as each kswapd waits for its node anyway.
    """
    actors, options = {}, []
    for index, node in enumerate(spec.nodes):
        options.append(
            {
                "namespace": NAMESPACE,
                "lifetime": "detached",
                "get_if_exists": True,
                "max_restarts": -1,
                # Ray must not repeat a call by itself: it may have changed memory already.
                "max_task_retries": 0,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=index
                ),
            }
        )
        actors[node.nid] = (
            ray.remote(NumaNode)
            .options(name=node_name(name, node.nid), num_cpus=CPUS_PER_NODE, **options[index])
            .remote(spec, name, node.nid)
        )
    for node, of_node in zip(spec.nodes, options, strict=True):
        if any(zone.present for zone in node.zones):
            (
                ray.remote(Kswapd)
                .options(name=kswapd_name(name, node.nid), num_cpus=0, **of_node)
                .remote(actors[node.nid])
            )
    return actors


class Supervisor:
    """Supervises one machine. When Ray restarts it, it finds the nodes by name and follows them again."""

    def __init__(self, spec: MachineSpec, name: str, console: ConsoleOptions | None = None) -> None:
        """`console` None means that the machine has no web console."""
        configure_logs(machine=name)
        self._spec = spec
        self._name = name
        self._console_options = console
        self._console: ConsoleServer | None = None
        #: Port of the console before this supervisor was restarted; 0 if it had none.
        self._console_before = registry.port(name, "console") if console else 0
        #: nid → node, in nid order; addresses are empty while a node is away.
        self._nodes = {n.nid: ServingNode(NodeInfo(n.nid, n.cpus, 0, "", "", 0, ()), "") for n in spec.nodes}
        self._actors: dict[int, ActorHandle] = {}
        #: Nodes that failed to boot, and are not followed any more.
        self._failing: list[FailingNode] = []
        self._keeper = RecordKeeper(spec, self._tell_record, registry.record(name), self._save_record)
        #: Set when the nodes have to be told each other's addresses again.
        self._moved = asyncio.Event()
        loop = asyncio.get_running_loop()
        #: Done when every node has come up and knows the addresses of the others.
        self._up: asyncio.Future[None] = loop.create_future()
        self._servers: dict[str, MachineServer | TargetServer] = {}
        self._serving = loop.create_task(self._serve())
        self._serving_console = loop.create_task(self._serve_console())
        self._tasks = [loop.create_task(self._start())]

    # calls from commands and nodes

    async def pid(self) -> int:
        """The pid of this process on its host."""
        return os.getpid()

    async def up(self) -> None:
        """Wait until every node is up and knows the others. ClusterError if one cannot boot or be placed."""
        await asyncio.shield(self._up)

    async def describe(self) -> RunningMachine:
        """The machine's current description."""
        address, targets_url = await self._serving
        # The console of a new machine starts when every node is up; a caller that asks earlier, as `up` does
        # to count the nodes, must not wait for it.
        console_url = await self._serving_console if self._console_before or self._is_up() else ""
        return RunningMachine(self._info(), address, targets_url, console_url, tuple(self._failing))

    async def write_sysctl(self, key: str, value: str) -> tuple[str, str]:
        """Write a sysctl of the machine; returns (note if it has no effect, reason if it was refused).

        A refusal is returned, not raised: an exception would arrive wrapped in one of Ray's own.
        """
        try:
            return await self._keeper.write_sysctl(key, value), ""
        except InvalidRequest as refused:
            return "", refused.reason

    async def remember_memory(self, state: MemoryState) -> None:
        """Record that memory of a node came on-line or went off-line."""
        await self._keeper.remember_memory(state)

    # the record

    async def _tell_record(self, nid: int, record: MachineRecord) -> MemoryState | None:
        memory: MemoryState | None = await self._actors[nid].follow.remote(record)
        return memory

    async def _save_record(self, record: MachineRecord) -> None:
        await asyncio.to_thread(registry.keep_record, self._name, record)

    def _info(self) -> MachineInfo:
        nodes = tuple(node.info for node in self._nodes.values())
        return MachineInfo(self._name, self._spec.profile, nodes, self._spec.distances)

    # coming up

    def _is_up(self) -> bool:
        return self._up.done() and self._up.exception() is None

    async def _serve(self) -> tuple[str, str]:
        # the imports take a second; in a thread they do not delay the placing of the nodes
        machine, collector, targets = await asyncio.to_thread(_servers)
        address = await self._at_its_port("machine", lambda info: machine(info, self._spec, self._keeper))
        served = self._servers["machine"]
        assert isinstance(served, machine)
        ProcessCollector(registry=served.registry)
        served.registry.register(collector(self._info))
        targets_url = await self._at_its_port("targets", lambda info: targets(info, served.registry))
        return address, targets_url

    async def _serve_console(self) -> str:
        """Start the console; returns its URL, or "" if there is none.

        It gets the port that it had before a restart, or the one asked for, or any if that is taken. Of a new
        machine it starts when every node is up: its imports, which include the memory model, would take a
        second of CPU from the nodes.
        """
        if self._console_options is None:
            return ""
        address, _ = await self._serving
        if not self._console_before:
            await asyncio.wait([self._up])
            if not self._is_up():
                return ""
        console_server = await asyncio.to_thread(_console_server)
        wanted = self._console_before or self._console_options.port
        for port in dict.fromkeys((wanted, 0)):
            self._console = console_server(
                self._info, lambda: address, self._dmesg, replace(self._console_options, port=port)
            )
            try:
                url = await self._console.start()
            except OSError as error:
                _log.warning("no console at port %d: %s", port, error)
                continue
            registry.remember_port(self._name, "console", _port(url))
            return url
        return ""

    def _dmesg(self) -> list[tuple[float, str]]:
        from numa_service.machine.boot import start_kernel

        return start_kernel(self._spec, []).dmesg

    async def _at_its_port(
        self, service: str, server: Callable[[Callable[[], MachineInfo]], MachineServer | TargetServer]
    ) -> str:
        """Start a server at the port that it had before a restart, or at any if that is taken.

        Returns its address.
        """
        host = ray.util.get_node_ip_address()
        before = registry.port(self._name, service)
        self._servers[service] = server(self._info)
        try:
            address = await self._servers[service].start(host, before)
        except (OSError, RuntimeError):
            if not before:
                raise
            self._servers[service] = server(self._info)
            address = await self._servers[service].start(host, 0)
        registry.remember_port(self._name, service, _port(address))
        return address

    async def _start(self) -> None:
        group = place(self._spec, self._name)
        if not await asyncio.to_thread(group.wait, PLACE_SECONDS):
            hosts = len(_hosts())
            error = ClusterError(
                f"no room on the cluster: {len(self._nodes)} × {CPUS_PER_NODE} CPUs were not free within "
                f"{PLACE_SECONDS:.0f} s ({hosts} hosts have CPUs)"
            )
            self._up.set_exception(error)
            return
        self._actors = create_actors(self._spec, self._name, group)
        self._tasks.append(asyncio.create_task(self._tell_addresses()))
        self._tasks += [asyncio.create_task(self._follow(nid)) for nid in self._nodes]

    # following

    async def _follow(self, nid: int) -> None:
        """Follow one node as long as the machine lives: note when it comes up and when it goes away."""
        actor = self._actors[nid]
        while True:
            try:
                node = await actor.describe.remote()
                if node != self._nodes[nid]:
                    info = node.info
                    _log.info("node %d is up: lineage %d at %s", nid, info.lineage, info.address)
                    self._note(node)
                await actor.until_gone.remote()
            except RayActorError as error:
                if self._nodes[nid].peer_address:
                    _log.warning("node %d is away: %s", nid, error)
                    self._note(ServingNode(replace(self._nodes[nid].info, address="", metrics_url=""), ""))
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:
                # the node's own boot raised it, and would raise it again
                if not self._up.done():
                    self._up.set_exception(ClusterError(f"node {nid} did not boot: {reason(error)}"))
                _log.error("node %d did not boot: %s", nid, reason(error))
                self._failing.append(FailingNode(nid, f"did not boot: {reason(error)}"))
                return

    def _note(self, node: ServingNode) -> None:
        self._nodes[node.info.node] = node
        if node.peer_address:
            self._keeper.came_up(node.info.node)
        else:
            self._keeper.went_away(node.info.node)
        self._moved.set()

    async def _tell_addresses(self) -> None:
        """Tell every node the addresses of the others whenever one has come up or gone away."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            up = [node for node in self._nodes.values() if node.peer_address]
            if not up:
                continue
            told = [asyncio.ensure_future(self._actors[node.info.node].connect.remote(up)) for node in up]
            done, _ = await asyncio.wait(told, timeout=TELL_SECONDS)
            for call in done:
                if error := call.exception():
                    # the node is going away; _follow() notices that, and triggers this loop again
                    _log.warning("a node did not listen: %s", error)
            if len(up) == len(self._nodes) and not self._up.done() and not self._moved.is_set():
                self._up.set_result(None)


# imports for which the placing of the nodes need not wait
def _servers() -> tuple[type[MachineServer], type[MachineCollector], type[TargetServer]]:
    from numa_service.metrics.discovery import MachineCollector, TargetServer
    from numa_service.rpc.machine_server import MachineServer

    return MachineServer, MachineCollector, TargetServer


def _console_server() -> type[ConsoleServer]:
    from numa_service.web.console import ConsoleServer

    return ConsoleServer


def _port(address: str) -> int:
    """The port of a host:port or of a URL."""
    return urlsplit(address if "//" in address else f"//{address}").port or 0
