"""Views of pg_data_t, struct zone and struct page: every field agrees with what the model did."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from node.asking import Asking, bind
from node.page_tables import pfns_of
from node.test_highmem import TWO_NODES_32_BIT

from numa_service.machine.machinefile import parse_machine
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.internal import ALLOC_WMARK_MIN
from numa_service.mm.page_alloc import LRU_KIND_FILE
from numa_service.mm.pgdata import KSWAPD_FAILURES
from numa_service.mm.slab.pages import virt_to_pfn
from numa_service.mm.structs import (
    PAGE_OFFSET,
    Page,
    PgListData,
    Zone,
    inactive_ratio,
    stands_for,
    wait_table_bits,
    wait_table_hash_nr_entries,
)
from numa_service.node import ops
from numa_service.node.daemons import run_kswapd
from numa_service.node.errors import NotFound
from numa_service.node.kmem import kmem_cache_alloc, kmem_cache_free, kmem_cache_shrink
from numa_service.node.memory_hotplug import memory_blocks
from numa_service.node.node import Node
from numa_service.node.region import map_region
from numa_service.node.struct_views import page_view, pgdat_view, section_view, zone_view

MAP = Path(__file__).resolve().parents[2] / "docs" / "kernel-map.md"
GIB = 1 << 18


@pytest.mark.parametrize(
    ("view", "struct"), [(PgListData, "pg_data_t"), (Zone, "struct zone"), (Page, "struct page")]
)
def test_every_field_has_a_row_in_the_kernel_map(view: type, struct: str) -> None:
    section = re.split(r"(?m)^#+ ", MAP.read_text().split(f"### `{struct}`, field by field\n", 1)[1])[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
    assert [row[0].strip().strip("`").removesuffix("[]") for row in rows] == list(stands_for(view))
    root = MAP.parents[1]
    for name, where, writer, shown in rows:
        assert where.strip(), name
        assert writer.strip(), name
        path, _, test = shown.strip().strip("`").partition("::")
        assert f"def {test}(" in (root / path).read_text(), (name, shown)


def test_every_field_says_what_it_stands_for() -> None:
    for view in (PgListData, Zone, Page):
        assert list(stands_for(view)) == list(view.__dataclass_fields__)
        assert all(stands_for(view).values())


# pg_data_t


def test_pgdat_extent() -> None:
    home = Asking("two-socket").sim.nodes[1]
    view, spec = pgdat_view(home), home.machine.spec.node(1)
    assert view.node_id == 1
    assert view.node_present_pages == sum(end - start for start, end in spec.ram)
    assert view.node_start_pfn == spec.ram[0][0]
    assert view.node_start_pfn + view.node_spanned_pages == spec.ram[-1][1]
    assert view.node_zones["Normal"] == home.machine.managed[1, "Normal"]
    assert view.nr_zones == 1 + home.pgdat.zone_names.index("Normal")
    assert view.node_mem_map["entries"] == len(home.pgdat.pg.flags)
    assert view.node_mem_map["bytes_per_entry"] <= 32
    assert view.node_size_lock == {"taken": 0}


def test_pgdat_zonelists() -> None:
    view = pgdat_view(Asking().home)
    assert view.node_zonelists["thisnode"] == ("0:DMA32", "0:DMA")
    assert view.node_zonelists["fallback"] == ("0:DMA32", "0:DMA", "2:DMA32", "1:DMA32")


def test_pgdat_boot_memory() -> None:
    view = pgdat_view(Asking().home)
    assert view.bdata == {
        "reserved": view.node_present_pages - sum(view.node_zones.values()),
        "freed": sum(view.node_zones.values()),
    }


def test_pgdat_kswapd() -> None:
    asking = Asking()
    home = asking.home
    assert pgdat_view(home).kswapd_wait == "asleep"
    region = map_region(home, asking.session, LRU_KIND_FILE, 60_000, bind(0))
    indexes = np.arange(60_000, dtype="<u4").tobytes()
    home.apply(
        ops.Alloc(home.owner(region), (1, 0), 0, 0, 60_000, 1, 2, ALLOC_WMARK_MIN, 3, LRU_KIND_FILE, indexes)
    )
    assert home.apply(ops.WakeKswapd(3, 2))
    view = pgdat_view(home)
    assert (view.kswapd_wait, view.kswapd_max_order, view.classzone_idx) == ("awake", 3, 2)
    reclaimed = run_kswapd(home)
    view = pgdat_view(home)
    assert view.kswapd_wait == "asleep"
    assert view.kswapd["runs"] >= 1
    assert view.kswapd["reclaimed"] == reclaimed > 0


# struct zone


def test_zone_marks_and_extent() -> None:
    asking = Asking()
    view = zone_view(asking.home, "dma32")
    [seen] = [zone for zone in asking.home.pgdat.snapshot().zones if zone.name == "DMA32"]
    assert (view.name, view.node, view.zone_pgdat) == ("DMA32", 0, 0)
    assert view.watermark["low"] == seen.wmark_low
    assert view.watermark["min"] < view.watermark["low"] < view.watermark["high"]
    assert tuple(view.lowmem_reserve.values()) == seen.protection
    assert (view.zone_start_pfn, view.spanned_pages) == (seen.start_pfn, seen.spanned)
    assert view.present_pages == seen.present
    assert view.lock is view.lru_lock is None
    assert view.span_seqlock == {"sequence": 0}
    asking.home.apply(ops.WriteSysctl("vm.min_free_kbytes", "100000"))
    assert zone_view(asking.home, "DMA32").watermark["min"] > view.watermark["min"]


def test_zone_pages() -> None:
    asking = Asking()
    before = zone_view(asking.home, "DMA32")
    asking.take(100)
    after = zone_view(asking.home, "DMA32")

    def listed(view: Zone) -> int:
        return sum(n << order for counts in view.free_area.values() for order, n in enumerate(counts))

    for view in (before, after):
        assert listed(view) == view.vm_stat["nr_free_pages"]
    assert before.vm_stat["nr_free_pages"] - listed(after) == 100 + after.pageset[0]["count"]
    assert after.vm_stat["numa_hit"] == 100
    assert after.pageset[0]["batch"] > 1
    assert (
        before.pageblock_flags["Movable"] - after.pageblock_flags["Movable"]
        == (after.pageblock_flags["Unmovable"])
    )
    assert after.pageblock_flags["Unmovable"] > 0


def test_zone_reclaim_state() -> None:
    asking = Asking()
    asking.read_file(5000, bind(0))
    view = zone_view(asking.home, "DMA32")
    assert view.lru["inactive_file"] == 5000
    assert view.reclaim_stat == {"anon_cost": 0, "file_cost": 0}
    assert not view.all_unreclaimable
    assert view.pages_scanned is None
    assert (view.compact_considered, view.compact_defer_shift) == (0, 0)
    assert view.flags == ()
    asking.home.apply(ops.KswapdStep())
    assert "reclaim_active" in zone_view(asking.home, "DMA32").flags
    asking.home.pgdat.kswapd[KSWAPD_FAILURES] = 16
    assert zone_view(asking.home, "DMA32").all_unreclaimable


def test_zone_sizes_from_formulas() -> None:
    asking = Asking()
    managed = asking.home.machine.managed[0, "DMA32"]
    view = zone_view(asking.home, "DMA32")
    assert (view.min_unmapped_pages, view.min_slab_pages) == (managed // 100, managed * 5 // 100)
    assert view.inactive_ratio == 1
    assert [inactive_ratio(pages) for pages in (0, GIB - 1, GIB, 10 * GIB, 100 * GIB)] == [1, 1, 3, 10, 31]
    assert [wait_table_hash_nr_entries(pages) for pages in (0, 1024, 1025, 61_440, 1 << 22)] == [
        4,
        4,
        4,
        256,
        4096,
    ]
    assert view.wait_table_hash_nr_entries == 256
    assert 1 << view.wait_table_bits == view.wait_table_hash_nr_entries
    assert wait_table_bits(4) == 2
    # 2 × fls(cpus) × (1 + fls(128 MiB units)) for each CPU, if that can hide a breach of the mark
    drift = 4 * 2 * 3 * 2
    gap = view.watermark["low"] - view.watermark["min"]
    assert view.percpu_drift_mark == (view.watermark["high"] + drift if drift > gap else 0)


# struct page


def test_page_held() -> None:
    asking = Asking()
    got = asking.take(2, order=2)
    pfn = int(np.frombuffer(got.pages[0][1], "<u8")[0])
    head, tail = page_view(asking.home, pfn), page_view(asking.home, pfn + 3)
    assert (head._count, head._mapcount, head.first_page) == (1, -1, None)
    assert head.mapping == f"0.1.{asking.session}"
    assert tail.first_page == pfn
    assert tail.mapping is None
    assert head.virtual == PAGE_OFFSET["x86_64"] + (pfn << 12)
    assert {"node=0", "zone=DMA32", "held"} <= set(head.flags)
    for name in ("inuse", "objects", "slab", "freelist"):
        assert getattr(head, name) is None


def test_page_of_a_slab() -> None:
    asking = Asking()
    node, sim = asking.home, asking.sim

    def alloc(count: int) -> list[int]:
        return sim.call(0, kmem_cache_alloc(node, asking.session, "kmalloc-1k", GFP_KERNEL, count, 0))

    first, *others = alloc(2 * node.kmem.cache("kmalloc-1k").objects + 1)
    per_slab = node.kmem.cache("kmalloc-1k").objects
    pfn = virt_to_pfn(first)
    full, tail = page_view(node, pfn), page_view(node, pfn + 1)
    assert (full.slab, full.inuse, full.objects, full.freelist) == ("kmalloc-1k", per_slab, per_slab, None)
    assert {"slab", "held"} <= set(full.flags)
    assert (full.first_page, full.mapping, full.index, full.lru) == (None, None, None, None)
    assert (tail.first_page, tail.slab, tail.inuse) == (pfn, None, None)
    sim.call(0, kmem_cache_free(node, asking.session, "kmalloc-1k", [first], 0))
    sim.call(0, kmem_cache_free(node, asking.session, "kmalloc-1k", [others[-2]], 0))
    sim.call(0, kmem_cache_shrink(node, "kmalloc-1k"))
    freed = page_view(node, pfn)
    assert (freed.inuse, freed.objects, freed.freelist) == (per_slab - 1, per_slab, first)
    assert freed.virtual == first  # its first object is at its start
    heads = node.kmem.slabs.heads
    listed = {page_view(node, heads[virt_to_pfn(address)]).lru for address in (first, *others[-2:])}
    names = ["partial kmalloc-1k", *(f"{at:#x}" for at in node.kmem.at("kmalloc-1k").node.partial)]
    ring = zip(names[2:] + names[:1], names[:-1], strict=True)
    assert listed == set(ring)


def test_page_free() -> None:
    asking = Asking()
    got = asking.take(4)
    pfns = np.frombuffer(got.pages[0][1], "<u8").tolist()
    asking.give_back(0, pfns)
    cached = page_view(asking.home, pfns[0])
    assert "pcp" in cached.flags
    assert (cached.private, cached.index, cached._count) == (0, 0, 0)
    asking.home.apply(ops.DrainPagesets())
    merged = next(
        view
        for order in range(11)
        if (view := page_view(asking.home, pfns[0] & ~((1 << order) - 1))).private is not None
    )
    assert "buddy" in merged.flags
    assert merged.private >= 2
    assert page_view(asking.home, pfns[1]).first_page is None


def test_page_of_a_region() -> None:
    asking = Asking()
    asking.read_file(3, bind(0))
    region = next(iter(asking.home.regions.values()))
    pfns = pfns_of({0: asking.home}, 0, region.id).tolist()
    pages = [page_view(asking.home, pfn) for pfn in pfns]
    assert [page.index for page in pages] == [0, 1, 2]
    assert {page.mapping for page in pages} == {f"0.1.{region.id}"}
    assert {page._mapcount for page in pages} == {0}
    # a new page goes to the head of its list
    assert pages[1].lru == (f"{pfns[0]:#x}", f"{pfns[2]:#x}")
    assert pages[0].lru is not None
    assert pages[0].lru[0] == "lru DMA32 inactive_file"


@pytest.mark.parametrize("profile", ["linux-3.0", "linux-6.1", "linux-6.12"])
def test_page_debug_fields(profile: str) -> None:
    """No x86 kernel is built with them: of 3.0 they depend on options, later ones have no such field."""
    asking = Asking(profile=profile)
    pfn = int(np.frombuffer(asking.take(1).pages[0][1], "<u8")[0])
    view = page_view(asking.home, pfn)
    assert view.debug_flags is view.shadow is None
    said = stands_for(view)
    assert said["debug_flags"].startswith("CONFIG_WANT_PAGE_DEBUG_FLAGS, up to 3.18, which x86 never selects")
    assert said["shadow"].startswith("CONFIG_KMEMCHECK, up to 4.14, off")


# maps of memory


def test_section() -> None:
    home = Asking("uma").home
    view, model = section_view(home, 33), home.machine.memory_model
    assert (view.section_nr, view.node, view.start_pfn, view.pages) == (33, 0, 33 << 15, 1 << 15)
    assert view.flags == ("present", "has_mem_map", "online", "early")
    assert view.mem_map == model.pfn_to_page(view.start_pfn) == 0xFFFFEA0000000000 + (33 << 15) * 64
    assert view.section_mem_map + (view.start_pfn + 5) * 64 == model.pfn_to_page(view.start_pfn + 5)
    assert view.mem_map_pages == 512
    with pytest.raises(NotFound, match="no section of node 0"):
        section_view(home, 20)  # the hole below 4 GiB
    assert section_view(Asking("uma", "linux-3.0").home, 33).flags == ("present", "has_mem_map")


def test_sections_of_a_32_bit_machine_of_two_nodes() -> None:
    """With NUMA an i386 kernel has sections, of 512 MiB, whose maps are in low memory."""
    spec = parse_machine(TWO_NODES_32_BIT, source="two", default_name="two")
    low, high = Node.boot(spec, 0), Node.boot(spec, 1)
    view = section_view(high, 2)
    assert (view.node, view.start_pfn, view.pages) == (1, 1 << 18, 1 << 17)
    assert view.mem_map == high.machine.memory_model.pfn_to_page(view.start_pfn)
    assert [section_view(low, number).node for number in (0, 1)] == [0, 0]
    with pytest.raises(NotFound, match="no section of node 0"):
        section_view(low, 2)


def test_section_whose_memory_is_off_line() -> None:
    asking = Asking("two-socket")
    node = asking.sim.nodes[1]
    block = memory_blocks(node)[3]
    asking.sim.change_memory_block(block, "offline")
    assert section_view(node, block).flags == ("present", "has_mem_map", "early")


def test_flat_map() -> None:
    home = Asking("i386-highmem").home
    view, model = pgdat_view(home), home.machine.memory_model
    assert (view.node_mem_map["model"], view.node_mem_map["sizeof_struct_page"]) == ("flatmem", 40)
    [memmap] = [r for r in home.machine.boot_allocator.reserved if r.purpose == "memmap"]
    assert model.mem_map == PAGE_OFFSET["i386"] + (memmap.start_pfn << 12)
    assert view.node_mem_map["address"] == model.mem_map + view.node_start_pfn * 40
    assert model.page_to_pfn(model.pfn_to_page(0x40000)) == 0x40000
    with pytest.raises(NotFound, match="FLATMEM has one map and no sections"):
        section_view(home, 0)
    assert pgdat_view(Asking("uma").home).node_mem_map["model"] == "sparsemem"


def test_page_reserved_or_none() -> None:
    home = Asking().home
    assert "reserved" in page_view(home, 0x1000).flags
    for pfn in (0, 1 << 40, 0x9F):
        with pytest.raises(NotFound):
            page_view(home, pfn)
    with pytest.raises(NotFound, match="node 0 has DMA"):
        zone_view(home, "HighMem")
