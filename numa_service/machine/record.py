"""The state that all nodes of a machine share, as one record: what was written, and the memory on-line.

The record is plain data, without the model: the machine's supervisor keeps it and sends it to the nodes.
Every change has a version, one more than the change before, for as long as the machine lives. A node that
receives a record applies the changes it has not seen yet, in the order of their versions. A change that was
overwritten before a node received it never reaches that node.

Where a kernel goes by what was before, the change itself says what came of it: if somebody has written less
than the kernel wants into vm.min_free_kbytes, it stays where memory that came or went has put it
(init_per_zone_wmark_min). So all nodes agree, whatever they have missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgpack

from numa_service.machine.thp_files import ENABLED_KEY


class MemoryState(NamedTuple):
    """The memory of one node that is on-line."""

    nid: int
    #: Populated zones: (index, present pages, managed pages), ascending.
    zones: tuple[tuple[int, int, int], ...]
    #: Whether the node is on-line. A node that is not has neither memory nor CPUs, and no zonelist.
    online: bool = True
    #: Number of this state among all states of the node, over its lineages: a state that arrives after one
    #: with a higher number is ignored.
    sequence: int = 0
    #: In a record: vm.min_free_kbytes after this change, as its node sees it. 0: to be computed.
    min_free_kbytes: int = 0
    #: Version of the record that the node has followed by then: writes of that sysctl since are newer.
    followed: int = 0


class SysctlWrite(NamedTuple):
    """A value that was written into a sysctl."""

    #: Dotted name.
    key: str
    value: str


class SlabTunables(NamedTuple):
    """What was written to /proc/slabinfo of a cache."""

    cache: str
    limit: int
    batchcount: int
    shared: int


class CacheArgs(NamedTuple):
    """What was passed to kmem_cache_create (``mm/slab/kmem_cache.py``)."""

    size: int
    align: int = 0
    #: SlabFlag.
    flags: int = 0
    ctor: str = ""
    usersize: int = 0


class ChangedCache(NamedTuple):
    """A slab cache that is not as boot left it: made since then, or shared, or written to."""

    #: Its own name, which is that of its first creator.
    name: str
    #: None: boot made it.
    args: CacheArgs | None = None
    #: Names of the creators since boot that need it, the first first.
    users: tuple[str, ...] = ()
    #: The largest object of those that have shared it; 0: boot's.
    object_size: int = 0
    #: It is being destroyed, and gives no more objects.
    dying: bool = False
    #: What was written to files below /sys/kernel/slab, by their names.
    written: tuple[tuple[str, int], ...] = ()


class SlabCaches(NamedTuple):
    """The slab caches that are not as boot left them; those made since then in the order of creation."""

    caches: tuple[ChangedCache, ...] = ()


#: One change.
News = SysctlWrite | MemoryState | SlabTunables | SlabCaches


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """The changes to the machine's sysctls, slab caches and memory since boot."""

    version: int = 0
    #: The last write of each sysctl, with its version, by name.
    sysctls: Mapping[str, tuple[int, SysctlWrite]] = field(default_factory=dict)
    #: The last state of each node's memory, with the version of that change, by nid.
    memory: Mapping[int, tuple[int, MemoryState]] = field(default_factory=dict)
    #: The last tunables of each slab cache, with the version of that change, by name.
    tunables: Mapping[str, tuple[int, SlabTunables]] = field(default_factory=dict)
    #: The slab caches, with the version of the last change; version 0: they are as boot left them.
    caches: tuple[int, SlabCaches] = (0, SlabCaches())
    #: The last write that had khugepaged run, if a later one has stopped it: some kernels leave
    #: vm.min_free_kbytes as khugepaged has raised it.
    khugepaged: tuple[int, SysctlWrite] | None = None

    def with_sysctl(self, key: str, value: str) -> MachineRecord:
        """The record after a write, which may be of the value that is set: a kernel acts on that, too."""
        return self._with_write(self.version + 1, SysctlWrite(key, value))

    def _with_write(self, version: int, write: SysctlWrite) -> MachineRecord:
        khugepaged = self.khugepaged
        if write.key == ENABLED_KEY:
            before = self.sysctls.get(write.key)
            if write.value != "never":
                khugepaged = None
            elif before and before[1].value != "never":
                khugepaged = before
        sysctls = {**self.sysctls, write.key: (version, write)}
        return replace(self, version=version, sysctls=sysctls, khugepaged=khugepaged)

    def with_tunables(self, tunables: SlabTunables) -> MachineRecord:
        """The record after a write to /proc/slabinfo."""
        version = self.version + 1
        return replace(self, version=version, tunables={**self.tunables, tunables.cache: (version, tunables)})

    def with_caches(self, caches: SlabCaches) -> MachineRecord:
        """The record after a change of slab caches; tunables of those that are no more are forgotten."""
        version = self.version + 1
        gone = {change.name for change in self.caches[1].caches if change.args}
        gone -= {change.name for change in caches.caches}
        tunables = {name: tuned for name, tuned in self.tunables.items() if name not in gone}
        return replace(self, version=version, caches=(version, caches), tunables=tunables)

    def with_memory(self, state: MemoryState) -> MachineRecord:
        """The record with a new state of a node's memory; this record if its state is as new or newer."""
        if state.nid in self.memory and state.sequence <= self.memory[state.nid][1].sequence:
            return self
        version = self.version + 1
        return replace(self, version=version, memory={**self.memory, state.nid: (version, state)})

    def news(self) -> list[tuple[int, News]]:
        """Every change in the record with its version, in the order of the versions."""
        changes: list[tuple[int, News]] = [*self.sysctls.values(), *self.memory.values()]
        changes += self.tunables.values()
        if self.caches[0]:
            changes.append(self.caches)
        if self.khugepaged:
            changes.append(self.khugepaged)
        return sorted(changes, key=lambda news: news[0])

    def values(self) -> dict[str, str]:
        """The values that were written, by the dotted name of the sysctl."""
        return {key: write.value for key, (_, write) in self.sysctls.items()}

    def pack(self) -> bytes:
        """The record as msgpack: version, then :meth:`news`, each with the place of its kind in _KINDS."""
        news = [(version, _KINDS.index(type(change)), change) for version, change in self.news()]
        packed: bytes = msgpack.packb((self.version, news))
        return packed

    @staticmethod
    def unpack(data: bytes) -> MachineRecord:
        """Inverse of :meth:`pack`; ValueError if `data` is not a packed record."""
        try:
            version, news = msgpack.unpackb(data)
            of_sysctls = MachineRecord()
            memory: dict[int, tuple[int, MemoryState]] = {}
            tunables: dict[str, tuple[int, SlabTunables]] = {}
            caches = 0, SlabCaches()
            for at, kind, fields in news:
                match _KINDS[kind](*fields):
                    case SysctlWrite() as write:
                        of_sysctls = of_sysctls._with_write(at, write)
                    case SlabTunables() as tuned:
                        tunables[tuned.cache] = at, tuned
                    case SlabCaches() as changed:
                        # lists, as msgpack has them
                        unpacked: Iterable[Any] = changed.caches
                        caches = at, SlabCaches(tuple(changed_cache(*cache) for cache in unpacked))
                    case MemoryState() as state:
                        zones = tuple((zone, present, managed) for zone, present, managed in state.zones)
                        memory[state.nid] = at, state._replace(zones=zones)
        except (msgpack.UnpackException, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"not a machine's record: {error}") from None
        return MachineRecord(version, of_sysctls.sysctls, memory, tunables, caches, of_sysctls.khugepaged)


def changed_cache(
    name: str, args: list[Any] | None, users: list[str], object_size: int, dying: bool, written: list[Any]
) -> ChangedCache:
    """A cache from its fields as msgpack has them."""
    made = None if args is None else CacheArgs(*args)
    values = tuple((file, value) for file, value in written)
    return ChangedCache(name, made, tuple(users), object_size, dying, values)


_KINDS: tuple[type[News], ...] = (SysctlWrite, MemoryState, SlabTunables, SlabCaches)
