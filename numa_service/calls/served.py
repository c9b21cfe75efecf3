"""A machine that is up, as calls need it: it is asked over gRPC, as any client asks."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Final, TypeVar

import numa_client
import numpy as np
from numa_client import Machine, NotFound, NumaError, OutOfMemory, Session

from numa_service.calls.machine import Account, MachineOfCalls, Nids, Pfns
from numa_service.mm.mempolicy.calls import Nodes
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE, mask_of
from numa_service.mm.profile import profile_named
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.ops.alloc import MAX_COUNT

T = TypeVar("T")

#: Seconds after which the pages of a program are free whose supervisor was killed.
LEASE: Final = 30.0
_WEIGHTS: Final = "/sys/kernel/mm/mempolicy/weighted_interleave"


class ServedMachine(MachineOfCalls):
    """A machine that others use, too. When it does not answer, that is said once, and nothing asks it again.

    What the program has of it then ends with the leases of its sessions.
    """

    def __init__(self, machine: Machine) -> None:
        """A machine that answers."""
        self._machine = machine
        info = machine.info
        online = mask_of(node.node for node in info.nodes)
        populated = mask_of(node.node for node in info.nodes if node.managed_pages)
        super().__init__(
            profile_named(info.profile),
            Nodes(online, populated, online.bit_length()),
            {cpu: node.node for node in info.nodes for cpu in node.cpus},
        )
        self._sessions: dict[int, Session] = {}
        self._numbers = itertools.count(1)
        self._gone = False

    def text(self, path: str) -> str | None:
        """A file of /proc or /sys, read anew."""
        return self._asked(lambda: self._machine.read_file(path), None)

    def distance(self, one: int, other: int) -> int:
        """As the machine tells its clients."""
        return self._machine.info.distance(one, other)

    def _weights(self) -> dict[int, int]:
        def read() -> dict[int, int]:
            names = [entry.name for entry in self._machine.list_dir(_WEIGHTS)]
            files = {name: self._machine.read_file(f"{_WEIGHTS}/{name}") for name in names}
            return {int(name[4:]): int(text) for name, text in files.items() if name.startswith("node")}

        return self._asked(read, {})

    def _got(self, account: Account, cpu: int, policy: Policy, count: int, turn: int | None = None) -> Nids:
        # the page of an interleave policy whose turn it is goes where one goes that prefers this node
        asked = policy if turn is None else Policy(PolicyMode.PREFERRED, (turn,))
        nids = [np.zeros(0, np.int16)]
        home = self.node_of_cpu[cpu]
        while count:
            some = min(count, MAX_COUNT)
            pages = self._alloc_some(account, home, cpu, asked, some)
            for nid, pfns in pages.items():
                account.pages[nid].append((home, pfns))
                nids.append(np.full(len(pfns), nid, np.int16))
            got = sum(map(len, pages.values()))
            count -= got
            if got < some:
                break
        return np.concatenate(nids)

    def _alloc_some(
        self, account: Account, home: int, cpu: int, policy: Policy, some: int
    ) -> dict[int, Pfns]:
        near = None if policy.home_node == NUMA_NO_NODE else policy.home_node
        asked = numa_client.Policy(_MODES[policy.mode], policy.nodes, near)

        def alloc() -> dict[int, Pfns]:
            session = self._session(account, home, cpu)
            try:
                found = session.alloc(
                    count=some, gfp="GFP_HIGHUSER_MOVABLE", cpu=cpu, policy=asked, partial=True
                )
            except OutOfMemory:
                return {}
            return dict(found.pages)

        return self._asked(alloc, {})

    def _session(self, account: Account, home: int, cpu: int) -> Session:
        if home not in account.sessions:
            session = self._machine.session(cpu=cpu, lease_seconds=LEASE, name=account.name)
            session.open()
            number = account.sessions[home] = next(self._numbers)
            self._sessions[number] = session
        return self._sessions[account.sessions[home]]

    def _free(self, account: Account, home: int, nid: int, pfns: Pfns) -> None:
        blocks = numa_client.Blocks(0, {nid: pfns})
        self._asked(lambda: self._sessions[account.sessions[home]].free(blocks), None)

    def _close(self, home: int, account: Account) -> None:
        session = self._sessions.pop(account.sessions[home])
        self._asked(session.close, 0)

    def _asked(self, ask: Callable[[], T], otherwise: T) -> T:
        """What the machine answers; `otherwise` if it does not."""
        if self._gone:
            return otherwise
        try:
            return ask()
        except NotFound:
            return otherwise
        except NumaError as error:
            self._gone = True
            name = self._machine.info.name
            print(
                f"numa-service: {name} does not answer any more ({error}): the program goes on, "
                "and its memory is taken to be where policies want it",
                file=sys.stderr,
            )
            return otherwise


_MODES: Final = {mode: numa_client.PolicyMode(mode.name.lower().replace("_", "-")) for mode in PolicyMode}
