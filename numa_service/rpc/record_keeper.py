"""The keeper of a machine's record: changes it, has it saved, and tells every node until it has it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from numa_service.machine.record import MachineRecord, MemoryState
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.machine.sysctl import Sysctls, sysctl_name, without_effect
from numa_service.node.errors import InvalidRequest

#: So long a node may take to say that it has a record; then it is told again.
TELL_SECONDS = 5.0
#: How long a write waits for the nodes that are up. One that is cut off has it later.
WRITE_SECONDS = 2.0
#: Before a node that did not listen is told again.
RETRY_SECONDS = 0.2

_log = logging.getLogger(__name__)

#: Tells a node the record; its answer is what the record is to say of its memory, if anything.
Tell = Callable[[int, MachineRecord], Awaitable[MemoryState | None]]


class MachineDoor(Protocol):
    """Where a node takes what concerns the whole machine: its keeper, here or in another process."""

    async def write_sysctl(self, key: str, value: str) -> str:
        """Write a sysctl for all nodes; a note, as WriteSysctlResponse has it. InvalidRequest."""

    async def remember_memory(self, state: MemoryState) -> None:
        """Memory of the node that calls came or went."""


@dataclass(slots=True)
class _Listener:
    """A node that is up."""

    nid: int
    #: That it said it has.
    version: int = -1
    telling: asyncio.Task[None] | None = None


class RecordKeeper:
    """Keeps the record of one machine. All methods are for one event loop."""

    def __init__(
        self,
        spec: MachineSpec,
        tell: Tell,
        record: MachineRecord | None = None,
        save: Callable[[MachineRecord], Awaitable[None]] | None = None,
    ) -> None:
        """`record` is what was saved last; `save` makes a record outlive this process."""
        self._spec = spec
        self._tell = tell
        self._save = save
        self.record = record or MachineRecord()
        self._changing = asyncio.Lock()
        #: Of the nodes that are up, by nid.
        self._listeners: dict[int, _Listener] = {}

    async def write_sysctl(self, key: str, value: str) -> str:
        """Write a sysctl for all nodes, those too that are away; a note if it has no effect. InvalidRequest.

        The nodes that are up have it when this returns, unless one of them does not answer.
        """
        name = sysctl_name(key)
        async with self._changing:
            now = Sysctls(self._spec.arch, self._spec.profile, {**self._spec.sysctls, **self.record.values()})
            try:
                kept = now.set(name, value)
            except SpecError as refused:
                raise InvalidRequest(name, str(refused).removeprefix(f"{name}: ")) from None
            await self._change(self.record.with_sysctl(name, kept))
        telling = [listener.telling for listener in self._listeners.values() if listener.telling]
        if telling:
            await asyncio.wait(telling, timeout=WRITE_SECONDS)
        return without_effect(name, value, self._spec.profile)

    async def remember_memory(self, state: MemoryState) -> None:
        """Memory of a node came or went, or it booted anew with all of it."""
        async with self._changing:
            record = self.record.with_memory(state)
            if record is not self.record:
                await self._change(record)

    async def _change(self, record: MachineRecord) -> None:
        """Saved before anybody is told: a version that a node has seen must never mean something else."""
        if self._save:
            await self._save(record)
        self.record = record
        for listener in self._listeners.values():
            self._start_telling(listener)

    def came_up(self, nid: int) -> None:
        """A node serves, perhaps in a new process: it is told the record, whatever it knew before."""
        self.went(nid)
        listener = self._listeners[nid] = _Listener(nid)
        self._start_telling(listener)

    def went(self, nid: int) -> None:
        """A node does not serve: it is told when it has come up again."""
        listener = self._listeners.pop(nid, None)
        if listener and listener.telling:
            listener.telling.cancel()

    def _start_telling(self, listener: _Listener) -> None:
        if listener.telling is None or listener.telling.done():
            name = f"record-node-{listener.nid}"
            listener.telling = asyncio.create_task(self._tell_until_told(listener), name=name)

    async def _tell_until_told(self, listener: _Listener) -> None:
        failed = ""
        while listener.version < self.record.version:
            record = self.record
            try:
                async with asyncio.timeout(TELL_SECONDS):
                    memory = await self._tell(listener.nid, record)
                if memory is not None:
                    await self.remember_memory(memory)
            except Exception as error:
                # of any kind: there is nobody else to tell it
                if failed != (failed := f"{type(error).__name__}: {error}"):
                    _log.warning("node %d has not got version %d: %s", listener.nid, record.version, failed)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                listener.version = record.version

    def close(self) -> None:
        """Tell nobody any more."""
        for nid in list(self._listeners):
            self.went(nid)
