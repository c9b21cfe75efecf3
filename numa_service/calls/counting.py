"""Counts the pages of a process that are there, and takes memory of the machine for those that are new.

Nothing is done while a program touches its memory: its pages are found when somebody asks where they are.
Each new page is then placed as the policy of its address, or of the process's first thread, says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from numa_service.calls.areas import pieces_of
from numa_service.calls.machine import MachineOfCalls
from numa_service.calls.placement import (
    CHUNK,
    NOWHERE,
    PAGE_SHIFT,
    POOLED,
    Bools,
    Nids,
    Vma,
    masks,
    resident,
    vmas,
)
from numa_service.calls.processes import Process, Processes, Thread
from numa_service.calls.shared import SharedObject, SharedPages
from numa_service.mm.mempolicy.policy import Mempolicy

#: Where user addresses end, with page tables of four levels.
TASK_SIZE: Final = 1 << 47


class Counting:
    """Brings placements up to date."""

    def __init__(self, machine: MachineOfCalls, processes: Processes) -> None:
        """Memory is taken of this machine, for these processes."""
        self._machine = machine
        self.shared = SharedPages(machine, processes)
        #: Called again and again while something takes long.
        self.meanwhile: Callable[[], None] = lambda: None

    def count(self, process: Process, start: int = 0, end: int = TASK_SIZE) -> list[Vma]:
        """Find what is there between two addresses, and what is there no more; the address space."""
        maps = vmas(process.pid)
        thread = process.threads[process.pid]
        at = start
        for vma in maps:
            if vma.end <= start or end <= vma.start:
                continue
            self.meanwhile()
            process.placement.forget_range(at >> PAGE_SHIFT, max(at, vma.start) >> PAGE_SHIFT)
            at = min(vma.end, end)
            self._count_vma(process, thread, vma, max(start, vma.start), at)
        if at < end:
            process.placement.forget_range(at >> PAGE_SHIFT, end >> PAGE_SHIFT)
        self.shared.mapped(process, {vma.key for vma in maps if vma.inode})
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
        shared = self.shared.of(vma) if vma.inode else None
        own, pooled = list[_NewPages](), list[_Pooled]()
        for at in sorted({*there, *process.placement.chunks(first, behind)}):
            nids = process.placement.of_chunk(at)
            part = slice(max(first - at * CHUNK, 0), behind - at * CHUNK)
            known, found = nids[part], there.get(at)
            if found is None:
                process.placement.forget(known, known >= 0)
                continue
            is_there, of_file = found[0][part], found[1][part]
            process.placement.forget(known, (known >= 0) & ~is_there)
            if shared is not None:
                pooled.append(_Pooled(at * CHUNK + part.start, known, is_there & of_file))
                # a page of a file that was written has become one of the process
                known[is_there & ~of_file & (known >= POOLED)] = NOWHERE
                is_there = is_there & ~of_file
            wanted = np.flatnonzero(is_there & (known == NOWHERE))
            if len(wanted):
                own.append(_NewPages(at * CHUNK + part.start, known, wanted))
        for low, high, policy in self._pieces(process, thread, vma, start, end) if own else ():
            self._place(process, thread, vma, policy, [pages.within(low, high) for pages in own])
        if shared is not None:
            self._count_shared(process, thread, vma, shared, pooled, (start, end))

    def _pieces(
        self, process: Process, thread: Thread, vma: Vma, start: int, end: int
    ) -> Iterator[tuple[int, int, Mempolicy | None]]:
        """Pages [low, high) that have one policy: that of their addresses, or else of the process."""
        for area in pieces_of(process, self.shared, vma, start, end):
            yield area.start >> PAGE_SHIFT, area.end >> PAGE_SHIFT, area.policy or thread.policy

    def _count_shared(
        self,
        process: Process,
        thread: Thread,
        vma: Vma,
        shared: SharedObject,
        pooled: Sequence[_Pooled],
        addresses: tuple[int, int],
    ) -> None:
        """Pages of a file or of shared memory: those that nobody has touched before are placed."""
        shift = vma.pgoff - (vma.start >> PAGE_SHIFT)
        new = list[_NewPages]()
        for first, nids, is_there in pooled:
            places = shared.placement.get(first + shift, first + shift + len(nids))
            wanted = np.flatnonzero(is_there & (places == NOWHERE))
            if len(wanted):
                new.append(_NewPages(first, places, wanted))
            else:
                nids[is_there] = places[is_there] | POOLED
        for low, high, policy in self._pieces(process, thread, vma, *addresses) if new else ():
            within = [pages.within(low, high) for pages in new]
            if shared.memory:
                self._place(process, thread, vma, policy, within, shared)
                continue
            for pages in within:
                pages.nids[pages.wanted], thread.turn = self._machine.place(
                    thread.policy, thread.cpu, thread.turn, len(pages.wanted)
                )
        placed = {pages.first: pages.nids for pages in new}
        for first, nids, is_there in pooled:
            if first in placed:
                shared.placement.put(first + shift, placed[first])
                nids[is_there] = placed[first][is_there] | POOLED

    def _place(
        self,
        process: Process,
        thread: Thread,
        vma: Vma,
        policy: Mempolicy | None,
        new: list[_NewPages],
        shared: SharedObject | None = None,
    ) -> None:
        """Take memory of the machine for new pages that have one policy, all at once."""
        # shared memory is spread by its inode, too, so that not every piece of it begins on the same node
        begin = _pgoff(vma) + (vma.inode if shared else 0) - (vma.start >> PAGE_SHIFT)
        places = [pages.first + pages.wanted + begin for pages in new]
        together = np.concatenate(places).astype(np.uint64)
        if not len(together):
            return
        account = (shared.account, shared.name) if shared else (process.pid, process.name)
        nids = self._machine.take(*account, policy, thread.cpu, together)
        begins = np.cumsum([0, *map(len, places)])
        for pages, at, end in zip(new, begins, begins[1:], strict=False):
            pages.nids[pages.wanted] = nids[at:end]


class _Pooled(NamedTuple):
    """A part of a chunk where a file or shared memory is mapped."""

    #: The number of the first page of the part.
    first: int
    #: The nodes of the part's pages.
    nids: Nids
    #: Which of them are the file's or the shared memory's.
    is_there: Bools


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
