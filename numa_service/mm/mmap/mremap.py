"""mremap()."""

from __future__ import annotations

import errno
from typing import Final

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.anon_vma import anon_vma_clone, take_over, unlink_anon_vmas
from numa_service.mm.mmap.effects import Effect, Move, Populate
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.hugetlb import huge_size
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.munmap import munmap, unmap_range
from numa_service.mm.mmap.rules import PAGE_MASK, PAGE_SHIFT, page_align
from numa_service.mm.mmap.unmapped_area import get_unmapped_area
from numa_service.mm.mmap.vma import Vma
from numa_service.mm.mmap.vma_merge import Wanted, can_merge_before, merge_new

MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
MREMAP_DONTUNMAP: Final = 4


def mremap(
    mm: MmStruct, address: int, old_length: int, new_length: int, flags: int, new_address: int = 0
) -> tuple[int, list[Effect]]:
    """Make a mapping longer or shorter, or move it. Return its address."""
    known = MREMAP_MAYMOVE | MREMAP_FIXED
    if mm.rules.dontunmap_files is not None:
        known |= MREMAP_DONTUNMAP
    if flags & ~known:
        raise Errno(errno.EINVAL, "there are no such flags")
    if flags & MREMAP_FIXED and not flags & MREMAP_MAYMOVE:
        raise Errno(errno.EINVAL, "MREMAP_FIXED wants MREMAP_MAYMOVE")
    if flags & MREMAP_DONTUNMAP and (not flags & MREMAP_MAYMOVE or old_length != new_length):
        raise Errno(errno.EINVAL, "MREMAP_DONTUNMAP wants MREMAP_MAYMOVE and the same length")
    if address & ~PAGE_MASK:
        raise Errno(errno.EINVAL, f"{address:#x} is not the address of a page")
    old, new = page_align(old_length), page_align(new_length)
    if not new or new >> 64:
        raise Errno(errno.EINVAL, "the new length is 0")
    vma = mm.tree.lookup(address)
    if vma is None:
        raise Errno(errno.EFAULT, f"nothing is mapped at {address:#x}")
    if vma.flags & vf.VM_HUGETLB and mm.rules.moves_huge:
        old, new = _align_huge(vma, address, old, new, new_address)
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        return _move_to(mm, address, old, new, flags, new_address)
    if old >= new:
        return address, munmap(mm, address + new, old - new) if old > new else []
    vma = _to_resize(mm, address, old, new, flags)
    pages = (new - old) >> PAGE_SHIFT
    if old == vma.end - address and _expandable(mm, vma, new - old):
        if vma.flags & vf.VM_ACCOUNT:
            mm.charge(pages)
        _expand(mm, vma, pages)
        mm.stat_account(vma.flags, pages)
        effects: list[Effect] = []
        if vma.flags & vf.VM_LOCKED:
            mm.counters.locked_vm += pages
            effects.append(Populate(address + old, address + new))
        return address, effects
    if not flags & MREMAP_MAYMOVE:
        raise Errno(errno.ENOMEM, "there is no room behind the mapping, and it may not move")
    shared = bool(vma.flags & vf.VM_MAYSHARE)
    moved = vma.pgoff + ((address - vma.start) >> PAGE_SHIFT)
    target = get_unmapped_area(mm, vma.file, 0, new, moved, fixed=False, shared=shared)
    return target, _move(mm, vma, address, old, new, target, flags)


def _align_huge(vma: Vma, address: int, old: int, new: int, new_address: int) -> tuple[int, int]:
    """Lengths of huge pages; EINVAL for addresses within one, and for a mapping that is to grow."""
    size = huge_size(vma)
    old, new = -(-old // size) * size, -(-new // size) * size
    if address % size or new_address % size:
        raise Errno(errno.EINVAL, "a mapping of huge pages begins with one")
    if new > old:
        raise Errno(errno.EINVAL, "a mapping of huge pages does not grow")
    return old, new


def _move_to(
    mm: MmStruct, address: int, old: int, new: int, flags: int, target: int
) -> tuple[int, list[Effect]]:
    """mremap_to."""
    if target & ~PAGE_MASK:
        raise Errno(errno.EINVAL, f"{target:#x} is not the address of a page")
    if new > mm.layout.task_size or target > mm.layout.task_size - new:
        raise Errno(errno.EINVAL, f"{target:#x} and {new} bytes are beyond the addresses of a process")
    if address + old > target and target + new > address:
        raise Errno(errno.EINVAL, "the old and the new place overlap")
    if mm.map_count + 2 >= mm.limits.max_map_count - 3:
        raise Errno(errno.ENOMEM, "there are nearly max_map_count VMAs")
    effects: list[Effect] = []
    if flags & MREMAP_FIXED:
        effects += munmap(mm, target, new)
    if old > new:
        effects += munmap(mm, address + new, old - new)
        old = new
    vma = _to_resize(mm, address, old, new, flags)
    if flags & MREMAP_DONTUNMAP and not mm.may_expand(vma.flags, old >> PAGE_SHIFT):
        raise Errno(errno.ENOMEM, "more would be mapped than the limits allow")
    shared = bool(vma.flags & vf.VM_MAYSHARE)
    pgoff = vma.pgoff + ((address - vma.start) >> PAGE_SHIFT)
    fixed = bool(flags & MREMAP_FIXED)
    target = get_unmapped_area(mm, vma.file, target, new, pgoff, fixed=fixed, shared=shared)
    return target, effects + _move(mm, vma, address, old, new, target, flags)


def _to_resize(mm: MmStruct, address: int, old: int, new: int, flags: int) -> Vma:
    """vma_to_resize: the VMA, if its mapping from `address` on may become `new` bytes long."""
    vma = mm.tree.lookup(address)
    if vma is None:
        raise Errno(errno.EFAULT, f"nothing is mapped at {address:#x}")
    if not old and not vma.flags & (vf.VM_SHARED | vf.VM_MAYSHARE):
        raise Errno(errno.EINVAL, "only of shared memory a second mapping can be made")
    if vma.flags & vf.VM_HUGETLB and not mm.rules.moves_huge:
        raise Errno(errno.EINVAL, "a mapping of huge pages does not move")
    if flags & MREMAP_DONTUNMAP:
        if vma.flags & (vf.VM_DONTEXPAND | vf.VM_PFNMAP):
            raise Errno(errno.EINVAL, "the mapping is the kernel's own")
        if not mm.rules.dontunmap_files and (not vma.is_anonymous or vma.flags & vf.VM_SHARED):
            raise Errno(errno.EINVAL, "only private anonymous memory can be left mapped")
    if old > vma.end - address:
        raise Errno(errno.EFAULT, "the range is of more than one VMA")
    if new == old:
        return vma
    if vma.flags & (vf.VM_DONTEXPAND | vf.VM_PFNMAP):
        raise Errno(errno.EFAULT, "the mapping is the kernel's own")
    mm.check_mlock(vma.flags, new - old)
    mm.check_expansion(vma.flags, (new - old) >> PAGE_SHIFT)
    return vma


def _expandable(mm: MmStruct, vma: Vma, delta: int) -> bool:
    """vma_expandable: whether the VMA may grow where it is."""
    end = vma.end + delta
    return end <= mm.layout.task_size and not mm.tree.intersecting(vma.end, end)


def _expand(mm: MmStruct, vma: Vma, pages: int) -> None:
    """The VMA grows over free addresses, and may become one with the VMA behind them."""
    end = vma.end + (pages << PAGE_SHIFT)
    _, following = mm.tree.neighbours(vma)
    mm.tree.resize(vma, vma.start, end)
    if not mm.rules.mremap_merges_next or following is None or following.start != end:
        return
    if vma.flags & vf.VM_SPECIAL:
        return
    grown = Wanted(vma.flags, vma.pgoff + vma.pages - pages, vma.file, vma.policy, vma.anon_name, source=vma)
    agree = vma.anon_vma is None or following.anon_vma is None or vma.anon_vma is following.anon_vma
    if agree and can_merge_before(mm, following, grown, pages):
        take_over(vma, following)
        mm.tree.remove(following)
        mm.tree.resize(vma, vma.start, following.end)
        unlink_anon_vmas(following)


def _move(mm: MmStruct, vma: Vma, address: int, old: int, new: int, target: int, flags: int) -> list[Effect]:
    """move_vma: a copy of the VMA at another address gets its pages, and the old place is unmapped."""
    if mm.map_count >= mm.limits.max_map_count - 3:
        raise Errno(errno.ENOMEM, "there are nearly max_map_count VMAs")
    vm_flags = vma.flags
    if vm_flags & vf.VM_ACCOUNT:
        mm.charge(new >> PAGE_SHIFT)
    # a private mapping without pages is as if mapped there
    fresh = vma.is_anonymous and vma.anon_vma is None
    pgoff = target >> PAGE_SHIFT if fresh else vma.pgoff + ((address - vma.start) >> PAGE_SHIFT)
    wanted = Wanted(vm_flags, pgoff, vma.file, vma.policy, vma.anon_name, source=vma)
    if merge_new(mm, target, target + new, wanted) is None:
        copy = vma.copy(vma.start, vma.end)
        copy.start, copy.end, copy.pgoff = target, target + new, pgoff
        copy.anon_vma = vma.anon_vma
        anon_vma_clone(copy, vma)
        mm.tree.insert(copy)
    mm.stat_account(vm_flags, new >> PAGE_SHIFT)
    effects: list[Effect] = [Move(address, target, old)] if old else []
    if vm_flags & vf.VM_LOCKED:
        mm.counters.locked_vm += new >> PAGE_SHIFT
        effects.append(Populate(target + old, target + new))
    # its peak counts the mapping once
    peak = max(mm.counters.hiwater_vm, mm.counters.total_vm - (new >> PAGE_SHIFT))
    if flags & MREMAP_DONTUNMAP:
        _leave(mm, vma, address, old)
    elif old:
        # clear_vma_resv_huge_pages: promises have gone with the copy
        vma.resv, vma.resv_unmapped = None, False
        effects += unmap_range(mm, address, address + old)
    mm.counters.hiwater_vm = peak
    return effects


def _leave(mm: MmStruct, vma: Vma, address: int, old: int) -> None:
    """The old VMA stays, empty and unlocked."""
    if vma.flags & vf.VM_LOCKED:
        mm.counters.locked_vm -= vma.pages
        vma.flags &= ~vf.VM_LOCKED_MASK
    if vma.start == address and vma.end == address + old:
        unlink_anon_vmas(vma)
