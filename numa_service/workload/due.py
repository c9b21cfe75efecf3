"""Blocks by the time at which they are to be freed: a hierarchical timer wheel whose slots are arrays.

The slot of a due time is given by the position of the highest base-16 digit in which it differs from now, and
by the value of that digit. When now advances, whole slots fall due without a look at their entries; only the
entries of the slot that now has entered are distributed again. In the kernel's wheel, in
``kernel/time/timer.c``, a slot is a list.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from numa_service.mm.pgdat import Pfns

Ticks = npt.NDArray[np.int64]

_DIGIT_BITS = 4
_SLOTS = 1 << _DIGIT_BITS
#: Largest due time: exact as a float64, and 52 days in ns.
MAX_TICKS = 1 << 52


class Due:
    """A timer wheel of pfns. Its ticks may have any unit (ns, pages allocated) and only grow."""

    def __init__(self) -> None:
        self.now = 0
        #: Number of pfns that wait.
        self.count = 0
        self._slots: dict[int, list[tuple[Ticks, Pfns]]] = {}

    def add(self, due: Ticks, pfns: Pfns) -> None:
        """Add pfns with their due times; those due already come with the next :meth:`take` that advances."""
        self.count += len(pfns)
        self._insert(np.clip(due, self.now + 1, MAX_TICKS), pfns)

    def _insert(self, due: Ticks, pfns: Pfns) -> None:
        """Put pfns into their slots; all due times are after now."""
        if not len(due):
            return
        # the exponent of a float64 is the position of the highest bit
        highest = ((due ^ self.now).astype(np.float64).view(np.int64) >> 52) - 1023
        shift = highest & -_DIGIT_BITS
        slots = ((shift << 2) + ((due >> shift) & (_SLOTS - 1))).astype(np.uint8)
        order = slots.argsort(kind="stable")
        due, pfns = due.take(order), pfns.take(order)
        counts = np.bincount(slots)
        start = 0
        for slot in np.flatnonzero(counts).tolist():
            end = start + int(counts[slot])
            self._slots.setdefault(slot, []).append((due[start:end], pfns[start:end]))
            start = end

    def take(self, now: int) -> Pfns:
        """Advance to `now`, and return the pfns that are due by then, oldest slot first."""
        if now <= self.now:
            return _NONE
        moved = now ^ self.now
        digit = (moved.bit_length() - 1) // _DIGIT_BITS
        here = digit * _SLOTS + (now >> digit * _DIGIT_BITS) % _SLOTS
        self.now = now
        due = [pfns for slot in sorted(self._slots) if slot < here for _, pfns in self._slots.pop(slot)]
        if here in self._slots:
            parts = self._slots.pop(here)
            when = np.concatenate([when for when, _ in parts])
            pfns = np.concatenate([pfns for _, pfns in parts])
            ripe = when <= now
            due.append(pfns[ripe])
            self._insert(when[~ripe], pfns[~ripe])
        taken = np.concatenate(due) if due else _NONE
        self.count -= len(taken)
        return taken

    def drain(self) -> Pfns:
        """Return all pfns that wait, and leave the wheel empty."""
        waiting = [pfns for slot in sorted(self._slots) for _, pfns in self._slots[slot]]
        self._slots.clear()
        self.count = 0
        return np.concatenate(waiting) if waiting else _NONE


_NONE: Pfns = np.zeros(0, dtype=np.uint64)
