"""Address translation: what a CPU's TLBs reach, and what an access costs that they miss.

Entries are those of a Skylake server core, by Intel's Optimization Reference Manual (248966, TLB parameters
of the Skylake microarchitecture): a first level for data, and a second level that pages of 4 KiB and of 2 MiB
share. Which accesses miss follows from their reuse: a page is found if fewer different pages than there are
entries were accessed since its last access. How many different ones there were is taken from how often pages
come back in general (Denning's working set, CACM 1968), so it does not matter which set of a TLB has a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Indexes = npt.NDArray[np.int64]

#: Page sizes in KiB that a region may be translated by: order of the page, entries of the first level, and of
#: the second (1 GiB pages have 16 of their own).
PAGE_KB: Final[Mapping[int, tuple[int, int, int]]] = {
    4: (0, 64, 1536),
    2048: (9, 32, 1536),
    1 << 20: (18, 4, 16),
}
#: A miss of the first level that the second one has, in ns: our estimate, 9 cycles at 3 GHz.
L2_HIT_NS: Final = 3
#: A walk whose last entry is in the core's second-level cache, in ns: our estimate, 30 cycles at 3 GHz, of
#: which that cache takes 14; the paging-structure caches have the levels above.
WALK_NS: Final = 10
#: Entries of the last level that the core's second-level cache holds: 1 MiB (Skylake server) of 8 bytes each.
CACHED_ENTRIES: Final = (1 << 20) // 8
#: The time since the last access of a page that had none.
_NEVER: Final = np.iinfo(np.int64).max
#: Longer than any window.
_LONG: Final = np.int64(1) << 40


@dataclass(frozen=True, slots=True)
class Misses:
    """Of some accesses: those that the first level missed, and of these those that the second missed, too."""

    l1: int
    l2: int


class Translation:
    """The accesses of one CPU to one region, as the TLBs see them."""

    def __init__(self, nr_pages: int, page_kb: int = 4, share: float = 1.0) -> None:
        """A region of 4 KiB pages that is translated by pages of `page_kb`.

        `share` is the part of the CPU's accesses that go to it: so much of the TLBs is its own.
        """
        self._order, l1, l2 = PAGE_KB[page_kb]
        self._l1, self._l2 = max(1, round(l1 * share)), max(1, round(l2 * share))
        #: When each page was accessed last, counted from 1; 0 is never.
        self._last = np.zeros(-(-nr_pages >> self._order), np.int64)
        self._now = 1

    @property
    def entries(self) -> int:
        """Entries of the last level of its page tables."""
        return len(self._last)

    def access(self, indexes: Indexes) -> Misses:
        """Access 4 KiB pages, in order."""
        pages = indexes >> self._order
        times = np.sort(self._since(pages))
        self._now += len(pages)
        if not len(times):
            return Misses(0, 0)
        different = _different(times)
        l1, l2 = (
            len(times) - int(np.searchsorted(times, _window(times, different, entries), "right"))
            for entries in (self._l1, self._l2)
        )
        return Misses(l1, l2)

    def _since(self, pages: Indexes) -> Indexes:
        """Accesses since the last one to the same page."""
        # sorted by page and then by time: of numbers that have both, as that takes a fraction of an argsort
        bits = len(pages).bit_length()
        both = np.sort(pages << bits | np.arange(len(pages)))
        by_page, order = both >> bits, both & ((1 << bits) - 1)
        at = order + self._now
        before = np.empty_like(at)
        before[1:] = at[:-1]
        first = np.ones(len(pages), np.bool_)
        first[1:] = by_page[1:] != by_page[:-1]
        before[first] = self._last[by_page[first]]
        since = np.empty_like(at)
        since[order] = np.where(before == 0, _NEVER, at - before)
        last = np.ones(len(pages), np.bool_)
        last[:-1] = first[1:]
        self._last[by_page[last]] = at[last]
        return since

    def miss_ns(self, misses: Misses, memory_ns: int) -> int:
        """What misses cost, in ns; `memory_ns` is a read of the memory that has the page tables.

        Of tables that are larger than the cache, the last entry is in memory as often as they do not fit.
        """
        uncached = max(0.0, 1 - CACHED_ENTRIES / self.entries)
        return (misses.l1 - misses.l2) * L2_HIT_NS + round(misses.l2 * (WALK_NS + uncached * memory_ns))


def _different(times: Indexes) -> npt.NDArray[np.float64]:
    """How many different pages are accessed in a window of each of these times since the last access, sorted.

    In a window of n accesses those are new whose last one was more than 0, 1, … n - 1 accesses ago, by their
    share of all accesses, added up. Between two neighbouring times, the share of accesses that are older is
    the same.
    """
    lengths = np.diff(np.minimum(times, _LONG), prepend=0)
    older = np.arange(len(times), 0, -1) / len(times)
    return np.cumsum(lengths * older)


def _window(times: Indexes, different: npt.NDArray[np.float64], entries: int) -> int:
    """The number of accesses in which as many different pages are accessed as there are entries."""
    count, at = len(times), int(np.searchsorted(different, entries))
    if at == count:
        return int(min(times[-1], _LONG))
    before, start = (different[at - 1], min(times[at - 1], _LONG)) if at else (0.0, 0)
    return int(start + (entries - before) * count / (count - at))
