"""The live blocks of a trace's replay, found by the pfns of the traced kernel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from numa_service.mm.mmzone import PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.mm.pgdata import I64

#: Pageblocks below this number are found by a table (16 TiB of physical addresses), those above by a dict.
_LOW_PAGEBLOCKS = 1 << 23


class LiveBlocks:
    """The live blocks of the replay, by the pfn that they have in the traced kernel.

    Each traced pageblock gets a row of PAGEBLOCK_NR_PAGES entries when a pfn of it is first seen.
    """

    def __init__(self) -> None:
        #: By key (see :meth:`keys`): the emulated block held for this pfn (``mm.replay.block_of``), NOT_HERE
        #: if it could not be allocated here, or 0.
        self.blocks: I64 = np.zeros(PAGEBLOCK_NR_PAGES * 1024, dtype=np.int64)
        #: By number of the pageblock: row + 1, or 0 for none. Higher pageblocks are in the dict, as row.
        self._low_rows = np.zeros(1024, dtype=np.int32)
        self._high_rows: dict[int, int] = {}
        self._rows = 0

    def keys(self, pfns: npt.NDArray[np.uint64]) -> I64:
        """Return the keys of pfns: their positions in `blocks`, which this may replace by a longer array."""
        numbers = (pfns >> np.uint64(PAGEBLOCK_ORDER)).astype(np.int64)
        low = numbers < _LOW_PAGEBLOCKS
        rows = self._in_table(numbers) if low.all() else np.empty(len(numbers), dtype=np.int64)
        if not low.all():
            rows[low] = self._in_table(numbers[low])
            names, inverse = np.unique(numbers[~low], return_inverse=True)
            rows[~low] = np.array([self._high_row(name) for name in names.tolist()], np.int64)[inverse]
        while self._rows * PAGEBLOCK_NR_PAGES > len(self.blocks):
            self.blocks = np.concatenate([self.blocks, np.zeros_like(self.blocks)])
        return (rows << PAGEBLOCK_ORDER) | (pfns & np.uint64(PAGEBLOCK_NR_PAGES - 1)).astype(np.int64)

    def _in_table(self, numbers: I64) -> I64:
        """Return the rows of pageblocks below _LOW_PAGEBLOCKS, making those that are missing."""
        if not len(numbers):
            return numbers
        longest = int(numbers.max()) + 1
        while longest > len(self._low_rows):
            self._low_rows = np.concatenate([self._low_rows, np.zeros_like(self._low_rows)])
        rows = self._low_rows[numbers]
        if not rows.all():
            new = np.unique(numbers[rows == 0])
            self._low_rows[new] = self._rows + 1 + np.arange(len(new))
            self._rows += len(new)
            rows = self._low_rows[numbers]
        return rows.astype(np.int64) - 1

    def _high_row(self, number: int) -> int:
        """Return the row of a pageblock from _LOW_PAGEBLOCKS on, making it if it is missing."""
        if number not in self._high_rows:
            self._high_rows[number] = self._rows
            self._rows += 1
        return self._high_rows[number]
