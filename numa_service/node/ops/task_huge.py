"""Ops for huge pages of tasks: splits that holders made, khugepaged's rounds, what goes under pressure."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.mmap.huge_memory import deferred_split_scan, split_huge_page
from numa_service.mm.mmap.khugepaged import Khugepaged, Nodes
from numa_service.node.ops.fields import check_below, check_indexes
from numa_service.node.ops.op import Op
from numa_service.node.ops.task_work import Did, Work
from numa_service.node.pfns import unpack_indexes
from numa_service.node.state import NodeState
from numa_service.node.task_huge import unnamed
from numa_service.node.task_pages import Short


@dataclass(frozen=True, slots=True)
class SplitTaskPages(Op[None]):
    """Huge pages are split: the node that has them did so, or has lost them."""

    tag = "split_task_pages"

    #: Names of the huge pages, packed; what is no huge page any more is passed over.
    frames: bytes

    def apply(self, node: NodeState) -> None:
        """Split them in all address spaces; parts that nothing maps are freed."""
        work, tasks = Work(node, None, None), node.tasks
        for head in unnamed(unpack_indexes(self.frames))[1].tolist():
            if tasks.thp is not None and head in tasks.thp.huge:
                split_huge_page(tasks.frames, head)
        work.settle()

    def check(self, node: NodeState) -> None:
        """Check that they are names of huge pages."""
        check_indexes(self.frames)
        check_below("frames", len(unnamed(unpack_indexes(self.frames))[0]), 1)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"huge pages of tasks split={len(self.frames) // 4}"

    @property
    def payload(self) -> int:
        """Bytes of the names."""
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class ShrinkHuge(Op[int]):
    """Memory is short: splits huge pages of which parts are not mapped, and frees a huge page of zeros.

    The result are the pages that are free then, or will be when other nodes are told.
    """

    tag = "shrink_huge"

    def apply(self, node: NodeState) -> int:
        """Split all that wait for it (deferred_split_scan, shrink_huge_zero_page_scan)."""
        work, tasks = Work(node, None, None), node.tasks
        if tasks.thp is None:
            return 0
        deferred_split_scan(tasks.frames, len(tasks.thp.deferred))
        freed = sum(map(len, tasks.source.freed)) + tasks.thp.shrink_zero_page()
        work.settle()
        return freed

    def check(self, node: NodeState) -> None:
        """Accept it: it has no fields."""

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"shrink huge pages -> {result} pages"


@dataclass(frozen=True, slots=True)
class KhugepagedScan(Op[Did]):
    """A round of khugepaged; the result's value are the ms until the next one, its want a huge page."""

    tag = "khugepaged_scan"

    def apply(self, node: NodeState) -> Did:
        """Look at as many pages as a round does, until a huge page is missing."""
        tasks, work = node.tasks, Work(node, None, None)
        distances: tuple[tuple[int, ...], ...] = ()
        if node.machine.sysctls.zone_reclaim_mode:
            distances = tuple(map(tuple, node.machine.spec.distances))
        try:
            sleeps = Khugepaged(tasks.frames, Nodes(distances)).do_scan() if tasks.thp is not None else 0
        except Short as short:
            work.pause()
            return Did(want=short.want, path=work.path())
        work.give_stock_back()
        work.settle()
        return Did(sleeps, path=work.path())

    def check(self, node: NodeState) -> None:
        """Accept it: it has no fields."""

    def text(self, node: NodeState, result: Did) -> str:
        """Return the op and its result as one line."""
        return f"khugepaged {'wants a page' if result.want else f'sleeps {result.value} ms'}"
