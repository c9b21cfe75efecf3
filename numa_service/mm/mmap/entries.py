"""Page table entries as numbers: a page frame number and bits, in arrays of one page of PTEs each."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Entries = npt.NDArray[np.int64]

PRESENT: Final = 1
WRITE: Final = 2
ACCESSED: Final = 4
DIRTY: Final = 8
#: The page of zeros, which counts for nothing (is_zero_pfn).
ZERO: Final = 16
#: It is a part of a PMD entry: there is a whole page of such entries, alike but for their pages.
HUGE: Final = 32
#: NUMA balancing wants to know of the next access: it faults (pte_protnone).
NUMA: Final = 64
#: Of an entry that is not present: its page was lost to an error of the memory (is_hwpoison_entry).
HWPOISON: Final = 128
_BITS: Final = 8


def entry_of(pfns: Entries, bits: int) -> Entries:
    """Entries of pages."""
    return (pfns << _BITS) | (bits | PRESENT)


def pfns_of(entries: Entries) -> Entries:
    """The pages of entries; 0 of the page of zeros and of none."""
    return entries >> _BITS


def has(entries: Entries, bit: int) -> npt.NDArray[np.bool_]:
    """Which entries have a bit."""
    return (entries & bit) != 0
