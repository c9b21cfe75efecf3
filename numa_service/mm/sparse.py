"""Memory models: which parts of physical memory have a memory map, and what it costs (``mm/sparse.c``).

SPARSEMEM cuts physical memory into sections and gives a memory map to those with RAM; FLATMEM has one map
from the first to the last page of the node, holes included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from numa_service.mm.memblock import Region
from numa_service.mm.mmzone import MAX_ORDER_NR_PAGES, PAGE_SHIFT, PAGE_SIZE

SPARSEMEM = "sparsemem"
FLATMEM = "flatmem"
MEMORY_MODELS = (SPARSEMEM, FLATMEM)

#: SECTION_SIZE_BITS: 128 MiB on x86-64, 512 MiB on i386 with PAE.
SECTION_SIZE_BITS: dict[str, int] = {"x86_64": 27, "i386": 29}


def default_memory_model(arch: str) -> str:
    """As distributions build them: i386 without NUMA is FLATMEM (no section bits in its page flags)."""
    return FLATMEM if arch == "i386" else SPARSEMEM


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """The memory map of a machine."""

    name: str
    arch: str
    #: Section number → the node that its map belongs to; empty with FLATMEM. Ascending.
    sections: Mapping[int, int] = field(default_factory=dict)
    #: First pfn past the last RAM: what a flat map ends with (max_mapnr).
    max_mapnr: int = 0
    #: sizeof(struct page).
    struct_page_bytes: int = 64

    @property
    def pages_per_section(self) -> int:
        """PAGES_PER_SECTION."""
        return 1 << SECTION_SIZE_BITS[self.arch] - PAGE_SHIFT

    def pfn_to_section_nr(self, pfn: int) -> int:
        """Section that a pfn lies in."""
        return pfn // self.pages_per_section

    def section_nr_to_pfn(self, section: int) -> int:
        """First pfn of a section."""
        return section * self.pages_per_section

    def pfn_valid(self, pfn: int) -> bool:
        """Whether there is a struct page for that pfn: RAM or not."""
        if self.name == FLATMEM:
            return 0 <= pfn < self.max_mapnr
        return self.pfn_to_section_nr(pfn) in self.sections

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
        """Pages that the memory map of a node takes; the node lies in [start, end).

        A whole map for every section that is the node's (sparse_init_nid); with FLATMEM one from start to
        end, rounded to MAX_ORDER_NR_PAGES (alloc_node_mem_map).
        """
        if self.name == SPARSEMEM:
            sections = sum(owner == nid for owner in self.sections.values())
            return sections * -(-self.pages_per_section * self.struct_page_bytes // PAGE_SIZE)
        first = start_pfn // MAX_ORDER_NR_PAGES * MAX_ORDER_NR_PAGES
        last = -(-end_pfn // MAX_ORDER_NR_PAGES) * MAX_ORDER_NR_PAGES
        return -(-(last - first) * self.struct_page_bytes // PAGE_SIZE)


def sparse_init(name: str, arch: str, memory: Iterable[Region], struct_page_bytes: int) -> MemoryModel:
    """The map of that RAM. A section that two nodes share is the first one's (memory_present)."""
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
