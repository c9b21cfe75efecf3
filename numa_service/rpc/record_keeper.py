"""The keeper of a machine's record (``machine/record.py``), which all nodes have in common.

It changes the record, saves it, and sends it to every node until the node has confirmed it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from numa_service.machine.kept_record import KeptRecord, Listener
from numa_service.machine.record import MachineRecord, MemoryState, SlabTunables
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.machine.sysctl import sysctl_name, without_effect
from numa_service.node.errors import InvalidRequest

#: How long a node may take to confirm a record before it is sent again.
TELL_SECONDS = 5.0
#: How long a change waits for the nodes that are up; one that does not answer gets it later.
WRITE_SECONDS = 2.0
#: Pause before the record is sent again to a node that failed to take it.
RETRY_SECONDS = 0.2

_log = logging.getLogger(__name__)

#: Sends the record to a node. Its answer is the node's memory as the record should have it, or None if the
#: record is right.
Tell = Callable[[int, MachineRecord], Awaitable[MemoryState | None]]


class MachineDoor(Protocol):
    """A node's way to the keeper of the machine's record, which may be in another process."""

    async def write_sysctl(self, key: str, value: str) -> str:
        """Write a sysctl for all nodes; returns the `note` of WriteSysctlResponse. InvalidRequest."""

    async def remember_memory(self, state: MemoryState) -> None:
        """Record that memory of the calling node came on-line or went off-line, and tell all nodes."""


class RecordKeeper:
    """Keeps the record of one machine. All methods must be called on the same event loop."""

    def __init__(
        self,
        spec: MachineSpec,
        tell: Tell,
        record: MachineRecord | None = None,
        save: Callable[[MachineRecord], Awaitable[None]] | None = None,
    ) -> None:
        """`record` is the one saved last; `save` stores a record so that it outlives this process."""
        self._spec = spec
        self._tell = tell
        self._save = save
        self._kept = KeptRecord(spec, record)
        self._changing = asyncio.Lock()
        #: nid → the task that sends the record to it, for the nodes that are up.
        self._telling: dict[int, asyncio.Task[None]] = {}

    @property
    def record(self) -> MachineRecord:
        """The record, as it was saved last."""
        return self._kept.record

    async def write_sysctl(self, key: str, value: str) -> str:
        """Write a sysctl for all nodes, including those that are away. InvalidRequest for a wrong value.

        On return the nodes that are up follow it, but for one that has not answered within WRITE_SECONDS.
        Returns a note if the model does not follow this sysctl, else "".
        """
        name = sysctl_name(key)
        async with self._changing:
            try:
                record = self._kept.with_sysctl(name, value)
            except SpecError as refused:
                raise InvalidRequest(name, str(refused).removeprefix(f"{name}: ")) from None
            await self._change(record)
        await self._until_told()
        return without_effect(name, value, self._spec.profile)

    async def write_tunables(self, tunables: SlabTunables) -> None:
        """Write tunables of a slab cache for all nodes, including those that are away."""
        await self.change(lambda record: record.with_tunables(tunables))

    async def change(self, changed: Callable[[MachineRecord], MachineRecord]) -> MachineRecord:
        """Let the record be what `changed` makes of it, which may raise instead; return it.

        Nodes that are up follow it on return, as for :meth:`write_sysctl`.
        """
        async with self._changing:
            record = changed(self.record)
            await self._change(record)
        await self._until_told()
        return record

    def behind(self) -> list[int]:
        """The nodes that are not known to have the newest record, those that are away among them."""
        return self._kept.behind()

    async def _until_told(self) -> None:
        telling = [task for task in self._telling.values() if not task.done()]
        if telling:
            await asyncio.wait(telling, timeout=WRITE_SECONDS)

    async def remember_memory(self, state: MemoryState) -> None:
        """Record that memory of a node went on-line or off-line.

        On return the nodes that are up know it, but for one that has not answered within WRITE_SECONDS.
        """
        await self._remember(state)
        await self._until_told()

    async def _remember(self, state: MemoryState) -> None:
        async with self._changing:
            record = self.record.with_memory(state)
            if record is not self.record:
                await self._change(record)

    async def _change(self, record: MachineRecord) -> None:
        """Save the new record, then send it to the nodes.

        In this order a version that a node has seen can never come to mean another record.
        """
        if self._save:
            await self._save(record)
        self._kept.keep(record)
        for listener in self._kept.listeners.values():
            self._start_telling(listener)

    def came_up(self, nid: int) -> None:
        """A node serves now, perhaps in a new process: send it the record, whatever it knew before."""
        self.went_away(nid)
        self._start_telling(self._kept.came_up(nid))

    def went_away(self, nid: int) -> None:
        """A node serves no more: stop sending it the record until :meth:`came_up`."""
        self._kept.went_away(nid)
        if telling := self._telling.pop(nid, None):
            telling.cancel()

    def _start_telling(self, listener: Listener) -> None:
        telling = self._telling.get(listener.nid)
        if telling is None or telling.done():
            name = f"record-node-{listener.nid}"
            self._telling[listener.nid] = asyncio.create_task(self._tell_until_told(listener), name=name)

    async def _tell_until_told(self, listener: Listener) -> None:
        failed = ""
        while self._kept.is_behind(listener):
            record = self.record
            try:
                async with asyncio.timeout(TELL_SECONDS):
                    memory = await self._tell(listener.nid, record)
                if memory is not None:
                    await self._remember(memory)
            except Exception as error:
                # any exception: this task is the only one that sends the node its record, and must go on
                if failed != (failed := f"{type(error).__name__}: {error}"):
                    _log.warning("node %d has not got version %d: %s", listener.nid, record.version, failed)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                listener.version = record.version

    def close(self) -> None:
        """Stop sending the record to any node."""
        for nid in list(self._telling):
            self.went_away(nid)
