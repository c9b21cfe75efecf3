"""Machine: the actor that places the nodes of a machine, follows them, and tells everybody where they are."""

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
from numa_service.cluster.errors import ClusterError, reason
from numa_service.cluster.kswapd import Kswapd
from numa_service.cluster.logs import configure_logs
from numa_service.cluster.names import NAMESPACE, kswapd_name, node_name
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

#: What a node books of its host: next to nothing, so that 64 nodes fit on two CPUs.
CPUS_PER_NODE = 0.01
PLACE_SECONDS = 60.0
#: For telling a node where the others are.
TELL_SECONDS = 5.0
#: Before a node that is away is asked again.
RETRY_SECONDS = 0.1

_log = logging.getLogger(__name__)


def place(spec: MachineSpec, name: str) -> PlacementGroup:
    """A bundle for each node, on as many hosts as there are: made, or found; `wait` tells of room."""
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
    """The actors of a machine: made, or found when they are there already; those of the nodes by nid.

    Their processes start in this order: every kswapd waits for its node anyway.
    """
    actors, options = {}, []
    for index, node in enumerate(spec.nodes):
        options.append(
            {
                "namespace": NAMESPACE,
                "lifetime": "detached",
                "get_if_exists": True,
                "max_restarts": -1,
                # A call that changes memory is never made twice behind our back.
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


class Machine:
    """Supervisor of one machine. Restarted by Ray, it finds the nodes by name and follows them again."""

    def __init__(self, spec: MachineSpec, name: str, console: ConsoleOptions | None = None) -> None:
        """Without `console` there is none."""
        configure_logs(machine=name)
        self._spec = spec
        self._name = name
        self._console_options = console
        self._console: ConsoleServer | None = None
        #: Where it was before this supervisor was restarted.
        self._console_before = registry.port(name, "console") if console else 0
        #: In nid order; no addresses while a node is away.
        self._nodes = {n.nid: ServingNode(NodeInfo(n.nid, n.cpus, 0, "", "", 0, ()), "") for n in spec.nodes}
        self._actors: dict[int, ActorHandle] = {}
        #: Nodes that are not followed any more.
        self._failing: list[FailingNode] = []
        self._keeper = RecordKeeper(spec, self._tell_record, registry.record(name), self._save_record)
        #: Set when the nodes have to be told where the others are.
        self._moved = asyncio.Event()
        loop = asyncio.get_running_loop()
        #: Done when every node has come up and knows the others.
        self._up: asyncio.Future[None] = loop.create_future()
        self._servers: dict[str, MachineServer | TargetServer] = {}
        self._serving = loop.create_task(self._serve())
        self._serving_console = loop.create_task(self._serve_console())
        self._tasks = [loop.create_task(self._start())]

    # what others ask

    async def pid(self) -> int:
        """Of this process, on its host."""
        return os.getpid()

    async def up(self) -> None:
        """Wait until every node is up and knows the others; ClusterError when that cannot be."""
        await asyncio.shield(self._up)

    async def describe(self) -> RunningMachine:
        """The machine now."""
        address, targets_url = await self._serving
        # a new machine has none before every node is up: whoever asks earlier need not wait for it
        console_url = await self._serving_console if self._console_before or self._is_up() else ""
        return RunningMachine(self._info(), address, targets_url, console_url, tuple(self._failing))

    async def write_sysctl(self, key: str, value: str) -> tuple[str, str]:
        """Write a sysctl of the machine: a note if it has no effect, and why if it was refused.

        An error of ours would not come through Ray as what it is.
        """
        try:
            return await self._keeper.write_sysctl(key, value), ""
        except InvalidRequest as refused:
            return "", refused.reason

    async def remember_memory(self, state: MemoryState) -> None:
        """Memory of a node came or went."""
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
        # a second of imports, while the nodes are placed
        machine, collector, targets = await asyncio.to_thread(_servers)
        address = await self._at_its_port("machine", lambda info: machine(info, self._spec, self._keeper))
        served = self._servers["machine"]
        assert isinstance(served, machine)
        ProcessCollector(registry=served.registry)
        served.registry.register(collector(self._info))
        targets_url = await self._at_its_port("targets", lambda info: targets(info, served.registry))
        return address, targets_url

    async def _serve_console(self) -> str:
        """Its URL; where it was before a restart, or at the port asked for, if that is free.

        At first only when every node is up: what it imports, the model too, takes a second of CPU from them.
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
        """Serve where this was served before a restart, if that port is still free; else anywhere."""
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
        self._tasks.append(asyncio.create_task(self._tell()))
        self._tasks += [asyncio.create_task(self._follow(nid)) for nid in self._nodes]

    # following

    async def _follow(self, nid: int) -> None:
        """Know where a node is, as long as the machine lives."""
        actor = self._actors[nid]
        while True:
            try:
                node = await actor.describe.remote()
                if node != self._nodes[nid]:
                    info = node.info
                    _log.info("node %d is up: incarnation %d at %s", nid, info.incarnation, info.address)
                    self._now(node)
                await actor.until_gone.remote()
            except RayActorError as error:
                if self._nodes[nid].peer_address:
                    _log.warning("node %d is away: %s", nid, error)
                    self._now(ServingNode(replace(self._nodes[nid].info, address="", metrics_url=""), ""))
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:
                # raised by the node's own boot: it will not be different next time
                if not self._up.done():
                    self._up.set_exception(ClusterError(f"node {nid} did not boot: {reason(error)}"))
                _log.error("node %d did not boot: %s", nid, reason(error))
                self._failing.append(FailingNode(nid, f"did not boot: {reason(error)}"))
                return

    def _now(self, node: ServingNode) -> None:
        self._nodes[node.info.node] = node
        if node.peer_address:
            self._keeper.came_up(node.info.node)
        else:
            self._keeper.went(node.info.node)
        self._moved.set()

    async def _tell(self) -> None:
        """Tell every node where the others are, whenever one has come or gone."""
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
                    # it is going away: whoever follows it will have it told again
                    _log.warning("a node did not listen: %s", error)
            if len(up) == len(self._nodes) and not self._up.done() and not self._moved.is_set():
                self._up.set_result(None)


# imports that the placing of the nodes need not wait for
def _servers() -> tuple[type[MachineServer], type[MachineCollector], type[TargetServer]]:
    from numa_service.metrics.discovery import MachineCollector, TargetServer
    from numa_service.rpc.machine_server import MachineServer

    return MachineServer, MachineCollector, TargetServer


def _console_server() -> type[ConsoleServer]:
    from numa_service.web.console import ConsoleServer

    return ConsoleServer


def _port(address: str) -> int:
    """Of host:port or a URL."""
    return urlsplit(address if "//" in address else f"//{address}").port or 0
