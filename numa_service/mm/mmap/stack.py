"""A stack grows when something below it is touched (``expand_downwards``)."""

from __future__ import annotations

import errno

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.anon_vma import anon_vma_prepare
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.rules import PAGE_MASK, PAGE_SHIFT
from numa_service.mm.mmap.vma import Vma


def expand_stack(mm: MmStruct, address: int) -> Vma:
    """Let the stack above an address grow down to its page, and no further; return it.

    The errors are EFAULT (there is no stack), EPERM, and ENOMEM (the guard gap, or a limit). A fault ends in
    a signal with any of them.
    """
    address &= PAGE_MASK
    vma = mm.tree.find(address)
    if vma is not None and vma.start <= address:
        return vma
    if vma is None or not vma.flags & vf.VM_GROWSDOWN:
        raise Errno(errno.EFAULT, f"there is no stack above {address:#x}")
    if address < mm.layout.mmap_min_addr:
        raise Errno(errno.EPERM, f"{address:#x} is below mmap_min_addr")
    prev, _ = mm.tree.neighbours(vma)
    near = prev is not None and address - prev.end < mm.layout.stack_guard_gap
    if prev is not None and near and prev.flags & vf.VM_ACCESS_FLAGS and not prev.flags & vf.VM_GROWSDOWN:
        raise Errno(errno.ENOMEM, "a mapping is nearer to the stack than the guard gap")
    anon_vma_prepare(mm.tree, vma)
    grow = (vma.start - address) >> PAGE_SHIFT
    if grow > vma.pgoff:
        raise Errno(errno.ENOMEM, "the stack has no more page numbers")
    mm.check_expansion(vma.flags, grow)
    if vma.end - address > mm.limits.stack:
        raise Errno(errno.ENOMEM, "the stack is as large as RLIMIT_STACK")
    locked = mm.counters.locked_vm + grow if vma.flags & vf.VM_LOCKED else 0
    if locked > mm.limits.memlock >> PAGE_SHIFT and not mm.limits.cap_ipc_lock:
        raise Errno(errno.ENOMEM, "more would be locked than RLIMIT_MEMLOCK allows")
    mm.charge(grow)
    if vma.flags & vf.VM_LOCKED:
        mm.counters.locked_vm += grow
    mm.stat_account(vma.flags, grow)
    vma.pgoff -= grow
    mm.tree.resize(vma, address, vma.end)
    return vma
