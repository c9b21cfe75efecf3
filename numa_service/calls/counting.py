"""Counts the pages of a process that are there, and takes memory of the machine for those that are new.

Nothing is done while a program touches its memory: its pages are found when somebody asks where they are.
Each new page is then placed as the policy of its address, or of the process's first thread, says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from numa_service.calls.machine import SimulatedMachine
from numa_service.calls.placement import CHUNK, NOWHERE, PAGE_SHIFT, Nids, Vma, masks, resident, vmas
from numa_service.calls.processes import Process, Thread
from numa_service.mm.mempolicy.calls import Area
from numa_service.mm.mempolicy.policy import Mempolicy

#: Where user addresses end, with page tables of four levels.
TASK_SIZE: Final = 1 << 47


def address_space(process: Process, maps: Sequence[Vma]) -> list[Area]:
    """The areas of a process: those of the host, cut where policies begin and end."""
    found = list[Area]()
    bound = iter((*process.areas, None))
    area = next(bound)
    for vma in maps:
        at = vma.start
        while at < vma.end:
            while area is not None and area.end <= at:
                area = next(bound)
            if area is None or area.start >= vma.end:
                found.append(Area(at, vma.end, None))
                break
            if area.start > at:
                found.append(Area(at, area.start, None))
                at = area.start
            end = min(area.end, vma.end)
            found.append(Area(at, end, area.policy))
            at = end
    return found


class Counting:
    """Brings placements up to date."""

    def __init__(self, machine: SimulatedMachine) -> None:
        """Memory is taken of this machine."""
        self._machine = machine

    def count(self, process: Process, start: int = 0, end: int = TASK_SIZE) -> list[Vma]:
        """Find what is there between two addresses, and what is there no more; the address space."""
        maps = vmas(process.pid)
        thread = process.threads[process.pid]
        at = start
        for vma in maps:
            if vma.end <= start or end <= vma.start:
                continue
            process.placement.forget_range(at >> PAGE_SHIFT, max(at, vma.start) >> PAGE_SHIFT)
            at = min(vma.end, end)
            self._count_vma(process, thread, vma, max(start, vma.start), at)
        if at < end:
            process.placement.forget_range(at >> PAGE_SHIFT, end >> PAGE_SHIFT)
        self.give_back(process)
        return maps

    def give_back(self, process: Process) -> None:
        """Free pages of the machine that stand for pages which a process does not have any more."""
        if process.placement.left:
            self._machine.give(process.pid, process.placement.left)
            process.placement.left = {}

    def _count_vma(self, process: Process, thread: Thread, vma: Vma, start: int, end: int) -> None:
        first, behind = start >> PAGE_SHIFT, end >> PAGE_SHIFT
        there = masks(resident(process.pid, start, end))
        new: list[_NewPages] = []
        for at in sorted({*there, *process.placement.chunks(first, behind)}):
            nids = process.placement.of_chunk(at)
            part = slice(max(first - at * CHUNK, 0), behind - at * CHUNK)
            known, found = nids[part], there.get(at)
            if found is None:
                process.placement.forget(known, known >= 0)
                continue
            is_there, of_file = found[0][part], found[1][part]
            process.placement.forget(known, (known >= 0) & ~is_there)
            missing = is_there & (known == NOWHERE)
            # a page of a file is the page cache's, which nobody counts here: taken to be on the CPU's node
            cached = missing & of_file & vma.of_file
            known[cached] = self._machine.node_of_cpu[thread.cpu]
            wanted = np.flatnonzero(missing & ~cached)
            if len(wanted):
                new.append(_NewPages(at * CHUNK + part.start, known, wanted))
        for low, high, area in _pieces(process.areas, first, behind) if new else ():
            policy = area.policy if area else thread.policy
            self._place(process, thread, vma, policy, [pages.within(low, high) for pages in new])

    def _place(
        self, process: Process, thread: Thread, vma: Vma, policy: Mempolicy | None, new: list[_NewPages]
    ) -> None:
        """Take memory of the machine for new pages that have one policy, all at once."""
        places = [pages.first + pages.wanted - (vma.start >> PAGE_SHIFT) + _pgoff(vma) for pages in new]
        together = np.concatenate(places).astype(np.uint64)
        if not len(together):
            return
        nids = self._machine.take(process.pid, process.name, policy, thread.cpu, together)
        begins = np.cumsum([0, *map(len, places)])
        for pages, begin, end in zip(new, begins, begins[1:], strict=False):
            pages.nids[pages.wanted] = nids[begin:end]


class _NewPages(NamedTuple):
    """Pages of a part of a chunk that have no node yet."""

    #: The number of the first page of the part.
    first: int
    #: The nodes of the part's pages.
    nids: Nids
    #: Which of them are new, by their places in the part.
    wanted: npt.NDArray[np.intp]

    def within(self, low: int, high: int) -> _NewPages:
        """Select the pages with numbers from `low` up to, but without, `high`."""
        wanted = self.wanted
        return self._replace(wanted=wanted[(wanted >= low - self.first) & (wanted < high - self.first)])


def _pgoff(vma: Vma) -> int:
    """vm_pgoff: the page of the file, of anonymous memory that of the address."""
    return vma.pgoff if vma.inode else vma.start >> PAGE_SHIFT


def _pieces(areas: Sequence[Area], first: int, end: int) -> Iterator[tuple[int, int, Area | None]]:
    """Pages [first, end) cut where areas begin and end."""
    for area in areas:
        low, high = max(area.start >> PAGE_SHIFT, first), min(area.end >> PAGE_SHIFT, end)
        if low < high:
            if first < low:
                yield first, low, None
            yield low, high, area
            first = high
    if first < end:
        yield first, end, None
