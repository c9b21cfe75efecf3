"""Hint faults: counted, and the page moved to whoever uses it (``do_numa_page``, ``task_numa_fault``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from numa_service.mm.balancing.cpupid import UNSET, cpupid_match_pid, cpupid_to_cpu
from numa_service.mm.balancing.group import NumaGroup
from numa_service.mm.balancing.migrate import numa_migrate_preferred
from numa_service.mm.balancing.parameters import TICK_NSEC
from numa_service.mm.balancing.placement import task_numa_placement
from numa_service.mm.balancing.policy import mpol_misplaced
from numa_service.mm.balancing.scan import vma_set_access_pid_bit
from numa_service.mm.balancing.task import (
    FAILED,
    LOCAL,
    NUMA_CPUBUF,
    NUMA_MEMBUF,
    PRIVATE,
    REMOTE,
    SHARED,
    NumaBalancing,
    NumaTask,
)
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE
from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.entries import NUMA, WRITE, Entries, has, pfns_of
from numa_service.mm.mmap.frames import FILE
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.mm.mmap.vma import Vma


@dataclass(slots=True)
class HintFaults:
    """Counts of the NUMA hinting faults in a range of addresses, and of the pages that they moved."""

    faults: int = 0
    #: Faults on pages of the node of the task's CPU.
    local: int = 0
    migrated_pages: int = 0
    #: Pages that should have moved and did not.
    failed_pages: int = 0


def hint_faults(balancing: NumaBalancing, task: NumaTask, start: int, end: int, now_ns: int) -> HintFaults:
    """A task uses every page of a range: those with a hint fault. Other faults are not taken here."""
    found = HintFaults()
    process = task.mm.process
    for vma in process.mm.tree.intersecting(start, end):
        for address, part in process.chunks(max(vma.start, start), min(vma.end, end)):
            for nth in np.flatnonzero(has(part, NUMA)).tolist():
                if not part[nth] & NUMA:
                    continue  # it was part of a huge page that has faulted
                at = address + (nth << PAGE_SHIFT)
                entries = part[nth : nth + 1]
                if process.tables.is_huge(at):
                    size = 1 << process.shift
                    ((_, entries),) = process.chunks(at // size * size, (at // size + 1) * size)
                _do_numa_page(balancing, task, vma, entries, now_ns, found)
    return found


def _do_numa_page(
    balancing: NumaBalancing, task: NumaTask, vma: Vma, entries: Entries, now_ns: int, found: HintFaults
) -> None:
    """do_numa_page, and do_huge_pmd_numa_page if there are as many entries as a huge page has."""
    frames, counters = task.mm.process.frames, balancing.counters
    entries &= ~NUMA
    pfns = pfns_of(entries)
    pfn, pages = int(pfns[0]), len(pfns)
    nid = int(frames.source.nids_of(pfns[:1])[0])
    last = int(frames.cpupid[pfn])
    local = nid == balancing.cpu_node[task.cpu]
    counters.numa_hint_faults += 1
    counters.numa_hint_faults_local += local
    found.faults += 1
    found.local += local
    vma_set_access_pid_bit(task, vma)
    to = mpol_misplaced(balancing, task, vma, pfn, nid)
    migrated = failed = False
    if to != NUMA_NO_NODE:
        alone = _may_be_isolated(balancing, task, vma, pfn, pages)
        migrated = alone and balancing.mover.migrate_misplaced(pfns, to)
        failed = not migrated
    if migrated:
        nid = to
        counters.numa_pages_migrated += pages
        counters.pgmigrate_success += pages
        found.migrated_pages += pages
    found.failed_pages += pages * failed
    fault = _Fault(
        nid,
        pages,
        local,
        migrated,
        failed,
        grouping=bool(entries[0] & WRITE),
        shared=int(frames.mapcount[pfn]) > 1 and bool(vma.flags & vf.VM_SHARED),
    )
    task_numa_fault(balancing, task, last, fault, now_ns)


def _may_be_isolated(balancing: NumaBalancing, task: NumaTask, vma: Vma, pfn: int, pages: int) -> bool:
    """Whether migrate_misplaced_page would try to move the page at all."""
    if pfn in balancing.batched:
        return False
    frames = task.mm.process.frames
    if pages > 1 and frames.mapcount[pfn] > 1:
        return False
    if frames.kind[pfn] != FILE:
        return True
    return not (frames.dirty[pfn] or (frames.mapcount[pfn] != 1 and vma.flags & vf.VM_EXEC))


@dataclass(frozen=True, slots=True)
class _Fault:
    """A hint fault that was served: the node on which the page is now, and the TNF_* flags."""

    nid: int
    pages: int
    local: bool
    migrated: bool
    failed: bool
    #: The page can be written to: who share it may become a group.
    grouping: bool
    #: Other address spaces map it, too.
    shared: bool


def task_numa_fault(balancing: NumaBalancing, task: NumaTask, last: int, fault: _Fault, now_ns: int) -> None:
    """Count a fault for its task; now and then the task is placed anew. `last` used the page before."""
    here = balancing.cpu_node[task.cpu]
    if task.faults is None:
        task.faults = np.zeros((4, max(balancing.nids) + 1, 2), np.int64)
    kind = PRIVATE
    if last != UNSET and not cpupid_match_pid(last, task.pid):
        kind = SHARED
        if fault.grouping and not task_numa_group(balancing, task, last, fault.shared):
            kind = PRIVATE
    local, group = fault.local, task.group
    if kind == SHARED and not local and group is not None and group.active_nodes > 1:
        local = group.is_active(here) and group.is_active(fault.nid)
    if now_ns // TICK_NSEC > task.migrate_retry:
        task_numa_placement(balancing, task, now_ns)
        numa_migrate_preferred(balancing, task, now_ns)
    if fault.migrated:
        task.pages_migrated += fault.pages
    if fault.failed:
        task.faults_locality[FAILED] += fault.pages
    task.faults[NUMA_MEMBUF, fault.nid, kind] += fault.pages
    task.faults[NUMA_CPUBUF, here, kind] += fault.pages
    task.faults_locality[LOCAL if local else REMOTE] += fault.pages


def task_numa_group(balancing: NumaBalancing, task: NumaTask, last: int, shared: bool) -> bool:
    """A page that another task used last: the two may become one group. False: it counts as private.

    The smaller group joins the larger one; of another process only where memory is shared, since pids of
    which only a part is known may be mistaken for each other.
    """
    assert task.faults is not None
    if task.group is None:
        task.group = NumaGroup(task.pid, task.faults, task.total_faults)
    other = balancing.running.get(cpupid_to_cpu(last))
    if other is None or not cpupid_match_pid(last, other.pid) or other.group in (None, task.group):
        return True
    assert other.group is not None
    if task.group.tasks > other.group.tasks:
        return True
    # of two groups of one size the one at the higher address stays; here the one with the higher pid
    if task.group.tasks == other.group.tasks and task.group.gid > other.group.gid:
        return True
    if other.mm is not task.mm and not shared:
        return False
    task.group.leave(task.faults, task.total_faults)
    task.group = other.group
    task.group.join(task.faults, task.total_faults)
    return True
