"""Ops for huge pages of pools that tasks map: promises and pages that were got, and what goes back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from numa_service.mm.mmap.frames import HUGETLB
from numa_service.node.errors import InvalidRequest, LimitExceeded
from numa_service.node.ops.fields import MAX_NODE_PAGES, check_below, check_nid
from numa_service.node.ops.op import Op
from numa_service.node.state import NodeState
from numa_service.node.task_hugetlb import HomePool, HugetlbLimbo
from numa_service.node.task_pages import PROMISED_PAGE, PROMISES, UNPROMISED_PAGE


def _pool(node: NodeState, kb: int) -> HomePool:
    node.hugetlb.pool(kb)
    return next(pool for pool in node.tasks.pools.values() if pool.kb == kb)


@dataclass(frozen=True, slots=True)
class GrantHugetlb(Op[None]):
    """The keeper of the pools has promised huge pages for a task's mmap, or with 0 has not so many."""

    tag = "grant_hugetlb"

    pid: int
    kb: int
    promises: int

    def apply(self, node: NodeState) -> None:
        """Have them ready for the task's next op."""
        pool = _pool(node, self.kb)
        if self.promises:
            pool.grant(self.promises)
        elif self.pid in node.tasks:
            pool.refused[self.pid, PROMISES] = 1

    def check(self, node: NodeState) -> None:
        """Check the size and the number."""
        _pool(node, self.kb)
        check_below("promises", self.promises, MAX_NODE_PAGES)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"task {self.pid} is promised {self.promises} huge pages of {self.kb}kB"


@dataclass(frozen=True, slots=True)
class StockHugetlb(Op[None]):
    """A huge page was taken for a task, or looked for in vain; the task may have ended meanwhile."""

    tag = "stock_hugetlb"

    pid: int
    kb: int
    #: Whether it is one of those that a mapping was promised; else the keeper has promised it on its own.
    promised: bool
    #: Its node, -1 if there is none, and its pfn there.
    nid: int
    pfn: int

    def apply(self, node: NodeState) -> None:
        """Have it ready for the task's next op."""
        pool, there = _pool(node, self.kb), self.pid in node.tasks
        if self.nid >= 0:
            try:
                pool.add(self.pid, self.nid, self.pfn, self.promised)
            except LimitExceeded:
                pool.limbo.append((self.nid, self.pfn))
                pool.kept += not self.promised
            else:
                last = pool.ready[self.pid, self.promised][-1]
                node.tasks.frames.expect(np.array([last]), HUGETLB)
                if not there:
                    pool.give_back(self.pid)
                return
        if there:
            pool.refused[self.pid, PROMISED_PAGE if self.promised else UNPROMISED_PAGE] = 1

    def check(self, node: NodeState) -> None:
        """Check the size, the node and the pfn."""
        _pool(node, self.kb)
        if self.nid != -1:
            check_nid(node, "node", self.nid)
        check_below("pfn", self.pfn, MAX_NODE_PAGES)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        got = f"pfn={self.pfn:#x} of node {self.nid}" if self.nid >= 0 else "none"
        return f"task {self.pid} stock of huge pages of {self.kb}kB {got}"


@dataclass(frozen=True, slots=True)
class NoteSurplus(Op[None]):
    """How many huge pages of a size all nodes have beyond those asked for, for the call under way."""

    tag = "note_surplus"

    kb: int
    pages: int

    def apply(self, node: NodeState) -> None:
        """Note it."""
        _pool(node, self.kb).surplus = self.pages

    def check(self, node: NodeState) -> None:
        """Check the size and the number."""
        _pool(node, self.kb)
        if self.pages < 0:
            raise InvalidRequest("pages", f"{self.pages} is less than 0")

    def text(self, node: NodeState, result: None) -> str:
        """Return nothing: it goes with other ops."""
        return ""


@dataclass(frozen=True, slots=True)
class TakeHugetlbLimbo(Op[tuple[HugetlbLimbo, ...]]):
    """Takes what nodes are to be told of huge pages that tasks need no more, and of promises."""

    tag = "take_hugetlb_limbo"

    def apply(self, node: NodeState) -> tuple[HugetlbLimbo, ...]:
        """Empty the lists."""
        taken = (pool.take_limbo() for pool in node.tasks.pools.values())
        return tuple(limbo for limbo in taken if limbo is not None)

    def check(self, node: NodeState) -> None:
        """Accept it: it has no fields."""

    def text(self, node: NodeState, result: tuple[HugetlbLimbo, ...]) -> str:
        """Return the result as one line."""
        each = (f"{one.kb}kB pages={len(one.pages)} promises={one.restored + one.change}" for one in result)
        return f"tasks give huge pages back {' '.join(each)}"
