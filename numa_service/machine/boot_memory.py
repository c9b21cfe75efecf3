"""RAM while a machine boots: what the boot allocator has allocated, and how much boot may allocate.

On a machine that is only described, boot allocates what a kernel needs. For a captured machine the managed
pages of every zone are known, for some imported ones those of every node: boot then allocates exactly the
present pages that are not managed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from numa_service.machine.cmdline import CmaArea, parse_cmdline
from numa_service.machine.spec import MachineSpec, NodeSpec, ZoneSpec
from numa_service.machine.zones import MAX_LOW_PFN_I386, PfnRange, count_pages, intersect, merge
from numa_service.mm.bootmem import Bootmem
from numa_service.mm.memblock import BootAllocator, Memblock
from numa_service.mm.mmzone import PAGE_SHIFT, PAGEBLOCK_NR_PAGES
from numa_service.mm.watermark import ZoneKey

#: Pages of the kernel image, text to bss, as measured: what moved as a whole between captured boots of one
#: topology (README of tests/testdata/groundtruth).
_KERNEL_IMAGE_PAGES = 11_318
_PFN_4GIB = 4 << (30 - PAGE_SHIFT)
#: First pfn that boot allocators cannot reach: they do not allocate high memory.
_MAX_LOW_PFN = {"i386": MAX_LOW_PFN_I386}
_NO_LIMIT = 1 << 52


@dataclass(frozen=True, slots=True)
class BootPlan:
    """How many pages boot allocates, and how many it must leave to the buddy system."""

    #: Pages of the kernel image; 0 for captured zones, whose unmanaged pages include it.
    image_pages: int
    #: Areas of ``cma=`` and ``numa_cma=``; none for a captured kernel, whose areas count as managed already.
    cma: tuple[CmaArea, ...]
    #: Managed pages of nodes and of zones, where they are known: exactly as many go to the buddy system.
    nodes: Mapping[int, int]
    zones: Mapping[ZoneKey, int]


def plan_of(spec: MachineSpec) -> BootPlan:
    """The plan for a machine: from its managed pages where they are known, else from what a kernel needs."""
    nodes = {node.nid: node.managed for node in spec.nodes if node.managed is not None}
    zones = {
        (node.nid, zone.name): zone.managed
        for node in spec.nodes
        for zone in node.zones
        if zone.managed is not None
    }
    if zones:
        return BootPlan(image_pages=0, cma=(), nodes=nodes, zones=zones)
    return BootPlan(_KERNEL_IMAGE_PAGES, parse_cmdline(spec.cmdline).cma, nodes, zones={})


class BootMemory:
    """The boot allocator of a machine, which allocates no more than a BootPlan allows."""

    def __init__(self, spec: MachineSpec) -> None:
        """Add all RAM of the machine to the allocator; all of it is free."""
        memblock = Memblock()
        for node in spec.nodes:
            for start, end in node.ram:
                memblock.add(start, end, node.nid)
        self.plan = plan_of(spec)
        self.allocator: BootAllocator = memblock
        #: CMA areas by node.
        self.cma: dict[int, list[PfnRange]] = {}
        self._spec = spec
        self._max_low_pfn = _MAX_LOW_PFN.get(spec.arch, _NO_LIMIT)

    def take_over(self) -> None:
        """Replace memblock by 3.0's bitmap allocator, which keeps memblock's reservations (initmem_init)."""
        early = self.allocator
        self.allocator = Bootmem.take_over(early.memory, early.reserved, self._max_low_pfn)

    def room(self, node: NodeSpec, zone: ZoneSpec) -> int:
        """Free pages of a zone that boot may allocate; in a captured zone, those that are not managed."""
        start, end = zone.start_pfn, zone.start_pfn + zone.spanned
        free = self.allocator.free_pages(node.nid, start, end)
        managed = self.plan.zones.get((node.nid, zone.name))
        if managed is None:
            return min(free, self.spare(node))
        own = count_pages(intersect(self.allocator.own_ranges(node.nid), (start, end)))
        return max(0, free + own - managed)

    def spare(self, node: NodeSpec) -> int:
        """Free pages of a node that boot may allocate: all, unless the node's managed pages are known."""
        free = self.allocator.free_pages(node.nid, 0, _NO_LIMIT)
        managed = self.plan.nodes.get(node.nid)
        if managed is None:
            return free
        # the allocator's own bitmap and CMA areas go to the buddy system when the allocator retires
        back = (*self.allocator.own_ranges(node.nid), *self.cma.get(node.nid, ()))
        return max(0, free + count_pages(back) - managed)

    def low_ranges(self, node: NodeSpec, start_pfn: int) -> list[PfnRange]:
        """Free ranges of a node from `start_pfn` on that boot allocators can reach."""
        return self.allocator.free_ranges(node.nid, start_pfn, self._max_low_pfn)

    def is_high(self, node: NodeSpec) -> bool:
        """Whether boot allocators can reach none of a node's RAM."""
        return all(start >= self._max_low_pfn for start, _ in node.ram)

    def alloc(self, node: NodeSpec, pages: int, purpose: str) -> int:
        """Allocate up to `pages` of a node's low memory, as the plan allows; returns the number allocated."""
        taken = 0
        for start, end, most in self._allowed(node):
            want = min(pages - taken, most)
            taken += self.allocator.alloc_node(node.nid, start, end, want, purpose)
        return taken

    def _allowed(self, node: NodeSpec) -> Iterator[tuple[int, int, int]]:
        """(first pfn, end pfn, most pages) of each range to allocate from, in order."""
        if self.plan.zones:
            for zone in reversed(node.zones):
                end = min(zone.start_pfn + zone.spanned, self._max_low_pfn)
                yield zone.start_pfn, end, self.room(node, zone)
        else:
            yield 0, self._max_low_pfn, self.spare(node) if node.nid in self.plan.nodes else _NO_LIMIT

    def cma_area(self, nids: Iterable[int], pages: int) -> tuple[int, PfnRange] | None:
        """(nid, range) of `pages` free pages in whole pageblocks of one zone; None if no node has room.

        The lowest range above 4 GiB is chosen, or the highest below it.
        """
        found: list[tuple[int, PfnRange]] = []
        for nid in nids:
            node = self._spec.node(nid)
            managed = self.plan.nodes.get(nid)
            if managed is not None and managed < pages + count_pages(self.cma.get(nid, ())):
                continue
            for zone in node.zones:
                end = zone.start_pfn + zone.spanned
                for low, high in self.allocator.free_ranges(nid, zone.start_pfn, end):
                    first = -(-low // PAGEBLOCK_NR_PAGES) * PAGEBLOCK_NR_PAGES
                    last = high // PAGEBLOCK_NR_PAGES * PAGEBLOCK_NR_PAGES
                    if last - first >= pages:
                        start = first if first >= _PFN_4GIB else last - pages
                        found.append((nid, (start, start + pages)))
        above = [area for area in found if area[1][0] >= _PFN_4GIB]
        if above:
            return min(above, key=lambda area: area[1])
        return max(found, key=lambda area: area[1], default=None)

    def set_aside(self, nid: int, area: PfnRange) -> None:
        """Reserve a CMA area. Its pages still go to the buddy system, in pageblocks of MIGRATE_CMA."""
        self.allocator.reserve(*area, nid, "cma")
        self.cma.setdefault(nid, []).append(area)

    def retire(self, node: NodeSpec) -> Sequence[PfnRange]:
        """Free ranges that the buddy system of a node gets, with its CMA areas (cma_init_reserved_areas).

        Where managed pages are known, the pages beyond them are reserved first, from the top down: they stand
        for image, initrd and firmware of the captured machine.
        """
        if node.nid in self.plan.nodes:
            self._reserve_top(node, (0, _NO_LIMIT), self.spare(node))
        for zone in node.zones:
            if (node.nid, zone.name) in self.plan.zones:
                self._reserve_top(
                    node, (zone.start_pfn, zone.start_pfn + zone.spanned), self.room(node, zone)
                )
        free_ranges = self.allocator.retire(node.nid)
        return merge([*free_ranges, *self.cma[node.nid]]) if node.nid in self.cma else free_ranges

    def _reserve_top(self, node: NodeSpec, span: PfnRange, pages: int) -> None:
        for start, end in reversed(self.allocator.free_ranges(node.nid, *span)):
            if pages <= 0:
                break
            take = min(pages, end - start)
            self.allocator.reserve(end - take, end, node.nid, "told: kernel image, initrd, firmware")
            pages -= take
