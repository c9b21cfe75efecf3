"""The lines that boot prints of zones and their memory map, and the sizes in them (``free_area_init``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numa_service.machine.early_node_map import zone_lines, zone_pfn_range_lines
from numa_service.machine.spec import MachineSpec, NodeSpec, ZoneSpec
from numa_service.machine.zones import zone_ranges
from numa_service.mm.memblock import PfnRange, Region
from numa_service.mm.mmzone import PAGE_SHIFT, PAGE_SIZE, ZONE_NAMES, zone_index
from numa_service.mm.profile import profile_named
from numa_service.mm.sparse import SPARSEMEM, MemoryModel


def zone_range_lines(spec: MachineSpec) -> Iterator[str]:
    """ "Zone ranges:" and what follows: where ZONE_MOVABLE starts, and the ranges of RAM by node."""
    if profile_named(spec.profile).early_node_map:
        yield from zone_pfn_range_lines(spec)
        return
    yield "Zone ranges:"
    for name, start, end in zone_ranges(spec.arch, (span for node in spec.nodes for span in node.ram)):
        yield f"  {name:<8} " + (f"[mem {span(start, end)}]" if start < end else "empty")
    yield "Movable zone start for each node"
    for node in spec.nodes:
        for zone in node.zones:
            if zone.name == "Movable":
                yield f"  Node {node.nid}: {zone.start_pfn << PAGE_SHIFT:#018x}"
    yield "Early memory node ranges"
    ranges = sorted((start, end, node.nid) for node in spec.nodes for start, end in node.ram)
    for start, end, nid in ranges:
        yield f"  node {nid:>3}: [mem {span(start, end)}]"


def node_lines(spec: MachineSpec, node: NodeSpec, model: MemoryModel, dma_reserve: int) -> Iterator[str]:
    """The lines on one node (free_area_init_node)."""
    if profile_named(spec.profile).early_node_map:
        memmap = {zone.name: calc_memmap_size(zone, model, by_span=True) for zone in node.zones}
        yield from zone_lines(spec, node, memmap, dma_reserve)
        return
    if not node.zones:
        if profile_named(spec.profile).says_initializing_memoryless:
            yield f"Initializing node {node.nid} as memoryless"
        yield f"Initmem setup node {node.nid} as memoryless"
        return
    yield f"Initmem setup node {node.nid} [mem {span(node.ram[0][0], node.ram[-1][1])}]"
    for zone in node.zones:
        index = zone_index(spec.arch, zone.name)
        pfns = f"{zone.start_pfn} -> {zone.start_pfn + zone.spanned}"
        yield f"mminit::memmap_init Initialising map node {node.nid} zone {index} pfns {pfns}"


def unavailable_range_lines(spec: MachineSpec, memory: Sequence[Region], model: MemoryModel) -> Iterator[str]:
    """Lines on the pages that have a struct page and are no RAM (memmap_init, init_unavailable_range).

    A hole is counted to the zone of the RAM behind it, the rest of the last section to the last zone of the
    machine. 3.0 prints no such lines.
    """
    if profile_named(spec.profile).early_node_map:
        return
    hole = 0
    nid, zones = 0, [""]
    for region in memory:
        nid = region.nid
        zones = [zone.name for zone in spec.node(nid).zones]
        for zone in spec.node(nid).zones:
            start = max(region.start_pfn, zone.start_pfn)
            end = min(region.end_pfn, zone.start_pfn + zone.spanned)
            if start < end:
                yield from _unavailable(model, nid, zone.name, hole, start)
                hole = end
    end = hole
    if model.name == SPARSEMEM:
        end = -(-end // model.pages_per_section) * model.pages_per_section
    yield from _unavailable(model, nid, zones[-1], hole, end)


def _unavailable(model: MemoryModel, nid: int, zone: str, start: int, end: int) -> Iterator[str]:
    pages = model.valid_pages(start, end) if start < end else 0
    if pages:
        yield f"On node {nid}, zone {zone}: {pages} pages in unavailable ranges"


def calc_memmap_size(zone: ZoneSpec, model: MemoryModel, *, by_span: bool = False) -> int:
    """Pages that boot reckons with for a zone's memory map (calc_memmap_size).

    They are those of the spanned pages, or with SPARSEMEM those of the present pages if holes are more than a
    sixteenth of those. `by_span`: always those of the spanned pages, as 3.0 has it.
    """
    pages = zone.spanned
    if not by_span and model.name == SPARSEMEM and zone.spanned > zone.present + (zone.present >> 4):
        pages = zone.present
    return -(-pages * model.struct_page_bytes // PAGE_SIZE)


def vm_total_pages(spec: MachineSpec, model: MemoryModel, dma_reserve: int) -> int:
    """ "Total pages" in the line "Built … zonelists".

    They are the present pages, less the memory map and less `dma_reserve` in every zone of the lowest type.
    6.12 deducts nothing. The memory map of HighMem, which lies in low memory, is deducted by 3.0 only.
    """
    total = 0
    kernel = profile_named(spec.profile)
    for zone in (zone for node in spec.nodes if not node.added for zone in node.zones):
        pages = zone.present
        if kernel.total_less_memmap:
            memmap = calc_memmap_size(zone, model, by_span=kernel.memmap_by_span)
            if (zone.name != "HighMem" or kernel.memmap_by_span) and pages >= memmap:
                pages -= memmap
            if zone.name == ZONE_NAMES[spec.arch][0] and pages > dma_reserve:
                pages -= dma_reserve
        total += pages
    return total


def span(start_pfn: int, end_pfn: int) -> str:
    """Addresses of the first and the last byte of a range of pages, as the kernel prints them."""
    return f"{start_pfn << PAGE_SHIFT:#018x}-{(end_pfn << PAGE_SHIFT) - 1:#018x}"


def ram_ranges(memory: Sequence[Region]) -> list[PfnRange]:
    """Ranges of RAM, with adjacent ones joined whatever their nodes."""
    ranges: list[PfnRange] = []
    for region in memory:
        if ranges and ranges[-1][1] == region.start_pfn:
            ranges[-1] = (ranges[-1][0], region.end_pfn)
        else:
            ranges.append((region.start_pfn, region.end_pfn))
    return ranges
