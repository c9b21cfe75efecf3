"""Memory models: which pfns have a ``struct page``, and how many pages that takes (``mm/sparse.c``).

SPARSEMEM divides physical memory into sections and gives a memory map to each section with RAM. FLATMEM has
one map from the first to the last page of the node, holes included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from numa_service.mm.memblock import Region
from numa_service.mm.mmzone import MAX_ORDER_NR_PAGES, PAGE_SHIFT, PAGE_SIZE

SPARSEMEM = "sparsemem"
FLATMEM = "flatmem"
MEMORY_MODELS = (SPARSEMEM, FLATMEM)

#: SECTION_SIZE_BITS: 128 MiB on x86-64, 512 MiB on i386 with PAE.
SECTION_SIZE_BITS: dict[str, int] = {"x86_64": 27, "i386": 29}


#: Where a 64-bit kernel has all maps in one row, each page's entry at its pfn (SPARSEMEM_VMEMMAP, no KASLR).
VMEMMAP_START = 0xFFFF_EA00_0000_0000


class MemSection(NamedTuple):
    """A section of SPARSEMEM (``struct mem_section``)."""

    section_nr: int
    start_pfn: int
    #: The node that its memory map belongs to.
    nid: int
    #: Address of the ``struct page`` of its first page.
    mem_map: int
    #: That address less its pfn's share, so that adding any pfn's share gives that page's.
    section_mem_map: int


def default_memory_model(arch: str, nodes: int) -> str:
    """The model that distributions configure: SPARSEMEM, but FLATMEM for i386 without NUMA."""
    return FLATMEM if arch == "i386" and nodes == 1 else SPARSEMEM


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """The memory model of a machine, with its sections."""

    name: str
    arch: str
    #: Section number → nid of the node that its map belongs to, ascending; empty with FLATMEM.
    sections: Mapping[int, int] = field(default_factory=dict)
    #: First pfn past the last RAM, where a flat map ends (max_mapnr).
    max_mapnr: int = 0
    #: sizeof(struct page).
    struct_page_bytes: int = 64
    #: Address of the first entry of the map: of pfn 0 with FLATMEM, else of the lowest section.
    mem_map: int = VMEMMAP_START

    @property
    def pages_per_section(self) -> int:
        """Pages of a section (PAGES_PER_SECTION)."""
        return 1 << SECTION_SIZE_BITS[self.arch] - PAGE_SHIFT

    def pfn_to_section_nr(self, pfn: int) -> int:
        """Number of the section that a pfn lies in."""
        return pfn // self.pages_per_section

    def section_nr_to_pfn(self, section: int) -> int:
        """First pfn of a section."""
        return section * self.pages_per_section

    def pfn_valid(self, pfn: int) -> bool:
        """Whether a pfn has a struct page, be it RAM or not."""
        if self.name == FLATMEM:
            return 0 <= pfn < self.max_mapnr
        return self.pfn_to_section_nr(pfn) in self.sections

    @property
    def _is_in_one_row(self) -> bool:
        return self.name == FLATMEM or self.arch == "x86_64"

    def pfn_to_page(self, pfn: int) -> int:
        """Address of the ``struct page`` of a pfn. IndexError if it has none."""
        if not self.pfn_valid(pfn):
            raise IndexError(f"pfn {pfn:#x} has no struct page")
        nth = pfn
        if not self._is_in_one_row:  # maps are allocated one behind the other (sparse_init_nid)
            section, within = divmod(pfn, self.pages_per_section)
            nth = list(self.sections).index(section) * self.pages_per_section + within
        return self.mem_map + nth * self.struct_page_bytes

    def page_to_pfn(self, page: int) -> int:
        """The pfn of a ``struct page`` by its address. IndexError for an address that is none."""
        pfn, rest = divmod(page - self.mem_map, self.struct_page_bytes)
        if not self._is_in_one_row:
            nth, within = divmod(pfn, self.pages_per_section)
            known = 0 <= nth < len(self.sections)
            pfn = self.section_nr_to_pfn(list(self.sections)[nth]) + within if known else -1
        if rest or not self.pfn_valid(pfn):
            raise IndexError(f"{page:#x} is no struct page")
        return pfn

    def section(self, section_nr: int) -> MemSection:
        """A section that has RAM. KeyError for another, and with FLATMEM, which has none."""
        nid, start = self.sections[section_nr], self.section_nr_to_pfn(section_nr)
        mem_map = self.pfn_to_page(start)
        coded = mem_map - start * self.struct_page_bytes
        return MemSection(section_nr, start, nid, mem_map, coded)

    def valid_pages(self, start_pfn: int, end_pfn: int) -> int:
        """How many pfns in [start, end) are valid."""
        if self.name == FLATMEM:
            return max(0, min(end_pfn, self.max_mapnr) - start_pfn)
        count = 0
        for section in range(self.pfn_to_section_nr(start_pfn), self.pfn_to_section_nr(end_pfn - 1) + 1):
            if section in self.sections:
                first = self.section_nr_to_pfn(section)
                count += min(end_pfn, first + self.pages_per_section) - max(start_pfn, first)
        return count

    def memmap_pages(self, nid: int, start_pfn: int, end_pfn: int) -> int:
        """Pages that the memory map of a node takes; the node's RAM lies in [start_pfn, end_pfn).

        With SPARSEMEM it is a whole map for each section of the node (sparse_init_nid), with FLATMEM one map
        for the range, rounded outwards to MAX_ORDER_NR_PAGES (alloc_node_mem_map).
        """
        if self.name == SPARSEMEM:
            sections = sum(owner == nid for owner in self.sections.values())
            return sections * -(-self.pages_per_section * self.struct_page_bytes // PAGE_SIZE)
        first = start_pfn // MAX_ORDER_NR_PAGES * MAX_ORDER_NR_PAGES
        last = -(-end_pfn // MAX_ORDER_NR_PAGES) * MAX_ORDER_NR_PAGES
        return -(-(last - first) * self.struct_page_bytes // PAGE_SIZE)


def sparse_init(name: str, arch: str, memory: Iterable[Region], struct_page_bytes: int) -> MemoryModel:
    """The model `name` for RAM `memory`; a section of two nodes belongs to the first (memory_present)."""
    regions = sorted(memory)
    end = max((region.end_pfn for region in regions), default=0)
    sections: dict[int, int] = {}
    model = MemoryModel(name, arch, sections, end, struct_page_bytes)
    if name == SPARSEMEM:
        for region in regions:
            first, last = map(model.pfn_to_section_nr, (region.start_pfn, region.end_pfn - 1))
            for section in range(first, last + 1):
                sections.setdefault(section, region.nid)
    return model
