"""Mappings of huge pages: their files, what is promised to them, and from where to where they may reach.

(``fs/hugetlbfs/inode.c``, ``mm/hugetlb.c``.) The pages come from pools, of which only :class:`HugePool` is
known here; faults are in `hugetlb_fault.py`. One difference: what mmap() with MAP_FIXED replaces goes back to
its pool only when its effects are carried out, behind the promise to the new mapping.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.frames import HUGETLB, AddressSpace
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.mm.mmap.vma import File, Vma
from numa_service.mm.mmap.vma_tree import VmaTree

#: What a mapping of anonymous huge pages is of (HUGETLB_ANON_FILE).
ANON_HUGEPAGE: Final = "/anon_hugepage (deleted)"
MAP_HUGETLB: Final = 0x40000
#: Where flags say the size of huge pages, as its logarithm; 0 is the default size.
MAP_HUGE_SHIFT: Final = 26
MAP_HUGE_2MB: Final = 21 << MAP_HUGE_SHIFT
MAP_HUGE_1GB: Final = 30 << MAP_HUGE_SHIFT
_MAP_HUGE_MASK: Final = 0x3F
_MAX_FILE_BYTES: Final = (1 << 63) - 1


class HugePool(Protocol):
    """The huge pages of one size of all nodes (struct hstate)."""

    #: Bytes of a huge page, as a logarithm.
    shift: int

    @property
    def surplus(self) -> int:
        """Pages beyond those that were asked for."""
        ...

    def acct_memory(self, delta: int) -> None:
        """hugetlb_acct_memory: promise pages, or take promises back. ENOMEM if there are not so many."""
        ...

    def alloc(self, nid: int, reserved: bool) -> int:
        """A page, near a node if there is one; 0 if there is none.

        `reserved`: one of those that were promised, which are one less then. Else it may be a surplus page.
        """
        ...

    def free(self, pfn: int, restore: bool) -> None:
        """A page goes back; `restore`: it is promised again."""
        ...

    def nid_of(self, pfn: int) -> int:
        """The node that a page is of."""
        ...


@dataclass(eq=False, slots=True)
class ResvMap:
    """Reservations of a private mapping, for the process that made it: pages whose promise is used up."""

    consumed: set[int] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class HugeFile:
    """A hugetlbfs inode without its pages, which are in `File.pages`, numbered in huge pages."""

    pool: HugePool
    #: Length in huge pages (i_size).
    size: int = 0
    #: Numbers of pages that are promised to shared mappings, or were (the inode's resv_map).
    reserved: set[int] = field(default_factory=set)
    #: Pages whose promise comes back when they are free (HPageRestoreReserve).
    restored: set[int] = field(default_factory=set)


def pool_of(pools: Mapping[int, HugePool], flags: int) -> HugePool:
    """The pool of the size that flags of mmap() name (hstate_sizelog); the first one is the default."""
    log = flags >> MAP_HUGE_SHIFT & _MAP_HUGE_MASK
    for shift, pool in pools.items():
        if log in (0, shift):
            return pool
    raise Errno(errno.EINVAL, f"the kernel has no huge pages of 2^{log} bytes")


def huge_file(file: File) -> HugeFile | None:
    """Return the hugetlbfs part of a file; None for a file of small pages."""
    return file.huge if isinstance(file.huge, HugeFile) else None


def of_vma(vma: Vma) -> HugeFile:
    """Return the hugetlbfs part of the file that a VMA of huge pages maps."""
    assert vma.file is not None
    assert isinstance(vma.file.huge, HugeFile)
    return vma.file.huge


def huge_size(vma: Vma) -> int:
    """Bytes of the smallest part of a VMA: of a huge page, or of a page."""
    return 1 << (of_vma(vma).pool.shift if vma.flags & vf.VM_HUGETLB else PAGE_SHIFT)


def make_huge(file: File, pool: HugePool, *, size: int = 0, reserve: bool = False) -> None:
    """Make a new file one of huge pages, `size` bytes long (hugetlb_file_setup).

    `reserve`: all its pages are promised, as to shared memory of shmget(). ENOMEM if they cannot be.
    """
    pages = -(-size >> pool.shift)
    if reserve:
        pool.acct_memory(pages)
    file.huge = HugeFile(pool, pages, set(range(pages)) if reserve else set())
    file.pages = AddressSpace(HUGETLB)


def align(size: int, shift: int) -> int:
    """ALIGN of an unsigned long: `size` in bytes, rounded up to whole huge pages."""
    return -(-size >> shift) << shift & ((1 << 64) - 1)


def hugetlbfs_file_mmap(huge: HugeFile, vma: Vma) -> None:
    """A new VMA is one of huge pages, and has its promises.

    EINVAL for an offset within a huge page; ENOMEM if there are not so many huge pages.
    """
    below = (1 << (huge.pool.shift - PAGE_SHIFT)) - 1
    if vma.pgoff & below:
        raise Errno(errno.EINVAL, "the offset is not that of a huge page")
    if (vma.pgoff + vma.pages) << PAGE_SHIFT > _MAX_FILE_BYTES:
        raise Errno(errno.EINVAL, "the mapping ends behind the last page of a file")
    _reserve_pages(huge, vma)
    if vma.flags & vf.VM_WRITE:
        huge.size = max(huge.size, (vma.pgoff + vma.pages) >> (huge.pool.shift - PAGE_SHIFT))


def _reserve_pages(huge: HugeFile, vma: Vma) -> None:
    """hugetlb_reserve_pages."""
    if vma.flags & vf.VM_NORESERVE:
        return
    first, end = huge_number(vma, vma.start), huge_number(vma, vma.end)
    if not vma.flags & vf.VM_MAYSHARE:
        huge.pool.acct_memory(end - first)
        vma.resv = ResvMap()
        return
    # promised first: a range of more pages than there are never becomes a set
    there = sum(first <= number < end for number in huge.reserved)
    huge.pool.acct_memory(end - first - there)
    huge.reserved.update(range(first, end))


def huge_number(vma: Vma, address: int) -> int:
    """vma_hugecache_offset: the number of a huge page in its file."""
    shift = of_vma(vma).pool.shift
    return (vma.pgoff >> (shift - PAGE_SHIFT)) + ((address - vma.start) >> shift)


def close(vma: Vma) -> None:
    """hugetlb_vm_op_close: a VMA that is gone gives back the promises that it has not used up."""
    if vma.resv is None:
        return
    first, end = huge_number(vma, vma.start), huge_number(vma, vma.end)
    used = sum(first <= number < end for number in vma.resv.consumed)
    if end - first > used:
        of_vma(vma).pool.acct_memory(used - (end - first))


def has_reserves(vma: Vma, number: int) -> bool:
    """Whether a page is still promised to a VMA (vma_needs_reservation, vma_has_reserves)."""
    if vma.flags & vf.VM_MAYSHARE:
        return number in of_vma(vma).reserved
    return vma.resv is not None and number not in vma.resv.consumed


def unreserve(huge: HugeFile, first: int, freed: int) -> None:
    """hugetlb_unreserve_pages: promises of a file's end go, but for those of pages that were `freed`."""
    gone = {number for number in huge.reserved if number >= first}
    huge.reserved -= gone
    if len(gone) > freed:
        huge.pool.acct_memory(freed - len(gone))


def hugetlb_usage(tree: VmaTree) -> int:
    """Pages of 4 KiB in all huge pages that are mapped (mm->hugetlb_usage)."""
    pages = 0
    for vma in tree:
        if tree.huge_entries and vma.flags & vf.VM_HUGETLB:
            pages += sum(vma.start <= at < vma.end for at in tree.huge_entries) * huge_size(vma)
    return pages >> PAGE_SHIFT
