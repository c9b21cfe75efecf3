"""SLAB of one cache by lists of numbers: a second opinion on ``slab_alloc.py``.

Arrays, shared and alien arrays are plain lists; a slab is a page number and a list of its free objects. It is
written from the rules, not from the code that it judges.
"""

from __future__ import annotations

from numa_service.mm.slab.pages import page_address

#: Objects are 1,024 bytes, four in a slab of one page.
SIZE, OBJECTS = 1024, 4


class ReferenceNode:
    def __init__(self) -> None:
        self.partial: list[int] = []
        self.empty: list[int] = []
        self.full: list[int] = []
        self.shared: list[int] = []
        self.touched = False
        self.free_touched = False
        self.free_limit = 0
        self.due = 0


class ReferenceSlab:
    """Some nodes with CPUs, and pages of each that are handed out lowest first."""

    def __init__(self, cpus: dict[int, int], pages: dict[int, set[int]], alien: bool) -> None:
        self.cpus = cpus
        self.pages = pages
        self.nodes = {nid: ReferenceNode() for nid in pages}
        self.arrays: dict[int, list[int]] = {cpu: [] for cpu in cpus}
        self.used = dict.fromkeys(cpus, False)
        self.alien = {(a, b): [] for a in pages for b in pages if a != b} if alien else {}
        self.free: dict[int, list[int]] = {}
        self.home: dict[int, int] = {}
        self.turn = {cpu: (nid + 1) % len(pages) for cpu, nid in cpus.items()}
        self.tune(54, 27, 8, first=True)

    def tune(self, limit: int, batch: int, shared: int, first: bool = False) -> None:
        shares = not first and self.room > 0
        self.limit, self.batch, self.room = limit, batch, shared * batch
        if not first:
            for cpu, array in self.arrays.items():
                self.back(self.cpus[cpu], array)
                self.arrays[cpu], self.used[cpu] = [], False
        for nid, node in self.nodes.items():
            node.free_limit = (1 + sum(n == nid for n in self.cpus.values())) * batch + OBJECTS
            gone, node.shared, node.touched = node.shared, [], False
            if shares:  # without a shared array nobody looks whether the node has too many free objects
                self.back(nid, gone)

    def count(self, nid: int) -> int:
        node = self.nodes[nid]
        return sum(len(self.free[p]) for p in (*node.partial, *node.empty, *node.full))

    def back(self, nid: int, objects: list[int]) -> None:
        node = self.nodes[nid]
        for address in objects:
            pfn = (address - page_address(0)) >> 12
            for pfns in (node.partial, node.full):
                if pfn in pfns:
                    pfns.remove(pfn)
            self.free[pfn].append(address)
            if len(self.free[pfn]) == OBJECTS:
                node.empty.insert(0, pfn)
            else:
                node.partial.append(pfn)
        while self.count(nid) > node.free_limit and node.empty:
            self.discard(nid)

    def discard(self, nid: int) -> None:
        pfn = self.nodes[nid].empty.pop()
        del self.free[pfn]
        self.pages[self.home.pop(pfn)].add(pfn)

    def pick(self, nid: int, wanted: int) -> list[int]:
        """Objects of the node's slabs."""
        node = self.nodes[nid]
        got: list[int] = []
        while len(got) < wanted:
            if node.partial:
                pfn = node.partial.pop(0)
            else:
                node.free_touched = True
                if not node.empty:
                    break
                pfn = node.empty.pop(0)
            while self.free[pfn] and len(got) < wanted:
                got.append(self.free[pfn].pop())
            (node.partial if self.free[pfn] else node.full).insert(0, pfn)
        return got

    def grow(self, order: list[int], wanted: int) -> list[int]:
        for nid in order:
            if self.pages[nid]:
                pfn = min(self.pages[nid])
                self.pages[nid].remove(pfn)
                self.home[pfn] = nid
                start = page_address(pfn)
                self.free[pfn] = [start + n * SIZE for n in range(OBJECTS - 1, -1, -1)]
                got = [self.free[pfn].pop() for _ in range(min(wanted, OBJECTS))]
                node = self.nodes[nid]
                (node.partial if self.free[pfn] else node.full).insert(0, pfn)
                return got
        return []

    def alloc(self, cpu: int, where: int) -> int | None:
        here = self.cpus[cpu]
        if where in (-1, here):
            array = self.arrays[cpu]
            if not array:
                node = self.nodes[here]
                wanted = self.batch if self.used[cpu] else min(self.batch, 16)
                if node.shared:
                    wanted = min(wanted, len(node.shared))
                    array += node.shared[-wanted:]
                    del node.shared[-wanted:]
                    node.touched = True
                elif self.count(here):
                    array += self.pick(here, wanted)
                if not array:
                    array += self.grow([here], wanted)
            if array:
                self.used[cpu] = True
                return array.pop()
            where = here
        if got := self.pick(where, 1) or self.grow([where], 1):
            return got[0]
        order = [here, *(nid for nid in self.pages if nid != here)]
        for nid in order:
            if self.count(nid):
                return self.pick(nid, 1)[0]
        return next(iter(self.grow(order, 1)), None)

    def give(self, cpu: int, address: int) -> None:
        here, array = self.cpus[cpu], self.arrays[cpu]
        nid = self.home[(address - page_address(0)) >> 12]
        if nid == here:
            if len(array) == self.limit:
                room = self.room - len(self.nodes[here].shared)
                count = min(self.batch, room) if room > 0 else self.batch
                oldest, array[:] = array[:count], array[count:]
                if room > 0:
                    self.nodes[here].shared += oldest
                else:
                    self.back(here, oldest)
            array.append(address)
        elif self.alien:
            waiting = self.alien[here, nid]
            if len(waiting) == 12:
                self.homeward(here, nid)
            waiting.append(address)
        else:
            self.back(nid, [address])

    def homeward(self, here: int, nid: int) -> None:
        waiting = self.alien[here, nid]
        room = max(self.room - len(self.nodes[nid].shared), 0)
        kept = max(len(waiting) - room, 0)
        self.nodes[nid].shared += waiting[kept:]
        rest, waiting[:] = waiting[:kept], []
        self.back(nid, rest)

    def fifth(self, nid: int, array: list[int], limit: int) -> None:
        count = (limit + 4) // 5
        if count > len(array):
            count = (len(array) + 1) // 2
        oldest, array[:] = array[:count], array[count:]
        self.back(nid, oldest)

    def reap(self, cpu: int, jiffies: int) -> None:
        here = self.cpus[cpu]
        node = self.nodes[here]
        if self.alien.get((here, self.turn[cpu])):
            self.homeward(here, self.turn[cpu])
        self.turn[cpu] = (self.turn[cpu] + 1) % len(self.pages)
        array = self.arrays[cpu]
        if array and self.used[cpu]:
            self.used[cpu] = False
        elif array:
            self.fifth(here, array, self.limit)
        if jiffies < node.due:
            return
        node.due = jiffies + 1000
        if node.shared and node.touched:
            node.touched = False
        elif node.shared:
            self.fifth(here, node.shared, self.room)
        if node.free_touched:
            node.free_touched = False
            return
        for _ in range(-(-node.free_limit // (5 * OBJECTS))):
            if node.empty:
                self.discard(here)
