"""The machine whose memory a program is taken to have: one that is booted in this process.

A process of the program has a session on each node whose CPUs its page faults come from. Its pages are held
by these sessions, and taken as a user's page faults take them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE
from numa_service.mm.mempolicy.calls import Nodes
from numa_service.mm.mempolicy.interleave import interleave_nid
from numa_service.mm.mempolicy.nodemask import mask_of, nids_of
from numa_service.mm.mempolicy.policy import INTERLEAVES, Mempolicy, Mode
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.node import ops
from numa_service.node.free_pages import free_pages
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.page_alloc import alloc_for_owner, spend
from numa_service.node.pfns import pack_pfns, unpack_pfns
from numa_service.node.region import close_session
from numa_service.procfs import tree
from numa_service.sim.simulation import Simulation

Nids = npt.NDArray[np.int16]
Places = npt.NDArray[np.uint64]
Pfns = npt.NDArray[np.uint64]


@dataclass(slots=True)
class _Account:
    """The pages of the machine that a process has."""

    name: str
    #: Home → session of that node.
    sessions: dict[int, int] = field(default_factory=dict)
    #: nid → (home, pfns) of its pages there, those taken last at the end.
    pages: dict[int, list[tuple[int, Pfns]]] = field(default_factory=lambda: defaultdict(list))


class SimulatedMachine:
    """A machine that is booted in this process, as calls need it."""

    def __init__(self, simulation: Simulation, look: Callable[[], MachineSnapshot]) -> None:
        """A machine that has booted; `look` makes a snapshot of it."""
        self._simulation = simulation
        self._look = look
        self.spec = simulation.spec
        machine = next(iter(simulation.nodes.values())).machine
        self.profile = machine.profile
        self.cpus = tuple(self.spec.cpus)
        self.node_of_cpu = {cpu: node.nid for node in self.spec.nodes for cpu in node.cpus}
        online = mask_of(node.nid for node in self.spec.nodes)
        populated = mask_of(nid for nid, zones in machine.populated.items() if zones)
        self.nodes = Nodes(online, populated, online.bit_length())
        self._accounts: dict[int, _Account] = {}
        #: Pages that the machine had no memory for: its OOM killer would have been called.
        self.unserved = 0

    def take(self, process: int, name: str, policy: Mempolicy | None, cpu: int, places: Places) -> Nids:
        """One page for each of `places` (vm_pgoff and on), as page faults of a CPU would have got them.

        Where there is no memory, the page is counted in :attr:`unserved` and taken to be where it should be.
        """
        account = self._accounts.setdefault(process, _Account(name))
        if policy is None or policy.mode not in INTERLEAVES:
            return self._alloc(account, cpu, _policy_of(policy), len(places))
        wanted = interleave_nid(policy, places, self._weights(), self.profile.interleave_offset_bits)
        nids = np.zeros(len(places), np.int16)
        for nid in nids_of(policy.nodes):
            of_node = wanted == nid
            if of_node.any():
                nids[of_node] = self._alloc(account, cpu, _policy_of(policy), int(of_node.sum()), nid)
        return nids

    def take_on(self, process: int, name: str, cpu: int, nid: int, count: int) -> int:
        """Up to `count` pages of one node alone, for pages that move there; how many it had."""
        account = self._accounts.setdefault(process, _Account(name))
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

    def _free(self, account: _Account, home: int, nid: int, pfns: Pfns) -> None:
        node = self._simulation.nodes[home]
        pages = [(nid, pack_pfns(pfns))]
        steps = free_pages(node, account.sessions[home], 0, pages, next(iter(node.pgdat.cpus)))
        self._simulation.call(home, steps)

    def end(self, process: int) -> None:
        """A process has ended: all that it had is free."""
        account = self._accounts.get(process)
        if account is None:
            return
        self.give(process, {nid: sum(len(pfns) for _, pfns in runs) for nid, runs in account.pages.items()})
        for home, session in account.sessions.items():
            self._simulation.call(home, close_session(self._simulation.nodes[home], session))
        del self._accounts[process]

    def text(self, path: str) -> str | None:
        """A file of the machine's /proc or /sys as it is now; None if it has none of this path."""
        try:
            return tree.read(self._look(), path)
        except OSError:
            return None

    def _alloc(
        self, account: _Account, cpu: int, policy: Policy, count: int, turn: int | None = None
    ) -> Nids:
        """`count` pages by a policy; `turn` is the node whose turn it is, if the policy interleaves."""
        got = self._got(account, cpu, policy, count, turn)
        if len(got) < count:
            self.unserved += count - len(got)
            should = turn if turn is not None else (*policy.nodes, self.node_of_cpu[cpu])[0]
            got = np.concatenate([got, np.full(count - len(got), should, np.int16)])
        return got

    def _got(self, account: _Account, cpu: int, policy: Policy, count: int, turn: int | None = None) -> Nids:
        """The nodes of the pages that the machine has for this, in the order in which it gave them."""
        home = self._simulation.nodes[self.node_of_cpu[cpu]]
        if home.nid not in account.sessions:
            opened = ops.OpenSession(account.name, ops.FOREVER_NS, self._simulation.now_ns)
            account.sessions[home.nid] = home.apply(opened)
        session, nids = account.sessions[home.nid], [np.zeros(0, np.int16)]
        owner = home.session(session).owner
        while count:
            some = min(count, MAX_COUNT)
            steps = alloc_for_owner(
                home,
                owner,
                session,
                GFP_HIGHUSER_MOVABLE,
                0,
                some,
                cpu,
                policy,
                shares=None if turn is None else ((turn, some),),
            )
            allocation = self._simulation.call(home.nid, steps)
            spend(home, cpu, allocation.cost)
            for nid, packed in allocation.pages:
                account.pages[nid].append((home.nid, unpack_pfns(packed)))
                nids.append(np.full(len(packed) // 8, nid, np.int16))
            count -= allocation.got
            if allocation.got < some:
                break
        self._simulation.run()
        return np.concatenate(nids)

    def _weights(self) -> dict[int, int]:
        return dict(next(iter(self._simulation.nodes.values())).machine.sysctls.interleave_weights)


_MODES = {
    Mode.PREFERRED: PolicyMode.PREFERRED,
    Mode.BIND: PolicyMode.BIND,
    Mode.LOCAL: PolicyMode.LOCAL,
    Mode.PREFERRED_MANY: PolicyMode.PREFERRED_MANY,
    Mode.INTERLEAVE: PolicyMode.INTERLEAVE,
    Mode.WEIGHTED_INTERLEAVE: PolicyMode.WEIGHTED_INTERLEAVE,
}


def _policy_of(policy: Mempolicy | None) -> Policy:
    """A policy as requests carry it."""
    if policy is None:
        return Policy()
    nodes = () if policy.mode is Mode.LOCAL else tuple(nids_of(policy.nodes))
    return Policy(_MODES[policy.mode], nodes, policy.home_node)
