"""mmap()."""

from __future__ import annotations

import errno
from typing import Final

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.effects import Effect, Populate
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.hugetlb import (
    MAP_HUGETLB,
    align,
    huge_file,
    hugetlbfs_file_mmap,
    make_huge,
    pool_of,
)
from numa_service.mm.mmap.limits import OVERCOMMIT_NEVER
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.munmap import accounted, gather, unmap_range
from numa_service.mm.mmap.rules import PAGE_MASK, PAGE_SHIFT, page_align
from numa_service.mm.mmap.unmapped_area import get_unmapped_area
from numa_service.mm.mmap.vma import File, Vma
from numa_service.mm.mmap.vma_merge import Wanted, merge_new

PROT_READ: Final = 1
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_SHARED_VALIDATE: Final = 0x03
MAP_TYPE: Final = 0x0F
MAP_DROPPABLE: Final = 0x08
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_GROWSDOWN: Final = 0x0100
MAP_LOCKED: Final = 0x2000
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
MAP_NONBLOCK: Final = 0x10000
MAP_STACK: Final = 0x20000
MAP_SYNC: Final = 0x80000
MAP_FIXED_NOREPLACE: Final = 0x100000
#: Flags that MAP_SHARED_VALIDATE takes (LEGACY_MAP_MASK: those that old kernels knew).
_LEGACY_MAP_MASK: Final = 0x7C07F973

#: MAX_LFS_FILESIZE: no byte of a file is behind it.
_MAX_FILE_BYTES: Final = (1 << 63) - 1


def mmap(
    mm: MmStruct, hint: int, length: int, prot: int, flags: int, file: File | None = None, offset: int = 0
) -> tuple[int, list[Effect]]:
    """Map `length` bytes, of a file from byte `offset` on, or with MAP_ANONYMOUS of none.

    `file` None without MAP_ANONYMOUS is a bad file descriptor. Of shared anonymous memory `file` is the file
    that is to be made for it (a File with the path DEV_ZERO), and so it is of anonymous huge pages
    (MAP_HUGETLB: with the path ANON_HUGEPAGE). Return the address, and what is to be done.
    """
    if offset & ~PAGE_MASK:
        raise Errno(errno.EINVAL, f"offset {offset} is not that of a page")
    anonymous = bool(flags & MAP_ANONYMOUS)
    if not anonymous and file is None:
        raise Errno(errno.EBADF, "no such open file")
    if flags & MAP_HUGETLB and anonymous:
        # a file like any other
        file, anonymous = _anon_huge(mm, file, flags, length), False
    huge = huge_file(file) if file is not None and not anonymous else None
    if huge is not None:
        length = align(length, huge.pool.shift)
    elif flags & MAP_HUGETLB:
        raise Errno(errno.EINVAL, "the file has no huge pages")
    if not length:
        raise Errno(errno.EINVAL, "the length is 0")
    noreplace = bool(flags & MAP_FIXED_NOREPLACE) and mm.rules.fixed_noreplace
    fixed = bool(flags & MAP_FIXED) or noreplace
    pgoff = offset >> PAGE_SHIFT
    if not fixed:
        hint = _round_hint(mm, hint)
    length = page_align(length)
    if not length or length >> 64:
        raise Errno(errno.ENOMEM, "the length is no number of pages")
    if mm.map_count > mm.limits.max_map_count:
        raise Errno(errno.ENOMEM, "there are more than max_map_count VMAs")
    shared = flags & MAP_TYPE in (MAP_SHARED, MAP_SHARED_VALIDATE)
    backing = None if anonymous else file
    address = get_unmapped_area(mm, backing, hint, length, pgoff, fixed=fixed, shared=shared)
    if noreplace and mm.tree.intersecting(address, address + length):
        raise Errno(errno.EEXIST, f"something is mapped from {address:#x} on")
    vm_flags = _vm_flags(mm, prot, flags)
    if flags & MAP_LOCKED and not mm.limits.can_do_mlock():
        raise Errno(errno.EPERM, "the task may not lock memory")
    mm.check_mlock(vm_flags, length)
    if backing is not None:
        if length > _MAX_FILE_BYTES or offset > _MAX_FILE_BYTES - length:
            raise Errno(errno.EOVERFLOW, "the mapping ends behind the last page of a file")
        vm_flags = _of_file(mm, flags, vm_flags, backing)
    else:
        vm_flags = _anonymous(mm, flags, vm_flags)
    if anonymous:
        pgoff = 0 if vm_flags & vf.VM_SHARED else address >> PAGE_SHIFT
    if flags & MAP_NORESERVE and (mm.committed.mode != OVERCOMMIT_NEVER or huge is not None):
        vm_flags |= vf.VM_NORESERVE
    mapped = file if backing is not None or vm_flags & vf.VM_SHARED else None
    effects: list[Effect] = []
    try:
        map_region(mm, address, length, vm_flags, pgoff, mapped, effects, shmem=anonymous)
    except Errno as error:
        error.effects = effects
        raise
    locked = bool(vm_flags & vf.VM_LOCKED)
    if locked or flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE:
        effects.append(Populate(address, address + length))
    return address, effects


def map_region(
    mm: MmStruct,
    address: int,
    length: int,
    flags: int,
    pgoff: int,
    file: File | None,
    effects: list[Effect],
    *,
    shmem: bool = False,
) -> None:
    """mmap_region: a VMA at an address that was chosen, in place of what is there. `shmem`: of a new file.

    What is to be done is added to `effects`, also before an error.
    """
    end, pages = address + length, length >> PAGE_SHIFT
    there = sum(
        (min(vma.end, end) - max(vma.start, address)) >> PAGE_SHIFT
        for vma in mm.tree.intersecting(address, end)
    )
    if mm.rules.unmaps_before_charge:
        mm.check_expansion(flags, pages - there)
    else:
        # vms_gather_munmap_vmas: what is cut stays cut, whatever follows
        gather(mm, address, end)
        mm.check_expansion(flags, pages - there)
    huge = huge_file(file) if file is not None else None
    promised = huge is None and vf.accountable_mapping(flags)
    returned = 0
    if mm.rules.unmaps_before_charge:
        effects += unmap_range(mm, address, end)
    else:
        returned = accounted(mm, address, end)
    of_shmem = shmem and flags & vf.VM_SHARED and not flags & vf.VM_NORESERVE
    if promised:
        mm.charge(pages - returned)
        mm.committed.pages += returned
        flags |= vf.VM_ACCOUNT
    if of_shmem and file is not None:
        mm.charge(pages)
        file.promised = pages
    if not mm.rules.unmaps_before_charge:
        effects += unmap_range(mm, address, end)
    if huge is not None:
        flags |= vf.VM_HUGETLB | vf.VM_DONTEXPAND
    vma = None if of_shmem else merge_new(mm, address, end, Wanted(flags, pgoff, file))
    if vma is None:
        vma = Vma(address, end, flags, pgoff, file)
        if huge is not None:
            hugetlbfs_file_mmap(huge, vma)
        mm.tree.insert(vma)
    mm.stat_account(flags, pages)
    if flags & vf.VM_LOCKED:
        if flags & vf.VM_SPECIAL:
            vma.flags &= ~vf.VM_LOCKED_MASK
        else:
            mm.counters.locked_vm += pages
    vma.flags |= vf.VM_SOFTDIRTY


def _anon_huge(mm: MmStruct, file: File | None, flags: int, length: int) -> File:
    """The new file of anonymous huge pages; nothing is promised to it yet."""
    pool = pool_of(mm.huge_pools, flags)
    assert file is not None
    make_huge(file, pool, size=length)
    return file


def prot_flags(prot: int) -> int:
    """calc_vm_prot_bits."""
    return prot & (PROT_READ | PROT_WRITE | PROT_EXEC)


def _round_hint(mm: MmStruct, hint: int) -> int:
    """round_hint_to_min."""
    hint &= PAGE_MASK
    return page_align(mm.layout.mmap_min_addr) if 0 < hint < mm.layout.mmap_min_addr else hint


def _vm_flags(mm: MmStruct, prot: int, flags: int) -> int:
    found = prot_flags(prot) | mm.def_flags | vf.VM_MAY_ACCESS
    if flags & MAP_LOCKED:
        found |= vf.VM_LOCKED
    if flags & MAP_GROWSDOWN:
        found |= vf.VM_GROWSDOWN
    if flags & MAP_STACK and mm.rules.stack_is_not_huge:
        found |= vf.VM_NOHUGEPAGE
    return found


def _anonymous(mm: MmStruct, flags: int, vm_flags: int) -> int:
    if flags & MAP_TYPE == MAP_SHARED:
        if vm_flags & vf.VM_GROWSDOWN:
            raise Errno(errno.EINVAL, "shared memory does not grow")
        return vm_flags | vf.VM_SHARED | vf.VM_MAYSHARE
    if flags & MAP_TYPE == MAP_PRIVATE:
        return vm_flags
    if flags & MAP_TYPE == MAP_DROPPABLE and mm.rules.droppable:
        if flags & MAP_LOCKED or vm_flags & vf.VM_GROWSDOWN:
            raise Errno(errno.EINVAL, "what can be dropped is neither locked nor a stack")
        return vm_flags | vf.VM_DROPPABLE | vf.VM_NORESERVE | vf.VM_WIPEONFORK | vf.VM_DONTDUMP
    raise Errno(errno.EINVAL, "a mapping is either shared or private")


def _of_file(mm: MmStruct, flags: int, vm_flags: int, file: File) -> int:
    kind = flags & MAP_TYPE
    if kind == MAP_SHARED_VALIDATE and mm.rules.fixed_noreplace:
        if flags & ~_LEGACY_MAP_MASK:
            raise Errno(errno.EOPNOTSUPP, "MAP_SHARED_VALIDATE knows no such flags of this file")
        kind = MAP_SHARED
    if kind == MAP_SHARED:
        if vm_flags & vf.VM_WRITE and not file.writable:
            raise Errno(errno.EACCES, f"{file.path} is not open for writing")
        vm_flags |= vf.VM_SHARED | vf.VM_MAYSHARE
        if not file.writable:
            vm_flags &= ~(vf.VM_MAYWRITE | vf.VM_SHARED)
    elif kind != MAP_PRIVATE:
        raise Errno(errno.EINVAL, "a mapping is either shared or private")
    if not file.readable:
        raise Errno(errno.EACCES, f"{file.path} is not open for reading")
    if not file.mappable:
        raise Errno(errno.ENODEV, f"{file.path} cannot be mapped")
    if vm_flags & vf.VM_GROWSDOWN:
        raise Errno(errno.EINVAL, "a mapping of a file does not grow")
    return vm_flags
