"""Whether a page should move to the node of the task that uses it (``should_numa_migrate_memory``)."""

from __future__ import annotations

from typing import Final

from numa_service.mm.balancing.cpupid import UNSET, cpu_pid_to_cpupid, cpupid_match_pid, cpupid_to_cpu
from numa_service.mm.balancing.group import ACTIVE_NODE_FRACTION
from numa_service.mm.balancing.task import NumaBalancing, NumaTask
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE

#: Scans after which a task is no longer early in its life: two for each stage of the filter.
_EARLY_SCANS: Final = 4


def should_numa_migrate_memory(balancing: NumaBalancing, task: NumaTask, pfn: int, nid: int) -> bool:
    """Decide on a page of `nid`, and note the task as the one that used it last.

    A page moves if the same node used it twice in a row (that a page is used from somewhere by chance is
    squared so); at once if nobody has used it, or the same task, early in the task's life; and in a group by
    where the group runs and has its memory.
    """
    to = balancing.cpu_node[task.cpu]
    cpupid = task.mm.process.frames.cpupid
    last = int(cpupid[pfn])
    cpupid[pfn] = cpu_pid_to_cpupid(task.cpu, task.pid)
    own = cpupid_match_pid(last, task.pid)
    early = task.preferred_nid == NUMA_NO_NODE or task.scan_seq <= _EARLY_SCANS
    if balancing.rules.early_faults_migrate and early and (last == UNSET or own):
        return True
    if last != UNSET and balancing.cpu_node[cpupid_to_cpu(last)] != to:
        return False
    if own:
        return True
    group = task.group
    if group is None:
        return True
    if group.faults_cpu(to) > group.faults_cpu(nid) * ACTIVE_NODE_FRACTION:
        return True
    # CPU and memory use in balance, with a quarter in favour of staying
    there = group.faults_cpu(to) * group.faults_on(nid) * 3
    return there > group.faults_cpu(nid) * group.faults_on(to) * 4
