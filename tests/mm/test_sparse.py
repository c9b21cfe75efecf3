"""Memory models."""

from __future__ import annotations

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
