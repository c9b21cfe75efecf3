"""The VMAs of an address space, by address."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from numa_service.mm.mmap.vma import Vma


class VmaTree:
    """VMAs in the order of their addresses; none overlaps another.

    Two sorted lists side by side: the starts are looked through by bisection, as the batches of faults look
    through an array of them.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._vmas: list[Vma] = []
        #: Entries of hugetlb pages by address, as in `entries.py`: who takes a page from others looks here.
        self.huge_entries: dict[int, int] = {}

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._vmas)

    def __len__(self) -> int:
        return len(self._vmas)

    def find(self, address: int) -> Vma | None:
        """find_vma: the first VMA that ends behind an address."""
        at = self._at(address)
        return self._vmas[at] if at < len(self._vmas) else None

    def lookup(self, address: int) -> Vma | None:
        """vma_lookup: the VMA that has an address."""
        found = self.find(address)
        return found if found is not None and found.start <= address else None

    def before(self, address: int) -> Vma | None:
        """The last VMA that starts below an address."""
        at = self._at(address)
        if at < len(self._vmas) and self._vmas[at].start < address:
            return self._vmas[at]
        return self._vmas[at - 1] if at else None

    def intersecting(self, start: int, end: int) -> list[Vma]:
        """The VMAs that have addresses of a range."""
        found = []
        for vma in self._vmas[self._at(start) :]:
            if vma.start >= end:
                break
            found.append(vma)
        return found

    def neighbours(self, vma: Vma) -> tuple[Vma | None, Vma | None]:
        """The VMAs before and behind one of them, whether they touch it or not."""
        at = self._index(vma)
        prev = self._vmas[at - 1] if at else None
        following = self._vmas[at + 1] if at + 1 < len(self._vmas) else None
        return prev, following

    def around(self, start: int, end: int) -> tuple[Vma | None, Vma | None]:
        """The VMAs before and behind a range in which there is none."""
        at = self._at(start)
        prev = self._vmas[at - 1] if at else None
        following = self._vmas[at] if at < len(self._vmas) else None
        assert following is None or following.start >= end
        return prev, following

    def insert(self, vma: Vma) -> None:
        """Add a VMA where there is none."""
        at = bisect_right(self._starts, vma.start)
        assert not at or self._vmas[at - 1].end <= vma.start
        assert at == len(self._vmas) or vma.end <= self._vmas[at].start
        self._starts.insert(at, vma.start)
        self._vmas.insert(at, vma)
        vma.space = self
        if vma.file is not None:
            vma.file.mappings += 1
            if vma.file.pages is not None:
                vma.file.pages.vmas[vma] = None

    def remove(self, vma: Vma) -> None:
        """Take a VMA out."""
        at = self._index(vma)
        del self._starts[at]
        del self._vmas[at]
        vma.space = None
        if vma.file is not None:
            vma.file.mappings -= 1
            if vma.file.pages is not None:
                vma.file.pages.vmas.pop(vma, None)

    def resize(self, vma: Vma, start: int, end: int) -> None:
        """Move the ends of a VMA, its neighbours' permitting."""
        at = self._index(vma)
        vma.start, vma.end = start, end
        self._starts[at] = start

    def downwards(self, below: int) -> Iterator[Vma]:
        """The VMAs that start below an address, highest first."""
        at = self._at(below)
        if at < len(self._vmas) and self._vmas[at].start < below:
            at += 1
        return reversed(self._vmas[:at])

    def _at(self, address: int) -> int:
        """Index of the first VMA that ends behind an address."""
        at = bisect_right(self._starts, address)
        return at - 1 if at and self._vmas[at - 1].end > address else at

    def _index(self, vma: Vma) -> int:
        at = bisect_right(self._starts, vma.start) - 1
        assert self._vmas[at] is vma
        return at
