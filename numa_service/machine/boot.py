"""Boot: from a description to a running memory system, in the kernel's order (``init/main.c``).

Every step is a function named as the kernel's and does that step's work. Nodes are booted together because
zonelists and watermarks depend on all of them; page arrays are made only for the nodes asked for, so that
the process of one node pays for one node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from numa_service.machine.spec import MachineSpec, NodeSpec, ZoneSpec
from numa_service.machine.sysctl import Sysctls
from numa_service.mm.memblock import BootMemoryError, Memblock
from numa_service.mm.mmzone import (
    MIGRATE_TYPES,
    PAGE_SHIFT,
    PAGE_SIZE,
    PAGEBLOCK_NR_PAGES,
    ZONE_NAMES,
    zone_index,
)
from numa_service.mm.pgdat import Pgdat, ZoneExtent
from numa_service.mm.pgdata import (
    TUNE_BOOST_FACTOR,
    TUNE_MOBILITY_DISABLED,
    TUNE_SWAPPINESS,
)
from numa_service.mm.profile import PROFILES, Profile
from numa_service.mm.snapshot import MachineSnapshot, NodeSnapshot
from numa_service.mm.watermark import (
    ZoneKey,
    calculate_min_free_kbytes,
    recommended_min_free_kbytes,
    setup_per_zone_lowmem_reserve,
    setup_per_zone_wmarks,
    zone_batchsize,
    zone_highsize,
)
from numa_service.mm.zonelist import Topology, Zonelists, build_all_zonelists

#: sizeof(struct page) on 64-bit.
_STRUCT_PAGE_BYTES = 64
#: Kernel image, text to bss: what moved as a whole between boots of one topology (groundtruth README).
_KERNEL_IMAGE_PAGES = 11_318
_KERNEL_IMAGE_PFN = 16 << (20 - PAGE_SHIFT)
#: "NODE_DATA(0) allocated" and "percpu: Embedded … pages/cpu" of the captured 6.1 boots.
_NODE_DATA_PAGES = 43
_PERCPU_PAGES = 62


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

    def write_sysctl(self, key: str, value: str) -> None:
        """Write a sysctl with the kernel's effects; SpecError and nothing changed when it is not valid."""
        self.sysctls.set(key, value)
        apply_sysctls(self)

    def snapshot(self, nodes: Iterable[NodeSnapshot] | None = None) -> MachineSnapshot:
        """The machine as plain data; `nodes` replaces the nodes of this process."""
        names = ZONE_NAMES[self.spec.arch]
        lists = {}
        for nid, zonelists in self.zonelists.items():
            for label, refs in (("general", zonelists.fallback), ("thisnode", zonelists.thisnode)):
                for highest, name in enumerate(names):
                    lists[label, nid, name] = tuple(
                        (ref.nid, names[ref.zone]) for ref in refs if ref.zone <= highest
                    )
        return MachineSnapshot(
            name=self.spec.name,
            arch=self.spec.arch,
            profile=self.profile.name,
            nodes=tuple(nodes) if nodes else tuple(p.snapshot() for p in self.pgdats.values()),
            distances=self.spec.distances,
            sysctls=self.sysctls.as_dict(),
            fallback_order={nid: z.node_order for nid, z in self.zonelists.items()},
            zonelists=lists,
            dmesg=tuple(self.dmesg),
        )


@dataclass(slots=True)
class _Boot:
    """What the steps hand on."""

    spec: MachineSpec
    profile: Profile
    sysctls: Sysctls
    memblock: Memblock = field(default_factory=Memblock)
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
    setup_arch(boot)
    setup_per_cpu_areas(boot)
    _build_all_zonelists(boot)
    mem_init(boot, set(nids) if nids is not None else {node.nid for node in spec.nodes})
    machine = Machine(
        spec=spec,
        profile=boot.profile,
        sysctls=boot.sysctls,
        managed=boot.managed,
        zonelists=boot.zonelists,
        pgdats=boot.pgdats,
        dmesg=boot.dmesg,
    )
    setup_per_cpu_pageset(machine)
    init_per_zone_wmark_min(machine)
    kswapd_init(boot)
    return machine


# setup_arch: the memory map, nodes and zones; the boot allocator serves the first allocations


def setup_arch(boot: _Boot) -> None:
    """Memory map, nodes, zones; the boot allocator takes over and serves the first allocations."""
    e820__memory_setup(boot)
    initmem_init(boot)
    paging_init(boot)


def e820__memory_setup(boot: _Boot) -> None:
    """Register RAM with the boot allocator and print the map."""
    boot.printk("BIOS-provided physical RAM map:")
    for node in boot.spec.nodes:
        for start, end in node.ram:
            boot.memblock.add(start, end, node.nid)
    for start, end in _joined(boot):
        boot.printk(f"BIOS-e820: [mem {_address(start)}-{_address(end, last=True)}] usable")
    _reserve_kernel_image(boot)


def _joined(boot: _Boot) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for region in boot.memblock.memory:
        if ranges and ranges[-1][1] == region.start_pfn:
            ranges[-1] = (ranges[-1][0], region.end_pfn)
        else:
            ranges.append((region.start_pfn, region.end_pfn))
    return ranges


def _reserve_kernel_image(boot: _Boot) -> None:
    """Where the kernel itself lies. In a captured machine that is part of what the capture lacks."""
    if any(zone.managed is not None for node in boot.spec.nodes for zone in node.zones):
        return
    for node in boot.spec.nodes:
        free = boot.memblock.free_ranges(node.nid, _KERNEL_IMAGE_PFN, _KERNEL_IMAGE_PFN + _KERNEL_IMAGE_PAGES)
        if free == [(_KERNEL_IMAGE_PFN, _KERNEL_IMAGE_PFN + _KERNEL_IMAGE_PAGES)]:
            boot.memblock.reserve(*free[0], node.nid, "kernel image")
            return
    raise BootMemoryError(
        f"no room for the kernel image: {_KERNEL_IMAGE_PAGES * PAGE_SIZE >> 20} MiB of RAM at 16 MiB needed"
    )


def initmem_init(boot: _Boot) -> None:
    """SRAT and SLIT: nodes, their memory and their distances; node data is the first allocation."""
    for node in boot.spec.nodes:
        for cpu in node.cpus:
            boot.printk(f"SRAT: PXM {node.nid} -> APIC {cpu:#04x} -> Node {node.nid}", 8)
    for node in boot.spec.nodes:
        for start, end in node.ram:
            boot.printk(
                f"ACPI: SRAT: Node {node.nid} PXM {node.nid} [mem {start << PAGE_SHIFT:#010x}-"
                f"{(end << PAGE_SHIFT) - 1:#010x}]",
                8,
            )
    boot.printk(f"NUMA: Initialized distance table, cnt={len(boot.spec.nodes)}")
    for node in boot.spec.nodes:
        if node.zones and _memblock_alloc(boot, node, _NODE_DATA_PAGES, "node data"):
            boot.printk(f"NODE_DATA({node.nid}) allocated {_NODE_DATA_PAGES * PAGE_SIZE:#x} bytes")


def _memblock_alloc(boot: _Boot, node: NodeSpec, pages: int, purpose: str) -> int:
    """Take pages from the top of a node; in a captured machine, only what each zone is known to lack."""
    taken = 0
    for zone in reversed(node.zones):
        want = pages - taken
        if zone.managed is not None:
            room = boot.memblock.free_pages(node.nid, zone.start_pfn, zone.start_pfn + zone.spanned)
            want = min(want, max(0, room - zone.managed))
        taken += boot.memblock.reserve_top(
            node.nid, zone.start_pfn, zone.start_pfn + zone.spanned, want, purpose
        )
    return taken


def paging_init(boot: _Boot) -> None:
    """Zone ranges, and the memory map: a struct page for every page (sparse_init, free_area_init)."""
    names = [name for name in ZONE_NAMES[boot.spec.arch] if name not in ("Movable", "Device")]
    boot.printk("Zone ranges:")
    for name in names:
        zones = [zone for node in boot.spec.nodes for zone in node.zones if zone.name == name]
        if zones:
            start = min(zone.start_pfn for zone in zones)
            end = max(zone.start_pfn + zone.spanned for zone in zones)
            boot.printk(f"  {name:<8} [mem {_address(start)}-{_address(end, last=True)}]", 8)
        else:
            boot.printk(f"  {name:<8} empty", 8)
    boot.printk("Movable zone start for each node")
    for node in boot.spec.nodes:
        for zone in node.zones:
            if zone.name == "Movable":
                boot.printk(f"  Node {node.nid}: {_address(zone.start_pfn)}", 8)
    boot.printk("Early memory node ranges")
    for region in boot.memblock.memory:
        first, last = _address(region.start_pfn), _address(region.end_pfn, last=True)
        boot.printk(f"  node {region.nid:>3}: [mem {first}-{last}]", 8)
    for node in boot.spec.nodes:
        _free_area_init_node(boot, node)


def _free_area_init_node(boot: _Boot, node: NodeSpec) -> None:
    """One node's memmap; a node's zones are known from here on."""
    if not node.zones:
        boot.printk(f"Initmem setup node {node.nid} as memoryless")
        return
    start = min(zone.start_pfn for zone in node.zones)
    end = max(zone.start_pfn + zone.spanned for zone in node.zones)
    boot.printk(f"Initmem setup node {node.nid} [mem {_address(start)}-{_address(end, last=True)}]")
    memmap = 0
    for zone in node.zones:
        memmap += _memmap_pages(zone)
        index = zone_index(boot.spec.arch, zone.name)
        pfns = f"{zone.start_pfn} -> {zone.start_pfn + zone.spanned}"
        boot.printk(
            f"mminit::memmap_init Initialising map node {node.nid} zone {index} pfns {pfns}",
            zone.present // 5000,
        )
    taken = _memblock_alloc(boot, node, memmap, "memmap")
    if taken < memmap and all(zone.managed is None for zone in node.zones):
        raise BootMemoryError(
            f"node {node.nid}: its memory map needs {memmap} pages, {taken} are left: give it more memory"
        )


def _memmap_pages(zone: ZoneSpec) -> int:
    """Pages of struct page for a zone (calc_memmap_size)."""
    pages = zone.present if zone.spanned > zone.present + (zone.present >> 4) else zone.spanned
    return -(-pages * _STRUCT_PAGE_BYTES // PAGE_SIZE)


def setup_per_cpu_areas(boot: _Boot) -> None:
    """Per-CPU data, on each CPU's own node where it has memory."""
    cpus = boot.spec.cpus
    boot.printk(f"setup_percpu: nr_cpu_ids:{max(cpus) + 1} nr_node_ids:{boot.spec.nodes[-1].nid + 1}")
    for node in boot.spec.nodes:
        if node.cpus:
            _memblock_alloc(boot, node, _PERCPU_PAGES * len(node.cpus), "per-CPU areas")
    boot.printk(f"percpu: Embedded {_PERCPU_PAGES} pages/cpu")


# build_all_zonelists


def _build_all_zonelists(boot: _Boot) -> None:
    """Fallback lists of every node, and whether memory is large enough to group pages by mobility."""
    spec = boot.spec
    populated = {
        node.nid: tuple(
            zone_index(spec.arch, zone.name) for zone in node.zones if zone.present and zone.managed != 0
        )
        for node in spec.nodes
    }
    topology = Topology(
        nids=tuple(node.nid for node in spec.nodes),
        populated=populated,
        # No CPU is on its node's map yet (numa_add_cpu runs later), so none weighs on the order: seen in
        # the captured cxl-tier boots, where a CPU-less node does not come before an equally distant one.
        has_cpus=dict.fromkeys(populated, False),
        distance=spec.distance,
    )
    boot.zonelists = build_all_zonelists(topology, boot.profile)
    if len(spec.nodes) > 1:
        for nid, lists in boot.zonelists.items():
            boot.printk(
                f"Fallback order for Node {nid}: {''.join(f'{other} ' for other in lists.node_order)}"
            )
    names = ZONE_NAMES[spec.arch]
    for nid, lists in boot.zonelists.items():
        for label, refs in (("general", lists.fallback), ("thisnode", lists.thisnode)):
            if label == "thisnode" and len(spec.nodes) == 1:
                continue
            for zone in populated[nid][::1]:
                row = "".join(f"{ref.nid}:{names[ref.zone]} " for ref in refs if ref.zone <= zone)
                boot.printk(f"mminit::zonelist {label} {nid}:{names[zone]} = {row}", 16)
    total = _total_pages(boot)
    boot.mobility_disabled = total < PAGEBLOCK_NR_PAGES * MIGRATE_TYPES
    grouping = "off" if boot.mobility_disabled else "on"
    boot.printk(f"Built {len(spec.nodes)} zonelists, mobility grouping {grouping}.  Total pages: {total}")
    policy = max(
        (zone for zones in populated.values() for zone in zones if names[zone] != "Movable"), default=0
    )
    if len(spec.nodes) > 1:
        boot.printk(f"Policy zone: {names[policy]}")


def _total_pages(boot: _Boot) -> int:
    """vm_total_pages as printed here: memory less its memmap and what is already taken in ZONE_DMA."""
    total = 0
    for node in boot.spec.nodes:
        for zone in node.zones:
            pages = zone.present
            if zone.name != "HighMem":
                pages -= _memmap_pages(zone)
            if zone.name == "DMA" and zone.managed is not None:
                pages -= zone.present - zone.managed
            total += max(0, pages)
    return total


# mem_init: the boot allocator retires


def mem_init(boot: _Boot, nids: set[int]) -> None:
    """The boot allocator retires: what it has not given out goes to the buddy system (memblock_free_all)."""
    names = ZONE_NAMES[boot.spec.arch]
    swap_share = boot.spec.swap_pages // len(boot.spec.nodes)
    for node in boot.spec.nodes:
        _reserve_captured_rest(boot, node)
        extents = []
        by_name = {zone.name: zone for zone in node.zones}
        for index, name in enumerate(names):
            zone = by_name.get(name)
            if zone is None:
                extents.append(ZoneExtent(name, index, 0, 0, 0, 0))
                boot.managed[node.nid, name] = 0
                continue
            managed = boot.memblock.free_pages(node.nid, zone.start_pfn, zone.start_pfn + zone.spanned)
            boot.managed[node.nid, name] = managed
            extents.append(ZoneExtent(name, index, zone.start_pfn, zone.spanned, zone.present, managed))
        if node.nid in nids:
            boot.pgdats[node.nid] = Pgdat(
                nid=node.nid,
                arch=boot.spec.arch,
                profile=boot.profile,
                cpus=node.cpus,
                all_cpus=boot.spec.cpus,
                extents=extents,
                ram=node.ram,
                free_ranges=boot.memblock.free_ranges(node.nid, 0, 1 << 52),
                zonelists=boot.zonelists[node.nid],
                swap_pages=swap_share,
            )
            boot.pgdats[node.nid].pg.tune[TUNE_MOBILITY_DISABLED] = boot.mobility_disabled
    present = sum(zone.present for node in boot.spec.nodes for zone in node.zones)
    free = sum(boot.managed.values())
    kib = PAGE_SIZE // 1024
    boot.printk(
        f"Memory: {free * kib}K/{present * kib}K available "
        f"({(present - free) * kib}K reserved, 0K cma-reserved)",
        free // 5000,
    )


def _reserve_captured_rest(boot: _Boot, node: NodeSpec) -> None:
    """Captured zones give the buddy system what the real ones did; the rest is image, initrd, firmware."""
    for zone in node.zones:
        if zone.managed is None:
            continue
        start, end = zone.start_pfn, zone.start_pfn + zone.spanned
        missing = boot.memblock.free_pages(node.nid, start, end) - zone.managed
        boot.memblock.reserve_top(node.nid, start, end, missing, "captured: kernel image, initrd, firmware")


# pagesets, watermarks, kswapd


def setup_per_cpu_pageset(machine: Machine) -> None:
    """Give every zone's pagesets their batch; `high` follows with the watermarks it depends on."""
    for pgdat in machine.pgdats.values():
        for extent in pgdat.extents:
            batch = zone_batchsize(extent.managed, machine.profile) if extent.managed else 0
            pgdat.pg.pcp_batch[extent.index] = batch


def init_per_zone_wmark_min(machine: Machine) -> None:
    """Watermarks, reserves and pageset sizes; min_free_kbytes is computed unless it was set."""
    if machine.sysctls.min_free_kbytes is None:
        kbytes = calculate_min_free_kbytes(machine.managed, machine.profile)
        if machine.profile.thp_min_free:
            kbytes = max(kbytes, recommended_min_free_kbytes(machine.managed, machine.profile))
        machine.sysctls.set("vm.min_free_kbytes", str(kbytes))
    apply_sysctls(machine)


def apply_sysctls(machine: Machine) -> None:
    """Make the state of every node here what the sysctls say (the kernel's sysctl handlers, together).

    Recomputing what did not change gives what was there.
    """
    sysctls, profile = machine.sysctls, machine.profile
    marks = setup_per_zone_wmarks(
        machine.managed, profile, sysctls.min_free_kbytes or 0, sysctls.watermark_scale_factor
    )
    online_cpus = len(machine.spec.cpus)
    for pgdat in machine.pgdats.values():
        pg = pgdat.pg
        reserve = setup_per_zone_lowmem_reserve(
            [extent.managed for extent in pgdat.extents],
            sysctls.lowmem_reserve_ratio,
            force_ratio=not profile.watermark_scale,
        )
        for extent in pgdat.extents:
            zone = extent.index
            wmark = marks[pgdat.nid, extent.name]
            pgdat.set_watermarks(zone, wmark)
            pg.lowmem_reserve[zone] = reserve[zone]
            if extent.managed:
                pg.pcp_high[zone] = zone_highsize(
                    extent.managed,
                    wmark.low,
                    int(pg.pcp_batch[zone]),
                    len(pgdat.cpus),
                    online_cpus,
                    profile,
                    sysctls.percpu_pagelist_high_fraction,
                )
        pg.tune[TUNE_SWAPPINESS] = sysctls.swappiness
        pg.tune[TUNE_BOOST_FACTOR] = sysctls.watermark_boost_factor


def kswapd_init(boot: _Boot) -> None:
    """One kswapd a node with memory; who runs it is the shell's business (kswapd_run)."""
    for node in boot.spec.nodes:
        if node.zones:
            boot.printk(f"kswapd{node.nid}: ready", 4)


def _address(pfn: int, last: bool = False) -> str:
    return f"{(pfn << PAGE_SHIFT) - last:#018x}"
