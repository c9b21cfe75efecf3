"""Which pages a kernel freed after it had computed its watermarks, from its boot log and iomem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from numa_service.machine.boot import start_kernel
from numa_service.machine.capture import load_capture
from numa_service.machine.late_free import late_frees, managed_at_boot
from numa_service.machine.presets import load_preset

CAPTURES = Path(__file__).resolve().parents[1] / "testdata" / "captures" / "topologies"

#: Lines of the capture numa-2n-big, whose kernel image lies on node 1.
DMESG = """\
[    0.030979] RAMDISK: [mem 0x7fdb0000-0x7ffdffff]
[    0.825142] Freeing SMP alternatives memory: 36K
[    2.284888] Freeing initrd memory: 2240K
[    2.738581] Freeing unused decrypted memory: 2036K
[    2.832869] Freeing unused kernel image (initmem) memory: 2824K
[    2.836424] Freeing unused kernel image (text/rodata gap) memory: 2040K
[    2.837549] Freeing unused kernel image (rodata/data gap) memory: 1108K
"""
IOMEM = """\
100000000-1ffffffff : System RAM
  1cfe00000-1d0c01d31 : Kernel code
  1d0e00000-1d16eafff : Kernel rodata
  1d1800000-1d1a4897f : Kernel data
  1d2110000-1d31fffff : Kernel bss
""".splitlines()


def test_every_part_is_where_the_sections_leave_room_for_it() -> None:
    frees = {free.what: free.pfns for free in late_frees(DMESG, IOMEM)}
    assert frees == {
        "initrd": (0x7FDB0, 0x7FFE0),
        # .bss..decrypted closes .bss, and its first three pages are in use
        "unused decrypted": (0x1D3003, 0x1D3200),
        # 36 KiB of .smp_locks, freed long before, and a page of .data_nosave come before .bss
        "unused kernel image (initmem)": (0x1D1E44, 0x1D2106),
        "unused kernel image (text/rodata gap)": (0x1D0C02, 0x1D0E00),
        "unused kernel image (rodata/data gap)": (0x1D16EB, 0x1D1800),
    }


def test_an_initrd_that_early_boot_moved_is_freed_where_it_went() -> None:
    dmesg = """\
[    0.022091] RAMDISK: [mem 0x7fddf000-0x7ffdffff]
[    0.022255] Allocated new RAMDISK: [mem 0x36dfd000-0x36ffde2f]
[    0.027487] Move RAMDISK from [mem 0x7fddf000-0x7ffdfe2f] to [mem 0x36dfd000-0x36ffde2f]
[    1.470984] Freeing initrd memory: 2052K
"""
    (initrd,) = late_frees(dmesg, ())
    assert initrd.pfns == (0x36DFD, 0x36DFD + 513)
    assert initrd.pages == 513


def test_who_may_not_see_addresses_knows_of_the_initrd_only() -> None:
    hidden = [f"  00000000-00000000 : Kernel {part}" for part in ("code", "rodata", "data", "bss")]
    assert [free.what for free in late_frees(DMESG, hidden)] == ["initrd"]


def test_late_pages_are_counted_in_the_zone_that_has_them() -> None:
    spec = load_capture(CAPTURES / "sysctls-one-by-one")
    late = {(node.nid, zone.name): zone.freed_late for node in spec.nodes for zone in node.zones}
    frees = late_frees(
        (CAPTURES / "sysctls-one-by-one/dmesg.txt").read_text(),
        (CAPTURES / "sysctls-one-by-one/iomem.txt").read_text().splitlines(),
    )
    assert sum(late.values()) == sum(free.pages for free in frees) > 2000
    assert late[0, "DMA"] == 0


def test_without_a_boot_log_all_that_is_managed_counts(tmp_path: Path) -> None:
    spec = load_capture(CAPTURES / "under-512m")
    blind = replace(
        spec,
        nodes=tuple(
            replace(node, zones=tuple(replace(zone, freed_late=0) for zone in node.zones))
            for node in spec.nodes
        ),
    )
    captured = (CAPTURES / "under-512m/zoneinfo.txt").read_text()
    low = start_kernel(spec).watermarks[0, "DMA32"].low
    assert f"        low      {low}\n" in captured
    assert start_kernel(blind).watermarks[0, "DMA32"].low != low


#: Zones DMA, DMA32, Normal and Movable, with reserves of DMA and DMA32 as kernels print them.
RATIOS = (256, 256, 32)


def test_reserves_tell_what_zones_managed_at_boot() -> None:
    # of 480,600 pages in DMA32 1877 * 256 to 1878 * 256 - 1 were there
    found = managed_at_boot([3977, 481_600, 0, 0], {0: [0, 1877, 1877, 1877]}, RATIOS)
    assert found == [3977, 1878 * 256 - 1, 0, 0]
    # two zones that have grown: the sum is told by DMA, and the upper one by DMA32 as well
    reserves = {0: [0, 2900, 7996, 7996], 1: [0, 0, 5096, 5096]}
    found = managed_at_boot([3977, 743_000, 1_305_000, 0], reserves, RATIOS)
    assert [found[1] // 256, found[2] // 256, (found[1] + found[2]) // 256] == [2900, 5096, 7996]
    assert found[0] == 3977


def test_reserves_that_fit_change_nothing() -> None:
    managed = [3977, 742_500, 1_304_600, 0]
    reserves = {0: [0, 2900, 7996, 7996], 1: [0, 0, 5096, 5096]}
    assert managed_at_boot(managed, reserves, RATIOS) == managed


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([0, 0, 0, 0], "none: the ratio was written"),
        ([0, 938, 938, 938], "half: another ratio"),
        ([0, 2000, 2000, 2000], "more than there is: memory has gone"),
        ([0], "cut off"),
    ],
)
def test_reserves_that_tell_nothing_change_nothing(row: list[int], why: str) -> None:
    assert managed_at_boot([3977, 481_600, 0, 0], {0: row}, RATIOS) == [3977, 481_600, 0, 0], why


@pytest.mark.parametrize(
    ("key", "value", "changes"),
    [
        ("vm.min_free_kbytes", None, {"marks", "pagesets"}),
        ("vm.watermark_scale_factor", "10", {"marks", "pagesets"}),
        ("vm.lowmem_reserve_ratio", "256 256 32 0 0", {"reserve"}),
        ("vm.percpu_pagelist_high_fraction", "100", {"pagesets"}),
        ("vm.swappiness", "10", set()),
    ],
)
def test_a_sysctl_computes_anew_what_its_handler_does(key: str, value: str | None, changes: set[str]) -> None:
    spec = load_preset("demo")
    late = tuple(
        replace(node, zones=tuple(replace(zone, freed_late=zone.present // 8) for zone in node.zones))
        for node in spec.nodes
    )
    machine = start_kernel(replace(spec, nodes=late))

    def state() -> dict[str, list[list[int]]]:
        pgdats = [pgdat.pg for pgdat in machine.pgdats.values()]
        return {
            "marks": [pg.watermark.ravel().tolist() for pg in pgdats],
            "reserve": [pg.lowmem_reserve.ravel().tolist() for pg in pgdats],
            "pagesets": [[*pg.pcp_high.tolist(), *pg.pcp_batch.tolist()] for pg in pgdats],
        }

    before = state()
    machine.write_sysctl(key, value or machine.sysctls.get(key) or "")
    after = state()
    assert {part for part in before if before[part] != after[part]} == changes
