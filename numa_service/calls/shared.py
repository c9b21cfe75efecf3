"""Pages that are not of one process: of shared memory, and of files.

Each is on one node for all who map it, where the policy of whoever touched it first wants it. The machine's
memory is taken for shared memory only: files are in the page cache, of which nobody knows what was there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Final

from numa_service.calls.machine import MachineOfCalls
from numa_service.calls.placement import Key, Placement, Vma, vmas
from numa_service.calls.processes import Process, Processes
from numa_service.mm.mempolicy.calls import Area

#: Memory that stays when nobody maps it: System V segments, files of a tmpfs.
_LASTING: Final = ("/SYSV", "/dev/shm/")


@dataclass(slots=True, eq=False)
class SharedObject:
    """A file, or a piece of shared memory."""

    #: By what the machine knows its pages: no process has a negative number.
    account: int
    name: str
    #: It is memory, not a file.
    memory: bool
    lasting: bool
    #: Nodes of its pages, by their places in it.
    placement: Placement = field(default_factory=Placement)
    #: Policies of its bytes, ascending (``mpol_set_shared_policy``).
    areas: tuple[Area, ...] = ()
    #: Processes that are known to map it.
    users: set[int] = field(default_factory=set)


class SharedPages:
    """All of them that a program maps."""

    def __init__(self, machine: MachineOfCalls, processes: Processes) -> None:
        """Memory is taken of this machine, for these processes."""
        self._machine = machine
        self._processes = processes
        self._objects: dict[Key, SharedObject] = {}
        self._numbers = count(1)

    def of(self, vma: Vma) -> SharedObject:
        """What is mapped there; it has an inode."""
        found = self._objects.get(vma.key)
        if found is None:
            lasting = vma.path.startswith(_LASTING)
            found = SharedObject(-next(self._numbers), vma.path, not vma.of_file, lasting)
            self._objects[vma.key] = found
        return found

    def mapped(self, process: Process, keys: set[Key]) -> None:
        """A process maps these, and no others: what nobody maps any more is forgotten."""
        for key in process.shares - keys:
            found = self._objects.get(key)
            if found is not None:
                found.users.discard(process.pid)
                if not found.users and not found.lasting and not self._of_others(process, key, found):
                    self._machine.end(found.account)
                    del self._objects[key]
        for key in keys - process.shares:
            if key in self._objects:
                self._objects[key].users.add(process.pid)
        process.shares = keys & self._objects.keys()

    def _of_others(self, process: Process, key: Key, shared: SharedObject) -> bool:
        """Whether other processes map it, of which that was not known as nobody had looked."""
        for other in self._processes:
            if other is not process and any(vma.key == key for vma in vmas(other.pid)):
                other.shares.add(key)
                shared.users.add(other.pid)
        return bool(shared.users)

    def give_back(self, shared: SharedObject) -> None:
        """What has left nodes of shared memory is free on the machine."""
        if shared.memory:
            self._machine.give(shared.account, shared.placement.left)
        shared.placement.left = {}

    def end(self) -> None:
        """The program has ended."""
        for shared in self._objects.values():
            self._machine.end(shared.account)
        self._objects.clear()
