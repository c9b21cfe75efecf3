"""The machine whose memory a program is taken to have, as its calls need it.

A process of the program has a session on each node whose CPUs its page faults come from. Its pages are held
by these sessions, and taken as a user's page faults take them. Where the machine is, is one of two: booted in
this process (``simulated.py``), or up (``served.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from numa_service.mm.mempolicy.calls import Nodes
from numa_service.mm.mempolicy.interleave import Turn, interleave_nid, interleave_nodes
from numa_service.mm.mempolicy.nodemask import nids_of
from numa_service.mm.mempolicy.policy import INTERLEAVES, Mempolicy, Mode
from numa_service.mm.profile import Profile
from numa_service.node.mempolicy import Policy, PolicyMode

Nids = npt.NDArray[np.int16]
Places = npt.NDArray[np.uint64]
Pfns = npt.NDArray[np.uint64]


@dataclass(slots=True)
class Account:
    """The pages of the machine that a process has."""

    name: str
    #: Home → session of that node.
    sessions: dict[int, int] = field(default_factory=dict)
    #: nid → (home, pfns) of its pages there, those taken last at the end.
    pages: dict[int, list[tuple[int, Pfns]]] = field(default_factory=lambda: defaultdict(list))


class MachineOfCalls(ABC):
    """What calls need of a machine, wherever it is."""

    def __init__(self, profile: Profile, nodes: Nodes, node_of_cpu: dict[int, int]) -> None:
        """A machine with these nodes and CPUs, whose kernel answers as the profile says."""
        self.profile = profile
        self.nodes = nodes
        self.node_of_cpu = node_of_cpu
        self.cpus = tuple(sorted(node_of_cpu))
        self._accounts: dict[int, Account] = {}
        #: Pages that the machine had no memory for: its OOM killer would have been called.
        self.unserved = 0

    @abstractmethod
    def text(self, path: str) -> str | None:
        """A file of the machine's /proc or /sys as it is now; None if it has none of this path."""

    @abstractmethod
    def distance(self, one: int, other: int) -> int:
        """How far nodes are from each other."""

    @abstractmethod
    def _weights(self) -> dict[int, int]:
        """Of nodes that were given one, the weight for weighted interleaving."""

    @abstractmethod
    def _got(self, account: Account, cpu: int, policy: Policy, count: int, turn: int | None = None) -> Nids:
        """The nodes of the pages that the machine has for this, in the order in which it gave them.

        Its pages and sessions are noted in the account.
        """

    @abstractmethod
    def _free(self, account: Account, home: int, nid: int, pfns: Pfns) -> None:
        """Give pages of a node back that a session of the account has."""

    @abstractmethod
    def _close(self, home: int, account: Account) -> None:
        """End the session that an account has on a node."""

    def take(self, process: int, name: str, policy: Mempolicy | None, cpu: int, places: Places) -> Nids:
        """One page for each of `places` (vm_pgoff and on), as page faults of a CPU would have got them.

        Where there is no memory, the page is counted in :attr:`unserved` and taken to be where it should be.
        """
        account = self._accounts.setdefault(process, Account(name))
        if policy is None or policy.mode not in INTERLEAVES:
            return self._alloc(account, cpu, policy_of(policy), len(places))
        wanted = interleave_nid(policy, places, self._weights(), self.profile.interleave_offset_bits)
        nids = np.zeros(len(places), np.int16)
        for nid in nids_of(policy.nodes):
            of_node = wanted == nid
            if of_node.any():
                nids[of_node] = self._alloc(account, cpu, policy_of(policy), int(of_node.sum()), nid)
        return nids

    def place(
        self, policy: Mempolicy | None, cpu: int, turn: Turn, count: int
    ) -> tuple[npt.NDArray[np.int64], Turn]:
        """Where pages of the page cache go that a task on a CPU reads, and its turn then; none is taken."""
        here = self.node_of_cpu[cpu]
        if policy is not None and policy.mode in INTERLEAVES:
            return interleave_nodes(policy, turn, self._weights(), count)
        nids = nids_of(policy.nodes) if policy is not None and policy.mode is not Mode.LOCAL else ()
        nid = min(nids, key=lambda nid: (self.distance(here, nid), nid), default=here)
        return np.full(count, nid), turn

    def take_on(self, process: int, name: str, cpu: int, nid: int, count: int) -> int:
        """Up to `count` pages of one node alone, for pages that move there; how many it had."""
        account = self._accounts.setdefault(process, Account(name))
        return len(self._got(account, cpu, Policy(PolicyMode.BIND, (nid,)), count))

    def give(self, process: int, left: dict[int, int]) -> None:
        """Pages of a process are there no more: so many of each node."""
        pages = self._accounts[process].pages if process in self._accounts else {}
        for nid, count in left.items():
            runs = pages.get(nid, [])
            while count and runs:
                home, pfns = runs.pop()
                kept = max(len(pfns) - count, 0)
                if kept:
                    runs.append((home, pfns[:kept]))
                count -= len(pfns) - kept
                self._free(self._accounts[process], home, nid, pfns[kept:])

    def end(self, process: int) -> None:
        """A process has ended: all that it had is free."""
        account = self._accounts.get(process)
        if account is None:
            return
        self.give(process, {nid: sum(len(pfns) for _, pfns in runs) for nid, runs in account.pages.items()})
        for home in account.sessions:
            self._close(home, account)
        del self._accounts[process]

    def _alloc(self, account: Account, cpu: int, policy: Policy, count: int, turn: int | None = None) -> Nids:
        """`count` pages by a policy; `turn` is the node whose turn it is, if the policy interleaves."""
        got = self._got(account, cpu, policy, count, turn)
        if len(got) < count:
            self.unserved += count - len(got)
            should = turn if turn is not None else (*policy.nodes, self.node_of_cpu[cpu])[0]
            got = np.concatenate([got, np.full(count - len(got), should, np.int16)])
        return got


_MODES = {
    Mode.PREFERRED: PolicyMode.PREFERRED,
    Mode.BIND: PolicyMode.BIND,
    Mode.LOCAL: PolicyMode.LOCAL,
    Mode.PREFERRED_MANY: PolicyMode.PREFERRED_MANY,
    Mode.INTERLEAVE: PolicyMode.INTERLEAVE,
    Mode.WEIGHTED_INTERLEAVE: PolicyMode.WEIGHTED_INTERLEAVE,
}


def policy_of(policy: Mempolicy | None) -> Policy:
    """A policy as requests carry it."""
    if policy is None:
        return Policy()
    nodes = () if policy.mode is Mode.LOCAL else tuple(nids_of(policy.nodes))
    return Policy(_MODES[policy.mode], nodes, policy.home_node)
