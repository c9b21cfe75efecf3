"""Boot: from a machine's description to its running memory system, in the kernel's order (``init/main.c``).

Every step is a function that has the name and does the work of the kernel's function. All nodes are booted
together, because zonelists and watermarks depend on all of them. Page arrays are made only for the nodes
asked for, so that the process of one node needs the memory of one node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from numa_service.machine.boot_memory import BootMemory
from numa_service.machine.booted import (
    BootedMachine,
    init_per_zone_wmark_min,
    rebuild_zonelists,
    setup_per_cpu_pageset,
)
from numa_service.machine.cmdline import numa_is_off
from numa_service.machine.early_node_map import initmem_lines
from numa_service.machine.free_area_init import (
    node_lines,
    ram_ranges,
    span,
    unavailable_range_lines,
    vm_total_pages,
    zone_range_lines,
)
from numa_service.machine.hugetlb_init import hugetlb_init
from numa_service.machine.slab_caches import slab_caches_of
from numa_service.machine.spec import MachineSpec, NodeSpec, SpecError, ZoneSpec
from numa_service.machine.sysctl import Sysctls
from numa_service.machine.vmalloc_init import boot_areas, vmalloc_nid
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
from numa_service.mm.profile import Profile, profile_named
from numa_service.mm.slab.cache import Cache
from numa_service.mm.slab.profile import slub_of
from numa_service.mm.slab.slub_parameters import slub_parameters
from numa_service.mm.sparse import MemoryModel, sparse_init
from numa_service.mm.structs import PAGE_OFFSET
from numa_service.mm.variants import BLOCKS_TAKE
from numa_service.mm.vmalloc.vmalloc import Vmalloc
from numa_service.mm.watermark import ZoneKey
from numa_service.mm.zonelist import Zonelists, build_all_zonelists, turns_zone_reclaim_on

#: First page frame of the kernel image, at 16 MiB, if there is RAM.
_KERNEL_IMAGE_PFN = 16 << (20 - PAGE_SHIFT)
#: "NODE_DATA(0) allocated" and "percpu: Embedded … pages/cpu" of the captured 6.1 boots.
_NODE_DATA_PAGES = 43
_PERCPU_PAGES = 62
#: memblock_find_dma_reserve looks at memory below MAX_DMA_PFN.
_MAX_DMA_PFN = 16 << (20 - PAGE_SHIFT)


@dataclass(slots=True)
class _Boot:
    """The state of a boot, which one step hands on to the next."""

    spec: MachineSpec
    profile: Profile
    sysctls: Sysctls
    memory: BootMemory
    #: The nodes to make page arrays for.
    nids: frozenset[int] = frozenset()
    memory_model: MemoryModel = field(default_factory=lambda: MemoryModel("sparsemem", "x86_64"))
    #: Pages of ZONE_DMA that were allocated before zones were set up (memblock_find_dma_reserve).
    dma_reserve: int = 0
    populated: Populated = field(default_factory=dict)
    managed: dict[ZoneKey, int] = field(default_factory=dict)
    zonelists: dict[int, Zonelists] = field(default_factory=dict)
    pgdats: dict[int, Pgdat] = field(default_factory=dict)
    dmesg: list[tuple[float, str]] = field(default_factory=list)
    slab_caches: tuple[Cache, ...] = ()
    vmalloc: Vmalloc | None = None
    clock_us: int = 0
    mobility_disabled: bool = False

    def printk(self, text: str, took_us: int = 40) -> None:
        """Append a line to the boot log and advance its virtual clock, which is modelled, by `took_us`."""
        self.dmesg.append((self.clock_us / 1e6, text))
        self.clock_us += took_us


def start_kernel(spec: MachineSpec, nids: Collection[int] | None = None) -> BootedMachine:
    """Boot a machine. `nids` are the nodes to make page arrays for, by default all.

    BootMemoryError if a node is too small for what the kernel itself needs.
    """
    boot = _Boot(
        spec=spec,
        profile=profile_named(spec.profile),
        sysctls=Sysctls(spec.arch, spec.profile, spec.sysctls),
        memory=BootMemory(spec),
        nids=frozenset(nids) if nids is not None else frozenset(spec.nids),
    )
    has = boot.profile.slab_allocators
    if spec.slab not in has:
        raise SpecError(f"slab: {spec.profile} has {', '.join(has)}, no {spec.slab}")
    boot.printk(f"Linux version {boot.profile.release} (numa-service) {spec.name}", 0)
    if spec.cmdline:
        boot.printk(f"Command line: {spec.cmdline}")
    setup_arch(boot)
    setup_per_cpu_areas(boot)
    _build_all_zonelists(boot)
    for step in boot.profile.mm_init:
        MM_INIT[step](boot)
    assert boot.vmalloc is not None  # vmalloc_init is a step of every kernel
    machine = BootedMachine(
        spec=spec,
        profile=boot.profile,
        sysctls=boot.sysctls,
        managed=boot.managed,
        zonelists=boot.zonelists,
        pgdats=boot.pgdats,
        dmesg=boot.dmesg,
        boot_allocator=boot.memory.allocator,
        memory_model=boot.memory_model,
        populated=populated_zones(spec),
        slab_caches=boot.slab_caches,
        vmalloc=boot.vmalloc,
        vmalloc_nid=vmalloc_nid(spec),
    )
    setup_per_cpu_pageset(machine)
    init_per_zone_wmark_min(machine)
    hugetlb_init(machine)
    kswapd_init(boot)
    if any(node.added for node in spec.nodes):
        # memory that comes later: a zone that gets its first pages makes online_pages() rebuild all lists
        rebuild_zonelists(machine, populated_zones(spec))
    return machine


def managed_pages(spec: MachineSpec) -> dict[int, int]:
    """Pages that boot would leave to the buddy system of each node, by nid; no page arrays are made."""
    boot = _Boot(spec, profile_named(spec.profile), Sysctls(spec.arch, spec.profile), BootMemory(spec))
    setup_arch(boot)
    setup_per_cpu_areas(boot)
    return {node.nid: count_pages(boot.memory.retire(node)) for node in spec.nodes}


# setup_arch: the memory map, nodes and zones; the boot allocator serves the first allocations


def setup_arch(boot: _Boot) -> None:
    """Set up the memory map, the nodes and the zones; the boot allocator serves the first allocations."""
    e820__memory_setup(boot)
    initmem_init(boot)
    dma_contiguous_reserve(boot)
    paging_init(boot)


def e820__memory_setup(boot: _Boot) -> None:
    """Print the map of RAM, and reserve what firmware and the kernel image occupy."""
    boot.printk("BIOS-provided physical RAM map:")
    added = {node.nid for node in boot.spec.nodes if node.added}
    there = [region for region in boot.memory.allocator.memory if region.nid not in added]
    for start, end in ram_ranges(there):
        boot.printk(f"BIOS-e820: [mem {span(start, end)}] usable")
    _reserve_low_memory(boot)
    _reserve_kernel_image(boot)


def _reserve_low_memory(boot: _Boot) -> None:
    """Reserve what firmware and the real-mode trampoline may use: since 5.13 all RAM below 1 MiB."""
    limit = boot.profile.reserve_low_kb >> (PAGE_SHIFT - 10)
    for node in boot.spec.nodes:
        low = boot.memory.allocator.free_ranges(node.nid, 0, limit)
        if low and boot.memory.room(node, node.zones[0]) >= count_pages(low):
            for start, end in low:
                boot.memory.allocator.reserve(start, end, node.nid, "first MiB")


def _reserve_kernel_image(boot: _Boot) -> None:
    """Reserve the kernel image, at 16 MiB or at the first RAM above.

    A node whose managed pages are known, and which lacks fewer pages than the image has, gets no image of its
    own: `BootMemory.retire` takes what it lacks. BootMemoryError if there is no room for the image.
    """
    pages = boot.memory.plan.image_pages
    if not pages:
        return
    there = (node for node in boot.spec.nodes if node.ram and not node.added)
    nodes = sorted(there, key=lambda node: node.ram)
    for node in nodes:
        for low, high in boot.memory.low_ranges(node, _KERNEL_IMAGE_PFN):
            start = -(-low // PAGEBLOCK_NR_PAGES) * PAGEBLOCK_NR_PAGES
            if start + pages <= high:
                if boot.memory.spare(node) >= pages:
                    boot.memory.allocator.reserve(start, start + pages, node.nid, "kernel image")
                return
    if not any(node.has_known_managed for node in boot.spec.nodes):
        size = f"{pages * PAGE_SIZE >> 20} MiB"
        raise BootMemoryError(f"no room for the kernel image: {size} of RAM at 16 MiB or above needed")


def initmem_init(boot: _Boot) -> None:
    """Print SRAT and SLIT (nodes, their memory, their distances), and allocate each node's pg_data_t."""
    if numa_is_off(boot.spec.cmdline):
        boot.printk("NUMA turned off")
        boot.printk(f"Faking a node at [mem {span(0, boot.spec.nodes[0].ram[-1][1])}]")
    else:
        for line in _srat_lines(boot.spec):
            boot.printk(line, 8)
        boot.printk(f"NUMA: Initialized distance table, cnt={len(boot.spec.nodes)}")
    if boot.profile.bootmem:
        boot.memory.take_over()
    for node in boot.spec.nodes:
        if node.zones and not node.added:
            boot.memory.alloc(node, _NODE_DATA_PAGES, "node data")
            for line in _node_data_lines(boot, node):
                boot.printk(line)
    boot.dma_reserve = _find_dma_reserve(boot)


def _srat_lines(spec: MachineSpec) -> Iterator[str]:
    """What the kernel prints of the SRAT: the node of each CPU and of each range of memory."""
    own_cpus = spec.own_cpus
    for node in spec.nodes:
        for cpu in own_cpus[node.nid]:
            yield f"SRAT: PXM {node.nid} -> APIC {cpu:#04x} -> Node {node.nid}"
    for node in (node for node in spec.nodes if not node.added):
        for start, end in node.ram:
            yield (
                f"ACPI: SRAT: Node {node.nid} PXM {node.nid} [mem {start << PAGE_SHIFT:#010x}-"
                f"{(end << PAGE_SHIFT) - 1:#010x}]"
            )


def _node_data_lines(boot: _Boot, node: NodeSpec) -> Iterable[str]:
    regions = [r for r in boot.memory.allocator.reserved if (r.nid, r.purpose) == (node.nid, "node data")]
    if boot.profile.early_node_map:
        return initmem_lines(node, regions[0] if regions else None)
    spans = [(region.start_pfn << PAGE_SHIFT, (region.end_pfn << PAGE_SHIFT) - 1) for region in regions]
    return [f"NODE_DATA({node.nid}) allocated [mem {low:#010x}-{high:#010x}]" for low, high in spans]


def _find_dma_reserve(boot: _Boot) -> int:
    """Pages of ZONE_DMA allocated so far (memblock_find_dma_reserve); 0 on i386, which deducts none."""
    if boot.spec.arch != "x86_64":
        return 0
    return sum(
        count_pages(intersect(node.ram, (0, _MAX_DMA_PFN)))
        - boot.memory.allocator.free_pages(node.nid, 0, _MAX_DMA_PFN)
        for node in boot.spec.nodes
    )


def dma_contiguous_reserve(boot: _Boot) -> None:
    """Reserve the areas of ``cma=`` and ``numa_cma=``, each of whole pageblocks in one zone.

    An area is taken as low as possible above 4 GiB, which spares the DMA zones; if there is no room, as high
    as possible below (cma_declare_contiguous_nid). SpecError if the profile has no CMA, or no node has room.
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
    """Set up the zones and the memory map, one struct page a page (sparse_init, free_area_init)."""
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
    if spec.arch == "i386":  # a 64-bit kernel has all maps at one address
        first = min((r.start_pfn for r in boot.memory.allocator.reserved if r.purpose == "memmap"), default=0)
        mem_map = PAGE_OFFSET[spec.arch] + (first << PAGE_SHIFT)
        boot.memory_model = replace(boot.memory_model, mem_map=mem_map)
    for line in unavailable_range_lines(boot.spec, boot.memory.allocator.memory, boot.memory_model):
        boot.printk(line)


def _alloc_node_mem_map(boot: _Boot, node: NodeSpec) -> None:
    """Allocate the memory for a node's struct pages; how much depends on the memory model."""
    if not node.ram or node.added:
        return  # the map of memory that comes later is allocated where there is memory then
    memmap = boot.memory_model.memmap_pages(node.nid, node.ram[0][0], node.ram[-1][1])
    taken = boot.memory.alloc(node, memmap, "memmap")
    if boot.memory.is_high(node):  # memblock then takes memory of any node
        for other in boot.spec.nodes:
            taken += boot.memory.alloc(other, memmap - taken, "memmap")
    if taken < memmap and not node.has_known_managed:
        raise BootMemoryError(
            f"node {node.nid}: its memory map needs {memmap} pages, {taken} are left: give it more memory"
        )


def setup_per_cpu_areas(boot: _Boot) -> None:
    """Allocate each CPU's per-CPU area, on the CPU's own node if that has memory."""
    cpus = boot.spec.cpus
    boot.printk(f"setup_percpu: nr_cpu_ids:{max(cpus) + 1} nr_node_ids:{boot.spec.node_ids}")
    for nid, own in boot.spec.own_cpus.items():
        if own:
            boot.memory.alloc(boot.spec.node(nid), _PERCPU_PAGES * len(own), "per-CPU areas")
    boot.printk(f"percpu: Embedded {_PERCPU_PAGES} pages/cpu")


# build_all_zonelists


def _build_all_zonelists(boot: _Boot) -> None:
    """Build the zonelists of every node, and decide whether memory suffices to group pages by mobility."""
    spec, profile = boot.spec, boot.profile
    added = {node.nid for node in spec.nodes if node.added}
    boot.populated = {nid: () if nid in added else zones for nid, zones in populated_zones(spec).items()}
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


# mm_init: the boot allocator retires, and the kernel's own allocators begin


def page_ext_init_flatmem(boot: _Boot) -> None:
    """Allocate what is kept beside each struct page, where the memory map is one (page_cgroup, page_ext).

    Nothing: under SPARSEMEM it belongs to the sections, and here no debugging option or memory cgroup asks
    for any.
    """


def mem_init(boot: _Boot) -> None:
    """Give all memory that the boot allocator has not allocated to the buddy system (memblock_free_all)."""
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
        if node.nid in boot.nids:
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


def kmem_cache_init(boot: _Boot) -> None:
    """Make the slab caches: the allocator's own, kmalloc's, and those of the subsystems that start later.

    They have no slabs: what the kernel itself allocates while it boots is not known.
    """
    boot.slab_caches = slab_caches_of(boot.spec)
    if boot.spec.slab != "slub":
        return
    rules = slub_of(boot.profile.name, boot.spec.arch).rules
    parameters = slub_parameters(boot.spec.cmdline, rules.parameters)
    cpus, node_ids = len(boot.spec.cpus), boot.spec.node_ids
    orders = f"{parameters.min_order}-{parameters.max_order}"
    boot.printk(
        f"SLUB: HWalign={rules.arch.cache_line}, Order={orders}, MinObjects={parameters.min_objects}, "
        f"CPUs={cpus}, Nodes={node_ids}"
    )


def percpu_init_late(boot: _Boot) -> None:
    """Move the maps of percpu chunks that exist already into memory of kmalloc.

    Nothing: who has which percpu areas is not modelled, only how much memory they take.
    """


def vmalloc_init(boot: _Boot) -> None:
    """Make free what is left of the kernel's virtual addresses (``machine/vmalloc_init.py``)."""
    boot.vmalloc = boot_areas(boot.spec, sum(boot.managed.values()))


def kmem_cache_init_late(boot: _Boot) -> None:
    """Give SLAB's caches their full per-CPU arrays, now that interrupts are on.

    Nothing for SLUB, and SLAB's caches have theirs from the start here.
    """


#: The steps of :attr:`Profile.mm_init`, by the kernel's names.
MM_INIT: dict[str, Callable[[_Boot], None]] = {
    "page_cgroup_init_flatmem": page_ext_init_flatmem,
    "page_ext_init_flatmem": page_ext_init_flatmem,
    "page_ext_init_flatmem_late": page_ext_init_flatmem,
    "mem_init": mem_init,
    "kmem_cache_init": kmem_cache_init,
    "percpu_init_late": percpu_init_late,
    "vmalloc_init": vmalloc_init,
    "kmem_cache_init_late": kmem_cache_init_late,
}


# kswapd


def kswapd_init(boot: _Boot) -> None:
    """Print a line for the kswapd of each node with memory (kswapd_run); shells run it (docs/shell.md)."""
    for node in boot.spec.nodes:
        if node.zones:
            boot.printk(f"kswapd{node.nid}: ready", 4)
