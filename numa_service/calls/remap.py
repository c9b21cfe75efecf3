"""Memory that mremap() moves: its pages stay where they are, and its policy goes with it.

Where to is only known afterwards, unless the program says it: so what a process maps is compared with what it
mapped before, when it calls the next time.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from numa_service.calls.areas import with_policy
from numa_service.calls.placement import PAGE_SHIFT, vmas
from numa_service.calls.processes import Process, Thread

MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
MREMAP_DONTUNMAP: Final = 4


class Remap(NamedTuple):
    """An mremap() that the host carries out, and of which it is not known yet what came of it."""

    #: The thread that called.
    tid: int
    start: int
    old: int
    new: int
    flags: int
    #: What was mapped before.
    before: tuple[tuple[int, int], ...]


class Remaps:
    """Those of all processes."""

    def __init__(self) -> None:
        """None yet."""
        self._pending: dict[Process, Remap] = {}

    def begin(self, thread: Thread, args: tuple[int, ...]) -> None:
        """A thread calls mremap(), and leaves it to the kernel where to."""
        self.end(thread)
        start, old, new, flags = args[:4]
        before = tuple((vma.start, vma.end) for vma in vmas(thread.process.pid))
        self._pending[thread.process] = Remap(thread.tid, start, old, new, flags, before)

    def end(self, thread: Thread) -> None:
        """A thread calls, of whose process an mremap() may have been carried out meanwhile."""
        process = thread.process
        remap = self._pending.get(process)
        if remap is None:
            return
        now = [(vma.start, vma.end) for vma in vmas(process.pid)]
        added = [
            piece for piece in _without(now, remap.before) if piece[1] - piece[0] >= remap.new - remap.old
        ]
        if not added and remap.tid != thread.tid:
            return  # the thread that called may still be about to
        del self._pending[process]
        behind = remap.start + remap.old
        if any(start == behind for start, _ in added):
            self._grown(process, behind, behind + remap.new - remap.old)
            return
        fits = [start for start, end in added if end - start >= remap.new]
        if fits:
            stays = bool(remap.flags & MREMAP_DONTUNMAP)
            move(process, remap.start, min(remap.old, remap.new), fits[-1], stays=stays)
            self._grown(process, fits[-1] + remap.old, fits[-1] + remap.new)

    def forget(self, process: Process) -> None:
        """A process has ended."""
        self._pending.pop(process, None)

    @staticmethod
    def _grown(process: Process, at: int, end: int) -> None:
        """An area has grown: what is new has its policy."""
        last = next((area for area in process.areas if area.end == at), None)
        if last is not None and at < end:
            process.areas = with_policy(process.areas, at, end, last.policy)


def move(process: Process, start: int, length: int, to: int, *, stays: bool = False) -> None:
    """Pages and policies of a range are those of another one from now on; policies also stay if it does."""
    end = start + length
    moved = [area for area in process.areas if area.start < end and start < area.end]
    process.areas = with_policy(process.areas, to, to + length, None)
    if not stays:
        process.areas = with_policy(process.areas, start, end, None)
    for area in moved:
        low, high = max(area.start, start) - start + to, min(area.end, end) - start + to
        process.areas = with_policy(process.areas, low, high, area.policy)
    first, behind = start >> PAGE_SHIFT, end >> PAGE_SHIFT
    nids = process.placement.get(first, behind)
    process.placement.put(to >> PAGE_SHIFT, nids)
    process.placement.drop(first, behind)


def _without(now: list[tuple[int, int]], before: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """The parts of `now` that are in none of `before`; both ascend."""
    found = list[tuple[int, int]]()
    for begin, end in now:
        at = begin
        for low, high in before:
            if high <= at or end <= low:
                continue
            if at < low:
                found.append((at, low))
            at = max(at, high)
        if at < end:
            found.append((at, end))
    return found
