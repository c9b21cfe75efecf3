"""What the nodes of a machine have in common, as one record: sysctls that were written, memory on-line.

Plain data, without the model: a supervisor keeps it and tells it. Each change has a version, one more than
the last, for as long as the machine lives. Whoever is told a record applies what is new in it to him, in the
order of the versions; of what was overwritten meanwhile nobody hears.

One value may then depend on the way there: vm.min_free_kbytes, if somebody wrote less than the kernel wants.
A kernel leaves it where memory that came or went has put it (init_per_zone_wmark_min).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgpack


class MemoryState(NamedTuple):
    """What of a node is on-line."""

    nid: int
    #: Populated zones: (index, present pages, managed pages), ascending.
    zones: tuple[tuple[int, int, int], ...]
    #: The node is; False: it has neither memory nor CPUs, and no zonelist.
    online: bool = True
    #: Numbers the news of this node, over its incarnations: older news that comes later is none.
    sequence: int = 0


class SysctlWrite(NamedTuple):
    """A value that was written into a sysctl."""

    #: Dotted name.
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """The machine's sysctls and memory, as far as they are not what every node boots with."""

    version: int = 0
    #: The last write of each sysctl, with its version, by name.
    sysctls: Mapping[str, tuple[int, SysctlWrite]] = field(default_factory=dict)
    #: The last news of each node's memory, with its version, by nid.
    memory: Mapping[int, tuple[int, MemoryState]] = field(default_factory=dict)

    def with_sysctl(self, key: str, value: str) -> MachineRecord:
        """The record after a write; also of the value that is there, as a kernel acts on that, too."""
        version = self.version + 1
        write = version, SysctlWrite(key, value)
        return MachineRecord(version, {**self.sysctls, key: write}, self.memory)

    def with_memory(self, state: MemoryState) -> MachineRecord:
        """The record after news of a node's memory; this one, if it knows that or what came later."""
        if state.nid in self.memory and state.sequence <= self.memory[state.nid][1].sequence:
            return self
        version = self.version + 1
        return MachineRecord(version, self.sysctls, {**self.memory, state.nid: (version, state)})

    def news(self) -> list[tuple[int, SysctlWrite | MemoryState]]:
        """All that it says, each with its version, in the order of the versions."""
        return sorted([*self.sysctls.values(), *self.memory.values()], key=lambda news: news[0])

    def values(self) -> dict[str, str]:
        """The values that were written, by sysctl."""
        return {key: write.value for key, (_, write) in self.sysctls.items()}

    def pack(self) -> bytes:
        """As msgpack."""
        packed: bytes = msgpack.packb((self.version, self.news()))
        return packed

    @staticmethod
    def unpack(data: bytes) -> MachineRecord:
        """Inverse of :meth:`pack`; ValueError for what is none."""
        try:
            version, news = msgpack.unpackb(data)
            sysctls: dict[str, tuple[int, SysctlWrite]] = {}
            memory: dict[int, tuple[int, MemoryState]] = {}
            for at, fields in news:
                if len(fields) == len(SysctlWrite._fields):
                    sysctls[fields[0]] = at, SysctlWrite(*fields)
                else:
                    nid, zones, online, sequence = fields
                    zones = tuple((zone, present, managed) for zone, present, managed in zones)
                    memory[nid] = at, MemoryState(nid, zones, online, sequence)
        except (msgpack.UnpackException, TypeError, ValueError) as error:
            raise ValueError(f"not a machine's record: {error}") from None
        return MachineRecord(version, sysctls, memory)
