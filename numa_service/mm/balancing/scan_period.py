"""How often a task's memory is scanned, in ms of run time (``update_task_scan_period``)."""

from __future__ import annotations

from typing import Final

from numa_service.mm.balancing.parameters import TICK_NSEC, Parameters, msecs_to_jiffies
from numa_service.mm.balancing.rules import BalancingRules
from numa_service.mm.balancing.task import FAILED, LOCAL, PRIVATE, REMOTE, SHARED, NumaTask
from numa_service.mm.mmap.rules import PAGE_SHIFT

#: MiB that all scans of a task together look at in a second, at most.
_MAX_SCAN_WINDOW: Final = 2560
#: Tenths: with seven of them local or private the period stays as it is.
_SLOTS: Final = 10
_THRESHOLD: Final = 7


def task_nr_scan_windows(parameters: Parameters, task: NumaTask) -> int:
    """Scans that it takes to look at all resident pages."""
    size = parameters.scan_size_mb << (20 - PAGE_SHIFT)
    rss = sum(task.mm.process.rss) or size
    return -(-rss // size)


def task_scan_min(parameters: Parameters, task: NumaTask) -> int:
    """The shortest period."""
    windows = max(1, _MAX_SCAN_WINDOW // parameters.scan_size_mb)
    return max(1000 // windows, parameters.scan_period_min_ms // task_nr_scan_windows(parameters, task))


def task_scan_start(parameters: Parameters, rules: BalancingRules, task: NumaTask) -> int:
    """The first period."""
    least = task_scan_min(parameters, task)
    if not rules.slows_by_sharing:
        return least
    return max(least, _by_sharing(task, least))


def task_scan_max(parameters: Parameters, task: NumaTask) -> int:
    """The longest period."""
    most = parameters.scan_period_max_ms // task_nr_scan_windows(parameters, task)
    return max(task_scan_min(parameters, task), most, _by_sharing(task, most))


def _by_sharing(task: NumaTask, period: int) -> int:
    """A period for each task of the group, less the part of its memory that is private."""
    if task.group is None:
        return period
    shared, private = task.group.by_kind()
    return period * task.group.tasks * (shared + 1) // (private + shared + 1)


def update_task_scan_period(
    parameters: Parameters, rules: BalancingRules, task: NumaTask, kinds: tuple[int, int], now_ns: int
) -> None:
    """After a scan: slower if memory is where it is used, else faster. `kinds`: its faults by kind."""
    remote, local, failed = (task.faults_locality[at] for at in (REMOTE, LOCAL, FAILED))
    shared, private = kinds[SHARED], kinds[PRIVATE]
    if local + shared == 0 or failed:
        # idle, or migration cannot keep up: the counts are kept
        task.scan_period = min(task.scan_period_max, task.scan_period << 1)
        task.mm.next_scan = now_ns // TICK_NSEC + msecs_to_jiffies(task.scan_period)
        return
    slot = -(-task.scan_period // _SLOTS)
    local_tenths = local * _SLOTS // (local + remote)
    private_tenths = private * _SLOTS // (private + shared)
    first, second = local_tenths, private_tenths
    if rules.slows_by_sharing:
        first, second = private_tenths, local_tenths
    if first >= _THRESHOLD:
        diff = max(1, first - _THRESHOLD) * slot
    elif second >= _THRESHOLD and rules.slows_by_sharing:
        diff = max(1, second - _THRESHOLD) * slot
    else:
        diff = -(_THRESHOLD - max(first, second)) * slot
    least, most = task_scan_min(parameters, task), task_scan_max(parameters, task)
    task.scan_period = min(max(task.scan_period + diff, least), most)
    task.faults_locality = [0, 0, 0]
