"""Pages that processes map: how often, and whose they are (what faults look at of struct page)."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from numa_service.mm.mmap.thp import Thp

Pfns = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Nids = npt.NDArray[np.int16]

#: What a page is (MM_FILEPAGES, MM_ANONPAGES and MM_SHMEMPAGES of a resident set).
FILE, ANON, SHMEM = range(3)
KINDS: Final = 3
#: A huge page of a pool, which counts for no resident set.
HUGETLB: Final = 3


class PageSource(Protocol):
    """Where pages come from, and where they go when nothing maps them any more."""

    def alloc(self, nids: Nids, kind: int) -> Pfns:
        """One page of a kind for each of `nids`, of that node where it has one."""
        ...

    def free(self, pfns: Pfns) -> None:
        """Pages are not needed any more."""
        ...

    def nids_of(self, pfns: Pfns) -> Nids:
        """The nodes that pages are of."""
        ...


class Numbered:
    """Pages without end, of whatever node is asked for; freed ones are given again."""

    def __init__(self) -> None:
        self._nids: Nids = np.zeros(1024, np.int16)
        self._next = 1
        self._freed: list[Pfns] = []
        self._blocks: dict[int, list[int]] = {}
        self.out = 0

    def alloc(self, nids: Nids, kind: int = ANON) -> Pfns:
        """Numbers from 1 on, unless some of as many pages as now were freed together."""
        count = len(nids)
        self.out += count
        if self._freed and len(self._freed[-1]) >= count:
            last = self._freed.pop()
            pfns = last[:count]
            if len(last) > count:
                self._freed.append(last[count:])
            self._nids[pfns] = nids
            return pfns
        pfns = self._new(count)
        self._nids[pfns] = nids
        return pfns

    def _new(self, count: int) -> Pfns:
        pfns = np.arange(self._next, self._next + count, dtype=np.int64)
        self._next += count
        while self._next > len(self._nids):
            self._nids = np.concatenate([self._nids, np.zeros_like(self._nids)])
        return pfns

    def alloc_order(self, nid: int, order: int, gfp: int) -> int:
        """A block, of the node that is asked for; however hard it is tried for, there is one."""
        free = self._blocks.setdefault(order, [])
        if free:
            head = free.pop()
        else:
            self._next = -(-self._next >> order) << order
            head = int(self._new(1 << order)[0])
        self._nids[head : head + (1 << order)] = nid
        self.out += 1 << order
        return head

    def free_order(self, pfn: int, order: int) -> None:
        """The block may be given again."""
        self._blocks[order].append(pfn)
        self.out -= 1 << order

    def split_order(self, pfn: int, order: int) -> None:
        """Do nothing: this source takes back the pages of a huge page one by one."""

    def free(self, pfns: Pfns) -> None:
        """Take pages back; they may be given again."""
        self._freed.append(pfns)
        self.out -= len(pfns)

    def migrate(self, pfns: Pfns, nid: int) -> None:
        """Pages are of another node now, under their old numbers."""
        self._nids[pfns] = nid

    def nids_of(self, pfns: Pfns) -> Nids:
        """The node that each was asked for."""
        return self._nids[pfns]


class Owner(Protocol):
    """An owner of pages: an anon_vma, or the address space of a file."""

    #: 0 until a page belongs to it.
    number: int
    vmas: dict[Any, None]


class Frames:
    """Columns by page frame number, of pages that are mapped or in the page cache."""

    def __init__(self, source: PageSource, thp: Thp | None = None) -> None:
        self.source = source
        #: Huge pages; None: there are none.
        self.thp = thp
        self.mapcount = np.zeros(1024, np.int32)
        #: Number of the anon_vma or of the file that a page belongs to, and the page's number in it.
        self.mapping = np.zeros(1024, np.int64)
        self.index = np.zeros(1024, np.int64)
        self._owners: dict[int, Owner] = {}
        self._last = 0
        self._sweep_at = 64
        #: FILE, ANON, SHMEM or HUGETLB.
        self.kind = np.zeros(1024, np.int8)
        self.dirty = np.zeros(1024, np.bool_)
        self.referenced = np.zeros(1024, np.bool_)
        #: Pages of files at which the next window of readahead begins (PG_readahead).
        self.marked = np.zeros(1024, np.bool_)
        #: Anonymous pages that need not be written when they are reclaimed (MADV_FREE).
        self.lazyfree = np.zeros(1024, np.bool_)
        #: Who used it last, as NUMA balancing notes it (page_cpupid_last); 0 is nobody.
        self.cpupid = np.zeros(1024, np.int64)

    def number_of(self, owner: Owner) -> int:
        """The number of what pages belong to, given at first use; what nobody maps loses it now and then."""
        if not owner.number:
            if len(self._owners) >= self._sweep_at:
                for number, known in list(self._owners.items()):
                    if not known.vmas and not isinstance(known, AddressSpace):
                        del self._owners[number]
                        known.number = 0
                self._sweep_at = max(64, 2 * len(self._owners))
            self._last += 1
            owner.number = self._last
            self._owners[owner.number] = owner
        return owner.number

    def owner_of(self, pfn: int) -> Owner:
        """Return the owner of a page."""
        return self._owners[int(self.mapping[pfn])]

    def forget(self, owner: Owner) -> None:
        """No page belongs to it any more: it loses its number."""
        self._owners.pop(owner.number, None)
        owner.number = 0

    def belong(self, pfns: Pfns, owner: Owner, numbers: Pfns) -> None:
        """Pages belong to an anon_vma or to a file, with these numbers in it (page->mapping, page->index)."""
        self.mapping[pfns] = self.number_of(owner)
        self.index[pfns] = numbers

    def alloc(self, nids: Nids, kind: int) -> Pfns:
        """New pages that nothing maps yet."""
        pfns = self.source.alloc(nids, kind)
        self.begin(pfns, kind)
        return pfns

    def begin(self, pfns: Pfns, kind: int) -> None:
        """Pages that have just been allocated are new ones."""
        self.expect(pfns, kind)
        self.mapcount[pfns] = 0
        self.dirty[pfns] = kind == ANON
        self.referenced[pfns] = False
        self.lazyfree[pfns] = False
        self.marked[pfns] = False
        self.cpupid[pfns] = 0

    def expect(self, pfns: Pfns, kind: int) -> None:
        """Pages are of a kind, also those that are not in use yet."""
        self._reach(int(pfns.max(initial=0)))
        self.kind[pfns] = kind

    def map(self, pfns: Pfns) -> None:
        """One mapping more of each. None is named twice: they are of one VMA, which has each page once."""
        self.mapcount[pfns] += 1

    def unmap(self, pfns: Pfns) -> None:
        """One mapping less of each. Anonymous pages that have none go; those of files stay in the cache."""
        left = self.mapcount[pfns] - 1
        self.mapcount[pfns] = left
        done = pfns[(left == 0) & (self.kind[pfns] == ANON)]
        if self.thp is not None and self.thp.huge:
            done = self.thp.unmapped(self.mapcount, pfns, done)
        if len(done):
            self.source.free(done)

    def alloc_huge(self, nid: int, gfp: int) -> Pfns:
        """The pages of a new huge page, which nothing maps yet; none if there is none to have."""
        assert self.thp is not None
        head = self.thp.alloc(nid, gfp)
        if not head:
            return np.zeros(0, np.int64)
        pfns = np.arange(head, head + self.thp.nr, dtype=np.int64)
        self.begin(pfns, ANON)
        return pfns

    def _reach(self, pfn: int) -> None:
        while pfn >= len(self.mapcount):
            self.mapcount = np.concatenate([self.mapcount, np.zeros_like(self.mapcount)])
            self.mapping = np.concatenate([self.mapping, np.zeros_like(self.mapping)])
            self.index = np.concatenate([self.index, np.zeros_like(self.index)])
            self.kind = np.concatenate([self.kind, np.zeros_like(self.kind)])
            self.dirty = np.concatenate([self.dirty, np.zeros_like(self.dirty)])
            self.referenced = np.concatenate([self.referenced, np.zeros_like(self.referenced)])
            self.marked = np.concatenate([self.marked, np.zeros_like(self.marked)])
            self.lazyfree = np.concatenate([self.lazyfree, np.zeros_like(self.lazyfree)])
            self.cpupid = np.concatenate([self.cpupid, np.zeros_like(self.cpupid)])


class AddressSpace:
    """The pages of one file that are in memory (struct address_space), by their number in the file."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        #: VMAs that map it (i_mmap): `Vma`, of which nothing is known here.
        self.vmas: dict[Any, None] = {}
        #: Its number in `Frames.mapping`, once a page has it.
        self.number = 0
        #: Numbers of pages of shmem that were lost to an error of the memory: an access to one is SIGBUS.
        self.poisoned: set[int] = set()
        self._pfns: Pfns = np.zeros(0, np.int64)

    @property
    def size(self) -> int:
        """A number behind that of every page in memory."""
        return len(self._pfns)

    def find(self, numbers: Pfns) -> Pfns:
        """The pages with these numbers; 0 for each that is not there."""
        found = np.zeros(len(numbers), np.int64)
        known = numbers < len(self._pfns)
        found[known] = self._pfns[numbers[known]]
        return found

    def add(self, numbers: Pfns, pfns: Pfns) -> None:
        """Pages come into memory."""
        size = int(numbers.max(initial=-1)) + 1
        if size > len(self._pfns):
            self._pfns = np.concatenate([self._pfns, np.zeros(max(size, 2 * len(self._pfns)), np.int64)])
        self._pfns[numbers] = pfns

    def remove(self, numbers: Pfns) -> Pfns:
        """Pages leave; those that were there."""
        numbers = numbers[numbers < len(self._pfns)]
        pfns = self._pfns[numbers]
        self._pfns[numbers] = 0
        return pfns[pfns != 0]

    def replace(self, old: Pfns, new: Pfns) -> None:
        """Pages have moved."""
        for before, after in zip(old.tolist(), new.tolist(), strict=True):
            self._pfns[self._pfns == before] = after

    def all(self) -> Pfns:
        """Every page in memory."""
        return self._pfns[self._pfns != 0]
