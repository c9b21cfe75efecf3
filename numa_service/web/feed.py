"""One feed of a machine: an Observe stream a node while somebody looks, the newest frame of each kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc.aio
from numa_client import MachineInfo
from numa_client._gen.numa.v1 import observe_service_pb2 as pb2

from numa_service.rpc.observe import observe
from numa_service.web.events import Events

INTERVAL_MS = 200
#: Before a node that is away is asked again.
RETRY_SECONDS = 0.25


@dataclass(slots=True)
class Seen:
    """What is known of one node."""

    #: None: it has not answered yet, or is away.
    frame: pb2.ObserveResponse | None = None
    #: Its last frame, which stays while it is away.
    last: pb2.ObserveResponse | None = None
    vm_event_names: tuple[str, ...] = ()
    #: :attr:`MachineFeed.version` when this last changed.
    version: int = 0


@dataclass(slots=True)
class MachineFeed:
    """Every node of a machine, watched while at least one is in :meth:`watched`."""

    machine: Callable[[], MachineInfo]
    interval_ms: int = INTERVAL_MS
    nodes: dict[int, Seen] = field(default_factory=dict)
    events: Events = field(default_factory=Events)
    #: Grows with every change of a node: who has seen one version asks for what is newer.
    version: int = 0
    _watchers: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[MachineFeed]:
        """Frames come while this is open; the last to leave ends the streams."""
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
        """How many watch."""
        return self._watchers

    async def wait(self, version: int, timeout: float) -> bool:
        """Until something is newer than `version`; False after `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.version <= version:
                    await self._changed.wait()
        return self.version > version

    def newer(self, version: int) -> list[int]:
        """Nodes that changed after that version."""
        return [nid for nid, seen in self.nodes.items() if seen.version > version]

    def _start(self) -> None:
        nids = [node.node for node in self.machine().nodes]
        self.nodes = {nid: self.nodes.get(nid, Seen()) for nid in nids}
        for seen in self.nodes.values():
            # counters went on while nobody looked: that is no event
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
    """Whether two frames say the same of a node; the older one's number and time are overwritten."""
    old.sequence, old.time_ns = new.sequence, new.time_ns
    return old == new
