"""Renderers in cases that no capture has: linux-3.0, numactl, odd numbers, wrong input."""

from __future__ import annotations

from dataclasses import replace

import pytest
from procfs.machines import machine, node

from numa_service.machine.notation import format_cpulist
from numa_service.procfs import SHOW, tree
from numa_service.procfs.counters import totalreserve_pages
from numa_service.procfs.meminfo import si_mem_available
from numa_service.procfs.names import kernel_names
from numa_service.procfs.node import bitmap
from numa_service.procfs.vmstat import global_dirty_limits


def test_numactl_prints_what_numactl_2_0_16_prints() -> None:
    """The expected text is the real program's for a /sys tree of this shape, except for the sizes."""
    text = SHOW["numactl"](
        machine(
            node(0, "x86_64", {"DMA32": 499_200}, cpus=(0, 1, 33)),
            node(1, "x86_64", {}, cpus=(2, 3)),
            node(5, "x86_64", {"Normal": 762_879}),
            node(12, "x86_64", {"Normal": 257_536}),
            distances=((10, 100, 254, 255), (20, 10, 15, 12), (25, 15, 10, 22), (40, 12, 22, 10)),
        )
    )
    assert text == (
        "available: 4 nodes (0-1,5,12)\n"
        "node 0 cpus: 0 1 33\n"
        "node 0 size: 1950 MB\n"
        "node 0 free: 1950 MB\n"
        "node 1 cpus: 2 3\n"
        "node 1 size: 0 MB\n"
        "node 1 free: 0 MB\n"
        "node 5 cpus:\n"
        "node 5 size: 2979 MB\n"
        "node 5 free: 2979 MB\n"
        "node 12 cpus:\n"
        "node 12 size: 1006 MB\n"
        "node 12 free: 1006 MB\n"
        "node distances:\n"
        "node   0   1   5  12 \n"
        "  0:  10  100  254  255 \n"
        "  1:  20  10  15  12 \n"
        "  5:  25  15  10  22 \n"
        " 12:  40  12  22  10 \n"
    )


def test_a_kernel_without_numa_has_no_numa_text() -> None:
    uma = machine(node(0, "i386", {"Normal": 200_000}, cpus=(0,)), arch="i386")
    assert SHOW["numactl"](uma) == "No NUMA available on this system\n"
    assert SHOW["zonelists"](uma) == "mminit::zonelist general 0:Normal = 0:Normal \n"
    with pytest.raises(FileNotFoundError):
        tree.listdir(uma, "sys/devices/system/node")
    assert "numa_" not in SHOW["vmstat"](uma) + SHOW["zoneinfo"](uma)


@pytest.mark.parametrize(
    ("numbers", "text"), [((), ""), ((7,), "7"), ((3, 1, 2), "1-3"), ((0, 1, 3, 5, 6, 7), "0-1,3,5-7")]
)
def test_format_cpulist(numbers: tuple[int, ...], text: str) -> None:
    assert format_cpulist(numbers) == text


@pytest.mark.parametrize(
    ("numbers", "nr_bits", "text"),
    [
        ((), 1, "0"),
        ((0, 2), 4, "5"),
        ((3,), 5, "08"),
        ((31,), 32, "80000000"),
        ((0, 1, 33), 34, "2,00000003"),
        ((64,), 72, "01,00000000,00000000"),
    ],
)
def test_bitmap(numbers: tuple[int, ...], nr_bits: int, text: str) -> None:
    assert bitmap(numbers, nr_bits) == text


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12", "linux-3.0"])
def test_what_the_model_does_not_count_is_printed_as_zero(profile: str) -> None:
    bare = machine(node(0, "x86_64", {"Normal": 100_000}), profile=profile)
    names = kernel_names(bare)
    lines = dict(line.split() for line in SHOW["vmstat"](bare).splitlines())
    assert lines["nr_free_pages"] == "100000"
    assert [lines[name] for name in names.vm_event] == ["0"] * len(names.vm_event)
    shown = [line.split(":")[0] for line in SHOW["meminfo"](bare).splitlines()]
    assert shown == list(names.meminfo)


def test_counters_are_summed_over_nodes() -> None:
    two = machine(
        node(0, "x86_64", {"Normal": 100}, node_stat={"nr_dirty": 3}, vm_event={"pgfree": 10}),
        node(1, "x86_64", {"Normal": 50}, node_stat={"nr_dirty": 4}, vm_event={"pgfree": 32}),
    )
    lines = SHOW["vmstat"](two).splitlines()
    assert {"nr_free_pages 150", "numa_hit 10", "nr_dirty 7", "pgfree 42"} <= set(lines)


def test_node_lru_sizes_fall_back_to_the_zones() -> None:
    """The model has LRU lists by zone; 6.x also prints their sizes by node."""
    base = node(0, "x86_64", {"DMA32": 100, "Normal": 100})
    sized = tuple(replace(z, vm_stat={"nr_zone_active_file": 10 * z.index}) for z in base.zones)
    summed = machine(replace(base, zones=sized))
    assert "nr_active_file 100" in SHOW["vmstat"](summed).splitlines()
    counted = machine(replace(base, zones=sized, node_stat={"nr_active_file": 4}))
    assert "nr_active_file 4" in SHOW["vmstat"](counted).splitlines()


def test_boost_is_in_the_printed_watermarks() -> None:
    base = node(0, "x86_64", {"Normal": 12_000})
    boosted = machine(replace(base, zones=tuple(replace(z, watermark_boost=7) for z in base.zones)))
    text = SHOW["zoneinfo"](boosted)
    assert "        boost    7\n        min      127\n        low      157\n        high     207\n" in text


def test_pagetypeinfo_stops_counting_at_100000() -> None:
    base = node(0, "x86_64", {"Normal": 1000})
    counts = ((99_999, 100_000, 250_000, *(0,) * 8),) * 6
    many = machine(replace(base, zones=tuple(replace(z, nr_free_by_type=counts) for z in base.zones)))
    row = "Node    0, zone   Normal, type      Movable  99999 >100000 >100000 " + "     0 " * 8
    assert row in SHOW["pagetypeinfo"](many).splitlines()


def test_linux_3_0_zoneinfo() -> None:
    old = machine(node(0, "x86_64", {"Normal": 600_000}, node_stat={"nr_dirty": 9}), profile="linux-3.0")
    lines = SHOW["zoneinfo"](old).splitlines()
    assert lines[:10] == [
        "Node 0, zone   Normal",
        "  pages free     600000",
        "        min      6000",
        "        low      7500",
        "        high     10000",
        "        scanned  0",
        "        spanned  600000",
        "        present  600000",
        "    nr_free_pages 600000",
        "    nr_inactive_anon 0",
    ]
    assert "    nr_dirty     9" in lines
    at = lines.index("    nr_anon_transparent_hugepages 0")
    assert lines[at - 1] == "    numa_other   0"
    assert lines[at + 1 :] == [
        "        protection: (0, 0, 0, 0)",
        "  pagesets",
        "    cpu: 0",
        "              count: 7",
        "              high:  186",
        "              batch: 31",
        "  vm stats threshold: 12",
        "  all_unreclaimable: 0",
        "  start_pfn:         4096",
        "  inactive_ratio:    4",
    ]


def test_linux_3_0_orders_migratetypes_its_own_way() -> None:
    old = machine(node(0, "x86_64", {"Normal": 1000}), profile="linux-3.0")
    lines = SHOW["pagetypeinfo"](old).splitlines()
    assert lines[-2:] == [
        "Number of blocks type     Unmovable  Reclaimable      Movable      Reserve      Isolate ",
        "Node 0, zone   Normal           10           12           11           13           15 ",
    ]


def test_linux_3_0_finds_events_under_their_later_names() -> None:
    events = {"pgsteal_kswapd": 5, "allocstall_normal": 2, "allocstall_movable": 1}
    old = machine(node(0, "x86_64", {"Normal": 1000}, vm_event=events), profile="linux-3.0")
    assert {"kswapd_steal 5", "allocstall 3"} <= set(SHOW["vmstat"](old).splitlines())


def test_totalreserve_is_capped_by_what_a_zone_manages() -> None:
    base = node(0, "x86_64", {"DMA": 100, "Normal": 60_000})
    reserves = tuple(replace(z, protection=(0, 0, 500, 900, 900)) for z in base.zones)
    given = machine(replace(base, zones=reserves))
    assert totalreserve_pages(given) == 100 + 1000 + 900


def test_mem_available_keeps_half_of_a_small_page_cache() -> None:
    cache = {"nr_active_file": 300, "nr_inactive_file": 100}
    given = machine(node(0, "x86_64", {"Normal": 60_000}, node_stat=cache))
    assert si_mem_available(given) == 60_000 - 1000 + 200


@pytest.mark.parametrize(
    ("sysctls", "limits"),
    [
        ({"vm.dirty_bytes": "4097", "vm.dirty_background_bytes": "4096"}, (1, 2)),
        ({"vm.dirty_ratio": "10", "vm.dirty_background_ratio": "10"}, (2945, 5891)),
    ],
)
def test_dirty_limits_follow_the_sysctls(sysctls: dict[str, str], limits: tuple[int, int]) -> None:
    given = machine(node(0, "x86_64", {"Normal": 60_000}), sysctls=sysctls)
    assert global_dirty_limits(given) == limits


def test_a_sysctl_that_is_no_number_is_named() -> None:
    given = machine(node(0, "x86_64", {"Normal": 1000}), sysctls={"vm.dirty_ratio": "much"})
    with pytest.raises(ValueError, match=r"sysctl vm\.dirty_ratio: 'much' is not a number"):
        SHOW["vmstat"](given)


def test_an_unknown_profile_is_named() -> None:
    given = machine(node(0, "x86_64", {"Normal": 1000}), profile="linux-2.4")
    with pytest.raises(ValueError, match=r"unknown profile 'linux-2\.4'"):
        SHOW["zoneinfo"](given)
