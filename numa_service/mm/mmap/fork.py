"""fork(): a child has a copy of an address space (``dup_mmap``)."""

from __future__ import annotations

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.anon_vma import anon_vma_fork
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.vma import Vma


def dup_mm(parent: MmStruct) -> MmStruct:
    """The address space of a child. ENOMEM if memory cannot be promised to it, and then nothing is changed.

    It has the parent's policies and names; locks are not inherited, nor what MADV_DONTFORK was said of.
    """
    child = MmStruct(parent.layout, parent.rules, parent.committed, parent.limits, legacy=parent.legacy)
    child.mmap_base = parent.mmap_base
    child.huge_pools = parent.huge_pools
    child.start_code, child.end_code = parent.start_code, parent.end_code
    child.start_data, child.end_data = parent.start_data, parent.end_data
    child.start_brk, child.brk, child.start_stack = parent.start_brk, parent.brk, parent.start_stack
    copied = [vma for vma in parent.tree if not vma.flags & vf.VM_DONTCOPY]
    promised = [vma.pages for vma in copied if vma.flags & vf.VM_ACCOUNT]
    for done, pages in enumerate(promised):
        try:
            parent.charge(pages)
        except BaseException:
            parent.committed.uncharge(sum(promised[:done]))
            raise
    for vma in copied:
        copy = vma.copy(vma.start, vma.end)
        copy.flags &= ~vf.VM_LOCKED_MASK
        # a child has no promise of huge pages (hugetlb_dup_vma_private)
        copy.resv, copy.resv_unmapped = None, False
        if not vma.flags & vf.VM_WIPEONFORK:
            anon_vma_fork(copy, vma)
        child.tree.insert(copy)
        child.stat_account(copy.flags, copy.pages)
    child.counters.hiwater_vm = child.counters.total_vm
    return child


def vma_needs_copy(vma: Vma) -> bool:
    """Whether fork() copies the page table entries of a VMA; those of others a child faults in by itself."""
    return vma.anon_vma is not None or bool(vma.flags & (vf.VM_PFNMAP | vf.VM_MIXEDMAP))
