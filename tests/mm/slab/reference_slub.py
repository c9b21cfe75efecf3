"""What SLUB does with objects, said again without lists: where each slab is, and when each object came there.

The next object of a CPU or of a slab is the one with the highest stamp; the first slab of a list is the one
with the lowest place.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FRAME = 4096
BASE = 0xFFFF888000000000


class FewPages:
    """Blocks of eight frames, so many a node; the one freed last is given first."""

    FRAMES = 1 << 16

    def __init__(self, blocks: dict[int, int]) -> None:
        self.free = {
            nid: [(nid + 1) * self.FRAMES + 8 * block for block in reversed(range(count))]
            for nid, count in blocks.items()
        }
        #: Larger orders fail, as when memory is fragmented.
        self.largest = 3
        self.log: list[tuple[str, int, int]] = []

    def take(self, nid: int | None, order: int, *, alone: bool) -> tuple[int, int] | None:
        if order > self.largest:
            return None
        for other in sorted(self.free, key=lambda at: at != nid):
            if self.free[other] and (other == nid or not alone):
                pfn = self.free[other].pop()
                self.log.append(("alloc", pfn, order))
                return pfn, other
        return None

    def give(self, pfn: int, order: int) -> None:
        self.log.append(("free", pfn, order))
        self.free[self.nid(pfn)].append(pfn)

    def nid(self, pfn: int) -> int:
        return pfn // self.FRAMES - 1


@dataclass
class ReferenceSlub:
    """One cache: `where` a slab is, in what `place` of its list, and the `stamp` of each free object."""

    pages: FewPages
    size: int
    per_slab: int
    order: int
    min_order: int
    min_partial: int
    cpu_partial_slabs: int
    homes: list[int]
    preferred_first: bool
    defrag: bool
    debug: bool = False
    where: dict[int, tuple[str, int]] = field(default_factory=dict)
    place: dict[int, int] = field(default_factory=dict)
    objects: dict[int, list[int]] = field(default_factory=dict)
    orders: dict[int, int] = field(default_factory=dict)
    allocated: set[int] = field(default_factory=set)
    with_cpu: set[int] = field(default_factory=set)
    stamp: dict[int, int] = field(default_factory=dict)
    clock: int = 0

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def at(self, *where: object) -> list[int]:
        return sorted((s for s, at in self.where.items() if at == where), key=self.place.__getitem__)

    def free_of(self, slab: int) -> set[int]:
        return {o for o in self.objects[slab] if o in self.stamp}

    def current(self, cpu: int) -> int | None:
        return next(iter(self.at("cpu", cpu)), None)

    def on_cpu(self, cpu: int) -> list[int]:
        slab = self.current(cpu)
        return [] if slab is None else sorted(self.free_of(slab) & self.with_cpu, key=self.stamp.__getitem__)

    def nid(self, slab: int) -> int:
        return self.pages.nid(slab)

    def move(self, slab: int, kind: str, who: int, *, head: bool = False) -> None:
        self.where[slab] = kind, who
        self.place[slab] = self.tick() * (-1 if head else 1)

    def settle(self, slab: int, *, head: bool = False) -> None:
        """Off a CPU: to the node's list, to the page allocator, or nowhere as it is full."""
        free = self.free_of(slab)
        if len(free) == len(self.objects[slab]) and len(self.at("node", self.nid(slab))) >= self.min_partial:
            self.drop(slab)
        elif free:
            self.move(slab, "node", self.nid(slab), head=head)
        else:
            self.move(slab, "full", 0)

    def drop(self, slab: int) -> None:
        for each in self.objects.pop(slab):
            del self.stamp[each]
        del self.where[slab], self.place[slab]
        self.pages.give(slab, self.orders.pop(slab))

    def leave(self, cpu: int) -> None:
        """A CPU gives its slab up."""
        slab = self.current(cpu)
        if slab is None:
            return
        mine = self.on_cpu(cpu)
        remote = self.free_of(slab) - self.with_cpu
        for each in mine:
            self.stamp[each] = self.tick()
        self.with_cpu -= set(mine)
        self.where[slab] = ("leaving", cpu)
        self.settle(slab, head=not remote)

    def drain(self, slabs: list[int]) -> None:
        empties = []
        for slab in slabs:
            self.where[slab] = ("leaving", 0)
            full_node = len(self.at("node", self.nid(slab))) >= self.min_partial
            if full_node and len(self.free_of(slab)) == len(self.objects[slab]):
                empties.append(slab)
            else:
                self.settle(slab)
        for slab in reversed(empties):
            self.drop(slab)

    def use(self, cpu: int, slab: int) -> int:
        """A slab becomes the CPU's, and its newest object is allocated."""
        self.move(slab, "cpu", cpu)
        self.with_cpu |= self.free_of(slab)
        return self.pop(self.free_of(slab))

    def pop(self, among: set[int]) -> int:
        got = max(among, key=self.stamp.__getitem__)
        del self.stamp[got]
        self.with_cpu.discard(got)
        self.allocated.add(got)
        return got

    def partials(self, cpu: int) -> list[int]:
        return self.at("partial", cpu)[::-1]  # the newest first

    def alloc(self, cpu: int, nid: int | None) -> int | None:
        slab = self.current(cpu)
        if slab is not None:
            if nid is not None and self.nid(slab) != nid:
                self.leave(cpu)
            elif self.on_cpu(cpu):
                return self.pop(set(self.on_cpu(cpu)))
            elif self.free_of(slab):
                return self.use(cpu, slab)
            else:
                self.move(slab, "full", 0)
        while partial := self.partials(cpu):
            if nid in (None, self.nid(partial[0])):
                return self.use(cpu, partial[0])
            self.drain(partial[:1])
        for alone in [True, False] if nid is not None and self.preferred_first else [False]:
            search = self.homes[cpu] if nid is None else nid
            if (got := self.from_node(cpu, search)) is not None:
                return got
            everywhere = nid is None or (self.preferred_first and not alone)
            if everywhere and self.defrag:
                for other in sorted(self.pages.free, key=lambda at: at != self.homes[cpu]):
                    if len(self.at("node", other)) > self.min_partial:
                        return self.from_node(cpu, other)
            for order, count in ((self.order, self.per_slab), (self.min_order, 0)):
                if (block := self.pages.take(search, order, alone=alone)) is not None:
                    return self.fresh(cpu, block[0], order, count or (FRAME << order) // self.size)
        return None

    def fresh(self, cpu: int, slab: int, order: int, count: int) -> int:
        first = BASE + slab * FRAME
        self.objects[slab] = [first + index * self.size for index in range(min(count, self.per_slab))]
        self.orders[slab] = order
        for each in reversed(self.objects[slab]):
            self.stamp[each] = self.tick()
        if not self.debug:
            return self.use(cpu, slab)
        got = self.pop(self.free_of(slab))
        self.where[slab] = ("new", 0)
        self.settle(slab, head=True)
        return got

    def from_node(self, cpu: int, nid: int) -> int | None:
        listed = self.at("node", nid)
        if not listed:
            return None
        if self.debug:
            got = self.pop(self.free_of(listed[0]))
            if not self.free_of(listed[0]):
                self.move(listed[0], "full", 0)
            return got
        for slab in listed[1 : 2 + self.cpu_partial_slabs // 2]:
            self.move(slab, "partial", cpu)
        return self.use(cpu, listed[0])

    def free(self, cpu: int, address: int, *, was_full: bool | None = None) -> None:
        slab = next(s for s, objects in self.objects.items() if address in objects)
        was_full = not self.free_of(slab) if was_full is None else was_full
        self.allocated.remove(address)
        self.stamp[address] = self.tick()
        kind, who = self.where[slab]
        if kind == "cpu":
            if who == cpu:
                self.with_cpu.add(address)
        elif kind == "full" and not self.debug:
            partial = self.partials(cpu)
            full = len(partial) >= self.cpu_partial_slabs
            if full:
                for each in partial:
                    self.where[each] = ("leaving", 0)
            self.move(slab, "partial", cpu)
            if full:
                self.drain(partial)
        elif kind == "full":
            self.settle(slab)
        elif kind == "node":
            empty = len(self.free_of(slab)) == len(self.objects[slab])
            if empty and len(self.at("node", who)) >= self.min_partial:
                self.drop(slab)
        assert not was_full or kind in ("cpu", "full")

    def free_bulk(self, cpu: int, objects: list[int]) -> None:
        """Those of one slab that are near in the sequence together (build_detached_freelist)."""
        left = list(objects)
        slab_of = {each: slab for slab, objects in self.objects.items() for each in objects}
        while left:
            slab = slab_of[left[-1]]
            at = kept = len(left) - 1
            together, passed = [left[at]], 0
            while at and passed < 3:
                at -= 1
                if slab_of[left[at]] == slab:
                    together.append(left[at])
                    kept -= 1
                    left[at], left[kept] = left[kept], left[at]
                else:
                    passed += 1
            del left[kept:]
            self.free_together(cpu, together)

    def free_together(self, cpu: int, objects: list[int]) -> None:
        """All but one come back without notice: what follows is looked at when all are there."""
        *others, last = objects
        slab = next(s for s, all_of in self.objects.items() if last in all_of)
        was_full = not self.free_of(slab)
        for each in others:
            self.allocated.remove(each)
            self.stamp[each] = self.tick()
            if self.where[slab] == ("cpu", cpu):
                self.with_cpu.add(each)
        self.free(cpu, last, was_full=was_full)

    def flush(self) -> None:
        for cpu in range(len(self.homes)):
            self.leave(cpu)
            self.drain(self.partials(cpu))

    def shrink(self) -> None:
        self.flush()
        for nid in self.pages.free:
            listed = self.at("node", nid)
            free = {slab: len(self.free_of(slab)) for slab in listed}
            kept = [slab for slab in listed if free[slab] < len(self.objects[slab])]
            for slab in reversed([slab for slab in listed if slab not in kept]):
                self.drop(slab)
            promoted = sorted([s for s in kept[::-1] if free[s] <= 32], key=free.__getitem__)
            for slab in promoted + [slab for slab in kept if slab not in promoted]:
                self.move(slab, "node", nid)
