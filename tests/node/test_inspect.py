"""Every field of pg_data_t, struct zone and struct page: what it shows is what the model did."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from node.asking import Asking, bind
from node.page_tables import pfns_of

from numa_service.mm.page_alloc import ALLOC_WMARK_MIN, LRU_KIND_FILE
from numa_service.mm.pgdata import KSWAPD_FAILURES
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
from numa_service.node.inspect import page_view, pgdat_view, zone_view
from numa_service.node.region import map_region

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
    assert view.node_size_lock is None


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
    assert view.lock is view.span_seqlock is view.lru_lock is view.wait_table is None
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
    # 2 × fls(cpus) × (1 + fls(128 MiB units)) a CPU, where that can hide a failed mark
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
    for name in ("inuse", "objects", "slab", "freelist", "debug_flags", "shadow"):
        assert getattr(head, name) is None


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


def test_page_reserved_or_none() -> None:
    home = Asking().home
    assert "reserved" in page_view(home, 0x1000).flags
    for pfn in (0, 1 << 40, 0x9F):
        with pytest.raises(NotFound):
            page_view(home, pfn)
    with pytest.raises(NotFound, match="node 0 has DMA"):
        zone_view(home, "HighMem")
