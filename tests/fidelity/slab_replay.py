"""Replay what a captured kernel with SLAB allocated and freed, and compare arrays, slabs and pages with it.

What arrays and lists had when a trace began is unknown. A cache's first slab in a trace shows it: a slab is
added only when the CPU's array, the shared array of the node and its slabs have no free object. From that
event on everything is computed: addresses, when slabs come and when they go. Slabs of before are full then;
their first object is told by the first of their objects that is freed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fidelity.kmem_events import CACHE_ALLOC, CACHE_FREE, KFREE, KMALLOC, PAGE_ALLOC, KmemEvent, kmem_events
from fidelity.slab import Guest, guest_of, slab_of
from fidelity.slab_steps import slab_steps

from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.mm.slab.kmem_cache import PAGE_SIZE
from numa_service.mm.slab.pages import offset_in_page, page_address, virt_to_pfn
from numa_service.mm.slab.profile import SLAB
from numa_service.mm.slab.slab import SlabCaches
from numa_service.mm.slab.slab_alloc import REAPTIMEOUT_AC, KmemCache, Slab
from numa_service.mm.slab.slab_boot import start_slab
from numa_service.mm.slab.slab_node import SlabNode, SlabPages


@dataclass(slots=True)
class SlabTally:
    """What the replay of one cache compared, from its first new slab on."""

    #: Allocations on a CPU whose state is known.
    allocations: int = 0
    #: Of them: at the predicted address.
    same_address: int = 0
    #: Slabs that the kernel added on such a CPU.
    slabs_added: int = 0
    #: Of them: added at the same allocation by the model.
    same_growth: int = 0
    #: Slabs that the kernel gave back.
    slabs_freed: int = 0
    #: Of them: given back at the same free by the model.
    same_free: int = 0
    #: Slabs that the model wanted to add at an allocation for which the kernel had an object.
    extra: int = 0
    #: Slabs that the model gave back at an earlier free than the kernel, or that the kernel kept.
    early: int = 0


class _TracedPages:
    """Hands out the pages that the kernel got, to the cache that got them."""

    def __init__(self, guest: Guest) -> None:
        self.fresh: int | None = None
        self.guest = guest
        self.freed: list[int] = []

    def alloc_pages(self, node: int, order: int, gfp: int) -> tuple[int, int] | None:
        if self.fresh is None:
            return None
        nid = self.guest.page_to_nid(self.fresh)
        return None if gfp & Gfp.THISNODE and nid != node else (self.fresh, nid)

    def free_pages(self, pfn: int, order: int) -> None:
        self.freed.append(pfn)


@dataclass(slots=True)
class SlabReplay:
    """A machine that follows a trace."""

    slab: Slab
    source: _TracedPages
    tallies: dict[str, SlabTally] = field(default_factory=dict)
    #: Caches whose state on a CPU is known.
    synced: set[tuple[str, int]] = field(default_factory=set)
    #: First pfn and order of pages that have no objects yet.
    fresh: dict[int, int] = field(default_factory=dict)
    #: Objects of the trace and their caches.
    known: dict[int, str] = field(default_factory=dict)
    #: Slabs that the model gave back and the kernel not yet: the cache, and which event of its CPU did it.
    ahead: dict[int, tuple[str, int]] = field(default_factory=dict)
    #: By CPU, its events with objects so far.
    events: Counter[int] = field(default_factory=Counter)
    #: By cache, free objects that nodes shared when the trace began.
    shared_before: dict[str, int] = field(default_factory=dict)
    #: As many of them as arrays have less room for here.
    shared_elsewhere: dict[str, int] = field(default_factory=dict)
    #: Objects of before the trace that a CPU gave to kfree, which does not print their cache.
    unknown: list[tuple[int, int]] = field(default_factory=list)

    def run(self, events: list[KmemEvent]) -> None:
        """Follow all events."""
        for event in in_time(events):
            self.events[event.cpu] += event.kind in (KMALLOC, CACHE_ALLOC, KFREE, CACHE_FREE)
            if event.kind in (KMALLOC, CACHE_ALLOC):
                name = self.name_of(event)
                if name:
                    self.allocated(event, self.slab.caches[name])
                else:
                    self.fresh.pop(virt_to_pfn(event.address), None)
            elif event.kind in (KFREE, CACHE_FREE):
                self.freed(event)
            elif event.kind == PAGE_ALLOC:
                self.fresh[virt_to_pfn(event.address)] = event.given
            else:
                self.page_freed(virt_to_pfn(event.address), event.cpu)
        for name, _ in self.ahead.values():
            self.tally(name).early += 1

    def name_of(self, event: KmemEvent) -> str:
        """The cache of an object; "" if nothing tells it."""
        if event.name:
            return self.slab.caches[event.name].cache.name
        if slab := self.slab.struct_pages.get(virt_to_pfn(event.address)):
            return slab.cache.name
        sizes = [c.cache for c in self.slab.in_order if c.cache.size == event.given]
        if event.kind == KMALLOC:
            sizes = [c for c in sizes if c.name.startswith("kmalloc-") and "rcl" not in c.name]
        return sizes[0].name if len(sizes) == 1 else ""

    def tally(self, name: str) -> SlabTally:
        return self.tallies.setdefault(name, SlabTally())

    def allocated(self, event: KmemEvent, cache: KmemCache) -> None:
        name = cache.cache.name
        cpu = event.cpu
        pfn = virt_to_pfn(event.address)
        base = pfn & -(1 << cache.cache.order)
        grown = base in self.fresh and self.fresh[base] == cache.cache.order
        if grown:
            del self.fresh[base]
        self.known[event.address] = name
        tally = self.tally(name)
        if (name, cpu) not in self.synced:
            if not grown:
                self.drop(cache, event.address)
                return
            self.sync(cache, cpu, base, event.address)
        tally.allocations += 1
        tally.slabs_added += grown
        node = cache.nodes[self.source.guest.page_to_nid(pfn)]
        before = node.total_slabs
        shared = grown and not self.source.guest.has_memory(self.slab.cpus[cpu]) and self.share_all(cache)
        self.source.fresh = base if grown else None
        predicted = self.slab.kmem_cache_alloc(name, cpu, GFP_KERNEL)
        added = node.total_slabs - before
        tally.same_growth += bool(added and grown and not shared)
        if grown and not added:
            self.add(cache, base, event.address)
        if not grown and predicted is None:
            tally.extra += 1
        if predicted == event.address:
            tally.same_address += 1
            return
        if predicted is not None:
            cache.objects.discard(predicted)
            if not self.swap(cache, event.address, predicted):
                cache.cpus[cpu].entry.append(predicted)
        cache.objects.add(event.address)

    def sync(self, cache: KmemCache, cpu: int, base: int, address: int) -> None:
        """This CPU's array is empty, and so are the shared array and the slabs of its node.

        If its node has no memory, the slabs of all nodes are empty (fallback_alloc), and what nodes share it
        has not touched: that is taken to be of the node that is used.
        """
        guest = self.source.guest
        home, nid = self.slab.cpus[cpu], guest.page_to_nid(base)
        self.synced.add((cache.cache.name, cpu))
        array = cache.cpus[cpu]
        array.entry.clear()
        array.touched = True
        alone = guest.has_memory(home)
        for node in [cache.nodes[home]] if alone else list(cache.nodes.values()):
            if node.shared and node.nid == home:
                node.shared.entry.clear()
            for slab in [*node.partial.values(), *node.empty.values()]:
                slab.free.clear()
                node.partial.pop(slab.pfn, None)
                node.empty.pop(slab.pfn, None)
                node.full[slab.pfn] = slab
            node.free_objects = 0
        # the object is the last of those that are taken at once, which tells the colour
        taken = min(array.batchcount, cache.cache.objects) if alone else 1
        size, colour_off, node = cache.cache.size, cache.cache.colour_off, cache.nodes[nid]
        if node.shared and not alone:
            self.shared_elsewhere[cache.cache.name] = min(
                self.shared_before.get(cache.cache.name, 0), node.shared.limit
            )
            node.shared.limit -= self.shared_elsewhere[cache.cache.name]
        start = address - page_address(base) - (taken - 1) * size
        colour = start // colour_off if start >= 0 else 0
        node.colour_next = colour - 1 if colour else max(cache.cache.colour, 1) - 1

    def share_all(self, cache: KmemCache) -> bool:
        """A slab is added as no node has free objects in its slabs: those here are in shared arrays.

        Whether there were any.
        """
        found = False
        for node in cache.nodes.values():
            for slab in [*node.partial.values(), *node.empty.values()] if node.shared else ():
                assert node.shared
                found = True
                node.shared.entry += slab.free
                node.shared.limit = max(node.shared.limit, len(node.shared.entry))
                self.refile(node, slab, slab.free.clear)
        return found

    def add(self, cache: KmemCache, base: int, address: int) -> None:
        """A slab that the model did not add; its other objects are taken to be in use."""
        node = cache.nodes[self.source.guest.page_to_nid(base)]
        slab = SlabPages(base, node.nid, cache.cache, [], address)
        node.full[base] = slab
        for pfn in range(base, base + (1 << cache.cache.order)):
            self.slab.struct_pages[pfn] = slab

    def foreign(self, cache: KmemCache, address: int) -> None:
        """A slab of before the trace: it is full."""
        base = virt_to_pfn(address) & -(1 << cache.cache.order)
        if base not in self.slab.struct_pages:
            self.add(cache, base, address)

    def swap(self, cache: KmemCache, actual: int, predicted: int) -> bool:
        """Where the model has a free object that is in use, put the one that it took; False: nowhere."""
        for entry in self.places(cache):
            if actual in entry:
                entry[entry.index(actual)] = predicted
                return True
        theirs = self.slab.struct_pages.get(virt_to_pfn(actual))
        if not theirs or actual not in theirs.free:
            return False
        node = cache.nodes[theirs.nid]
        self.refile(node, theirs, lambda: theirs.free.remove(actual))
        ours = self.slab.struct_pages[virt_to_pfn(predicted)]
        self.refile(cache.nodes[ours.nid], ours, lambda: ours.free.append(predicted))
        return True

    def drop(self, cache: KmemCache, actual: int) -> None:
        """An object is in use by a CPU whose state is not known."""
        self.foreign(cache, actual)
        for array in cache.cpus.values():
            if actual in array.entry:
                array.entry.remove(actual)
        for node in cache.nodes.values():
            for entry in [a.entry for a in node.alien.values()] + (
                [node.shared.entry] if node.shared else []
            ):
                if actual in entry:
                    entry.remove(actual)
        theirs = self.slab.struct_pages[virt_to_pfn(actual)]
        if actual in theirs.free:
            self.refile(cache.nodes[theirs.nid], theirs, lambda: theirs.free.remove(actual))
        cache.objects.add(actual)

    def refile(self, node: SlabNode, slab: SlabPages, change: Callable[[], None]) -> None:
        """Change the free objects of a slab, and enter it in the list where it belongs now."""
        for slabs in (node.partial, node.full, node.empty):
            slabs.pop(slab.pfn, None)
        node.free_objects -= len(slab.free)
        change()
        node.free_objects += len(slab.free)
        (node.full if not slab.free else node.partial if slab.active else node.empty)[slab.pfn] = slab

    def freed(self, event: KmemEvent) -> None:
        name = self.known.pop(event.address, "")
        if event.kind == CACHE_FREE:
            name = self.slab.caches[event.name].cache.name
        elif not name and (slab := self.slab.struct_pages.get(virt_to_pfn(event.address))):
            name = slab.cache.name  # kfree does not print it
        if name:
            self.free(self.slab.caches[name], event.cpu, event.address)
        else:
            self.unknown.append((event.cpu, event.address))

    def free(self, cache: KmemCache, cpu: int, address: int) -> None:
        name = cache.cache.name
        self.foreign(cache, address)
        cache.objects.add(address)
        self.source.freed.clear()
        self.slab.kmem_cache_free(name, cpu, address)
        for pfn in self.source.freed:
            self.ahead[pfn] = name, self.events[cpu]

    def was_unknown(self, pfn: int, cpu: int) -> None:
        """A slab goes one free before the model's CPU has its array full: an unknown object was of its cache.

        It is freed now. That object lies where one of the cache can be, on a page that nothing else tells of.
        """
        slab = self.slab.struct_pages.get(pfn)
        if not slab or slab.active or self.slab.cpus[cpu] != slab.nid:
            return
        cache = self.slab.caches[slab.cache.name]
        array = cache.cpus[cpu]
        places = {
            place for first in cache.cache.colours() for place in range(first, PAGE_SIZE, slab.cache.size)
        }
        for at, (freed_by, address) in enumerate(self.unknown):
            fits = freed_by == cpu and offset_in_page(address) in places
            if (
                len(array.entry) == array.limit
                and fits
                and not self.slab.struct_pages.get(virt_to_pfn(address))
            ):
                del self.unknown[at]
                self.free(cache, cpu, address)
                return

    def page_freed(self, pfn: int, cpu: int) -> None:
        self.fresh.pop(pfn, None)
        if pfn not in self.ahead:
            self.was_unknown(pfn, cpu)
        if gone := self.ahead.pop(pfn, None):
            name, at = gone
            self.tally(name).slabs_freed += 1
            self.tally(name).same_free += at == self.events[cpu]
            self.tally(name).early += at != self.events[cpu]
        elif slab := self.slab.struct_pages.get(pfn):
            self.tally(slab.cache.name).slabs_freed += 1
            cache = self.slab.caches[slab.cache.name]
            if pfn == slab.pfn:
                self.sent_home(cache, slab, cpu)
                self.went(cache, slab)

    def sent_home(self, cache: KmemCache, slab: SlabPages, cpu: int) -> None:
        """A slab goes before the model would give it back, as a CPU of another node has sent objects home.

        So the alien array was full but for the object that came last, and the shared array is, and there are
        more free objects than the limit: what they had before the trace is not known, and counted here.
        """
        node, alien = cache.nodes[slab.nid], cache.nodes[self.slab.cpus[cpu]].alien.get(slab.nid)
        self.source.freed.clear()
        if alien is not None and alien.entry:
            last = alien.entry.pop()
            node.take_home(alien)
            alien.entry.append(last)
            if node.shared:
                node.shared.limit = len(node.shared.entry)
        node.free_limit = max(min(node.free_limit, node.free_objects - 1), 0)
        for pfn in self.source.freed:
            self.ahead[pfn] = cache.cache.name, self.events[cpu]

    def went(self, cache: KmemCache, slab: SlabPages) -> None:
        """The kernel has given back a slab that the model has: none of its objects is anywhere any more."""
        if self.slab.struct_pages.get(slab.pfn) is not slab:
            self.ahead.pop(slab.pfn, None)
            return
        node = cache.nodes[slab.nid]
        for slabs in (node.partial, node.full, node.empty):
            slabs.pop(slab.pfn, None)
        node.free_objects -= len(slab.free)
        pages = range(slab.pfn, slab.pfn + (1 << slab.cache.order))
        for entry in self.places(cache) if slab.active else ():
            entry[:] = [address for address in entry if virt_to_pfn(address) not in pages]
        for page in pages:
            self.slab.struct_pages.pop(page, None)

    def places(self, cache: KmemCache) -> list[list[int]]:
        """Free objects that are not in slabs."""
        places: list[list[int]] = [array.entry for array in cache.cpus.values()]
        for node in cache.nodes.values():
            places += [alien.entry for alien in node.alien.values()]
            if node.shared:
                places.append(node.shared.entry)
        return places


def in_time(events: list[KmemEvent]) -> list[KmemEvent]:
    """The events with the first object of a new slab right after its pages.

    An allocation is printed when it is done: what an interrupt frees before that comes after the slab's first
    objects are taken.
    """
    pages: dict[int, int] = {}
    times: list[float] = []
    for number, event in enumerate(events):
        time: float = number
        pfn = virt_to_pfn(event.address)
        if event.kind == PAGE_ALLOC:
            for page in range(pfn, pfn + (1 << event.given)):
                pages[page] = number
        elif event.kind in (KMALLOC, CACHE_ALLOC) and pfn in pages:
            asked = pages[pfn]
            if events[asked].cpu == event.cpu:
                time = asked + 0.5
            first = virt_to_pfn(events[asked].address)
            for page in range(first, first + (1 << events[asked].given)):
                pages.pop(page, None)
        times.append(time)
    return [event for _, event in sorted(zip(times, events, strict=True), key=lambda pair: pair[0])]


def replay_slab(capture: Path, workload: str) -> SlabReplay:
    """Replay one trace of a capture."""
    guest = guest_of(capture)
    caches: SlabCaches = slab_of(guest)
    source = _TracedPages(guest)
    slab = start_slab(SLAB[guest.profile], caches, dict(enumerate(guest.cpus)), guest.fallback, source)
    script = (capture / "guest.sh").read_text()
    for text in re.findall(r'echo "([^"$]+)" > /proc/slabinfo', script):
        slab.slabinfo_write(text)
    before: dict[str, int] = {}
    for step in slab_steps(capture, workload):
        if step.command.endswith("tracing_on 1"):
            break
        before |= {name: counts.shared for name, counts in step.counts.items()}
    replay = SlabReplay(slab, source, shared_before=before)
    replay.run(kmem_events(capture, workload))
    return replay


@dataclass(frozen=True, slots=True)
class Idle:
    """What a cache has while nothing uses it, as slabinfo shows it."""

    free_objects: int
    free_slabs: int
    shared: int
    #: Slabs that went since the trace ended.
    slabs_gone: int


def captured_rounds(capture: Path, workload: str, cache: str) -> list[Idle]:
    """A cache after the trace, each time that slabinfo was read, while the reaper was at work."""
    seen = []
    counts = None
    ended = False
    for step in slab_steps(capture, workload):
        counts = step.counts.get(cache, counts)
        ended = ended or step.command.endswith("tracing_on 0")
        if ended and counts and step.command in ("slabinfo", "dump"):
            seen.append((counts.objects - counts.active_objects, counts))
    first = seen[0][1].slabs
    return [Idle(free, c.slabs - c.active_slabs, c.shared, first - c.slabs) for free, c in seen]


def reaped(capture: Path, workload: str, odd: bool, touched: bool, rounds: int) -> dict[str, list[Idle]]:
    """Each cache after the trace and after each round of the reaper, as the model has it.

    Whether a node's shared array has its turn in odd or in even rounds, and whether its empty slabs were used
    before the trace, is not captured.
    """
    replay = replay_slab(capture, workload)
    for cache in replay.slab.in_order:
        for node in cache.nodes.values():
            node.next_reap = REAPTIMEOUT_AC if odd else 2 * REAPTIMEOUT_AC
            node.free_touched = touched
    states = {cache.cache.name: [cache.info()] for cache in replay.slab.in_order}
    for number in range(1, rounds + 1):
        for cpu in replay.slab.cpus:
            replay.slab.cache_reap(cpu, number * REAPTIMEOUT_AC)
        for cache in replay.slab.in_order:
            states[cache.cache.name].append(cache.info())
    return {
        name: [
            Idle(
                s.objects - s.active_objects,
                s.slabs - s.active_slabs,
                s.shared_available,
                infos[0].slabs - s.slabs,
            )
            for s in infos
        ]
        for name, infos in states.items()
    }
