"""mprotect()."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Final

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.effects import Effect, Populate, Protect
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.mmap import PROT_EXEC, PROT_READ, PROT_WRITE, prot_flags
from numa_service.mm.mmap.rules import PAGE_MASK, PAGE_SHIFT, page_align
from numa_service.mm.mmap.vma import Vma
from numa_service.mm.mmap.vma_merge import as_is, modify

PROT_SEM: Final = 8
PROT_GROWSDOWN: Final = 0x01000000
PROT_GROWSUP: Final = 0x02000000


def mprotect(mm: MmStruct, start: int, length: int, prot: int, effects: list[Effect]) -> None:
    """Change the protection of a range. What is to be done is added to `effects`, also before an error."""
    grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP)
    prot &= ~(PROT_GROWSDOWN | PROT_GROWSUP)
    if grows == PROT_GROWSDOWN | PROT_GROWSUP:
        raise Errno(errno.EINVAL, "a mapping grows up or down, not both")
    if start & ~PAGE_MASK:
        raise Errno(errno.EINVAL, f"{start:#x} is not the address of a page")
    if not length:
        return
    end = start + page_align(length)
    if end >> 64 or end <= start:
        raise Errno(errno.ENOMEM, "the range ends behind the last address")
    if prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM):
        raise Errno(errno.EINVAL, "there are no such protections")
    vma = mm.tree.find(start)
    if vma is None:
        raise Errno(errno.ENOMEM, f"nothing is mapped at {start:#x}")
    if grows & PROT_GROWSDOWN:
        if vma.start >= end:
            raise Errno(errno.ENOMEM, f"nothing is mapped at {start:#x}")
        if not vma.flags & vf.VM_GROWSDOWN:
            raise Errno(errno.EINVAL, "the mapping does not grow downwards")
        start = vma.start
    elif vma.start > start:
        raise Errno(errno.ENOMEM, f"nothing is mapped at {start:#x}")
    elif grows & PROT_GROWSUP:
        raise Errno(errno.EINVAL, "no mapping of this architecture grows upwards")
    while True:
        flags = prot_flags(prot) | (vma.flags & ~vf.VM_ACCESS_FLAGS)
        if flags & ~(flags >> 4) & vf.VM_ACCESS_FLAGS:
            raise Errno(errno.EACCES, f"what is mapped at {start:#x} may not have this protection")
        part = min(vma.end, end)
        _fix_up(mm, vma, start, part, flags, effects)
        if part >= end:
            return
        start = part
        found = mm.tree.lookup(start)
        if found is None:
            raise Errno(errno.ENOMEM, f"nothing is mapped at {start:#x}")
        vma = found


def _fix_up(mm: MmStruct, vma: Vma, start: int, end: int, flags: int, effects: list[Effect]) -> None:
    """mprotect_fixup."""
    old = vma.flags
    if flags == old:
        return
    pages = (end - start) >> PAGE_SHIFT
    charged = 0
    if flags & vf.VM_WRITE:
        if not mm.may_expand(flags, pages) and mm.may_expand(old, pages):
            raise Errno(errno.ENOMEM, "more private data than RLIMIT_DATA allows")
        if not old & (vf.VM_ACCOUNT | vf.VM_WRITE | vf.VM_HUGETLB | vf.VM_SHARED | vf.VM_NORESERVE):
            mm.charge(pages)
            charged = pages
            flags |= vf.VM_ACCOUNT
    elif mm.rules.mprotect_uncharges and old & vf.VM_ACCOUNT and vma.is_anonymous and vma.anon_vma is None:
        flags &= ~vf.VM_ACCOUNT
    try:
        modify(mm, vma, start, end, replace(as_is(vma, start), flags=flags))
    except Errno:
        mm.committed.uncharge(charged)
        raise
    if old & vf.VM_ACCOUNT and not flags & vf.VM_ACCOUNT:
        mm.committed.uncharge(pages)
    mm.stat_account(old, -pages)
    mm.stat_account(flags, pages)
    effects.append(Protect(start, end))
    if (old & (vf.VM_WRITE | vf.VM_SHARED | vf.VM_LOCKED)) == vf.VM_LOCKED and flags & vf.VM_WRITE:
        effects.append(Populate(start, end))
