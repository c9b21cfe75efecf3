"""One trace of objects through SLUB, SLAB and SLOB, each on the same machine: what memory and time they take.

Pages come from the machine's own zones, through the slow path that all requests take. What a trace does not
say is fixed: a grace period ends 20 ms after the last one ended, and each CPU's reaper comes every 2 s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from numa_service.machine.spec import MachineSpec
from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.mm.slab.kmem_cache import PAGE_SIZE, KmemCacheArgs
from numa_service.mm.slab.pages import NUMA_NO_NODE, virt_to_pfn
from numa_service.mm.slab.slab_alloc import HZ, REAPTIMEOUT_AC, Slab
from numa_service.mm.slab.slob_alloc import Slob
from numa_service.mm.slab.slub_alloc import Slub
from numa_service.mm.slab.start import SlabMachine, start
from numa_service.node import ops
from numa_service.node.free_pages import free_pages
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.pfns import pack_pfns, unpack_pfns
from numa_service.node.prepare import AllocRequest
from numa_service.node.unserved import AllocFailed
from numa_service.sim.simulation import Simulation
from numa_service.trace.slab_events import SlabEvent

_GRACE_PERIOD_NS = 20_000_000
_JIFFY_NS = 10**9 // HZ
#: What of a slab's flags decides where its pages come from.
_ZONES = Gfp.DMA | Gfp.DMA32 | Gfp.RECLAIMABLE


@dataclass(slots=True)
class SlabUse:
    """What one allocator took for a trace. Bytes, objects, pages and virtual ns."""

    allocator: str
    allocations: int = 0
    frees: int = 0
    #: Allocations for which there was no memory.
    failed: int = 0
    #: Frees of objects that were allocated before the trace.
    freed_before: int = 0
    #: Most bytes of pages that it had at once, and the most that its users had asked for of so many.
    peak_bytes: int = 0
    peak_requested: int = 0
    #: The same at the end of the trace.
    end_bytes: int = 0
    end_requested: int = 0
    page_allocations: int = 0
    page_frees: int = 0
    #: Page allocations by order, and by node.
    by_order: Counter[int] = field(default_factory=Counter)
    by_node: Counter[int] = field(default_factory=Counter)
    #: Objects freed by a CPU of another node than the one that they are on.
    remote_frees: int = 0
    #: Modelled time of page allocations and frees, and of one access to the object at each of its own.
    pages_ns: int = 0
    access_ns: int = 0

    @property
    def wasted_at_peak(self) -> int:
        """Bytes that nobody had asked for when the allocator had most and they were best used."""
        return self.peak_bytes - self.peak_requested


class _MachinePages:
    """The machine's page allocator, as far as a slab allocator uses it (PageSource)."""

    def __init__(self, spec: MachineSpec, use: SlabUse) -> None:
        self.sim = Simulation(spec)
        self.use = use
        #: The node of each page that was given.
        self.nid: dict[int, int] = {}
        self.bytes = 0
        with_cpus = [node.nid for node in spec.nodes if node.cpus]
        #: By node: one with CPUs, from which its pages are asked for.
        self._asks = {nid: min(with_cpus, key=lambda at: spec.distance(at, nid)) for nid in spec.nids}
        self._sessions = {
            nid: self.sim.nodes[nid].apply(ops.OpenSession("compare-slab", ops.FOREVER_NS, 0))
            for nid in with_cpus
        }
        self._owner: dict[int, int] = {}

    def alloc_pages(self, node: int, order: int, gfp: int) -> tuple[int, int] | None:
        """First pfn and node of pages, from `node` on; with THISNODE from no other."""
        at = self._asks[node]
        home = self.sim.nodes[at]
        mode = PolicyMode.BIND if gfp & Gfp.THISNODE else PolicyMode.PREFERRED
        flags = GFP_KERNEL | (gfp & _ZONES) | Gfp.NOWARN | (Gfp.NORETRY if order else 0)
        request = AllocRequest(
            self._sessions[at], int(flags), order, 1, home.pgdat.cpus[0], Policy(mode, (node,))
        )
        try:
            got = self.sim.call(at, alloc_pages(home, request))
        except AllocFailed:
            return None
        ((nid, packed),) = got.pages
        (pfn,) = unpack_pfns(packed)
        for page in range(pfn, pfn + (1 << order)):
            self.nid[int(page)] = nid
        self._owner[int(pfn)] = at
        self.bytes += PAGE_SIZE << order
        use = self.use
        use.page_allocations += 1
        use.by_order[order] += 1
        use.by_node[nid] += 1
        use.pages_ns += got.cost.latency_ns
        return int(pfn), nid

    def free_pages(self, pfn: int, order: int) -> None:
        """Give back what alloc_pages returned."""
        nid, at = self.nid[pfn], self._owner.pop(pfn)
        home = self.sim.nodes[at]
        block = pack_pfns(np.array([pfn], np.uint64))
        steps = free_pages(home, self._sessions[at], order, [(nid, block)], home.pgdat.cpus[0])
        self.use.pages_ns += self.sim.call(at, steps).cost.latency_ns
        self.use.page_frees += 1
        self.bytes -= PAGE_SIZE << order


@dataclass(frozen=True, slots=True)
class _Live:
    address: int
    size: int
    cache: str


def slab_machine(spec: MachineSpec) -> SlabMachine:
    """What a slab allocator has to know of a machine."""
    high = {node.nid for node in spec.nodes for zone in node.zones if zone.name == "HighMem"}
    with_memory = [node.nid for node in spec.nodes if any(zone.name != "HighMem" for zone in node.zones)]

    def near(nid: int) -> tuple[int, ...]:
        return tuple(sorted(with_memory, key=lambda other: (spec.distance(nid, other), other)))

    return SlabMachine(
        kernel=spec.profile,
        cmdline=spec.cmdline,
        cpus={cpu: near(nid)[0] for nid, cpus in spec.own_cpus.items() for cpu in cpus},
        possible_cpus=len(spec.cpus),
        fallback={nid: near(nid) for nid in with_memory},
        node_ids=max(spec.nids) + 1,
        memory_bytes=sum(end - begin for node in spec.nodes for begin, end in node.ram) * PAGE_SIZE,
        arch=spec.arch,
        highmem=bool(high),
    )


def replay_slab_trace(
    allocator: str,
    spec: MachineSpec,
    events: Sequence[SlabEvent],
    progress: Callable[[int], None] | None = None,
) -> SlabUse:
    """Replay a trace through one allocator ("slub", "slab" or "slob") on a machine that has just booted.

    A CPU that the machine does not have stands for one that it has, in turn. Nodes that it does not have are
    no preference. `progress` gets the number of events that are done.
    """
    use = SlabUse(allocator)
    machine = slab_machine(spec)
    source = _MachinePages(spec, use)
    model = start(allocator, machine, source)
    assert isinstance(model, Slub | Slab | Slob)
    cpus = spec.cpus
    nid_of = {cpu: nid for nid, own in spec.own_cpus.items() for cpu in own}
    live: dict[int, _Live] = {}
    requested = 0
    grace = tick = events[0].time_ns
    jiffies = 0

    def free(cpu: int, gone: _Live) -> int:
        nid = source.nid[virt_to_pfn(gone.address)]
        use.remote_frees += nid != nid_of[cpu]
        use.access_ns += _access(spec, nid_of[cpu], nid)
        if gone.cache:
            model.kmem_cache_free(gone.cache, cpu, gone.address)
        else:
            model.kfree(cpu, gone.address)
        use.frees += 1
        return gone.size

    for number, event in enumerate(events):
        if progress and number % 1024 == 0:
            progress(number)
        if event.time_ns - grace >= _GRACE_PERIOD_NS:
            grace = event.time_ns
            model.rcu_callbacks()
        if isinstance(model, Slab) and event.time_ns - tick >= REAPTIMEOUT_AC * _JIFFY_NS:
            tick = event.time_ns
            jiffies += REAPTIMEOUT_AC
            for cpu in machine.cpus:
                model.cache_reap(cpu, jiffies)
        cpu = event.cpu if event.cpu in nid_of else cpus[event.cpu % len(cpus)]
        gone = live.pop(event.address, None)
        if gone:  # also where its free is missing
            requested -= free(cpu, gone)
        if not event.alloc:
            use.freed_before += gone is None
            continue
        if not event.size and not event.cache:
            continue  # ZERO_SIZE_PTR
        use.allocations += 1
        node = event.node if event.node in machine.fallback else NUMA_NO_NODE
        if event.cache:
            if event.cache not in model.caches:
                model.kmem_cache_create(KmemCacheArgs(event.cache, max(event.size, 1)))
            address = model.kmem_cache_alloc(event.cache, cpu, event.gfp, node)
        else:
            address = model.kmalloc(event.size, cpu, event.gfp, node)
        if address is None:
            use.failed += 1
            continue
        live[event.address] = _Live(address, event.size, event.cache)
        requested += event.size
        use.access_ns += _access(spec, nid_of[cpu], source.nid[virt_to_pfn(address)])
        use.peak_bytes, use.peak_requested = max(
            (use.peak_bytes, use.peak_requested), (source.bytes, requested)
        )
    model.rcu_callbacks()
    use.end_bytes, use.end_requested = source.bytes, requested
    if progress:
        progress(len(events))
    return use


def _access(spec: MachineSpec, from_nid: int, to_nid: int) -> int:
    return spec.latency.write_latency_ns(from_nid, to_nid, spec.distance(from_nid, to_nid))
