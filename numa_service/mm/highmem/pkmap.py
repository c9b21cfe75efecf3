"""The pool of kmap: entries that map one page each, and are given to another page after a flush of TLBs.

An entry that nobody uses any more stays mapped, as some CPU's TLB may have it. Only when the search comes
round to the first entry are all such entries unmapped, with one flush.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numa_service.mm.highmem.rules import LAST_PKMAP, PA_HASH_ORDER, PKMAP_BASE
from numa_service.mm.mmzone import PAGE_SHIFT


class Pkmap:
    """pkmap_count, pkmap_page_table and page_address_htable."""

    def __init__(self, golden_ratio: int, pfn_to_page: Callable[[int], int]) -> None:
        """`pfn_to_page` gives the address of a page's ``struct page``, by which pages are hashed."""
        self._golden_ratio = golden_ratio
        self._pfn_to_page = pfn_to_page
        #: By entry: 0 = usable; 1 = nobody uses it, but it is mapped; n = it has n - 1 users.
        self.counts = [0] * LAST_PKMAP
        #: By entry: the pfn that is mapped, or None.
        self.pages: list[int | None] = [None] * LAST_PKMAP
        #: The entry that was looked at last.
        self.last_nr = 0
        #: Times that unused entries were unmapped with a flush of all TLBs.
        self.flushes = 0
        self._htable: list[list[tuple[int, int]]] = [[] for _ in range(1 << PA_HASH_ORDER)]

    def page_slot(self, pfn: int) -> int:
        """The bucket of a page in page_address_htable: its ``struct page *``, hashed (hash_ptr)."""
        return (self._pfn_to_page(pfn) * self._golden_ratio & 0xFFFF_FFFF) >> 32 - PA_HASH_ORDER

    def page_address(self, pfn: int) -> int | None:
        """The address at which a high page is mapped, ``page->virtual``; None if it is not."""
        return next((address for page, address in self._htable[self.page_slot(pfn)] if page == pfn), None)

    def would_wait(self, pfn: int) -> bool:
        """Whether :meth:`kmap_high` would find every entry in use, also after a flush."""
        return self.page_address(pfn) is None and min(self.counts) > 1

    def kmap_high(self, pfn: int) -> int | None:
        """Map a page, or count one more user of it; None if every entry is in use, and the caller sleeps."""
        address = self.page_address(pfn)
        if address is None:
            address = self._map_new_virtual(pfn)
        if address is not None:
            self.counts[_pkmap_nr(address)] += 1
        return address

    def _map_new_virtual(self, pfn: int) -> int | None:
        left = LAST_PKMAP
        while left:
            self.last_nr = (self.last_nr + 1) % LAST_PKMAP
            if self.last_nr == 0:
                self.flush_all_zero_pkmaps()
                left = LAST_PKMAP
            if not self.counts[self.last_nr]:
                address = PKMAP_BASE + (self.last_nr << PAGE_SHIFT)
                self.pages[self.last_nr] = pfn
                self.counts[self.last_nr] = 1
                self._htable[self.page_slot(pfn)].append((pfn, address))
                return address
            left -= 1
        return None

    def flush_all_zero_pkmaps(self) -> int:
        """Unmap every entry without users; returns how many. The TLBs are flushed if there are any."""
        unused = [nr for nr, count in enumerate(self.counts) if count == 1]
        for nr in unused:
            pfn = self.pages[nr]
            assert pfn is not None
            self.counts[nr] = 0
            self.pages[nr] = None
            self._htable[self.page_slot(pfn)].remove((pfn, PKMAP_BASE + (nr << PAGE_SHIFT)))
        self.flushes += bool(unused)
        return len(unused)

    def kunmap_high(self, pfn: int) -> bool:
        """Count one user of a mapped page less; returns whether that was the last: others may wake."""
        address = self.page_address(pfn)
        assert address is not None
        nr = _pkmap_nr(address)
        assert self.counts[nr] > 1
        self.counts[nr] -= 1
        return self.counts[nr] == 1

    def dump(self) -> list[Any]:
        """All of it as plain data, which :meth:`load` reads."""
        return [self.counts, self.pages, self.last_nr, self.flushes, self._htable]

    def load(self, dumped: list[Any]) -> None:
        """Replace all of it by what :meth:`dump` returned."""
        self.counts, self.pages, self.last_nr, self.flushes, htable = dumped
        self._htable = [[(pfn, address) for pfn, address in bucket] for bucket in htable]


def _pkmap_nr(address: int) -> int:
    return (address - PKMAP_BASE) >> PAGE_SHIFT
