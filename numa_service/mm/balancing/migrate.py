"""Which CPU a task should move to, to be near its memory (``task_numa_migrate``).

There is no scheduler here: how loaded the nodes are, and which CPUs are idle, is what the caller says. Tasks
do not change places (``task_numa_compare``): a CPU that runs another task is taken only for its load.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from numa_service.mm.balancing.parameters import HZ, TICK_NSEC, msecs_to_jiffies
from numa_service.mm.balancing.placement import task_faults
from numa_service.mm.balancing.task import NumaBalancing, NumaTask
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE

#: Capacity of a CPU, and the load of a task of nice 0.
SCHED_CAPACITY_SCALE: Final = 1024
#: Run-queue imbalance in percent that is allowed beyond that of now.
_IMBALANCE_PERCENT: Final = 112


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """struct numa_stats: what runs on the CPUs of one node."""

    nid: int
    #: Sum of the loads of its tasks, SCHED_CAPACITY_SCALE for each of nice 0 that always runs.
    load: int
    running: int
    #: CPUs of the node on which nothing runs, and all of them, lowest first.
    idle: tuple[int, ...]
    cpus: tuple[int, ...]

    @property
    def capacity(self) -> int:
        """The compute capacity of all CPUs of the node together."""
        return SCHED_CAPACITY_SCALE * len(self.cpus)


def numa_migrate_preferred(balancing: NumaBalancing, task: NumaTask, now_ns: int) -> None:
    """Note when a task tries again; whoever has a scheduler asks :func:`task_numa_migrate` meanwhile."""
    if task.preferred_nid == NUMA_NO_NODE or task.faults is None:
        return
    task.migrate_retry = now_ns // TICK_NSEC + min(HZ, msecs_to_jiffies(task.scan_period) // 16)


def wants_to_migrate(balancing: NumaBalancing, task: NumaTask) -> bool:
    """Whether a task runs elsewhere than on the node that it prefers."""
    return task.preferred_nid not in (NUMA_NO_NODE, balancing.cpu_node[task.cpu])


def task_numa_migrate(
    balancing: NumaBalancing, task: NumaTask, load: int, nodes: Iterable[NodeLoad]
) -> int | None:
    """The CPU to move to, of the preferred node or of another on which it would have more of its memory near.

    `load` is that of the task, `nodes` are those with CPUs; None: it stays.
    """
    by_nid = {node.nid: node for node in nodes}
    here = balancing.cpu_node[task.cpu]
    source = by_nid[here]
    others = [nid for nid in by_nid if nid not in (here, task.preferred_nid)]
    # the preferred one first; others only if they gain
    for nid in [task.preferred_nid, *others]:
        if nid not in by_nid or nid == here:
            continue
        if nid != task.preferred_nid and not _gains(balancing, task, here, nid):
            continue
        cpu = _find_cpu(source, by_nid[nid], load)
        if cpu is not None:
            return cpu
    return None


def _gains(balancing: NumaBalancing, task: NumaTask, here: int, nid: int) -> bool:
    """Whether a node has more of the task's memory near, and not less of its group's."""
    topology, limit = balancing.topology, balancing.topology.distance[here, nid]

    def better(total: int, used: object) -> bool:
        assert callable(used)
        return topology.weight(nid, limit, total, used) > topology.weight(here, limit, total, used)

    own = better(task.total_faults, lambda at: task_faults(task, at))
    group = task.group
    return own or (group is not None and better(group.total_faults, group.faults_on))


def _find_cpu(source: NodeLoad, target: NodeLoad, load: int) -> int | None:
    """task_numa_find_cpu: an idle CPU; a busy one where loads would not be more unequal than before."""
    if target.running < len(target.cpus) and target.idle:
        return target.idle[0]
    if _load_too_imbalanced(source, target, load):
        return None
    return target.cpus[0]


def _load_too_imbalanced(source: NodeLoad, target: NodeLoad, load: int) -> bool:
    """Whether a move would make the difference between loads, per capacity, larger than it is."""

    def difference(source_load: int, target_load: int) -> int:
        return abs(target_load * source.capacity - source_load * target.capacity)

    after = difference(source.load - load, target.load + load)
    return after > difference(source.load, target.load)
