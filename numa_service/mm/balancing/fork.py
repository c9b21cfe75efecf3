"""Tasks begin and end (``init_numa_balancing``, ``task_numa_free``)."""

from __future__ import annotations

from numa_service.mm.balancing.parameters import NSEC_PER_MSEC, TICK_NSEC, Parameters, msecs_to_jiffies
from numa_service.mm.balancing.scan_period import task_scan_max
from numa_service.mm.balancing.task import NumaBalancing, NumaMm, NumaTask


def init_numa_balancing(
    parameters: Parameters, mm: NumaMm, pid: int, cpu: int, now_ns: int, parent: NumaTask | None = None
) -> NumaTask:
    """A new task of an address space; `parent`: it is a thread that this one has made (CLONE_VM).

    The first thread sets when scans begin, and staggers its own by little: the kernel compares a time in ms
    with one in ns, so that the first always wins.
    """
    task = NumaTask(pid, mm, cpu, None, parameters.scan_delay_ms)
    if parent is not None:
        if mm.users == 1:
            mm.next_scan = now_ns // TICK_NSEC + msecs_to_jiffies(parameters.scan_delay_ms)
            mm.scan_seq = 0
        task.policy, task.preferred_nid, task.scan_seq = parent.policy, parent.preferred_nid, mm.scan_seq
        delay = min(task_scan_max(parameters, parent), parent.scan_period * mm.users * NSEC_PER_MSEC)
        task.node_stamp = delay + 2 * TICK_NSEC
    mm.users += 1
    return task


def exit_task(balancing: NumaBalancing, task: NumaTask) -> None:
    """A task ends: its group forgets it, no CPU runs it (task_numa_free)."""
    if task.group is not None and task.faults is not None:
        task.group.leave(task.faults, task.total_faults)
        task.group = None
    for cpu in [cpu for cpu, other in balancing.running.items() if other is task]:
        del balancing.running[cpu]
    task.mm.users -= 1
