"""The boot log of 3.0 on zones and their memory map (``free_area_init_nodes``, ``free_area_init_core``)."""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.machine.spec import MachineSpec, NodeSpec
from numa_service.machine.zones import zone_ranges
from numa_service.mm.memblock import Region
from numa_service.mm.mmzone import PAGE_SHIFT, ZONE_NAMES, zone_index
from numa_service.mm.profile import profile_named
from numa_service.mm.watermark import zone_batchsize

#: Pages below which a zone's batch rounds to 0 in zone_batchsize(). The log shows that 0; the batch in use
#: is then 1.
_BATCH_OF_ONE = 2 * 4 * 1024


def zone_pfn_range_lines(spec: MachineSpec) -> Iterator[str]:
    """ "Zone PFN ranges:" and what follows: where ZONE_MOVABLE starts, and the early_node_map."""
    yield "Zone PFN ranges:"
    for name, start, end in zone_ranges(spec.arch, (span for node in spec.nodes for span in node.ram)):
        if name != "Device":
            yield f"  {name:<8} " + (f"{start:#010x} -> {end:#010x}" if start < end else "empty")
    yield "Movable zone start PFN for each node"
    for node in spec.nodes:
        for zone in node.zones:
            if zone.name == "Movable":
                yield f"  Node {node.nid}: {zone.start_pfn}"
    ranges = sorted((start, end, node.nid) for node in spec.nodes for start, end in node.ram)
    yield f"early_node_map[{len(ranges)}] active PFN ranges"
    for start, end, nid in ranges:
        yield f"  {nid:>3}: {start:#010x} -> {end:#010x}"


def initmem_lines(node: NodeSpec, node_data: Region | None) -> Iterator[str]:
    """The lines on a node with memory, and on where its pg_data_t lies (setup_node_bootmem)."""
    start, end = node.ram[0][0], node.ram[-1][1]
    yield f"Initmem setup node {node.nid} {start << PAGE_SHIFT:016x}-{end << PAGE_SHIFT:016x}"
    if node_data is not None:
        first, last = node_data.start_pfn << PAGE_SHIFT, (node_data.end_pfn << PAGE_SHIFT) - 1
        yield f"  NODE_DATA [{first:016x} - {last:016x}]"


def zone_lines(spec: MachineSpec, node: NodeSpec, memmap: dict[str, int], dma_reserve: int) -> Iterator[str]:
    """The lines on one node's zones (free_area_init_core).

    `memmap` pages by zone name, and `dma_reserve` in the lowest zone, are deducted from the present pages.
    """
    yield f"On node {node.nid} totalpages: {sum(zone.present for zone in node.zones)}"
    for zone in node.zones:
        pages = zone.present
        if pages >= memmap[zone.name]:
            pages -= memmap[zone.name]
            yield f"  {zone.name} zone: {memmap[zone.name]} pages used for memmap"
        else:
            yield f"  {zone.name} zone: {memmap[zone.name]} pages exceeds realsize {pages}"
        if zone.name == ZONE_NAMES[spec.arch][0] and pages > dma_reserve:
            pages -= dma_reserve
            yield f"  {zone.name} zone: {dma_reserve} pages reserved"
        batch = 0 if pages < _BATCH_OF_ONE else zone_batchsize(pages, profile_named(spec.profile))
        yield f"  {zone.name} zone: {pages} pages, LIFO batch:{batch}"
        index, end = zone_index(spec.arch, zone.name), zone.start_pfn + zone.spanned
        yield (
            f"mminit::memmap_init Initialising map node {node.nid} zone {index} "
            f"pfns {zone.start_pfn} -> {end}"
        )
