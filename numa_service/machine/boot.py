"""Boot: from a description to a running memory system, in the kernel's order (``init/main.c``).

Every step is a function named as the kernel's and does that step's work. Nodes are booted together because
zonelists and watermarks depend on all of them; page arrays are made only for the nodes asked for, so that
the process of one node pays for one node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial

from numa_service.machine.cmdline import parse_cmdline, thp_enabled
from numa_service.machine.early_node_map import initmem_lines
from numa_service.machine.free_area_init import (
    joined,
    node_lines,
    span,
    unavailable_range_lines,
    vm_total_pages,
    zone_range_lines,
)
from numa_service.machine.snapshot import machine_snapshot
from numa_service.machine.spec import MachineSpec, NodeSpec, SpecError, ZoneSpec
from numa_service.machine.sysctl import Sysctls, sysctl_name
from numa_service.machine.zonelists import (
    Populated,
    built_lines,
    fallback_order_lines,
    populated_zones,
    topology_of,
    verify_zonelist_lines,
)
from numa_service.machine.zones import MAX_LOW_PFN_I386, PfnRange, count_pages, intersect, merge
from numa_service.mm.bootmem import Bootmem
from numa_service.mm.memblock import BootAllocator, BootMemoryError, Memblock
from numa_service.mm.mmzone import (
    MIGRATE_TYPES,
    PAGE_SHIFT,
    PAGE_SIZE,
    PAGEBLOCK_NR_PAGES,
    ZONE_NAMES,
)
from numa_service.mm.online import for_each_online_pgdat
from numa_service.mm.pgdat import Pgdat, ZoneExtent
from numa_service.mm.pgdata import (
    TUNE_BOOST_FACTOR,
    TUNE_MOBILITY_DISABLED,
    TUNE_SWAPPINESS,
)
from numa_service.mm.profile import BLOCKS_TAKE, PAGESET_AUTO_TUNED, PROFILES, Profile
from numa_service.mm.snapshot import MachineSnapshot, NodeSnapshot
from numa_service.mm.sparse import MemoryModel, sparse_init
from numa_service.mm.watermark import (
    PAGESET_HIGH_MAX_FRACTION,
    THP_LEAST_PAGES,
    Watermarks,
    ZoneKey,
    boot_min_free_kbytes,
    setup_per_zone_lowmem_reserve,
    setup_per_zone_wmarks,
    zone_batchsize,
    zone_highsize,
)
from numa_service.mm.zonelist import (
    Zonelists,
    build_all_zonelists,
    has_zone_order,
    turns_zone_reclaim_on,
)

#: Kernel image, text to bss: what moved as a whole between boots of one topology (groundtruth README).
_KERNEL_IMAGE_PAGES = 11_318
_KERNEL_IMAGE_PFN = 16 << (20 - PAGE_SHIFT)
#: "NODE_DATA(0) allocated" and "percpu: Embedded … pages/cpu" of the captured 6.1 boots.
_NODE_DATA_PAGES = 43
_PERCPU_PAGES = 62
#: memblock_find_dma_reserve looks at memory below MAX_DMA_PFN.
_MAX_DMA_PFN = 16 << (20 - PAGE_SHIFT)
_PFN_4GIB = 4 << (30 - PAGE_SHIFT)
#: Boot allocators cannot reach high memory.
_MAX_LOW_PFN = {"i386": MAX_LOW_PFN_I386}
_NO_LIMIT = 1 << 52


@dataclass(slots=True)
class Machine:
    """A booted machine: what `start_kernel` leaves behind."""

    spec: MachineSpec
    profile: Profile
    sysctls: Sysctls
    #: Managed pages of every zone of every node, empty ones included.
    managed: dict[ZoneKey, int]
    zonelists: dict[int, Zonelists]
    #: The nodes booted in this process.
    pgdats: dict[int, Pgdat]
    #: (virtual seconds, text)
    dmesg: list[tuple[float, str]]
    #: The retired boot allocator: its `reserved` says what never reached the buddy system, and why.
    boot_allocator: BootAllocator = field(default_factory=Memblock)
    #: SPARSEMEM's sections or FLATMEM's one map.
    memory_model: MemoryModel = field(default_factory=lambda: MemoryModel("sparsemem", "x86_64"))
    #: What the zonelists in force were built from: on-line nodes and their populated zones.
    populated: Populated = field(default_factory=dict)
    #: Watermarks of every zone of the machine, as last computed.
    watermarks: dict[ZoneKey, Watermarks] = field(default_factory=dict)
    #: vm.min_free_kbytes as somebody wrote it; None = never.
    user_min_free_kbytes: int | None = None
    #: khugepaged runs, and raises min_free_kbytes when memory comes or goes.
    khugepaged: bool = False
    #: `managed` as boot left it: what a node that is restarted has again.
    booted: dict[ZoneKey, int] = field(default_factory=dict)
    #: Number of the last news of each node's memory.
    memory_news: dict[int, int] = field(default_factory=dict)
    #: Nodes booted apart from this one in the same process: for snapshots of the whole machine only.
    neighbours: dict[int, Pgdat] = field(default_factory=dict)

    def of_node(self, nid: int) -> Machine:
        """The machine as the process of one node has it: what changes is its own, the rest is shared."""
        return replace(
            self,
            sysctls=deepcopy(self.sysctls),
            pgdats={nid: self.pgdats[nid]},
            dmesg=list(self.dmesg),
            memory_news={},
            neighbours={},
        )

    def write_sysctl(self, key: str, value: str) -> None:
        """Write a sysctl with the kernel's effects; SpecError and nothing changed when it is not valid."""
        order = self.sysctls.get("vm.numa_zonelist_order")
        self.sysctls.set(key, value)
        name = sysctl_name(key)
        if name == "vm.min_free_kbytes":
            self.user_min_free_kbytes = self.sysctls.min_free_kbytes
        if name in _HANDLERS:
            _HANDLERS[name](self, self.managed, self.sysctls)
        _tune(self)
        rebuilds = has_zone_order(self.profile) and name == "vm.numa_zonelist_order"
        if rebuilds and self.sysctls.get("vm.numa_zonelist_order") != order:
            rebuild_zonelists(self)

    def _all_pgdats(self) -> list[Pgdat]:
        return [pgdat for _, pgdat in sorted((self.neighbours | self.pgdats).items())]

    def snapshot(self, nodes: Iterable[NodeSnapshot] | None = None) -> MachineSnapshot:
        """The machine as plain data; `nodes` replaces the nodes of this process."""
        return machine_snapshot(self, self._all_pgdats(), nodes)


@dataclass(slots=True)
class _Boot:
    """What the steps hand on."""

    spec: MachineSpec
    profile: Profile
    sysctls: Sysctls
    allocator: BootAllocator = field(default_factory=Memblock)
    memory_model: MemoryModel = field(default_factory=lambda: MemoryModel("sparsemem", "x86_64"))
    #: Pages of ZONE_DMA that were taken before zones were made (memblock_find_dma_reserve).
    dma_reserve: int = 0
    populated: Populated = field(default_factory=dict)
    managed: dict[ZoneKey, int] = field(default_factory=dict)
    zonelists: dict[int, Zonelists] = field(default_factory=dict)
    pgdats: dict[int, Pgdat] = field(default_factory=dict)
    dmesg: list[tuple[float, str]] = field(default_factory=list)
    clock_us: int = 0
    mobility_disabled: bool = False
    #: CMA areas by node.
    cma: dict[int, list[PfnRange]] = field(default_factory=dict)

    def printk(self, text: str, took_us: int = 40) -> None:
        """A line of the boot log; its virtual time is modelled, not measured."""
        self.dmesg.append((self.clock_us / 1e6, text))
        self.clock_us += took_us

    @property
    def captured(self) -> bool:
        """Whether zone sizes were read from a real machine: then boot takes what those lack, no more."""
        return any(zone.managed is not None for node in self.spec.nodes for zone in node.zones)


def start_kernel(spec: MachineSpec, nids: Collection[int] | None = None) -> Machine:
    """Boot. `nids` are the nodes to make page arrays for; all by default.

    BootMemoryError when a node is too small for what the kernel itself needs.
    """
    boot = _Boot(
        spec=spec,
        profile=PROFILES[spec.profile],
        sysctls=Sysctls(spec.arch, spec.profile, spec.sysctls),
    )
    boot.printk(f"Linux version {boot.profile.release} (numa-service) {spec.name}", 0)
    if spec.cmdline:
        boot.printk(f"Command line: {spec.cmdline}")
    setup_arch(boot)
    setup_per_cpu_areas(boot)
    _build_all_zonelists(boot)
    mem_init(boot, set(nids) if nids is not None else {node.nid for node in spec.nodes})
    machine = Machine(
        spec=spec,
        profile=boot.profile,
        sysctls=boot.sysctls,
        managed=boot.managed,
        booted=dict(boot.managed),
        zonelists=boot.zonelists,
        pgdats=boot.pgdats,
        dmesg=boot.dmesg,
        boot_allocator=boot.allocator,
        memory_model=boot.memory_model,
        populated=boot.populated,
    )
    setup_per_cpu_pageset(machine)
    init_per_zone_wmark_min(machine)
    kswapd_init(boot)
    return machine


def managed_pages(spec: MachineSpec) -> dict[int, int]:
    """Pages that boot leaves the buddy system of each node: the boot allocator's part of it only."""
    boot = _Boot(spec, PROFILES[spec.profile], Sysctls(spec.arch, spec.profile))
    setup_arch(boot)
    setup_per_cpu_areas(boot)
    return {node.nid: count_pages(_retire(boot, node)) for node in spec.nodes}


# setup_arch: the memory map, nodes and zones; the boot allocator serves the first allocations


def setup_arch(boot: _Boot) -> None:
    """Memory map, nodes, zones; the boot allocator takes over and serves the first allocations."""
    e820__memory_setup(boot)
    initmem_init(boot)
    dma_contiguous_reserve(boot)
    paging_init(boot)


def e820__memory_setup(boot: _Boot) -> None:
    """Register RAM with the boot allocator and print the map."""
    boot.printk("BIOS-provided physical RAM map:")
    memblock = Memblock()
    for node in boot.spec.nodes:
        for start, end in node.ram:
            memblock.add(start, end, node.nid)
    boot.allocator = memblock
    for start, end in joined(memblock.memory):
        boot.printk(f"BIOS-e820: [mem {span(start, end)}] usable")
    _reserve_low_memory(boot)
    _reserve_kernel_image(boot)


def _reserve_low_memory(boot: _Boot) -> None:
    """What firmware may use and the real-mode trampoline: all RAM below 1 MiB (since 5.13), or less."""
    limit = boot.profile.reserve_low_kb >> (PAGE_SHIFT - 10)
    for node in boot.spec.nodes:
        low = boot.allocator.free_ranges(node.nid, 0, limit)
        if low and _room(boot, node, node.zones[0]) >= count_pages(low):
            for start, end in low:
                boot.allocator.reserve(start, end, node.nid, "first MiB")


def _reserve_kernel_image(boot: _Boot) -> None:
    """Where the kernel lies: 16 MiB, or where RAM begins. In what is told to lack less, part of the rest."""
    if boot.captured:
        return
    limit = _MAX_LOW_PFN.get(boot.spec.arch, _NO_LIMIT)
    for node in sorted((node for node in boot.spec.nodes if node.ram), key=lambda node: node.ram):
        for low, high in boot.allocator.free_ranges(node.nid, _KERNEL_IMAGE_PFN, limit):
            start = -(-low // PAGEBLOCK_NR_PAGES) * PAGEBLOCK_NR_PAGES
            if start + _KERNEL_IMAGE_PAGES <= high:
                if _spare(boot, node) >= _KERNEL_IMAGE_PAGES:
                    boot.allocator.reserve(start, start + _KERNEL_IMAGE_PAGES, node.nid, "kernel image")
                return
    if not any(node.is_told for node in boot.spec.nodes):
        size = f"{_KERNEL_IMAGE_PAGES * PAGE_SIZE >> 20} MiB"
        raise BootMemoryError(f"no room for the kernel image: {size} of RAM at 16 MiB or above needed")


def initmem_init(boot: _Boot) -> None:
    """SRAT and SLIT: nodes, their memory and their distances; node data is the first allocation."""
    own_cpus = boot.spec.own_cpus
    for node in boot.spec.nodes:
        for cpu in own_cpus[node.nid]:
            boot.printk(f"SRAT: PXM {node.nid} -> APIC {cpu:#04x} -> Node {node.nid}", 8)
    for node in boot.spec.nodes:
        for start, end in node.ram:
            boot.printk(
                f"ACPI: SRAT: Node {node.nid} PXM {node.nid} [mem {start << PAGE_SHIFT:#010x}-"
                f"{(end << PAGE_SHIFT) - 1:#010x}]",
                8,
            )
    boot.printk(f"NUMA: Initialized distance table, cnt={len(boot.spec.nodes)}")
    if boot.profile.bootmem:
        boot.allocator = Bootmem.take_over(
            boot.allocator.memory, boot.allocator.reserved, _MAX_LOW_PFN.get(boot.spec.arch, _NO_LIMIT)
        )
    for node in boot.spec.nodes:
        if node.zones:
            _boot_alloc(boot, node, _NODE_DATA_PAGES, "node data")
            for line in _node_data_lines(boot, node):
                boot.printk(line)
    boot.dma_reserve = _find_dma_reserve(boot)


def _node_data_lines(boot: _Boot, node: NodeSpec) -> Iterable[str]:
    regions = [r for r in boot.allocator.reserved if (r.nid, r.purpose) == (node.nid, "node data")]
    if boot.profile.early_node_map:
        return initmem_lines(node, regions[0] if regions else None)
    spans = [(region.start_pfn << PAGE_SHIFT, (region.end_pfn << PAGE_SHIFT) - 1) for region in regions]
    return [f"NODE_DATA({node.nid}) allocated [mem {low:#010x}-{high:#010x}]" for low, high in spans]


def _find_dma_reserve(boot: _Boot) -> int:
    """Pages of ZONE_DMA taken so far; only x86-64 deducts them (memblock_find_dma_reserve)."""
    if boot.spec.arch != "x86_64":
        return 0
    return sum(
        count_pages(intersect(node.ram, (0, _MAX_DMA_PFN)))
        - boot.allocator.free_pages(node.nid, 0, _MAX_DMA_PFN)
        for node in boot.spec.nodes
    )


def _room(boot: _Boot, node: NodeSpec, zone: ZoneSpec) -> int:
    """Free pages of a zone that boot may take: in a captured machine, what the zone is known to lack."""
    start, end = zone.start_pfn, zone.start_pfn + zone.spanned
    free = boot.allocator.free_pages(node.nid, start, end)
    if zone.managed is None:
        return min(free, _spare(boot, node))
    own = count_pages(intersect(boot.allocator.own_ranges(node.nid), (start, end)))
    return max(0, free + own - zone.managed)


def _spare(boot: _Boot, node: NodeSpec) -> int:
    """Free pages of a node that boot may take: all, unless it is told what the node manages in the end."""
    free = boot.allocator.free_pages(node.nid, 0, _NO_LIMIT)
    if node.managed is None:
        return free
    # both go to the buddy system later
    back = (*boot.allocator.own_ranges(node.nid), *boot.cma.get(node.nid, ()))
    return max(0, free + count_pages(back) - node.managed)


def _boot_alloc(boot: _Boot, node: NodeSpec, pages: int, purpose: str) -> int:
    """Take low memory of a node: no more than it, or each captured zone, is known to lack; pages taken."""
    limit = _MAX_LOW_PFN.get(boot.spec.arch, _NO_LIMIT)
    if not boot.captured:
        if node.managed is not None:
            pages = min(pages, _spare(boot, node))
        return boot.allocator.alloc_node(node.nid, 0, limit, pages, purpose)
    taken = 0
    for zone in reversed(node.zones):
        start, end = zone.start_pfn, min(zone.start_pfn + zone.spanned, limit)
        want = min(pages - taken, _room(boot, node, zone))
        taken += boot.allocator.alloc_node(node.nid, start, end, want, purpose)
    return taken


def dma_contiguous_reserve(boot: _Boot) -> None:
    """Set the areas of ``cma=`` and ``numa_cma=`` aside: whole pageblocks of one zone.

    Above 4 GiB from the bottom, so that DMA zones are spared; below it from the top
    (cma_declare_contiguous_nid). In a captured machine its kernel has decided already.
    """
    if boot.captured:
        return
    for wanted in parse_cmdline(boot.spec.cmdline).cma:
        if boot.profile.block_rules == BLOCKS_TAKE:
            raise SpecError(f"cma: {boot.profile.name} has no CMA")
        nids = [node.nid for node in boot.spec.nodes if wanted.nid in (None, node.nid)]
        if not nids:
            raise SpecError(f"cma: there is no node {wanted.nid}")
        pages = -(-wanted.pages // PAGEBLOCK_NR_PAGES) * PAGEBLOCK_NR_PAGES
        area = _cma_area(boot, nids, pages)
        if area is None:
            where = f"node {wanted.nid}" if wanted.nid is not None else "any node"
            raise SpecError(f"cma: no {pages} free pages in a row in one zone of {where}")
        nid, (start, end) = area
        boot.allocator.reserve(start, end, nid, "cma")
        boot.cma.setdefault(nid, []).append((start, end))
        boot.printk(f"cma: Reserved {pages * PAGE_SIZE >> 20} MiB at {start << PAGE_SHIFT:#018x}")


def _cma_area(boot: _Boot, nids: Iterable[int], pages: int) -> tuple[int, PfnRange] | None:
    found: list[tuple[int, PfnRange]] = []
    for nid in nids:
        node = boot.spec.node(nid)
        if node.managed is not None and node.managed < pages + count_pages(boot.cma.get(nid, ())):
            continue
        for zone in node.zones:
            end = zone.start_pfn + zone.spanned
            for low, high in boot.allocator.free_ranges(nid, zone.start_pfn, end):
                first = -(-low // PAGEBLOCK_NR_PAGES) * PAGEBLOCK_NR_PAGES
                last = high // PAGEBLOCK_NR_PAGES * PAGEBLOCK_NR_PAGES
                if last - first >= pages:
                    start = first if first >= _PFN_4GIB else last - pages
                    found.append((nid, (start, start + pages)))
    above = [area for area in found if area[1][0] >= _PFN_4GIB]
    if above:
        return min(above, key=lambda area: area[1])
    return max(found, key=lambda area: area[1], default=None)


def paging_init(boot: _Boot) -> None:
    """Zones, and the memory map: a struct page for every page (sparse_init, free_area_init)."""
    spec = boot.spec
    page_bytes = boot.profile.struct_page_bytes[spec.arch]
    boot.memory_model = sparse_init(spec.memory_model, spec.arch, boot.allocator.memory, page_bytes)
    for line in zone_range_lines(boot.spec):
        boot.printk(line, 8)
    for node in boot.spec.nodes:
        present = sum(zone.present for zone in node.zones)
        for line in node_lines(spec, node, boot.memory_model, boot.dma_reserve):
            boot.printk(line, present // 5000)
        _alloc_node_mem_map(boot, node)
    for line in unavailable_range_lines(boot.spec, boot.allocator.memory, boot.memory_model):
        boot.printk(line)


def _alloc_node_mem_map(boot: _Boot, node: NodeSpec) -> None:
    """Memory for a node's struct pages, by the memory model."""
    if not node.ram:
        return
    memmap = boot.memory_model.memmap_pages(node.nid, node.ram[0][0], node.ram[-1][1])
    taken = _boot_alloc(boot, node, memmap, "memmap")
    if taken < memmap and not node.is_told:
        raise BootMemoryError(
            f"node {node.nid}: its memory map needs {memmap} pages, {taken} are left: give it more memory"
        )


def setup_per_cpu_areas(boot: _Boot) -> None:
    """Per-CPU data, on each CPU's own node where it has memory."""
    cpus = boot.spec.cpus
    boot.printk(f"setup_percpu: nr_cpu_ids:{max(cpus) + 1} nr_node_ids:{boot.spec.nodes[-1].nid + 1}")
    for nid, own in boot.spec.own_cpus.items():
        if own:
            _boot_alloc(boot, boot.spec.node(nid), _PERCPU_PAGES * len(own), "per-CPU areas")
    boot.printk(f"percpu: Embedded {_PERCPU_PAGES} pages/cpu")


# build_all_zonelists


def _build_all_zonelists(boot: _Boot) -> None:
    """Fallback lists of every node, and whether memory is large enough to group pages by mobility."""
    spec, profile = boot.spec, boot.profile
    boot.populated = populated_zones(spec)
    # No CPU is on its node's map yet (numa_add_cpu runs later), so none weighs on the order: seen in
    # the captured cxl-tier boots, where a CPU-less node does not come before an equally distant one.
    topology = topology_of(spec, boot.populated, {})
    boot.zonelists = build_all_zonelists(topology, profile, boot.sysctls.numa_zonelist_order)
    if turns_zone_reclaim_on(topology, profile) and "vm.zone_reclaim_mode" not in spec.sysctls:
        boot.sysctls.set("vm.zone_reclaim_mode", "1")
    total = vm_total_pages(spec, boot.memory_model, boot.dma_reserve)
    boot.mobility_disabled = total < PAGEBLOCK_NR_PAGES * MIGRATE_TYPES
    for line in (
        *fallback_order_lines(spec, profile, boot.zonelists),
        *verify_zonelist_lines(spec, topology, boot.zonelists),
        *built_lines(spec, profile, topology, boot.zonelists, boot.mobility_disabled, total),
    ):
        boot.printk(line, 16)


def rebuild_zonelists(
    machine: Machine,
    populated: Mapping[int, Sequence[int]] | None = None,
    has_cpus: Mapping[int, bool] | None = None,
) -> None:
    """Build every list anew after boot: nodes or zones came or went, or 3.0's order was written.

    `populated` are the nodes now on-line with the indexes of their populated zones, by default as before.
    `has_cpus` says which nodes have on-line CPUs, by default those that have CPUs: unlike at boot they weigh
    on the order, so that a rebuild may change it though nothing else did. KeyError for a node that the
    machine does not have; nothing is changed then.
    """
    spec, profile = machine.spec, machine.profile
    if populated is None:
        populated = machine.populated
    if has_cpus is None:
        has_cpus = {node.nid: bool(node.cpus) for node in spec.nodes}
    topology = topology_of(spec, populated, has_cpus)
    lists = build_all_zonelists(topology, profile, machine.sysctls.numa_zonelist_order)
    machine.populated = {nid: topology.populated[nid] for nid in topology.nids}
    machine.zonelists = lists
    for pgdat in for_each_online_pgdat(machine.pgdats):
        if pgdat.nid in lists:
            pgdat.zonelists = lists[pgdat.nid]
    if turns_zone_reclaim_on(topology, profile):
        machine.sysctls.set("vm.zone_reclaim_mode", "1")
    names = ZONE_NAMES[spec.arch]
    online = [(nid, names[zone]) for nid, zones in machine.populated.items() for zone in zones]
    total = sum(max(0, machine.managed[key] - machine.watermarks[key].high) for key in online)
    disabled = total < PAGEBLOCK_NR_PAGES * MIGRATE_TYPES
    for pgdat in for_each_online_pgdat(machine.pgdats):
        pgdat.pg.tune[TUNE_MOBILITY_DISABLED] = disabled
    now = machine.dmesg[-1][0] if machine.dmesg else 0.0
    for line in (
        *fallback_order_lines(spec, profile, lists),
        *built_lines(spec, profile, topology, lists, disabled, total),
    ):
        machine.dmesg.append((now, line))


# mem_init: the boot allocator retires


def mem_init(boot: _Boot, nids: set[int]) -> None:
    """The boot allocator retires: what it has not given out goes to the buddy system (memblock_free_all)."""
    names = ZONE_NAMES[boot.spec.arch]
    swap_share = boot.spec.swap_pages // len(boot.spec.nodes)
    for line in boot.allocator.debug_lines():
        boot.printk(line, 2)
    for node in boot.spec.nodes:
        free_ranges = _retire(boot, node)
        extents = []
        by_name = {zone.name: zone for zone in node.zones}
        for index, name in enumerate(names):
            zone = by_name.get(name)
            if zone is None:
                extents.append(ZoneExtent(name, index, 0, 0, 0, 0))
                boot.managed[node.nid, name] = 0
                continue
            managed = _pages_within(free_ranges, zone)
            boot.managed[node.nid, name] = managed
            extents.append(
                ZoneExtent(name, index, zone.start_pfn, zone.spanned, zone.present, managed, zone.freed_late)
            )
        if node.nid in nids:
            boot.pgdats[node.nid] = Pgdat(
                nid=node.nid,
                arch=boot.spec.arch,
                profile=boot.profile,
                cpus=node.cpus,
                all_cpus=boot.spec.cpus,
                extents=extents,
                ram=node.ram,
                free_ranges=free_ranges,
                zonelists=boot.zonelists[node.nid],
                swap_pages=swap_share,
                cma=boot.cma.get(node.nid, ()),
                drift=boot.spec.counter_drift,
            )
            boot.pgdats[node.nid].pg.tune[TUNE_MOBILITY_DISABLED] = boot.mobility_disabled
    present = sum(zone.present for node in boot.spec.nodes for zone in node.zones)
    free = sum(boot.managed.values())
    cma = sum(count_pages(areas) for areas in boot.cma.values())
    kib = PAGE_SIZE // 1024
    boot.printk(
        f"Memory: {free * kib}K/{present * kib}K available "
        f"({(present - free) * kib}K reserved, {cma * kib}K cma-reserved)",
        free // 5000,
    )


def _retire(boot: _Boot, node: NodeSpec) -> Sequence[PfnRange]:
    """What the buddy system of a node gets; areas of CMA too (cma_init_reserved_areas)."""
    _reserve_rest(boot, node)
    free_ranges = boot.allocator.retire(node.nid)
    return merge([*free_ranges, *boot.cma[node.nid]]) if node.nid in boot.cma else free_ranges


def _reserve_rest(boot: _Boot, node: NodeSpec) -> None:
    """What is told gives the buddy system what it did; the rest is image, initrd, firmware, from the top."""
    if node.managed is not None:
        _reserve_top(boot, node, (0, _NO_LIMIT), _spare(boot, node))
    for zone in node.zones:
        if zone.managed is not None:
            span = (zone.start_pfn, zone.start_pfn + zone.spanned)
            _reserve_top(boot, node, span, _room(boot, node, zone))


def _reserve_top(boot: _Boot, node: NodeSpec, span: PfnRange, pages: int) -> None:
    for start, end in reversed(boot.allocator.free_ranges(node.nid, *span)):
        if pages <= 0:
            break
        take = min(pages, end - start)
        boot.allocator.reserve(end - take, end, node.nid, "told: kernel image, initrd, firmware")
        pages -= take


def _pages_within(ranges: Iterable[PfnRange], zone: ZoneSpec) -> int:
    return count_pages(intersect(ranges, (zone.start_pfn, zone.start_pfn + zone.spanned)))


# pagesets, watermarks, kswapd


def setup_per_cpu_pageset(machine: Machine) -> None:
    """Give every zone's pagesets their batch; `high` follows with the watermarks it depends on."""
    zone_pcp_update(machine, machine.managed, machine.sysctls)


def init_per_zone_wmark_min(machine: Machine) -> None:
    """What initcalls compute of what zones manage by then: min_free_kbytes, marks, reserves, pagesets.

    A captured kernel freed its init memory later: that counts only in what a sysctl makes it compute anew.
    Values that nobody can have had at boot were written later. `khugepaged` has its say in this.
    """
    spec, asked = machine.spec, machine.sysctls
    machine.user_min_free_kbytes = asked.min_free_kbytes
    then = dict(machine.managed)
    for node in spec.nodes:
        for zone in node.zones:
            then[node.nid, zone.name] -= zone.freed_late
    built_in = Sysctls(spec.arch, spec.profile)
    thp = thp_enabled(spec.cmdline)
    machine.khugepaged = thp and machine.profile.thp_min_free and sum(then.values()) >= THP_LEAST_PAGES
    kbytes = boot_min_free_kbytes(then, machine.profile, thp)
    built_in.set("vm.min_free_kbytes", str(kbytes))
    if asked.min_free_kbytes is None:
        asked.set("vm.min_free_kbytes", str(kbytes))
    _setup_per_zone_wmarks(machine, then, built_in)
    _setup_per_zone_lowmem_reserve(machine, then, built_in)
    for key, handler in _HANDLERS.items():
        if asked.get(key) != built_in.get(key):
            handler(machine, machine.managed, asked)
    _tune(machine)


def apply_sysctls(machine: Machine) -> None:
    """All that depends on what zones manage now, after memory came or went (init_per_zone_wmark_min)."""
    _setup_per_zone_wmarks(machine, machine.managed, machine.sysctls)
    for pgdat in for_each_online_pgdat(machine.pgdats):
        pgdat.refresh_zone_stat_thresholds()
    _setup_per_zone_lowmem_reserve(machine, machine.managed, machine.sysctls)


def _setup_per_zone_wmarks(machine: Machine, managed: Mapping[ZoneKey, int], sysctls: Sysctls) -> None:
    """Watermarks of every node here, and the pagesets that follow them."""
    machine.watermarks = setup_per_zone_wmarks(
        managed, machine.profile, sysctls.min_free_kbytes or 0, sysctls.watermark_scale_factor
    )
    for pgdat in for_each_online_pgdat(machine.pgdats):
        for extent in pgdat.extents:
            pgdat.set_watermarks(extent.index, machine.watermarks[pgdat.nid, extent.name])
    zone_pcp_update(machine, managed, sysctls)


def _setup_per_zone_lowmem_reserve(
    machine: Machine, managed: Mapping[ZoneKey, int], sysctls: Sysctls
) -> None:
    """What every zone keeps from requests that could use a higher one of its node."""
    for pgdat in for_each_online_pgdat(machine.pgdats):
        pgdat.pg.lowmem_reserve[:] = setup_per_zone_lowmem_reserve(
            [managed[pgdat.nid, extent.name] for extent in pgdat.extents],
            sysctls.lowmem_reserve_ratio,
            force_ratio=not machine.profile.lowmem_reserve_per_zone,
        )


def zone_pcp_update(machine: Machine, managed: Mapping[ZoneKey, int], sysctls: Sysctls) -> None:
    """Batch and limits of the pagesets of every zone with pages."""
    profile, online_cpus = machine.profile, len(machine.spec.cpus)
    fraction = sysctls.percpu_pagelist_high_fraction
    for pgdat in for_each_online_pgdat(machine.pgdats):
        for extent in pgdat.extents:
            if not extent.managed:
                continue
            key = pgdat.nid, extent.name
            batch = zone_batchsize(managed[key], profile)
            low = machine.watermarks[key].low if key in machine.watermarks else 0
            high = partial(zone_highsize, managed[key], low, batch, len(pgdat.cpus), online_cpus, profile)
            pgdat.pg.pcp_batch[extent.index] = batch
            # a fraction that somebody set is kept to; else 6.12 tunes between this and its ceiling
            tuned = profile.pageset_rules == PAGESET_AUTO_TUNED and not fraction
            ceiling = high(PAGESET_HIGH_MAX_FRACTION if tuned else fraction)
            pgdat.set_pageset_high(extent.index, high(fraction), ceiling)


def _tune(machine: Machine) -> None:
    """Sysctls that are looked up when they are needed."""
    for pgdat in for_each_online_pgdat(machine.pgdats):
        pgdat.pg.tune[TUNE_SWAPPINESS] = machine.sysctls.swappiness
        pgdat.pg.tune[TUNE_BOOST_FACTOR] = machine.sysctls.watermark_boost_factor


#: What writing a sysctl makes the kernel compute anew; the rest stays as it was.
_HANDLERS: dict[str, Callable[[Machine, Mapping[ZoneKey, int], Sysctls], None]] = {
    "vm.min_free_kbytes": _setup_per_zone_wmarks,
    "vm.watermark_scale_factor": _setup_per_zone_wmarks,
    "vm.lowmem_reserve_ratio": _setup_per_zone_lowmem_reserve,
    "vm.percpu_pagelist_high_fraction": zone_pcp_update,
}


def kswapd_init(boot: _Boot) -> None:
    """One kswapd a node with memory; who runs it is the shell's business (kswapd_run)."""
    for node in boot.spec.nodes:
        if node.zones:
            boot.printk(f"kswapd{node.nid}: ready", 4)
