"""Huge pages of a home's tasks: their numbers, and where they come from (an OrderSource).

A huge page has as many frame numbers as pages, one behind the other from a multiple of their number on. Where
all of it is meant it has one name: its first number with the bit HUGE_INDEX. That is what holders are asked
by, and what waits in limbo: 4 bytes. When it is split only its home notes it: a holder that is asked for a
part by its own number splits its page, too (``mm/page_table.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from numa_service.machine.booted import BootedMachine
from numa_service.machine.thp_files import files_of, key_of
from numa_service.mm.gfp import Gfp
from numa_service.mm.mmap.frames import ANON, Pfns
from numa_service.mm.mmap.thp import Thp, ThpSettings, settings_of
from numa_service.mm.mmap.thp_rules import thp_rules_of
from numa_service.mm.mmzone import HUGE_INDEX, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.node.errors import LimitExceeded
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.task_pages import (
    HUGE,
    HUGE_ZERO,
    IDLE,
    MAX_FRAMES,
    FrameSource,
    Short,
    Want,
    effective_policy,
    nid_and_pfn,
    shares_of,
)

_NR = PAGEBLOCK_NR_PAGES
_NONE: Pfns = np.zeros(0, np.int64)
#: The huge page of zeros is known by its node and pfn, with this bit: no frame has such a number.
_ZERO_BIT = 1 << 62
#: Free numbers among which whole huge pages are looked for, at least.
_ENOUGH = 4 * _NR


def parts_of_heads(heads: Pfns) -> Pfns:
    """All frames of huge pages, by their first ones."""
    return (heads[:, None] + np.arange(_NR)).reshape(-1)


def unnamed(names: npt.NDArray[Any]) -> tuple[Pfns, Pfns]:
    """The single frames of names, and the first frames of huge pages."""
    huge = (names & HUGE_INDEX) != 0
    return names[~huge].astype(np.int64), (names[huge] & ~np.int64(HUGE_INDEX)).astype(np.int64)


def zero_number(block: int) -> int:
    """What the huge page of zeros is known by, from its node and pfn (table_block)."""
    return block | _ZERO_BIT


def zero_block(number: int) -> int:
    """The inverse of :func:`zero_number`."""
    return number & ~_ZERO_BIT


class HugeFrameSource(FrameSource):
    """Frames of single and of huge pages."""

    def __init__(self, machine: BootedMachine, nid: int) -> None:
        super().__init__(machine, nid)
        #: First frames of huge pages that an op has freed so far, and those that it had taken from a stock.
        self.freed_huge: list[int] = []
        self.freed_zero: list[int] = []
        self.taken: list[int] = []
        #: How many huge pages the op that is under way is likely to need.
        self.likely_huge = 1
        #: Huge pages' numbers that are free, and among how many free ones such are looked for next.
        self._blocks: list[int] = []
        self._coalesce_at = _ENOUGH

    def begin_op(self) -> None:
        """An op begins."""
        self.freed, self.freed_huge, self.freed_zero, self.taken = [], [], [], []
        self.likely_huge, self._placed = 1, False

    # the OrderSource

    def alloc_order(self, nid: int, order: int, gfp: int) -> int:
        """A huge page from the stock; 0 if it was looked for in vain, Short if it has to be looked for.

        One for a fault is got by the policy, that of a collapse from node `nid` alone.
        """
        assert order == PAGEBLOCK_ORDER
        asker, kind = self.asker, HUGE if gfp & Gfp.MOVABLE else HUGE_ZERO
        placed, self._placed = self._placed, False
        assert asker is not None
        ready = asker.stock.get(kind, _NONE)
        if len(ready):
            asker.stock[kind] = ready[1:]
            if kind == HUGE:
                self.taken.append(int(ready[0]))
            return int(ready[0])
        if asker.refused.get(kind):
            asker.refused[kind] -= 1
            return 0
        if not placed:
            there = Policy(PolicyMode.PREFERRED, (nid,))
            raise Short(Want(kind, 1, order, there.plain(), gfp=gfp | Gfp.THISNODE))
        policy = effective_policy(asker, self.placed_vma, self.nid)
        nodes, _ = self._nodes(asker, policy, ANON, 1)
        if nodes is not None:
            raise Short(Want(kind, 1, order, policy.plain(), shares_of(nodes), gfp))
        count = self.likely_huge if kind == HUGE else 1
        raise Short(Want(kind, count, order, policy.plain(), gfp=gfp))

    def free_order(self, pfn: int, order: int) -> None:
        """A huge page is not needed any more, or that of zeros."""
        if pfn & _ZERO_BIT:
            self.freed_zero.append(zero_block(pfn))
        else:
            self.freed_huge.append(pfn)

    def split_order(self, pfn: int, order: int) -> None:
        """Its frames are single ones: there is nothing to do, as each has its own column."""

    def nid_of_zero(self, number: int) -> int:
        """The node of the huge page of zeros."""
        return nid_and_pfn(zero_block(number))[0]

    # numbers

    def reserve(self, count: int) -> Pfns:
        """Numbers of single pages, at last those of huge ones that are free; LimitExceeded."""
        try:
            return super().reserve(count)
        except LimitExceeded:
            if not self._blocks:
                raise
            self._free.append(parts_of_heads(np.array(self._blocks, np.int64)))
            self._blocks = []
            return super().reserve(count)

    def reserve_huge(self, count: int) -> Pfns:
        """First numbers of so many huge pages, or of as many as there are numbers."""
        if len(self._blocks) < count and sum(map(len, self._free)) >= self._coalesce_at:
            self._coalesce()
        heads = [self._blocks.pop() for _ in range(min(count, len(self._blocks)))]
        first = -(-self._next // _NR) * _NR
        missing = min(count - len(heads), (MAX_FRAMES - first) // _NR)
        if missing > 0:
            if first > self._next:
                self._free.append(np.arange(self._next, first, dtype=np.int64))
            self._next = first + missing * _NR
            self._reach()
            heads += range(first, self._next, _NR)
        return np.array(heads, np.int64)

    def _coalesce(self) -> None:
        """Make numbers of huge pages from those of single ones that are free."""
        free = np.sort(np.concatenate(self._free))
        heads, counts = np.unique(free & -_NR, return_counts=True)
        whole = heads[counts == _NR]
        rest = free[~np.isin(free & -_NR, whole)]
        self._blocks += whole[::-1].tolist()
        self._free = [rest] if len(rest) else []
        self._coalesce_at = 2 * len(rest) + _ENOUGH

    def unreserve_huge(self, heads: Pfns) -> None:
        """Numbers of huge pages may be given again."""
        frames = parts_of_heads(heads)
        self.nids[frames], self.state[frames] = -1, IDLE
        self._blocks += heads.tolist()

    def dump(self) -> list[Any]:
        """Return all of it as plain data."""
        return [*super().dump(), self._blocks, self._coalesce_at]

    def load(self, dumped: list[Any]) -> None:
        """Replace the content by what :meth:`dump` returned."""
        *of_frames, self._blocks, self._coalesce_at = dumped
        super().load(of_frames)


def thp_of(machine: BootedMachine, source: HugeFrameSource) -> Thp | None:
    """The huge pages of a home's tasks; None where the kernel has no such pages."""
    rules = thp_rules_of(machine.profile)
    return Thp(rules, source, thp_settings(machine), PAGEBLOCK_ORDER) if rules.present else None


def thp_settings(machine: BootedMachine) -> ThpSettings:
    """What the files below transparent_hugepage say."""
    files = files_of(machine.spec.profile)
    said = {path: machine.sysctls.get(key_of(path)) or file.default for path, file in files.items()}
    return settings_of(said)


def names_of(thp: Thp | None, frames: Pfns) -> Pfns:
    """What frames are called where they are: those of a huge page together by its name."""
    if thp is None or not thp.huge:
        return frames
    where = thp.compound(frames)
    if not where.any():
        return frames
    return np.concatenate([frames[~where], np.unique(frames[where] & -_NR) | HUGE_INDEX])
