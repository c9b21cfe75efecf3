"""A machine on the loopback interface under every kind of load, with metrics as the service has them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace

from loopback import Loopback
from numa_client import (
    AsyncMachine,
    AsyncSession,
    MachineInfo,
    NumaError,
    OutOfMemory,
    Policy,
    PolicyMode,
    Program,
)
from prometheus_client import ProcessCollector

from numa_service.metrics.collector import NodeCollector
from numa_service.metrics.discovery import MachineCollector, TargetServer
from numa_service.node.node import Node
from numa_service.rpc.server import NodeServer

#: Longer than the sessions of clients that go away without a word.
LEASE_SECONDS = 60
#: Nothing but node 1 is restarted, and nothing has a session there meanwhile.
VICTIM = 1
#: Between two restarts: Prometheus looks for new targets every 5 s at most, whatever refresh_interval says.
CALM_SECONDS = 12.0


class LoadedMachine(Loopback):
    """The demo machine with a kswapd for each node, and clients that work without a pause."""

    def __init__(self) -> None:
        super().__init__("demo")
        self._away: set[int] = set()
        metrics = self.machine_server.registry
        ProcessCollector(registry=metrics)
        metrics.register(MachineCollector(self.info))
        self._targets = TargetServer(self.info, metrics)
        self._kswapds: list[asyncio.Task[None]] = []

    def info(self) -> MachineInfo:
        """The machine's description as its supervisor gives it: a node that is away has no addresses."""
        machine = super().info()
        nodes = (
            replace(node, address="", metrics_url="") if node.node in self._away else node
            for node in machine.nodes
        )
        return replace(machine, nodes=tuple(nodes))

    async def start(self) -> None:
        await super().start()
        self.targets_url = await self._targets.start()
        self._kswapds = [asyncio.create_task(self._kswapd(nid)) for nid in self.servers]

    async def stop(self) -> None:
        for task in self._kswapds:
            task.cancel()
        await asyncio.gather(*self._kswapds, return_exceptions=True)
        await self._targets.stop()
        await super().stop()

    async def _kswapd(self, nid: int) -> None:
        while True:
            if await self.servers[nid].kswapd_wait(0.2):
                with contextlib.suppress(Exception):  # the node was restarted under it
                    await self.kswapd(nid)
            await asyncio.sleep(0.02)

    async def restart(self, nid: int, seconds: float) -> None:
        """Have a node away for some time, and then boot it again, empty."""
        self._away.add(nid)
        await self.kill(nid)
        await asyncio.sleep(seconds)
        node = Node.boot(self.spec, nid, self.node(nid).lineage + 1)
        server = self.servers[nid] = NodeServer(node, self.clock, machine=self.keeper)
        server.registry.register(NodeCollector(server))
        self.addresses[nid] = await server.start()
        self._away.discard(nid)
        self.connect()
        for other in self.servers.values():
            if other is not server:
                await other.restarted(nid, node.lineage)

    # load

    async def load(self, watched: asyncio.Event, stop: asyncio.Event) -> None:
        """Load the machine until `stop`; from `watched` on also with failures, lost clients and restarts."""
        async with await self.client() as client:
            others = [
                asyncio.create_task(work(client)) for work in (self._programs, self._pairs, self._regions)
            ]
            try:
                await watched.wait()
                while not stop.is_set():
                    await self._trouble(client)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), CALM_SECONDS)
            finally:
                for task in others:
                    task.cancel()
                done = await asyncio.gather(*others, return_exceptions=True)
        for error in done:
            if not isinstance(error, asyncio.CancelledError):
                raise AssertionError(f"load ended early: {error!r}") from error

    async def _programs(self, client: AsyncMachine) -> None:
        while True:
            for name in ("fork-storm", "page-cache-churn"):
                async with client.session(cpu=0, lease_seconds=3600) as session:
                    async for _ in session.run_program(Program.load(name)):
                        pass

    async def _pairs(self, client: AsyncMachine) -> None:
        policies = (Policy(), Policy(PolicyMode.INTERLEAVE, (0, 2)), Policy(PolicyMode.BIND, (2,)))
        async with client.session(cpu=0, lease_seconds=3600) as session:
            while True:
                for policy in policies:
                    blocks = await session.alloc(count=64, policy=policy)
                    dentries = await session.kmem_cache_alloc("dentry", 64)
                    await asyncio.sleep(0.01)
                    await session.free(blocks)
                    await session.kmem_cache_free("dentry", dentries)

    async def _regions(self, client: AsyncMachine) -> None:
        """Access more memory than node 0 has, so that kswapd runs and swaps."""
        while True:
            async with client.session(cpu=0, lease_seconds=3600) as session:
                anon = await session.map_region("anon", 50_000, Policy(PolicyMode.BIND, (0,)))
                file = await session.map_region("file", 20_000, Policy(PolicyMode.BIND, (0,)))
                for region, pages, write in (
                    (anon, 50_000, True),
                    (file, 20_000, True),
                    (anon, 50_000, False),
                ):
                    for first in range(0, pages, 5_000):
                        with contextlib.suppress(OutOfMemory):
                            await region.touch(first, 5_000, write=write)
                        await asyncio.sleep(0.05)

    async def _trouble(self, client: AsyncMachine) -> None:
        """Cause failures, lost clients and restarts."""
        async with client.session(cpu=0, lease_seconds=3600) as session:
            with contextlib.suppress(OutOfMemory):
                await self._spill(session)
            with contextlib.suppress(OutOfMemory):
                await session.alloc(count=1000, order=10)
        lost = client.session(cpu=0, lease_seconds=LEASE_SECONDS)
        await lost.open()
        before = self.servers[0].node.log_length
        await lost.alloc(count=10, policy=Policy(PolicyMode.BIND, (VICTIM,)))
        assert self.servers[0].node.log_length > before
        restart = asyncio.create_task(self.restart(VICTIM, 1.5))
        await asyncio.sleep(0.2)
        with contextlib.suppress(NumaError):
            await lost.close()  # node 1 cannot be told: it owes an answer
        await restart
        while self.servers[0].owed():
            await asyncio.sleep(0.05)
        gone = client.session(cpu=0, lease_seconds=LEASE_SECONDS)
        await gone.open()
        self.clock.now_ns += (LEASE_SECONDS + 1) * 1_000_000_000
        self.servers[0].check_leases()
        with contextlib.suppress(NumaError):
            await gone.close()

    async def _spill(self, session: AsyncSession) -> None:
        blocks = await session.alloc(count=30_000)
        await session.free(blocks)


class Loaded:
    """The machine in a thread of its own."""

    def __init__(self) -> None:
        self._ready, self._quiet = threading.Event(), threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="loaded-machine")
        self._thread.start()
        assert self._ready.wait(60)
        self._check()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error
        self._ready.set()
        self._quiet.set()

    async def _serve(self) -> None:
        self.machine = LoadedMachine()
        self._loop = asyncio.get_running_loop()
        self._watched, self._rest, self._end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        await self.machine.start()
        self._ready.set()
        try:
            await self.machine.load(self._watched, self._rest)
        except Exception as error:
            self._failed = error
        self._quiet.set()
        await self._end.wait()
        await self.machine.stop()

    def _check(self) -> None:
        if self._failed:
            raise self._failed

    def watched(self) -> None:
        """Start failures, lost clients and restarts, as Prometheus watches by now."""
        self._loop.call_soon_threadsafe(self._watched.set)

    def to_rest(self) -> None:
        """Stop the load; raises the error that has ended it before."""
        self._loop.call_soon_threadsafe(self._watched.set)
        self._loop.call_soon_threadsafe(self._rest.set)
        assert self._quiet.wait(60)
        self._check()

    def end(self) -> None:
        """Stop the machine."""
        for event in (self._watched, self._rest, self._end):
            self._loop.call_soon_threadsafe(event.set)
        self._thread.join(60)


@contextlib.contextmanager
def loaded_machine() -> Iterator[Loaded]:
    """A loaded machine, until the block ends."""
    loaded = Loaded()
    try:
        yield loaded
    finally:
        loaded.end()
