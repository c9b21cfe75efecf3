"""Entries get a hint, so that the next access faults (``change_prot_numa``, ``change_pte_range``)."""

from __future__ import annotations

import numpy as np

from numa_service.mm.balancing.parameters import NUMA_BALANCING_NORMAL
from numa_service.mm.balancing.task import NumaBalancing, NumaMm
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE
from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.entries import NUMA, PRESENT, ZERO, Entries, pfns_of
from numa_service.mm.mmap.frames import ANON, FILE, Bools, Pfns
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.mm.mmap.vma import Vma


def change_prot_numa(balancing: NumaBalancing, mm: NumaMm, vma: Vma, start: int, end: int, nid: int) -> int:
    """Give hints to the entries of a range of one VMA; return how many pages got one.

    `nid`: the node on which a process with one thread runs, whose pages need none; else NUMA_NO_NODE.
    """
    process, updates = mm.process, 0
    size = 1 << process.shift
    process.split_ends(start, end)
    for address, part in process.chunks(start, end):
        at = address
        while at < address + (len(part) << PAGE_SHIFT):
            # a page of PTEs at a time: it may be that of a huge page
            upto = min((at // size + 1) * size, address + (len(part) << PAGE_SHIFT))
            entries = part[(at - address) >> PAGE_SHIFT : (upto - address) >> PAGE_SHIFT]
            if process.tables.is_huge(at):
                updates += _huge(balancing, entries)
            else:
                updates += _small(balancing, mm, vma, entries, nid)
            at = upto
    balancing.counters.numa_pte_updates += updates
    return updates


def _huge(balancing: NumaBalancing, entries: Entries) -> int:
    """change_huge_pmd: also of the own node."""
    wanted = entries[0] & (PRESENT | ZERO | NUMA) == PRESENT
    if not wanted or not balancing.parameters.mode & NUMA_BALANCING_NORMAL:
        return 0
    entries |= NUMA
    balancing.counters.numa_huge_pte_updates += 1
    return len(entries)


def _small(balancing: NumaBalancing, mm: NumaMm, vma: Vma, entries: Entries, nid: int) -> int:
    frames = mm.process.frames
    where = (entries & (PRESENT | ZERO | NUMA)) == PRESENT
    if not where.any() or not balancing.parameters.mode & NUMA_BALANCING_NORMAL:
        return 0
    pfns = pfns_of(entries)
    # dirty pages of files cannot be moved without waiting
    where &= ~((frames.kind[pfns] == FILE) & frames.dirty[pfns])
    if vma.flags & (vf.VM_SHARED | vf.VM_MAYWRITE) == vf.VM_MAYWRITE:
        where &= _unused_by_others(balancing, mm, pfns)
    if nid != NUMA_NO_NODE:
        where &= frames.source.nids_of(pfns) != nid
    entries[where] |= NUMA
    return int(where.sum())


def _unused_by_others(balancing: NumaBalancing, mm: NumaMm, pfns: Pfns) -> Bools:
    """Which private pages are this mapping's alone; page_count() in kernels that look at it."""
    frames = mm.process.frames
    alone = frames.mapcount[pfns] == 1
    if balancing.rules.skips_used:
        alone &= frames.kind[pfns] == ANON
        if balancing.batched:
            alone &= ~np.isin(pfns, np.fromiter(balancing.batched, np.int64))
    return alone
