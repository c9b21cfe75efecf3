"""Ops of the OOM killer: a task of this node is killed, its memory is back, and what the kernel prints."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.vmstat import OOM_KILL
from numa_service.node.errors import InvalidRequest
from numa_service.node.kernel_log import LogLine
from numa_service.node.ops.fields import MAX_INT64, check_below
from numa_service.node.ops.op import Op
from numa_service.node.ops.task import end_task
from numa_service.node.state import NodeState

#: Lines of one report, and characters of one line.
MAX_LINES = 1 << 15
MAX_LINE = 1 << 12


@dataclass(frozen=True, slots=True)
class OomKillTask(Op[bool]):
    """Kills a task for want of memory (__oom_kill_process); the result is False if there is none any more.

    It ends at once, as the OOM reaper would have it, also in the midst of a call. Until OomReaped other nodes
    may still have pages of it.
    """

    tag = "oom_kill_task"

    pid: int

    def apply(self, node: NodeState) -> bool:
        """Free what it has on this node, and note what others are to free."""
        if self.pid not in node.tasks:
            return False
        end_task(node, self.pid)
        node.tasks.oom_victims.append(self.pid)
        node.pgdat.pg.vm_event[OOM_KILL] += 1
        return True

    def check(self, node: NodeState) -> None:
        """Accept every number: whether there is such a task is the result."""

    def text(self, node: NodeState, result: bool) -> str:
        """Return the op and its result as one line."""
        return f"task {self.pid} {'killed by the OOM killer' if result else 'is gone already'}"


@dataclass(frozen=True, slots=True)
class OomReaped(Op[None]):
    """All nodes have freed what a killed task had, or will before they give anything (exit_oom_victim)."""

    tag = "oom_reaped"

    pid: int

    def apply(self, node: NodeState) -> None:
        """The OOM killer need not wait for it any more."""
        if self.pid in node.tasks.oom_victims:
            node.tasks.oom_victims.remove(self.pid)

    def check(self, node: NodeState) -> None:
        """Accept every number."""

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"task {self.pid} reaped"


@dataclass(frozen=True, slots=True)
class Printk(Op[None]):
    """The kernel prints lines to its log."""

    tag = "printk"

    #: The node's time, in ns.
    ns: int
    #: (level, text).
    lines: tuple[tuple[int, str], ...]

    def apply(self, node: NodeState) -> None:
        """Append them."""
        node.kernel_log.add(LogLine(self.ns, level, text) for level, text in self.lines)

    def check(self, node: NodeState) -> None:
        """Check the time, levels and lengths."""
        check_below("ns", self.ns, MAX_INT64)
        check_below("lines", len(self.lines), MAX_LINES)
        for level, text in self.lines:
            check_below("lines.level", level, 8)
            if len(text) > MAX_LINE or not text.isprintable():
                raise InvalidRequest("lines.text", f"at most {MAX_LINE} printable characters")

    def text(self, node: NodeState, result: None) -> str:
        """Return the first and the last line."""
        texts = [text for _, text in self.lines]
        return f"printk {len(texts)} lines: {' … '.join([*texts[:1], *texts[1:][-1:]])}"
