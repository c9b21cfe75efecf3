"""Scans: which entries of an address space get a hint, and when (``task_tick_numa``, ``task_numa_work``)."""

from __future__ import annotations

from typing import Final

from numa_service.mm.balancing.change_prot import change_prot_numa
from numa_service.mm.balancing.parameters import NSEC_PER_MSEC, TICK_NSEC, msecs_to_jiffies
from numa_service.mm.balancing.policy import vma_policy_mof
from numa_service.mm.balancing.scan_period import task_scan_max, task_scan_start
from numa_service.mm.balancing.task import NumaBalancing, NumaMm, NumaTask
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE
from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.rules import PAGE_SHIFT, PMD_SIZE
from numa_service.mm.mmap.vma import NumabState, Vma

#: A scan takes at most a 33rd of the time of its task.
_OVERHEAD: Final = 32
#: Scan delays after which what is known of who uses a VMA grows old.
_PIDS_RESET_DELAYS: Final = 4
_GOLDEN_RATIO_32: Final = 0x61C88647


def task_tick_numa(balancing: NumaBalancing, task: NumaTask, now_ns: int) -> bool:
    """A tick of the CPU that runs a task: whether task_numa_work should be done now."""
    if not balancing.parameters.mode or task.work:
        return False
    period = task.scan_period * NSEC_PER_MSEC
    if task.sum_exec_runtime > task.node_stamp + period:
        if not task.node_stamp:
            task.scan_period = task_scan_start(balancing.parameters, balancing.rules, task)
        task.node_stamp += period
        task.work = now_ns // TICK_NSEC >= task.mm.next_scan
    return task.work


def task_numa_work(balancing: NumaBalancing, task: NumaTask, now_ns: int) -> int:
    """Scan, if it is time for the address space; return how many pages got a hint.

    How long the scan took the caller says afterwards, with :func:`account_scan`.
    """
    task.work = False
    parameters, mm, now = balancing.parameters, task.mm, now_ns // TICK_NSEC
    if not mm.next_scan:
        mm.next_scan = now + msecs_to_jiffies(parameters.scan_delay_ms)
    if now < mm.next_scan:
        return 0
    if not task.scan_period:
        task.scan_period_max = task_scan_max(parameters, task)
        task.scan_period = task_scan_start(parameters, balancing.rules, task)
    mm.next_scan = now + msecs_to_jiffies(task.scan_period)
    # another task of the address space is likely to be the next one that scans
    task.node_stamp += 2 * TICK_NSEC
    return _Scan(balancing, task, now).run()


def account_scan(task: NumaTask, ns: int) -> None:
    """A scan took so much of the task's time: the next one waits accordingly."""
    task.sum_exec_runtime += ns
    task.node_stamp += _OVERHEAD * ns


class _Scan:
    """One scan: how much of it is left."""

    def __init__(self, balancing: NumaBalancing, task: NumaTask, now: int) -> None:
        self._balancing = balancing
        self._rules = balancing.rules
        self._task = task
        self._mm: NumaMm = task.mm
        self._now = now
        self._pages = balancing.parameters.scan_size_mb << (20 - PAGE_SHIFT)
        self._virtual = self._pages * 8
        self._updates = 0
        #: VMAs were left out because the task had not used them; and one of these is scanned after all.
        self._skipped = False
        self._forced = False

    def run(self) -> int:
        at = self._over(self._mm.scan_offset)
        if at is None and self._rules.completes and self._skipped and not self._forced:
            self._forced = True
            at = self._over(self._mm.scan_offset)
        if at is None:
            self._mm.scan_seq += 1
            self._mm.scan_offset = 0
        else:
            self._mm.scan_offset = at
        return self._updates

    def _over(self, start: int) -> int | None:
        """Scan from an address on; where the next scan begins, None: all was looked at."""
        tree = self._mm.process.mm.tree
        if tree.find(start) is None:
            self._mm.scan_seq += 1
            self._mm.scan_offset = start = 0
        for vma in tree.intersecting(start, 1 << 64):
            if not self._wanted(vma):
                continue
            start = max(start, vma.start)
            while start < vma.end:
                start = self._part(vma, start)
                if self._pages <= 0 or self._virtual <= 0:
                    # within the VMA, or at its end
                    return start
            if self._rules.completes and vma.numab is not None:
                vma.numab.prev_scan_seq = self._mm.scan_seq
                if self._forced:
                    return vma.end
        return None

    def _part(self, vma: Vma, start: int) -> int:
        """Hints for as much as may be given at once; where it ended."""
        end = (start + (self._pages << PAGE_SHIFT) + PMD_SIZE - 1) // PMD_SIZE * PMD_SIZE
        end = min(end, vma.end)
        nid = NUMA_NO_NODE
        if self._mm.users == 1:
            nid = self._balancing.cpu_node[self._task.cpu]
        updates = change_prot_numa(self._balancing, self._mm, vma, start, end, nid)
        self._updates += updates
        if updates:
            self._pages -= (end - start) >> PAGE_SHIFT
        if self._rules.limits_virtual:
            self._virtual -= (end - start) >> PAGE_SHIFT
        return end

    def _wanted(self, vma: Vma) -> bool:
        """Whether a VMA is scanned at all, and by this task now."""
        if vma.special is not None or vma.flags & (vf.VM_SPECIAL | vf.VM_HUGETLB):
            return False
        if not vma_policy_mof(self._task, vma) or not vma.flags & vf.VM_ACCESS_FLAGS:
            return False
        # what many programs map is rather in every node's caches
        if vma.file is not None and vma.flags & (vf.VM_READ | vf.VM_WRITE) == vf.VM_READ:
            return False
        return not self._rules.vma_state or self._by_state(vma)

    def _by_state(self, vma: Vma) -> bool:
        """Not before a VMA is old enough, not twice, and by tasks that use it."""
        mm, delay = self._mm, self._balancing.parameters.scan_delay_ms
        state = vma.numab
        if state is None:
            ready = self._now + msecs_to_jiffies(delay)
            state = vma.numab = NumabState(
                next_scan=ready,
                pids_reset=ready + msecs_to_jiffies(_PIDS_RESET_DELAYS * delay),
                start_scan_seq=mm.scan_seq,
                prev_scan_seq=mm.scan_seq - 1,
            )
        if mm.scan_seq and self._now < state.next_scan:
            return False
        if mm.scan_seq and self._now > state.pids_reset:
            state.pids_reset += msecs_to_jiffies(_PIDS_RESET_DELAYS * delay)
            state.pids = [state.pids[1], 0]
        if self._rules.completes and state.prev_scan_seq == mm.scan_seq:
            mm.scan_offset = vma.end
            return False
        if self._forced or self._is_accessed(vma, state):
            return True
        self._skipped = True
        return False

    def _is_accessed(self, vma: Vma, state: NumabState) -> bool:
        """vma_is_accessed."""
        mm = self._mm
        if mm.scan_seq - (state.start_scan_seq if self._rules.counts_by_vma else 0) < 2:
            return True
        if (state.pids[0] | state.pids[1]) >> pid_bit(self._task.pid) & 1:
            return True
        if self._rules.completes and mm.scan_offset > vma.start:
            return True
        return self._rules.ends_starving and mm.scan_seq > state.prev_scan_seq + mm.users


def pid_bit(pid: int) -> int:
    """The bit of a task among those that have used a VMA (hash_32 of 6 bits)."""
    return (pid * _GOLDEN_RATIO_32 & 0xFFFF_FFFF) >> 26


def vma_set_access_pid_bit(task: NumaTask, vma: Vma) -> None:
    """A task has used a VMA."""
    if vma.numab is not None:
        vma.numab.pids[1] |= 1 << pid_bit(task.pid)
