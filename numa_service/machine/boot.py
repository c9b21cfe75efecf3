"""Boot: from a description to a running memory system, in the kernel's order (``init/main.c``).

Every step is a function named as the kernel's and does that step's work. Nodes are booted together because
zonelists and watermarks depend on all of them; page arrays are made only for the nodes asked for, so that
the process of one node pays for one node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from numa_service.machine.boot_memory import BootMemory
from numa_service.machine.booted import BootedMachine, init_per_zone_wmark_min, setup_per_cpu_pageset
from numa_service.machine.early_node_map import initmem_lines
from numa_service.machine.free_area_init import (
    joined,
    node_lines,
    span,
    unavailable_range_lines,
    vm_total_pages,
    zone_range_lines,
)
from numa_service.machine.spec import MachineSpec, NodeSpec, SpecError, ZoneSpec
from numa_service.machine.sysctl import Sysctls
from numa_service.machine.zonelists import (
    Populated,
    built_lines,
    fallback_order_lines,
    populated_zones,
    topology_of,
    verify_zonelist_lines,
)
from numa_service.machine.zones import PfnRange, count_pages, intersect
from numa_service.mm.memblock import BootMemoryError
from numa_service.mm.mmzone import (
    MIGRATE_TYPES,
    PAGE_SHIFT,
    PAGE_SIZE,
    PAGEBLOCK_NR_PAGES,
    ZONE_NAMES,
)
from numa_service.mm.pgdat import Pgdat, ZoneExtent
from numa_service.mm.pgdata import TUNE_MOBILITY_DISABLED
from numa_service.mm.profile import BLOCKS_TAKE, PROFILES, Profile
from numa_service.mm.sparse import MemoryModel, sparse_init
from numa_service.mm.watermark import ZoneKey
from numa_service.mm.zonelist import Zonelists, build_all_zonelists, turns_zone_reclaim_on

#: Where the kernel image lies, if there is RAM.
_KERNEL_IMAGE_PFN = 16 << (20 - PAGE_SHIFT)
#: "NODE_DATA(0) allocated" and "percpu: Embedded … pages/cpu" of the captured 6.1 boots.
_NODE_DATA_PAGES = 43
_PERCPU_PAGES = 62
#: memblock_find_dma_reserve looks at memory below MAX_DMA_PFN.
_MAX_DMA_PFN = 16 << (20 - PAGE_SHIFT)


@dataclass(slots=True)
class _Boot:
    """What the steps hand on."""

    spec: MachineSpec
    profile: Profile
    sysctls: Sysctls
    memory: BootMemory
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

    def printk(self, text: str, took_us: int = 40) -> None:
        """A line of the boot log; its virtual time is modelled, not measured."""
        self.dmesg.append((self.clock_us / 1e6, text))
        self.clock_us += took_us


def start_kernel(spec: MachineSpec, nids: Collection[int] | None = None) -> BootedMachine:
    """Boot. `nids` are the nodes to make page arrays for; all by default.

    BootMemoryError when a node is too small for what the kernel itself needs.
    """
    boot = _Boot(
        spec=spec,
        profile=PROFILES[spec.profile],
        sysctls=Sysctls(spec.arch, spec.profile, spec.sysctls),
        memory=BootMemory(spec),
    )
    boot.printk(f"Linux version {boot.profile.release} (numa-service) {spec.name}", 0)
    if spec.cmdline:
        boot.printk(f"Command line: {spec.cmdline}")
    setup_arch(boot)
    setup_per_cpu_areas(boot)
    _build_all_zonelists(boot)
    mem_init(boot, set(nids) if nids is not None else {node.nid for node in spec.nodes})
    machine = BootedMachine(
        spec=spec,
        profile=boot.profile,
        sysctls=boot.sysctls,
        managed=boot.managed,
        booted=dict(boot.managed),
        zonelists=boot.zonelists,
        pgdats=boot.pgdats,
        dmesg=boot.dmesg,
        boot_allocator=boot.memory.allocator,
        memory_model=boot.memory_model,
        populated=boot.populated,
    )
    setup_per_cpu_pageset(machine)
    init_per_zone_wmark_min(machine)
    kswapd_init(boot)
    return machine


def managed_pages(spec: MachineSpec) -> dict[int, int]:
    """Pages that boot leaves the buddy system of each node: the boot allocator's part of it only."""
    boot = _Boot(spec, PROFILES[spec.profile], Sysctls(spec.arch, spec.profile), BootMemory(spec))
    setup_arch(boot)
    setup_per_cpu_areas(boot)
    return {node.nid: count_pages(boot.memory.retire(node)) for node in spec.nodes}


# setup_arch: the memory map, nodes and zones; the boot allocator serves the first allocations


def setup_arch(boot: _Boot) -> None:
    """Memory map, nodes, zones; the boot allocator takes over and serves the first allocations."""
    e820__memory_setup(boot)
    initmem_init(boot)
    dma_contiguous_reserve(boot)
    paging_init(boot)


def e820__memory_setup(boot: _Boot) -> None:
    """Print the map of RAM; what firmware and the kernel image have is no longer free."""
    boot.printk("BIOS-provided physical RAM map:")
    for start, end in joined(boot.memory.allocator.memory):
        boot.printk(f"BIOS-e820: [mem {span(start, end)}] usable")
    _reserve_low_memory(boot)
    _reserve_kernel_image(boot)


def _reserve_low_memory(boot: _Boot) -> None:
    """What firmware may use and the real-mode trampoline: all RAM below 1 MiB (since 5.13), or less."""
    limit = boot.profile.reserve_low_kb >> (PAGE_SHIFT - 10)
    for node in boot.spec.nodes:
        low = boot.memory.allocator.free_ranges(node.nid, 0, limit)
        if low and boot.memory.room(node, node.zones[0]) >= count_pages(low):
            for start, end in low:
                boot.memory.allocator.reserve(start, end, node.nid, "first MiB")


def _reserve_kernel_image(boot: _Boot) -> None:
    """Where the kernel lies: 16 MiB, or where RAM begins. In what is told to lack less, part of the rest."""
    pages = boot.memory.plan.image_pages
    if not pages:
        return
    nodes = sorted((node for node in boot.spec.nodes if node.ram), key=lambda node: node.ram)
    for node in nodes:
        for low, high in boot.memory.low_ranges(node, _KERNEL_IMAGE_PFN):
            start = -(-low // PAGEBLOCK_NR_PAGES) * PAGEBLOCK_NR_PAGES
            if start + pages <= high:
                if boot.memory.spare(node) >= pages:
                    boot.memory.allocator.reserve(start, start + pages, node.nid, "kernel image")
                return
    if not any(node.is_told for node in boot.spec.nodes):
        size = f"{pages * PAGE_SIZE >> 20} MiB"
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
        boot.memory.take_over()
    for node in boot.spec.nodes:
        if node.zones:
            boot.memory.alloc(node, _NODE_DATA_PAGES, "node data")
            for line in _node_data_lines(boot, node):
                boot.printk(line)
    boot.dma_reserve = _find_dma_reserve(boot)


def _node_data_lines(boot: _Boot, node: NodeSpec) -> Iterable[str]:
    regions = [r for r in boot.memory.allocator.reserved if (r.nid, r.purpose) == (node.nid, "node data")]
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
        - boot.memory.allocator.free_pages(node.nid, 0, _MAX_DMA_PFN)
        for node in boot.spec.nodes
    )


def dma_contiguous_reserve(boot: _Boot) -> None:
    """Set the areas of ``cma=`` and ``numa_cma=`` aside: whole pageblocks of one zone.

    Above 4 GiB from the bottom, so that DMA zones are spared; below it from the top
    (cma_declare_contiguous_nid).
    """
    for wanted in boot.memory.plan.cma:
        if boot.profile.block_rules == BLOCKS_TAKE:
            raise SpecError(f"cma: {boot.profile.name} has no CMA")
        nids = [node.nid for node in boot.spec.nodes if wanted.nid in (None, node.nid)]
        if not nids:
            raise SpecError(f"cma: there is no node {wanted.nid}")
        pages = -(-wanted.pages // PAGEBLOCK_NR_PAGES) * PAGEBLOCK_NR_PAGES
        area = boot.memory.cma_area(nids, pages)
        if area is None:
            where = f"node {wanted.nid}" if wanted.nid is not None else "any node"
            raise SpecError(f"cma: no {pages} free pages in a row in one zone of {where}")
        nid, (start, end) = area
        boot.memory.set_aside(nid, (start, end))
        boot.printk(f"cma: Reserved {pages * PAGE_SIZE >> 20} MiB at {start << PAGE_SHIFT:#018x}")


def paging_init(boot: _Boot) -> None:
    """Zones, and the memory map: a struct page for every page (sparse_init, free_area_init)."""
    spec = boot.spec
    page_bytes = boot.profile.struct_page_bytes[spec.arch]
    boot.memory_model = sparse_init(spec.memory_model, spec.arch, boot.memory.allocator.memory, page_bytes)
    for line in zone_range_lines(boot.spec):
        boot.printk(line, 8)
    for node in boot.spec.nodes:
        present = sum(zone.present for zone in node.zones)
        for line in node_lines(spec, node, boot.memory_model, boot.dma_reserve):
            boot.printk(line, present // 5000)
        _alloc_node_mem_map(boot, node)
    for line in unavailable_range_lines(boot.spec, boot.memory.allocator.memory, boot.memory_model):
        boot.printk(line)


def _alloc_node_mem_map(boot: _Boot, node: NodeSpec) -> None:
    """Memory for a node's struct pages, by the memory model."""
    if not node.ram:
        return
    memmap = boot.memory_model.memmap_pages(node.nid, node.ram[0][0], node.ram[-1][1])
    taken = boot.memory.alloc(node, memmap, "memmap")
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
            boot.memory.alloc(boot.spec.node(nid), _PERCPU_PAGES * len(own), "per-CPU areas")
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


# mem_init: the boot allocator retires


def mem_init(boot: _Boot, nids: set[int]) -> None:
    """The boot allocator retires: what it has not given out goes to the buddy system (memblock_free_all)."""
    names = ZONE_NAMES[boot.spec.arch]
    swap_share = boot.spec.swap_pages // len(boot.spec.nodes)
    for line in boot.memory.allocator.debug_lines():
        boot.printk(line, 2)
    for node in boot.spec.nodes:
        free_ranges = boot.memory.retire(node)
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
                cma=boot.memory.cma.get(node.nid, ()),
                drift=boot.spec.counter_drift,
            )
            boot.pgdats[node.nid].pg.tune[TUNE_MOBILITY_DISABLED] = boot.mobility_disabled
    present = sum(zone.present for node in boot.spec.nodes for zone in node.zones)
    free = sum(boot.managed.values())
    cma = sum(count_pages(areas) for areas in boot.memory.cma.values())
    kib = PAGE_SIZE // 1024
    boot.printk(
        f"Memory: {free * kib}K/{present * kib}K available "
        f"({(present - free) * kib}K reserved, {cma * kib}K cma-reserved)",
        free // 5000,
    )


def _pages_within(ranges: Iterable[PfnRange], zone: ZoneSpec) -> int:
    return count_pages(intersect(ranges, (zone.start_pfn, zone.start_pfn + zone.spanned)))


# kswapd


def kswapd_init(boot: _Boot) -> None:
    """One kswapd a node with memory; who runs it is the shell's business (kswapd_run)."""
    for node in boot.spec.nodes:
        if node.zones:
            boot.printk(f"kswapd{node.nid}: ready", 4)
