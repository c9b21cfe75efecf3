"""What the keeper of a machine's record knows: the record, and which version of it each node has.

Without I/O: ``rpc/record_keeper.py`` carries it between processes, ``sim/keeper.py`` over a network that
loses messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.machine.record import MachineRecord, SlabCaches
from numa_service.machine.spec import MachineSpec
from numa_service.machine.sysctl import Sysctls, check_weight, sysctl_name


@dataclass(eq=False, slots=True)
class Listener:
    """A node that is up, from the time it came up until it went."""

    nid: int
    #: The newest version that it said it has; -1: it has said nothing yet.
    version: int = -1


class KeptRecord:
    """The record of one machine and those who follow it."""

    def __init__(self, spec: MachineSpec, record: MachineRecord | None = None) -> None:
        """`record` is the one that was kept last.

        A slab cache that was being destroyed then lives again: who destroyed it is gone. Each process that
        begins with that record makes the same change, so it need not be saved first.
        """
        self._spec = spec
        self.record = record or MachineRecord()
        caches = self.record.caches[1].caches
        if any(cache.dying for cache in caches):
            alive = SlabCaches(tuple(cache._replace(dying=False) for cache in caches))
            self.record = self.record.with_caches(alive)
        #: The nodes that are up, by nid.
        self.listeners: dict[int, Listener] = {}

    def with_sysctl(self, key: str, value: str) -> MachineRecord:
        """The record after a write of a sysctl. SpecError for an unknown one, or a value it does not take."""
        name = sysctl_name(key)
        check_weight(name, self._spec.nids)
        now = Sysctls(self._spec.arch, self._spec.profile, {**self._spec.sysctls, **self.record.values()})
        return self.record.with_sysctl(name, now.set(name, value))

    def keep(self, record: MachineRecord) -> None:
        """Let a record be the machine's. Nobody may have been told it before it was saved."""
        self.record = record

    def came_up(self, nid: int) -> Listener:
        """A node serves, perhaps in a new process: it has to be told, whatever it knew before."""
        listener = self.listeners[nid] = Listener(nid)
        return listener

    def went_away(self, nid: int) -> Listener | None:
        """A node does not serve; what is under way to it is nobody's answer any more."""
        return self.listeners.pop(nid, None)

    def behind(self) -> list[int]:
        """The nodes that are not known to have the newest record, those that are away among them."""
        known = {nid for nid, of in self.listeners.items() if of.version >= self.record.version}
        return [nid for nid in self._spec.nids if nid not in known]

    def is_behind(self, listener: Listener) -> bool:
        """Whether a node is up and is not known to have the newest record."""
        return self.listeners.get(listener.nid) is listener and listener.version < self.record.version
