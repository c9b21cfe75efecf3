"""Tasks of a program: each begins, maps memory, binds and touches it, forks, and exits with its children.

All of it is what a client's tasks do, through the same calls (``node/task_program.py``), with the lock of
each task's address space: others may use tasks of the session meanwhile.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from numa_service.machine.tlb import Translation
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE, mask_of
from numa_service.mm.mempolicy.policy import Mode
from numa_service.mm.mmap.entries import pfns_of
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.node.ask import Steps
from numa_service.node.cost import Cost
from numa_service.node.errors import LimitExceeded
from numa_service.node.inbox import Inbox, Packed
from numa_service.node.mempolicy import Policy
from numa_service.node.node import Node
from numa_service.node.page_alloc import spend
from numa_service.node.task import Asked, Ran, spawn
from numa_service.node.task_program import run_call
from numa_service.workload.patterns import Indexes
from numa_service.workload.plan import TaskPlan

_RW: Final = PROT_READ | PROT_WRITE


@dataclass(slots=True)
class Lived:
    """What the beginning of tasks came to: one that was spawned, and the children that it forked."""

    #: The task, then its children; empty if there was no memory for all of it.
    pids: tuple[int, ...] = ()
    cost: Cost = field(default_factory=Cost)
    hits: int = 0
    faults: int = 0
    major_faults: int = 0
    remote_lookups: int = 0
    #: Pages that they have, by node; one that several map counts once.
    placement: Counter[int] = field(default_factory=Counter)
    #: What was wrong, if they could not begin.
    failed: str = ""

    def add(self, ran: Ran) -> None:
        """Add a call."""
        self.cost.add(ran.cost)
        self.hits += ran.hits
        self.faults += ran.faults
        self.major_faults += ran.major_faults
        self.remote_lookups += ran.remote_lookups
        if ran.errno:
            self.failed = ran.reason


class TaskLives:
    """The tasks of one program, on one CPU."""

    def __init__(self, node: Node, session: int, cpu: int, inbox: Inbox | None) -> None:
        """Without an inbox nobody else uses tasks of the node meanwhile."""
        self._node = node
        self._session = session
        self._cpu = cpu
        self._inbox = inbox or Inbox(node, _without_replies)

    def begin(self, plan: TaskPlan, random: np.random.Generator, translation: Translation) -> Steps[Lived]:
        """Begin a task with its children; those that lack memory are ended again."""
        lived = Lived()
        try:
            ran = yield from spawn(self._node, self._session, self._cpu, plan.comm)
        except LimitExceeded as error:
            lived.failed = str(error)
            return lived
        lived.add(ran)
        if lived.failed:
            return lived
        pids = [ran.value]
        address = yield from self._map(ran.value, plan, lived)
        indexes = Indexes(plan.access, plan.nr_pages, random)
        yield from self._touch(
            pids[0], address, plan, indexes.take(plan.accesses), random, translation, lived
        )
        for _ in range(plan.children if not lived.failed else 0):
            forked = yield from self._call(pids[0], lived, "fork")
            if lived.failed:
                break
            pids.append(forked.value)
            some = indexes.take(plan.child_accesses)
            yield from self._touch(forked.value, address, plan, some, random, translation, lived)
        if lived.failed:
            yield from self.end(pids)
            return lived
        lived.pids = tuple(pids)
        lived.placement.update(self._placement(pids))
        return lived

    def end(self, pids: list[int]) -> Steps[None]:
        """Have tasks exit that are still there, children first."""
        for pid in reversed(pids):
            if pid in self._node.tasks:
                yield from run_call(self._inbox, self._session, pid, Asked("exit"))

    def _map(self, pid: int, plan: TaskPlan, lived: Lived) -> Steps[int]:
        """Map memory, with its policy; return its address."""
        length = plan.nr_pages << PAGE_SHIFT
        mapped = yield from self._call(pid, lived, "mmap", 0, length, _RW, MAP_PRIVATE | MAP_ANONYMOUS, 0)
        policy = plan.policy
        if not lived.failed and policy != Policy():
            mode = Mode[policy.mode.name] | policy.flags
            yield from self._call(pid, lived, "mbind", mapped.value, length, mode, mask_of(policy.nodes), 0)
        if not lived.failed and policy.home_node != NUMA_NO_NODE:
            yield from self._call(
                pid, lived, "set_mempolicy_home_node", mapped.value, length, policy.home_node, 0
            )
        return mapped.value

    def _touch(
        self,
        pid: int,
        address: int,
        plan: TaskPlan,
        indexes: npt.NDArray[np.int64],
        random: np.random.Generator,
        translation: Translation,
        lived: Lived,
    ) -> Steps[None]:
        """Access pages; those next to each other together, and each that is named again only takes time."""
        if lived.failed or not len(indexes):
            return
        node, more = self._node, Cost()
        misses = translation.access(indexes)
        more.translation_ns += translation.miss_ns(misses, node.load.idle_ns(node.nid))
        write = plan.access.write
        writes = random.random(len(indexes)) < write if 0 < write < 1 else np.full(len(indexes), write > 0)
        for is_write in (True, False):
            pages, times = np.unique(indexes[writes == is_write], return_counts=True)
            for run in np.split(pages, np.flatnonzero(np.diff(pages) != 1) + 1):
                if len(run) and not lived.failed:
                    start, length = address + (int(run[0]) << PAGE_SHIFT), len(run) << PAGE_SHIFT
                    yield from self._call(pid, lived, "touch", start, length, is_write)
            if not lived.failed and (times > 1).any():
                lived.hits += self._again(pid, address, pages, times - 1, is_write, more)
        spend(node, self._cpu, more)
        lived.cost.add(more)

    def _again(
        self,
        pid: int,
        address: int,
        pages: npt.NDArray[np.int64],
        times: npt.NDArray[np.int64],
        write: bool,
        cost: Cost,
    ) -> int:
        """Further accesses to pages that have just been touched, each where it is; returns how many."""
        load, process = self._node.load, self._node.tasks[pid].process
        end = address + (int(pages[-1]) + 1 << PAGE_SHIFT)
        nids = self._node.tasks.source.nids_of(pfns_of(process.all_entries(address, end))[pages])
        for nid in np.unique(nids).tolist():
            wait_ns = load.memory.wait_ns if nid == self._node.nid else 0
            # a page of zeros has no number, and is at hand
            of = self._node.nid if nid < 0 else nid
            cost.add_access(load, of, int(times[nids == nid].sum()), wait_ns, write)
        return int(times.sum())

    def _placement(self, pids: list[int]) -> dict[int, int]:
        """Pages of tasks by node."""
        parts = [np.zeros(0, np.int64)]
        for pid in pids:
            if pid not in self._node.tasks:
                continue  # the OOM killer has killed it
            process = self._node.tasks[pid].process
            parts += [pfns_of(process.mapped_entries(start, end)) for start, end in process.leaves()]
        nids = self._node.tasks.source.nids_of(np.unique(np.concatenate(parts)))
        found, counts = np.unique(nids, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))

    def _call(self, pid: int, lived: Lived, name: str, *numbers: int) -> Steps[Ran]:
        asked = Asked(name, tuple(int(number) for number in numbers))
        ran = yield from run_call(self._inbox, self._session, pid, asked)
        lived.add(ran)
        return ran


def _without_replies(asker: int, reply: object) -> Packed:
    raise AssertionError("calls of a program have no request ids")
