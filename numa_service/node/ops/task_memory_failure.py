"""The op of a home whose task has lost a page to an error of its memory (``mm/memory-failure.c``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from numa_service.mm.mmap.memory_failure import hwpoison_user_mappings, in_use, task_early_kill
from numa_service.node.ops.fields import check_below, check_nid
from numa_service.node.ops.op import Op
from numa_service.node.ops.task import end_task
from numa_service.node.ops.task_work import Work
from numa_service.node.state import NodeState
from numa_service.node.task_pages import IDLE
from numa_service.node.task_state import EARLY_KILL, SIG_DFL


class Told(NamedTuple):
    """What became of the tasks that had the page."""

    #: Those that were sent SIGBUS, as (pid, comm); who has no handler for it has ended.
    signalled: tuple[tuple[int, str], ...] = ()
    #: There was nothing in the page yet: it is got anew at the next access.
    again: bool = False


@dataclass(frozen=True, slots=True)
class TaskMemoryFailure(Op[Told]):
    """A node has lost a page of tasks: it is taken from them, and those that want to know at once are told.

    Who accesses it later gets SIGBUS. Nothing is done if the frame is not that node's any more.
    """

    tag = "task_memory_failure"

    #: The node that had the page.
    nid: int
    frame: int

    def apply(self, node: NodeState) -> Told:
        """Make entries that say so; the frame is freed."""
        tasks, source = node.tasks, node.tasks.source
        if source.state[self.frame] != IDLE or source.nids[self.frame] != self.nid:
            return Told()
        if not in_use(tasks.frames, self.frame):
            return Told(again=True)
        work = Work(node, None, None)
        by_process = {id(task.process): task for task in tasks.values()}
        lost_by = hwpoison_user_mappings(
            [task.process for task in tasks.values()],
            tasks.frames,
            self.frame,
            shmem_keeps=tasks.rules.shmem_keeps_poisoned,
        )
        work.settle()
        early = int(node.machine.sysctls.get(EARLY_KILL) or 0)
        told = [by_process[id(process)] for process in lost_by]
        told = [task for task in told if task_early_kill(task.mce_kill, early)]
        for task in told:
            if task.sigbus == SIG_DFL:
                task.killed_by = "SIGBUS: memory of it is bad"
                end_task(node, task.pid)
        return Told(tuple((task.pid, task.comm) for task in told))

    def check(self, node: NodeState) -> None:
        """Check the node and the frame."""
        check_nid(node, "node", self.nid)
        check_below("frame", self.frame, len(node.tasks.source.nids))

    def text(self, node: NodeState, result: Told) -> str:
        """Return the op and its result as one line."""
        pids = " ".join(str(pid) for pid, _ in result.signalled)
        return f"hwpoison frame={self.frame} of node{self.nid} -> SIGBUS to {pids or 'nobody yet'}"
