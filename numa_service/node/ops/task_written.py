"""Ops for what is written about a task from outside: files of ``/proc/PID``."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.oom_kill import OOM_SCORE_ADJ_MAX, OOM_SCORE_ADJ_MIN
from numa_service.node.errors import InvalidRequest
from numa_service.node.ops.op import Op
from numa_service.node.ops.task import check_pid
from numa_service.node.state import NodeState


@dataclass(frozen=True, slots=True)
class SetOomScoreAdj(Op[None]):
    """Writes oom_score_adj of a task, which children that it forks later have from it (__set_oom_adj)."""

    tag = "set_oom_score_adj"

    pid: int
    value: int

    def apply(self, node: NodeState) -> None:
        """Note it."""
        node.tasks[self.pid].oom_score_adj = self.value

    def check(self, node: NodeState) -> None:
        """Check the task and the value."""
        check_pid(node, self.pid)
        if not OOM_SCORE_ADJ_MIN <= self.value <= OOM_SCORE_ADJ_MAX:
            allowed = f"{OOM_SCORE_ADJ_MIN}…{OOM_SCORE_ADJ_MAX}"
            raise InvalidRequest("value", f"EINVAL: {self.value} is not in {allowed}")

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"task {self.pid} oom_score_adj={self.value}"
