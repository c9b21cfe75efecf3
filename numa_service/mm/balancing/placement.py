"""The node that a task should be on, from the faults since the last scan (``task_numa_placement``)."""

from __future__ import annotations

from typing import Final

from numa_service.mm.balancing.scan_period import task_scan_max, update_task_scan_period
from numa_service.mm.balancing.task import (
    LOCAL,
    NUMA_CPU,
    NUMA_CPUBUF,
    NUMA_MEM,
    NUMA_MEMBUF,
    PRIVATE,
    REMOTE,
    SHARED,
    NumaBalancing,
    NumaTask,
)
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE

#: LOAD_AVG_MAX: of the first placement, the run time of a task that has never waited, over the same time.
_LOAD_AVG_MAX: Final = 47742


def task_numa_placement(balancing: NumaBalancing, task: NumaTask, now_ns: int) -> None:
    """Once a scan: old faults are halved, new ones added, and the preferred node and the period set."""
    parameters, faults = balancing.parameters, task.faults
    assert faults is not None
    if task.scan_seq == task.mm.scan_seq:
        return
    task.scan_seq = task.mm.scan_seq
    task.scan_period_max = task_scan_max(parameters, task)
    runtime, period = _average_runtime(task, now_ns)
    kinds = faults[NUMA_MEMBUF].sum(axis=0).tolist()
    total = task.faults_locality[REMOTE] + task.faults_locality[LOCAL]
    # by CPU use, so that a task that seldom runs counts for little in its group
    weight = (runtime << 16) // (period + 1)
    more = faults[NUMA_MEMBUF] - faults[NUMA_MEM] // 2
    more_cpu = weight * faults[NUMA_CPUBUF] // (total + 1) - faults[NUMA_CPU] // 2
    faults[NUMA_MEM] += more
    faults[NUMA_CPU] += more_cpu
    faults[NUMA_MEMBUF:] = 0
    task.total_faults += int(more.sum())
    group = task.group
    if group is not None:
        group.faults[0] += more
        group.faults[1] += more_cpu
        group.total_faults += int(more.sum())
    best = _most_used(balancing, task)
    if best != NUMA_NO_NODE:
        task.preferred_nid = best
    if group is not None:
        group.count_active_nodes(balancing.nids)
    update_task_scan_period(parameters, balancing.rules, task, (kinds[SHARED], kinds[PRIVATE]), now_ns)


def _most_used(balancing: NumaBalancing, task: NumaTask) -> int:
    """The node with CPUs at the memory that the task or its group uses most; NUMA_NO_NODE if none."""
    group = task.group

    def used(nid: int) -> int:
        return task_faults(task, nid) if group is None else group.faults_on(nid)

    best = max(balancing.nids, key=lambda nid: (used(nid), -nid))
    if used(best) <= 0:
        return NUMA_NO_NODE
    best = balancing.topology.nearest_with_cpus(best)
    if group is None:
        return best
    return balancing.topology.preferred_group_nid(best, group.total_faults, used)


def task_faults(task: NumaTask, nid: int) -> int:
    """Pages of a node that the task faulted on."""
    return 0 if task.faults is None else int(task.faults[NUMA_MEM, nid].sum())


def _average_runtime(task: NumaTask, now_ns: int) -> tuple[int, int]:
    """numa_get_avg_runtime: run time since the task was placed last, and the time that has passed, in ns."""
    runtime = task.sum_exec_runtime
    if task.last_placement:
        found = runtime - task.last_sum_exec_runtime, max(0, now_ns - task.last_placement)
    else:
        found = _LOAD_AVG_MAX, _LOAD_AVG_MAX
    task.last_sum_exec_runtime, task.last_placement = runtime, now_ns
    return found
