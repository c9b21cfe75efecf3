"""Memory models: which pfns are valid, and how many pages the memory map takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from numa_service.mm.memblock import Region
from numa_service.mm.sparse import FLATMEM, SPARSEMEM, sparse_init

GIB = 1 << 18
#: 2 GiB, a hole up to 4 GiB, and one more GiB.
HOLED = [Region(1, 2 * GIB, 0), Region(4 * GIB, 5 * GIB, 0)]


def test_sections_of_128_mib_and_the_map_they_cost() -> None:
    model = sparse_init(SPARSEMEM, "x86_64", HOLED, 64)
    assert model.pages_per_section == GIB // 8
    assert list(model.sections) == [*range(16), *range(32, 40)]
    assert model.pfn_to_section_nr(4 * GIB) == 32
    assert model.section_nr_to_pfn(33) == 4 * GIB + GIB // 8
    # 64 bytes a page: 2 MiB a section
    assert model.memmap_pages(0, 1, 5 * GIB) == 24 * 512


def test_pfn_valid_is_by_section() -> None:
    model = sparse_init(SPARSEMEM, "x86_64", [Region(256, GIB - 32, 0)], 64)
    assert model.pfn_valid(0)
    assert model.pfn_valid(GIB - 1)
    assert not model.pfn_valid(GIB)
    assert model.valid_pages(GIB - 32, 2 * GIB) == 32
    assert model.valid_pages(GIB, 2 * GIB) == 0


def test_flatmem_maps_the_hole_too() -> None:
    model = sparse_init(FLATMEM, "x86_64", HOLED, 64)
    assert model.sections == {}
    assert model.pfn_valid(3 * GIB)
    assert not model.pfn_valid(5 * GIB)
    assert model.valid_pages(2 * GIB, 4 * GIB) == 2 * GIB
    assert model.memmap_pages(0, 1, 5 * GIB) == 5 * GIB * 64 // 4096


def test_a_flat_map_is_rounded_to_the_largest_block() -> None:
    model = sparse_init(FLATMEM, "i386", [Region(1500, 5000, 0)], 40)
    # pages 1024 to 5119, 40 bytes each
    assert model.memmap_pages(0, 1500, 5000) == 40


def test_a_section_of_two_nodes_is_mapped_once() -> None:
    half = GIB // 16
    model = sparse_init(SPARSEMEM, "x86_64", [Region(0, half, 0), Region(half, 4 * half, 1)], 64)
    assert dict(model.sections) == {0: 0, 1: 1}
    assert model.memmap_pages(0, 0, half) == model.memmap_pages(1, half, 4 * half) == 512


def test_i386_with_pae_has_sections_of_512_mib() -> None:
    model = sparse_init(SPARSEMEM, "i386", [Region(1, GIB, 0)], 40)
    assert list(model.sections) == [0, 1]


def test_the_struct_page_of_a_pfn_and_the_pfn_of_a_struct_page() -> None:
    vmemmap = sparse_init(SPARSEMEM, "x86_64", [Region(1, GIB, 0), Region(4 * GIB, 5 * GIB, 1)], 64)
    flat = replace(sparse_init(FLATMEM, "i386", [Region(1, GIB, 0)], 40), mem_map=0xF5BD3000)
    maps = sparse_init(SPARSEMEM, "i386", [Region(1, GIB // 2, 0), Region(GIB, GIB + 9, 0)], 40)
    maps = replace(maps, mem_map=0xF0000000)
    assert vmemmap.pfn_to_page(4 * GIB) == 0xFFFFEA0000000000 + (4 * GIB << 6)
    assert flat.pfn_to_page(0x1000) == 0xF5BD3000 + 0x1000 * 40
    # the maps of two sections of 512 MiB lie side by side, whatever is between the sections
    assert maps.pfn_to_page(GIB) == 0xF0000000 + (GIB // 2) * 40
    for model, pfns in ((vmemmap, (0, GIB - 1, 4 * GIB)), (flat, (0, GIB - 1)), (maps, (5, GIB, GIB + 5))):
        assert [model.page_to_pfn(model.pfn_to_page(pfn)) for pfn in pfns] == list(pfns)
        for wrong in (GIB // 2 * 3, -1):
            with pytest.raises(IndexError, match="has no struct page"):
                model.pfn_to_page(wrong)
        for page in (model.pfn_to_page(5) + 1, model.pfn_to_page(0) - model.struct_page_bytes, 0):
            with pytest.raises(IndexError, match="is no struct page"):
                model.page_to_pfn(page)


def test_a_section_knows_its_map() -> None:
    model = sparse_init(SPARSEMEM, "x86_64", [Region(1, GIB, 0), Region(4 * GIB, 5 * GIB, 1)], 64)
    section = model.section(32)
    assert (section.nid, section.start_pfn) == (1, 4 * GIB)
    for pfn in (4 * GIB, 4 * GIB + 77):
        assert section.section_mem_map + pfn * 64 == model.pfn_to_page(pfn)
    with pytest.raises(KeyError):
        model.section(31)
