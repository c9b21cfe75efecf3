"""A machine that is booted in this process, as calls need it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from numa_service.calls.machine import Account, MachineOfCalls, Nids, Pfns
from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE
from numa_service.mm.mempolicy.calls import Nodes
from numa_service.mm.mempolicy.nodemask import mask_of
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.node import ops
from numa_service.node.free_pages import free_pages
from numa_service.node.mempolicy import Policy
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.page_alloc import alloc_for_owner, spend
from numa_service.node.pfns import pack_pfns, unpack_pfns
from numa_service.node.region import close_session
from numa_service.procfs import tree
from numa_service.sim.simulation import Simulation


class SimulatedMachine(MachineOfCalls):
    """A machine of the simulator, which is this program's alone."""

    def __init__(self, simulation: Simulation, look: Callable[[], MachineSnapshot]) -> None:
        """A machine that has booted; `look` makes a snapshot of it."""
        self._simulation = simulation
        self._look = look
        spec = simulation.spec
        machine = next(iter(simulation.nodes.values())).machine
        online = mask_of(node.nid for node in spec.nodes)
        populated = mask_of(nid for nid, zones in machine.populated.items() if zones)
        super().__init__(
            machine.profile,
            Nodes(online, populated, online.bit_length()),
            {cpu: node.nid for node in spec.nodes for cpu in node.cpus},
        )

    def text(self, path: str) -> str | None:
        """A file of /proc or /sys, of a snapshot that is made for it."""
        try:
            return tree.read(self._look(), path)
        except OSError:
            return None

    def distance(self, one: int, other: int) -> int:
        """As the machine's description has it."""
        return self._simulation.spec.distances[one][other]

    def _weights(self) -> dict[int, int]:
        return dict(next(iter(self._simulation.nodes.values())).machine.sysctls.interleave_weights)

    def _got(self, account: Account, cpu: int, policy: Policy, count: int, turn: int | None = None) -> Nids:
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

    def _free(self, account: Account, home: int, nid: int, pfns: Pfns) -> None:
        node = self._simulation.nodes[home]
        pages = [(nid, pack_pfns(pfns))]
        steps = free_pages(node, account.sessions[home], 0, pages, next(iter(node.pgdat.cpus)))
        self._simulation.call(home, steps)

    def _close(self, home: int, account: Account) -> None:
        self._simulation.call(home, close_session(self._simulation.nodes[home], account.sessions[home]))
