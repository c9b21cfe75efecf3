"""A VMA: addresses of a process that are alike, and the file that it maps."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from numa_service.mm.mmap.frames import AddressSpace
from numa_service.mm.mmap.readahead import ReadaheadState
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.mm.mmap.vm_flags import VM_GROWSDOWN

#: What a mapping of shared anonymous memory is of (shmem_zero_setup).
DEV_ZERO: Final = "/dev/zero (deleted)"


@dataclass(eq=False, slots=True)
class File:
    """An open file (struct file): two are the same only if they are the same object, as for vma_merge."""

    path: str
    major: int
    minor: int
    inode: int
    readable: bool = True
    writable: bool = True
    #: Its pages are of shmem: tmpfs, or shared anonymous memory.
    shmem: bool = False
    #: Its file system looks for addresses by thp_get_unmapped_area.
    thp_aligned: bool = False
    #: VMAs that map it (i_mmap).
    mappings: int = 0
    #: Its pages in memory; files opened twice have the same ones.
    pages: AddressSpace | None = None
    #: It has no name any more, or never had one: it ends with its last mapping.
    unlinked: bool = False
    #: Length in pages, for readahead.
    size: int = 0
    readahead: ReadaheadState = field(default_factory=ReadaheadState)
    #: Of a file of huge pages what it has beside them (hugetlb.HugeFile, of which nothing is known here).
    huge: Any = None
    #: Pages that were promised for shared anonymous memory, until nothing maps it (shmem_acct_size).
    promised: int = 0
    #: It can be mapped (f_op->mmap): directories and most files of /proc cannot.
    mappable: bool = True


@dataclass(eq=False, slots=True)
class AnonVma:
    """Whose anonymous pages a VMA may have; counts as in struct anon_vma."""

    parent: AnonVma | None
    #: VMAs that are linked to it (anon_vma_chain), in the order in which they were.
    vmas: dict[Vma, None] = field(default_factory=dict)
    #: VMAs whose own anon_vma it is (num_active_vmas).
    active: int = 0
    #: anon_vmas made from it by fork, and itself if it has no parent (num_children).
    children: int = 0
    #: Its number in `Frames.mapping`, once a page has it.
    number: int = 0


@dataclass(slots=True)
class NumabState:
    """struct vma_numab_state: when NUMA balancing scans a VMA, and for whom. Times in jiffies."""

    next_scan: int
    #: When what is known of tasks grows old.
    pids_reset: int
    #: Scans of the address space (numa_scan_seq) when its own began, and when it was last scanned to its end.
    start_scan_seq: int
    prev_scan_seq: int
    #: A bit for each task that used it, lately and before (pids_active).
    pids: list[int] = field(default_factory=lambda: [0, 0])


@dataclass(eq=False, slots=True)
class Vma:
    """Addresses from `start` to `end` (exclusive), in bytes."""

    start: int
    end: int
    flags: int
    #: Page of the file, or of private anonymous memory the page of the address when it was mapped.
    pgoff: int
    file: File | None = None
    #: Equal policies may be merged; None: that of the task.
    policy: Hashable = None
    #: The name that prctl(PR_SET_VMA_ANON_NAME) gave it.
    anon_name: str | None = None
    #: What the kernel calls one of its own: "[vdso]". Such a VMA is never merged.
    special: str | None = None
    anon_vma: AnonVma | None = None
    #: All anon_vmas whose pages may be here, its own among them (anon_vma_chain).
    chain: tuple[AnonVma, ...] = field(default=())
    #: The VMAs of the address space that it is in, among which it is.
    space: object = None
    #: Of a private one of huge pages, in the process that made it: which promises are used up
    #: (HPAGE_RESV_OWNER; a hugetlb.ResvMap, which parts of it share).
    resv: Any = None
    #: A page was taken from it for want of huge pages: a fault ends badly (HPAGE_RESV_UNMAPPED).
    resv_unmapped: bool = False
    #: What NUMA balancing knows of it, in kernels that keep that; a part that is cut off begins anew.
    numab: NumabState | None = None

    @property
    def pages(self) -> int:
        """Length in pages."""
        return (self.end - self.start) >> PAGE_SHIFT

    @property
    def is_anonymous(self) -> bool:
        """vma_is_anonymous: it maps no file, not even one of shared anonymous memory."""
        return self.file is None and self.special is None

    def copy(self, start: int, end: int) -> Vma:
        """A VMA like this one for addresses within it, without anon_vma."""
        moved = (start - self.start) >> PAGE_SHIFT
        return replace(
            self,
            start=start,
            end=end,
            pgoff=self.pgoff + moved,
            anon_vma=None,
            chain=(),
            space=None,
            numab=None,
        )

    def start_gap(self, stack_guard_gap: int) -> int:
        """vm_start_gap: the lowest address that nothing else may come near to."""
        return max(self.start - stack_guard_gap, 0) if self.flags & VM_GROWSDOWN else self.start
