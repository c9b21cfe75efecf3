"""Pages that move from node to node because a call says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from numa_service.calls.counting import Counting
from numa_service.calls.machine import MachineOfCalls
from numa_service.calls.placement import (
    CHUNK,
    INHERITED,
    NODE_BITS,
    NOWHERE,
    PAGE_SHIFT,
    POOLED,
    Vma,
    page_flags,
)
from numa_service.calls.processes import Process, Thread
from numa_service.mm.mempolicy import moves
from numa_service.mm.mempolicy.calls import PAGE_SIZE
from numa_service.mm.mempolicy.policy import Mempolicy

# words of /proc/PID/pagemap
_PRESENT: Final = 1 << 63
_EXCLUSIVE: Final = 1 << 56


class Moving:
    """Moves pages of processes, and says what can be moved."""

    def __init__(self, machine: MachineOfCalls, counting: Counting) -> None:
        """Pages move on this machine."""
        self._machine = machine
        self._counting = counting

    def move_range(
        self, thread: Thread, start: int, end: int, keeps: int, policy: Mempolicy, everybodys: bool
    ) -> int:
        """Move the pages that are on none of the nodes `keeps` to nodes of the policy; how many could not."""
        process = thread.process
        maps = self._counting.count(process, start, end)
        targets = [nid for nid in range(policy.nodes.bit_length()) if policy.nodes >> nid & 1]
        first, behind = start >> PAGE_SHIFT, -(-end // PAGE_SIZE)
        wanted = list[tuple[int, int]]()
        for at in process.placement.chunks(first, behind):
            nids = process.placement.of_chunk(at)
            for page in range(max(first, at * CHUNK), min(behind, (at + 1) * CHUNK)):
                there = int(nids[page % CHUNK])
                if there == NOWHERE or keeps >> (there & NODE_BITS) & 1:
                    continue
                to = targets[page % len(targets)] if targets else self._machine.node_of_cpu[thread.cpu]
                wanted.append((page, to))
        return self._move(thread, wanted, maps, everybodys).count(False)

    def _move(
        self, thread: Thread, wanted: Sequence[tuple[int, int]], maps: Sequence[Vma], everybodys: bool
    ) -> list[bool]:
        """Move pages, given as (page, node); of each whether it moved.

        It does not if the node has no memory for it, or if others have it, too.
        """
        process, moved = thread.process, [False] * len(wanted)
        own = dict[int, list[int]]()
        for at, (page, nid) in enumerate(wanted):
            nids = process.placement.of_chunk(page // CHUNK)
            there = int(nids[page % CHUNK])
            if NOWHERE < there < INHERITED:
                own.setdefault(nid, []).append(at)
            elif there >= POOLED:
                self._counting.meanwhile()
                moved[at] = self._move_shared(process, thread.cpu, page, nid, maps, everybodys)
                if moved[at]:
                    nids[page % CHUNK] = nid | POOLED
        for nid, places in own.items():
            self._counting.meanwhile()
            got = self._machine.take_on(process.pid, process.name, thread.cpu, nid, len(places))
            for at in places[:got]:
                page = wanted[at][0]
                nids = process.placement.of_chunk(page // CHUNK)
                process.placement.note_left(nids[page % CHUNK : page % CHUNK + 1])
                nids[page % CHUNK] = nid
                moved[at] = True
        self._counting.give_back(process)
        return moved

    def _move_shared(
        self, process: Process, cpu: int, page: int, nid: int, maps: Sequence[Vma], everybodys: bool
    ) -> bool:
        vma = area_at(maps, page << PAGE_SHIFT)
        if vma is None or not vma.inode:
            return False
        shared = self._counting.shared.of(vma)
        if len(shared.users) > 1 and not everybodys:
            return False
        if shared.memory and not self._machine.take_on(shared.account, shared.name, cpu, nid, 1):
            return False
        place = page - (vma.start >> PAGE_SHIFT) + vma.pgoff
        shared.placement.note_left(shared.placement.get(place, place + 1))
        nids = shared.placement.of_chunk(place // CHUNK)
        nids[place % CHUNK] = nid
        self._counting.shared.give_back(shared)
        return True

    def carry_out(
        self, whose: Thread, addresses: Sequence[int], wanted: Sequence[tuple[int, int]], everybodys: bool
    ) -> set[int]:
        """Move pages, given as (place in the list, node); the places of those that could not."""
        low, high = min(addresses, default=0), max(addresses, default=0) + 1
        maps = self._counting.count(whose.process, low & ~(PAGE_SIZE - 1), -(-high // PAGE_SIZE) * PAGE_SIZE)
        asked = [(addresses[at] >> PAGE_SHIFT, nid) for at, nid in wanted]
        moved = self._move(whose, asked, maps, everybodys)
        return {at for (at, _), done in zip(wanted, moved, strict=True) if not done}

    def migrate(self, whose: Thread, pairs: Sequence[tuple[int, int]], everybodys: bool) -> int:
        """Empty nodes to others, as migrate_pages() does; how many pages could not move."""
        maps = self._counting.count(whose.process)
        placement, failed = whose.process.placement, 0
        for source, to in pairs:
            wanted = list[tuple[int, int]]()
            for at in placement.chunks(0, 1 << 52):
                nids = placement.of_chunk(at)
                found = (nids >= 0) & (nids & NODE_BITS == source)
                wanted += [(at * CHUNK + offset, to) for offset in found.nonzero()[0].tolist()]
            failed += self._move(whose, wanted, maps, everybodys).count(False)
        return failed

    def states(self, process: Process, addresses: Sequence[int]) -> list[moves.PageState]:
        """Return the state of the page at each address, as move_pages() needs it."""
        if not addresses:
            return []
        low, high = min(addresses) & ~(PAGE_SIZE - 1), max(addresses) + 1
        maps = self._counting.count(process, low, -(-high // PAGE_SIZE) * PAGE_SIZE)
        words = page_flags(process.pid, [address >> PAGE_SHIFT for address in addresses])
        found = list[moves.PageState]()
        for address, word in zip(addresses, words, strict=True):
            vma = area_at(maps, address)
            nid = process.placement.node(address >> PAGE_SHIFT)
            zero = nid == NOWHERE and bool(word & _PRESENT)
            mapcount = 1 if word & _EXCLUSIVE or not word & _PRESENT else 2
            anon = vma is None or not vma.of_file
            found.append(moves.PageState(0 if zero else nid, vma is not None, mapcount, anon, zero))
        return found


def area_at(maps: Sequence[Vma], address: int) -> Vma | None:
    """The mapping of an address."""
    return next((vma for vma in maps if vma.start <= address < vma.end), None)
