"""Replay what a captured kernel did with the objects of a cache, and count what the model does otherwise.

The kernel shuffles the objects of a new slab, and its slabs at the start of a trace are not written down.
Both are read off the trace: the order in which a slab's objects are first allocated, and which CPU allocates
from a slab that is older than the trace. All else is computed: the slab of each object, when pages are taken
and given back, and where slabs are at the end.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fidelity.slab import Guest, guest_of, read_attributes, slab_captures, slub_of
from groundtruth import GROUNDTRUTH

from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.slab.kmem_cache import PAGE_SHIFT
from numa_service.mm.slab.profile import SLUB
from numa_service.mm.slab.reports import SlabBugError
from numa_service.mm.slab.slub import SlubCache
from numa_service.mm.slab.slub_cpu import KmemCache, KmemCacheCpu, SlubMachine
from numa_service.mm.slab.slub_node import OWN_HOME
from numa_service.mm.slab.slub_place import SlabRef
from numa_service.mm.structs import PAGE_OFFSET as PAGE_OFFSETS

#: That of the captures.
PAGE_OFFSET = PAGE_OFFSETS["x86_64"]

ALLOC, FREE, NEW_SLAB, DISCARD = "a", "f", "n", "d"
#: The caches that an archive has, by workload: those that it fills.
WORKLOADS = {
    "tmpfs": ("shmem_inode_cache", "dentry", "lsm_inode_cache", "filp"),
    "pipes": ("inode_cache", "dentry", "filp"),
}
#: Frees of a cache in a trace from which on it is replayed.
_MUCH = 200
#: The file of a packed capture.
PACKED = "slub-work.txt"
#: Attributes of a cache that are kept of the counts.
_COUNTED = ("slabs", "partial", "slabs_cpu_partial")
#: Frames that stand for pages which the model takes and the kernel did not.
_OWN_FRAMES = 1 << 32

_LINE = re.compile(r"\s*.+-\d+\s+\[(\d+)\] +\S+ +[\d.]+: (\w+): (.*)", re.ASCII)
_ADDRESS = re.compile(r"ptr=(ffff[0-9a-f]{12})", re.ASCII)
_ALLOCATED = re.compile(r"call_site=(\S+) .*bytes_alloc=(\d+)", re.ASCII)
_PAGE = re.compile(r"pfn=(0x[0-9a-f]+) order=(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a cache: an object for ALLOC and FREE, else a slab."""

    kind: str
    cpu: int
    #: The first frame of the slab.
    pfn: int
    #: Which object of the slab it is.
    index: int = 0


def read_events(trace: Path) -> list[tuple[str, int, str]]:
    """CPU, name and text of each event of a kernel's trace."""
    with gzip.open(trace, "rt") as lines:
        found = [_LINE.match(line) for line in lines]
    return [(match[2], int(match[1]), match[3]) for match in found if match]


def events_of(trace: Sequence[tuple[str, int, str]], cache: SlubCache) -> list[Event]:
    """Those of one cache, whose name is in the events of its frees.

    An allocation has no name. It is of the cache if those of its call site and size are freed to it.
    """
    sites: dict[str, Counter[bool]] = defaultdict(Counter)
    live: dict[str, str] = {}
    for name, _, text in trace:
        if name in ("kmem_cache_alloc", "kmalloc") and (address := _ADDRESS.search(text)):
            live[address[1]] = _site(text)
        elif name == "kmem_cache_free" and (address := _ADDRESS.search(text)):
            sites[live.pop(address[1], "")][text.endswith(f" name={cache.name}")] += 1
    sites.pop("", None)  # allocated before the trace
    ours = {site for site, freed in sites.items() if freed[True] > freed[False]}
    events, pages = [], {}
    heads: set[int] = set()
    for name, cpu, text in trace:
        if page := _PAGE.search(text):
            pfn, order = int(page[1], 16), int(page[2])
            if name == "mm_page_alloc" and order <= cache.order:
                pages[pfn] = Event(NEW_SLAB, cpu, pfn)
            elif name == "mm_page_free":
                pages.pop(pfn, None)
                if pfn in heads:
                    heads.remove(pfn)
                    events.append(Event(DISCARD, cpu, pfn))
        elif address := _ADDRESS.search(text):
            alloc = name in ("kmem_cache_alloc", "kmalloc") and _site(text) in ours
            if alloc or (name == "kmem_cache_free" and text.endswith(f" name={cache.name}")):
                place = int(address[1], 16) - PAGE_OFFSET
                pfn = place >> PAGE_SHIFT + cache.order << cache.order
                heads.add(pfn)
                if made := pages.pop(pfn, None):
                    events.append(made)
                index = (place - (pfn << PAGE_SHIFT)) // cache.size
                events.append(Event(ALLOC if alloc else FREE, cpu, pfn, index))
    return events


def _site(text: str) -> str:
    found = _ALLOCATED.search(text)
    return f"{found[1]} {found[2]}" if found else ""


@dataclass(slots=True)
class Counts:
    """What came out of a replay."""

    #: Objects allocated: the same object; another of the same slab; of another slab.
    same: int = 0
    other_object: int = 0
    other_slab: int = 0
    #: Slabs made: at the same allocation; by the kernel alone; by the model alone.
    slabs_same: int = 0
    slabs_kernel: int = 0
    slabs_model: int = 0
    #: Slabs freed: the same at the same free; by the kernel alone; by the model alone.
    freed_same: int = 0
    freed_kernel: int = 0
    freed_model: int = 0
    #: Frees that the model refused, as it has the object free.
    refused: int = 0
    #: Numbers of slabs when the trace has ended, by node and by CPU: equal, and not.
    end_same: int = 0
    end_other: int = 0


class TracedPages:
    """The pages that the kernel took, handed out when the model asks."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.offered: int | None = None
        self.freed: list[int] = []
        self.own = _OWN_FRAMES
        self.own_nid: dict[int, int] = {}
        self.counts = Counts()

    def alloc_pages(self, node: int, order: int, gfp: int) -> SlabRef | None:
        """The kernel's pages if it took some here, else frames of its own."""
        if self.offered is not None:
            pfn, self.offered = self.offered, None
            self.counts.slabs_same += 1
        else:
            pfn = self.own
            self.own += 1 << order
            self.own_nid[pfn] = node
            self.counts.slabs_model += 1
        return SlabRef(pfn, self.page_to_nid(pfn))

    def free_pages(self, pfn: int, order: int) -> None:
        """Noted."""
        self.freed.append(pfn)

    def page_to_nid(self, pfn: int) -> int:
        """By where the nodes lie."""
        if pfn >= _OWN_FRAMES:
            return max((start, nid) for start, nid in self.own_nid.items() if start <= pfn)[1]
        return self.guest.page_to_nid(pfn)


def counts_of(path: Path, cache: SlubCache) -> dict[str, str]:
    """Counts of a cache in a step of a capture."""
    return read_attributes(path)[0].get(cache.sysfs_name, {})


def by_place(value: str, letter: str) -> dict[int, int]:
    """N0=3 or C1=60(2) of an attribute; of CPUs, the slabs."""
    pattern = rf"{letter}(\d+)=" + (r"\d+\((\d+)\)" if letter == "C" else r"(\d+)")
    return {int(where): int(count) for where, count in re.findall(pattern, value)}


@dataclass(slots=True)
class Replay:
    """One cache of one trace."""

    capture: Path
    workload: str
    cache: SlubCache
    events: list[Event]
    before: dict[str, str]
    after: dict[str, str]

    def run(self) -> Counts:
        """Every event, in order."""
        guest = guest_of(self.capture)
        work = SLUB[guest.profile].work
        assert work
        pages = TracedPages(guest)
        first = self._first_allocations()
        machine = SlubMachine(
            rules=work,
            cpu_to_mem=dict(enumerate(guest.cpus)),
            zonelists=guest.fallback,
            source=pages,
            shuffle=lambda pfn, objects: _completed(first[pfn].pop(0) if first.get(pfn) else [], objects),
        )
        model = KmemCache(self.cache, machine)
        self._begin(model, pages)
        began = {nid: node.nr_slabs for nid, node in model.nodes.items()}
        self._replay(model, pages)
        self._end(model, pages.counts, began)
        return pages.counts

    def _first_allocations(self) -> dict[int, list[list[int]]]:
        """Of each slab made in the trace, its objects in the order of their first allocation.

        Pages that became a slab more than once have as many orders.
        """
        first: dict[int, list[list[int]]] = {}
        for event in self.events:
            if event.kind == NEW_SLAB:
                first.setdefault(event.pfn, []).append([])
            elif event.kind == ALLOC and event.pfn in first and event.index not in first[event.pfn][-1]:
                first[event.pfn][-1].append(event.index)
        return first

    def _begin(self, model: KmemCache, pages: TracedPages) -> None:
        """Slabs that are older than the trace, with objects free that are allocated before they are freed."""
        made: set[int] = set()
        touched: set[tuple[int, int]] = set()
        free: dict[int, list[int]] = {}
        owner: dict[int, int] = {}
        for event in self.events:
            if event.kind == NEW_SLAB:
                made.add(event.pfn)
            elif event.pfn not in made and event.kind in (ALLOC, FREE):
                objects = free.setdefault(event.pfn, [])
                if event.kind == ALLOC and (event.pfn, event.index) not in touched:
                    objects.append(event.index)
                    owner.setdefault(event.pfn, event.cpu)
                touched.add((event.pfn, event.index))
        waiting = by_place(self.before.get("slabs_cpu_partial", ""), "C")
        listed: dict[int, list[int]] = defaultdict(list)
        for pfn, indexes in free.items():
            nid = pages.page_to_nid(pfn)
            node = model.nodes[nid]
            slab = model.machine.slabs[nid].add(self.cache, pfn, self.cache.order, self.cache.objects)
            node.count_slab(slab.objects)
            if not indexes:
                continue
            addresses = slab.all_objects()
            freelist = [addresses[index] for index in reversed(indexes)]
            cpu = model.cpus[owner[pfn]]
            ref = SlabRef(pfn, nid)
            if cpu.slab is None:
                slab.freeze(OWN_HOME)
                cpu.take(ref, freelist)
                continue
            slab.freelist = freelist
            if len(cpu.partial) < waiting.get(owner[pfn], 0):
                slab.freeze(OWN_HOME)
                cpu.partial = [ref, *cpu.partial]
            else:
                listed[nid].append(pfn)
        together = 2 + model.cpu_partial_slabs // 2
        for nid, pfns in listed.items():
            for at in range(0, len(pfns), together):
                # a CPU uses the first at once, and of the rest, which are put on its own list, the last first
                taken, *rest = pfns[at : at + together]
                node = model.nodes[nid]
                node.partial = [*node.partial, taken, *reversed(rest)]

    def _replay(self, model: KmemCache, pages: TracedPages) -> None:
        counts = pages.counts
        #: Where the model has what the kernel has elsewhere.
        place: dict[int, int] = {}
        in_use: set[int] = set()
        discarded: Counter[int] = Counter()
        for event in self.events:
            if event.kind == NEW_SLAB:
                counts.slabs_kernel += pages.offered is not None
                pages.offered = event.pfn
                continue
            if event.kind == DISCARD:
                discarded[event.pfn] += 1
                continue
            offset = event.index * self.cache.size + self.cache.red_left_pad
            address = PAGE_OFFSET + (event.pfn << PAGE_SHIFT) + offset
            if event.kind == ALLOC:
                got = model.kmem_cache_alloc(event.cpu, GFP_KERNEL)
                assert got is not None
                counts.slabs_kernel += pages.offered is not None
                pages.offered = None
                in_slab = got - PAGE_OFFSET - (event.pfn << PAGE_SHIFT)
                if got == address:
                    counts.same += 1
                elif 0 <= in_slab < self.cache.objects * self.cache.size:
                    counts.other_object += 1
                    got = _exchange(model.cpus[event.cpu], got, address)
                else:
                    counts.other_slab += 1
                place[address] = got
                in_use.add(got)
            elif address in place or address not in in_use:
                got = place.pop(address, address)
                in_use.discard(got)
                try:
                    model.kmem_cache_free(event.cpu, got)
                except SlabBugError:
                    counts.refused += 1
                for slabs in model.machine.slabs.values():
                    slabs.rcu_callbacks()
        freed = Counter(pages.freed)
        counts.freed_same = (freed & discarded).total()
        counts.freed_kernel = (discarded - freed).total()
        counts.freed_model = (freed - discarded).total()

    def _end(self, model: KmemCache, counts: Counts, began: dict[int, int]) -> None:
        """Slabs at the end, where the capture counted them."""
        slabs = [by_place(at.get("slabs", ""), "N") for at in (self.before, self.after)]
        partial = by_place(self.after.get("partial", ""), "N")
        waiting = by_place(self.after.get("slabs_cpu_partial", ""), "C")
        equal = []
        for nid, node in model.nodes.items():
            grown = slabs[1].get(nid, 0) - slabs[0].get(nid, 0)
            equal.append(node.nr_slabs - began[nid] == grown)
            equal.append(node.nr_partial == partial.get(nid, 0))
        equal += [len(cpu.partial) == waiting.get(number, 0) for number, cpu in model.cpus.items()]
        counts.end_same, counts.end_other = sum(equal), len(equal) - sum(equal)


def _exchange(cpu: KmemCacheCpu, got: int, wanted: int) -> int:
    """What was allocated, once two objects of a CPU's list have changed places; of another list: as it was.

    A free is traced before it is done, so frees that interrupt it are done first.
    """
    freelist = cpu.freelist
    if wanted not in freelist:
        return got
    freelist[freelist.index(wanted)] = got
    cpu.freelist = freelist
    return wanted


def _completed(first: list[int], objects: int) -> list[int]:
    return first + [index for index in range(objects) if index not in first]


def traced_replays(capture: Path) -> Iterator[Replay]:
    """Each cache that a workload uses much, of a capture that has the kernel's traces."""
    caches = {cache.name: cache for cache in slub_of(guest_of(capture)).caches}
    for path in sorted(capture.glob("*.trace.gz")):
        workload = path.name.removesuffix(".trace.gz")
        steps = [
            step
            for step in sorted((capture / workload).glob("step*.txt"))
            if step.read_text().split("\n", 1)[0].endswith("command: slab counts")
        ]
        trace = read_events(path)
        freed = Counter(text.rpartition(" name=")[2] for name, _, text in trace if name == "kmem_cache_free")
        for cache in (caches[name] for name, count in freed.items() if count >= _MUCH and name in caches):
            before, after = (counts_of(step, cache) for step in steps[1:3])
            yield Replay(capture, workload, cache, events_of(trace, cache), before, after)


def packed_work(capture: Path) -> str:
    """The replays of a capture as its archive has them (`slub-work.txt`): eight lines each.

    Workload and cache; counts before and after; then of events the kinds, the CPUs, the slabs by number, the
    objects, and the frames of the numbered slabs.
    """
    lines = []
    for replay in traced_replays(capture):
        if replay.cache.name not in WORKLOADS.get(replay.workload, ()):
            continue
        events, numbers = replay.events, {}
        for event in events:
            numbers.setdefault(event.pfn, len(numbers))
        lines += [
            f"{replay.workload} {replay.cache.name}",
            *(
                "; ".join(f"{key}={at[key]}" for key in _COUNTED if key in at)
                for at in (replay.before, replay.after)
            ),
            "".join(event.kind for event in events),
            "".join(str(event.cpu) for event in events),
            " ".join(str(numbers[event.pfn]) for event in events),
            " ".join(str(event.index) for event in events),
            " ".join(f"{pfn:x}" for pfn in numbers),
        ]
    return "".join(f"{line}\n" for line in lines)


def replays(capture: Path) -> Iterator[Replay]:
    """Each cache of each workload of a capture, packed or as it was taken."""
    if not (capture / PACKED).exists():
        yield from traced_replays(capture)
        return
    caches = {cache.name: cache for cache in slub_of(guest_of(capture)).caches}
    lines = (capture / PACKED).read_text().splitlines()
    for at in range(0, len(lines), 8):
        head, before, after, kinds, cpus, slabs, indexes, frames = lines[at : at + 8]
        workload, name = head.split()
        pfns = [int(pfn, 16) for pfn in frames.split()]
        events = [
            Event(kind, int(cpu), pfns[int(slab)], int(index))
            for kind, cpu, slab, index in zip(kinds, cpus, slabs.split(), indexes.split(), strict=True)
        ]
        counted = (dict(pair.split("=", 1) for pair in line.split("; ") if pair) for line in (before, after))
        yield Replay(capture, workload, caches[name], events, *counted)


def work_captures(root: Path = GROUNDTRUTH) -> list[Path]:
    """Captures of kernels with SLUB that have objects' addresses."""
    return [
        path
        for path in slab_captures("slub", root)
        if (path / PACKED).exists() or any(path.glob("*.trace.gz"))
    ]
