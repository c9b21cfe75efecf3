"""The feed of a machine: it keeps the newest frame of each node, from Observe streams to all of them.

The streams are open only while somebody watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc.aio
from numa_client import MachineInfo
from numa_client._gen.numa.v1 import observe_service_pb2 as pb2

from numa_service.rpc.observe import observe
from numa_service.web.event_feed import Events

INTERVAL_MS = 200
#: Pause before a node that is away is tried again.
RETRY_SECONDS = 0.25


@dataclass(slots=True)
class Seen:
    """What the feed knows of one node."""

    #: The newest frame; None if the node has not answered yet or is away.
    frame: pb2.ObserveResponse | None = None
    #: The newest frame, kept also while the node is away.
    last: pb2.ObserveResponse | None = None
    vm_event_names: tuple[str, ...] = ()
    #: Value of :attr:`MachineFeed.version` when this node last changed.
    version: int = 0


@dataclass(slots=True)
class MachineFeed:
    """The nodes of a machine, observed while at least one watcher is in :meth:`watched`."""

    machine: Callable[[], MachineInfo]
    interval_ms: int = INTERVAL_MS
    nodes: dict[int, Seen] = field(default_factory=dict)
    events: Events = field(default_factory=Events)
    #: Grows by one with every change of a node. A watcher remembers it and asks for what is newer.
    version: int = 0
    _watchers: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[MachineFeed]:
        """Observe the nodes while the body runs; the last watcher that leaves ends the streams."""
        self._watchers += 1
        try:
            if self._watchers == 1:
                self._start()
            yield self
        finally:
            self._watchers -= 1
            if self._watchers == 0:
                await self._stop()

    @property
    def watchers(self) -> int:
        """Number of watchers."""
        return self._watchers

    async def wait(self, version: int, timeout: float) -> bool:
        """Wait until a node has changed after `version`; False after `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.version <= version:
                    await self._changed.wait()
        return self.version > version

    def newer(self, version: int) -> list[int]:
        """The nids of nodes that changed after `version`."""
        return [nid for nid, seen in self.nodes.items() if seen.version > version]

    def _start(self) -> None:
        nids = [node.node for node in self.machine().nodes]
        self.nodes = {nid: self.nodes.get(nid, Seen()) for nid in nids}
        for seen in self.nodes.values():
            # what the counters did while nobody watched must not become events
            seen.last = None
        self._tasks = [asyncio.create_task(self._follow(nid), name=f"observe-node-{nid}") for nid in nids]

    async def _stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, nid: int) -> None:
        while True:
            address = next((n.address for n in self.machine().nodes if n.node == nid), "")
            if address:
                with suppress(grpc.aio.AioRpcError):
                    async for frame in observe(address, self.interval_ms):
                        self._note(nid, frame)
            self._away(nid)
            await asyncio.sleep(RETRY_SECONDS)

    def _note(self, nid: int, frame: pb2.ObserveResponse) -> None:
        seen = self.nodes[nid]
        if frame.vm_event_names:
            seen.vm_event_names = tuple(frame.vm_event_names)
            frame.ClearField("vm_event_names")
        back = seen.frame is None and seen.last is not None
        if back:
            self.events.tell(nid, "node", "answers again")
        self.events.compare(seen.last, frame, seen.vm_event_names)
        changed = seen.frame is None or not _same(seen.frame, frame)
        seen.frame = seen.last = frame
        if changed:
            self._touch(seen)

    def _away(self, nid: int) -> None:
        seen = self.nodes[nid]
        if seen.frame is not None:
            seen.frame = None
            self.events.tell(nid, "node", "does not answer")
            self._touch(seen)

    def _touch(self, seen: Seen) -> None:
        self.version += 1
        seen.version = self.version
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _same(old: pb2.ObserveResponse, new: pb2.ObserveResponse) -> bool:
    """Whether two frames are equal but for sequence number and time, which are overwritten in the older."""
    old.sequence, old.time_ns = new.sequence, new.time_ns
    return old == new
