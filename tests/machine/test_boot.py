"""A booted machine: what boot allocators took, memory models, zonelists and their rebuilding."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from groundtruth import GROUNDTRUTH

from numa_service.machine.boot import managed_pages, start_kernel
from numa_service.machine.booted import BootedMachine, rebuild_zonelists
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.notation import parse_pages
from numa_service.machine.presets import load_preset
from numa_service.machine.source import load
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.mm.bootmem import Bootmem
from numa_service.mm.invariants import check_pgdat
from numa_service.mm.memblock import BootMemoryError, Memblock, Region
from numa_service.mm.online import for_each_online_pgdat
from numa_service.mm.zonelist import Zoneref

PROFILES = ("linux-6.1", "linux-6.12", "linux-3.0")
every_profile = pytest.mark.parametrize("profile", PROFILES)


def machine_file(text: str, profile: str = "linux-6.1") -> MachineSpec:
    return parse_machine(f'profile = "{profile}"\n{text}', "box", "box")


def two_nodes(profile: str = "linux-3.0", size: str = "16GiB") -> MachineSpec:
    return machine_file(
        f'[[node]]\ncpus = "0-1"\nmemory = "{size}"\n[[node]]\ncpus = "2-3"\nmemory = "{size}"\n', profile
    )


def pages_for(machine: BootedMachine, purpose: str) -> int:
    return sum(region.pages for region in machine.boot_allocator.reserved if region.purpose == purpose)


# Boot allocators


@every_profile
@pytest.mark.parametrize("preset", ["uma", "four-ring", "i386-highmem", "cxl-tier"])
def test_every_page_is_reserved_or_in_the_buddy_system(preset: str, profile: str) -> None:
    machine = start_kernel(load_preset(preset).with_profile(profile))
    reserved = sum(region.pages for region in machine.boot_allocator.reserved)
    ram = sum(region.pages for region in machine.boot_allocator.memory)
    assert sum(machine.managed.values()) == ram - reserved
    for pgdat in for_each_online_pgdat(machine.pgdats):
        assert check_pgdat(pgdat) == []
        free = sum(pgdat.free_pages(extent.index) for extent in pgdat.extents)
        assert free == sum(extent.managed for extent in pgdat.extents)
    purposes = {region.purpose for region in machine.boot_allocator.reserved}
    assert purposes == {"first MiB", "kernel image", "node data", "memmap", "per-CPU areas"}


def test_6_x_allocates_from_the_top_and_3_0_upwards_from_16_mib() -> None:
    new, old = start_kernel(load_preset("uma")), start_kernel(load_preset("uma").with_profile("linux-3.0"))
    assert isinstance(new.boot_allocator, Memblock)
    assert isinstance(old.boot_allocator, Bootmem)
    end = new.boot_allocator.memory[-1].end_pfn
    assert [r.purpose for r in new.boot_allocator.reserved if r.end_pfn == end] == ["node data"]
    image = next(r for r in old.boot_allocator.reserved if r.purpose == "kernel image")
    after = [r for r in old.boot_allocator.reserved if r.start_pfn >= image.end_pfn]
    # they lie behind the page of the bitmap, which went to the buddy system
    assert [r.purpose for r in after] == ["node data", "memmap", "per-CPU areas"]
    assert after[0].start_pfn > image.end_pfn
    for low, high in itertools.pairwise(after):
        assert low.end_pfn == high.start_pfn
    # struct page has 56 bytes in 3.0, 64 later
    assert pages_for(old, "memmap") * 64 == pages_for(new, "memmap") * 56
    # 3.0 reserves 64 KiB of the first MiB only
    low = pages_for(new, "first MiB") - pages_for(old, "first MiB")
    assert (pages_for(new, "first MiB"), pages_for(old, "first MiB")) == (158, 15)
    assert sum(old.managed.values()) - sum(new.managed.values()) == pages_for(new, "memmap") // 8 + low
    assert old.managed[0, "Normal"] == old.spec.nodes[0].zones[-1].present


@pytest.mark.parametrize(
    ("profile", "start"),
    [("linux-6.1", "memblock_reserve: [0x"), ("linux-3.0", "bootmem::mark_bootmem_node nid=0 start=")],
)
def test_reservations_are_in_the_boot_log(profile: str, start: str) -> None:
    machine = start_kernel(load_preset("uma").with_profile(profile), [])
    lines = [text for _, text in machine.dmesg if text.startswith(start)]
    purposes = {"first MiB", "kernel image", "node data", "memmap", "per-CPU areas"}
    if profile == "linux-3.0":
        purposes.add("bootmem bitmap")  # still there when the log is written
    assert {purpose for purpose in purposes if any(line.endswith(purpose) for line in lines)} == purposes
    assert len(lines) == len(purposes)


@every_profile
@pytest.mark.parametrize("name", ["numa-2n-big", "i386-highmem", "fake-4", "memoryless-cpuless"])
def test_a_captured_machine_lacks_what_the_real_one_lacked(name: str, profile: str) -> None:
    """Zones manage the captured pages under any profile; ZONE_DMA lacks its first MiB, in 3.0 64 KiB."""
    spec = load(str(GROUNDTRUTH / "topologies" / name))
    machine = start_kernel(replace(spec, profile=profile, sysctls={}))
    for node in spec.nodes:
        for zone in node.zones:
            assert machine.managed[node.nid, zone.name] == zone.managed, (node.nid, zone.name)
    assert [r for r in machine.boot_allocator.reserved if r.purpose == "first MiB"] == [
        Region(1, 16 if profile == "linux-3.0" else 159, 0, "first MiB")
    ]
    for pgdat in for_each_online_pgdat(machine.pgdats):
        assert check_pgdat(pgdat) == []


@every_profile
def test_high_memory_is_left_alone(profile: str) -> None:
    machine = start_kernel(load_preset("i386-highmem").with_profile(profile), [])
    high = machine.spec.nodes[0].zones[-1]
    assert high.name == "HighMem"
    assert machine.managed[0, "HighMem"] == high.present


@every_profile
def test_a_node_too_small_for_its_memory_map_is_refused(profile: str) -> None:
    with pytest.raises(BootMemoryError, match="no room for the kernel image"):
        start_kernel(machine_file('[[node]]\ncpus = [0]\nmemory = "40MiB"\n', profile))


# Memory models


@every_profile
@pytest.mark.parametrize("arch", ["x86_64", "i386"])
@pytest.mark.parametrize("lacks", ["0", "4KiB", "3MiB", "100MiB", "1000MiB"])
@pytest.mark.parametrize("size", ["1GiB", "6GiB"])
def test_a_node_manages_what_it_is_told_to(profile: str, arch: str, lacks: str, size: str) -> None:
    nodes = [f'[[node]]\ncpus = "{i}"\nmemory = "{size}"\n' for i in range(1 if arch == "i386" else 3)]
    head = f'arch = "{arch}"\n' + ("" if profile == "linux-3.0" else 'cmdline = "cma=16M"\n')
    plain = machine_file(head + "".join(nodes), profile)
    present = [sum(zone.present for zone in node.zones) for node in plain.nodes]
    told = [pages - parse_pages(lacks) for pages in present]
    lines = (f'{node}managed = "{pages * 4}KiB"\n' for node, pages in zip(nodes, told, strict=True))
    spec = machine_file(head + "".join(lines), profile)
    machine = start_kernel(spec)
    assert [sum(n for (nid, _), n in machine.managed.items() if nid == i) for i in range(len(told))] == told
    assert list(managed_pages(spec).values()) == told
    for pgdat in for_each_online_pgdat(machine.pgdats):
        assert check_pgdat(pgdat) == []


def test_cma_is_part_of_what_a_node_manages() -> None:
    text = 'cmdline = "cma=64M"\n[[node]]\ncpus = "0"\nmemory = "1GiB"\nmanaged = "63MiB"\n'
    with pytest.raises(SpecError, match="cma: no 16384 free pages in a row"):
        start_kernel(machine_file(text))


def test_what_boot_leaves_is_known_without_booting() -> None:
    for preset in ("uma", "cxl-tier", "i386-highmem", "nps4"):
        machine = start_kernel(load_preset(preset))
        pages = managed_pages(machine.spec)
        for nid in machine.spec.nids:
            assert pages[nid] == sum(n for (of, _), n in machine.managed.items() if of == nid)


def test_the_kernel_lies_at_16_mib_or_where_ram_begins() -> None:
    low = machine_file('[[node]]\ncpus = "0"\nmemory = "1GiB"\n')
    high = machine_file('[[node]]\ncpus = "0"\nranges = [["0x80201000", "0xc0000000"]]\n')
    for spec, start in ((low, 0x0100_0000), (high, 0x8040_0000)):
        (image,) = (r for r in start_kernel(spec).boot_allocator.reserved if r.purpose == "kernel image")
        assert image.start_pfn << 12 == start
    with pytest.raises(BootMemoryError, match="44 MiB of RAM at 16 MiB or above"):
        start_kernel(machine_file('[[node]]\ncpus = "0"\nmemory = "60MiB"\n'))


def test_the_memory_map_of_a_machine_with_a_large_hole() -> None:
    text = '[[node]]\ncpus = [0]\nranges = [["0", "1GiB"], ["63GiB", "64GiB"]]\n'
    sparse = start_kernel(machine_file(text), [])
    flat = start_kernel(machine_file('memory_model = "flatmem"\n' + text), [])
    assert pages_for(sparse, "memmap") == 2 * 4096
    assert pages_for(flat, "memmap") == 64 * 4096
    assert len(sparse.memory_model.sections) == 16
    assert not sparse.memory_model.pfn_valid(2 << 18)
    assert flat.memory_model.pfn_valid(2 << 18)
    # flatmem has less memory, by what the memory map of the hole takes
    difference = sum(sparse.managed.values()) - sum(flat.managed.values())
    assert difference == 62 * 4096


def test_i386_is_flat_and_its_map_lies_in_low_memory() -> None:
    machine = start_kernel(load_preset("i386-highmem"), [])
    assert machine.memory_model.name == "flatmem"
    assert all(region.end_pfn <= 225_278 for region in machine.boot_allocator.reserved)


# Zonelists after boot


def shown(machine: BootedMachine, nid: int) -> list[tuple[int, int]]:
    return [tuple(ref) for ref in machine.zonelists[nid].fallback]  # type: ignore[misc]


def test_nps4_boots_into_the_orders_of_its_profile() -> None:
    new = start_kernel(load_preset("nps4"), [])
    old = start_kernel(load_preset("nps4").with_profile("linux-3.0"), [])
    assert [new.zonelists[nid].node_order[4:] for nid in range(4, 8)] == [
        (0, 1, 2, 3),
        (1, 2, 3, 0),
        (2, 3, 0, 1),
        (3, 0, 1, 2),
    ]
    assert [old.zonelists[nid].node_order[4:] for nid in range(4, 8)] == [(0, 1, 2, 3)] * 4
    # 32 is more than RECLAIM_DISTANCE
    assert old.sysctls.zone_reclaim_mode == 1
    assert new.sysctls.zone_reclaim_mode == 0
    told = replace(load_preset("nps4"), profile="linux-3.0", sysctls={"vm.zone_reclaim_mode": "0"})
    assert start_kernel(told, []).sysctls.zone_reclaim_mode == 0


def test_cpus_weigh_on_the_order_only_after_boot() -> None:
    """At boot no CPU is on-line, so that the CPU-less node 2 is not preferred; equal distances show it."""
    spec = machine_file(
        "distances = [[10, 20, 20], [20, 10, 20], [20, 20, 10]]\n"
        '[[node]]\ncpus = [0]\nmemory = "1GiB"\n'
        '[[node]]\ncpus = [1]\nmemory = "1GiB"\n'
        '[[node]]\nmemory = "1GiB"\n'
    )
    machine = start_kernel(spec, [0, 1])
    assert machine.zonelists[0].node_order == (0, 1, 2)
    rebuild_zonelists(machine)
    assert machine.zonelists[0].node_order == (0, 2, 1)
    assert machine.pgdats[0].zonelists is machine.zonelists[0]
    rebuild_zonelists(machine, has_cpus={})
    assert machine.zonelists[0].node_order == (0, 1, 2)


def test_nodes_and_zones_come_and_go() -> None:
    machine = start_kernel(two_nodes("linux-6.1"), [0, 1])
    lists = machine.zonelists
    booted = dict(machine.populated)
    assert booted == {0: (0, 1, 2), 1: (2,)}
    rebuild_zonelists(machine, {0: (0, 1, 2)})
    assert list(machine.zonelists) == [0]
    assert shown(machine, 0) == [(0, 2), (0, 1), (0, 0)]
    # the old lists are not changed: machines of other nodes may share them
    assert list(lists) == [0, 1]
    rebuild_zonelists(machine, {0: (1,), 1: (2, 3)})
    assert shown(machine, 1) == [(1, 3), (1, 2), (0, 1)]
    assert machine.zonelists[0].thisnode == (Zoneref(0, 1),)
    rebuild_zonelists(machine, booted)
    assert shown(machine, 1) == [(1, 2), (0, 2), (0, 1), (0, 0)]
    assert machine.dmesg[-1][1] == "Policy zone: Normal"
    assert machine.dmesg[-2][1].startswith("Built 2 zonelists, mobility grouping on.  Total pages: ")


def test_a_node_that_the_machine_has_not_changes_nothing() -> None:
    machine = start_kernel(two_nodes("linux-6.1"), [])
    before, log = dict(machine.zonelists), len(machine.dmesg)
    with pytest.raises(KeyError):
        rebuild_zonelists(machine, {0: (2,), 7: (2,)})
    assert machine.zonelists == before
    assert len(machine.dmesg) == log


def test_writing_the_order_rebuilds_the_lists() -> None:
    machine = start_kernel(two_nodes(), [0])
    assert machine.sysctls.numa_zonelist_order == "default"
    assert machine.zonelists[0].order == "zone"
    assert shown(machine, 0) == [(0, 2), (1, 2), (0, 1), (0, 0)]
    log = len(machine.dmesg)
    machine.write_sysctl("vm.numa_zonelist_order", "Node")
    assert shown(machine, 0) == [(0, 2), (0, 1), (0, 0), (1, 2)]
    assert machine.pgdats[0].zonelists is machine.zonelists[0]
    assert machine.dmesg[log][1].startswith("Built 2 zonelists in Node order")
    machine.write_sysctl("vm.numa_zonelist_order", "zone")
    assert shown(machine, 0) == [(0, 2), (1, 2), (0, 1), (0, 0)]
    built = len(machine.dmesg)
    # written again: nothing to do
    machine.write_sysctl("vm/numa_zonelist_order", "z")
    machine.write_sysctl("vm.swappiness", "10")
    assert len(machine.dmesg) == built
    with pytest.raises(SpecError):
        machine.write_sysctl("vm.numa_zonelist_order", "best")
    assert machine.zonelists[0].order == "zone"


def test_the_order_may_be_a_boot_parameter() -> None:
    spec = replace(two_nodes(), cmdline="", sysctls={"vm.numa_zonelist_order": "node"})
    assert start_kernel(spec, []).zonelists[0].order == "node"
    parsed = machine_file(
        'cmdline = "numa_zonelist_order=node"\n[[node]]\ncpus = [0]\nmemory = "16GiB"\n', "linux-3.0"
    )
    assert start_kernel(parsed, []).zonelists[0].order == "node"


def test_6_x_keeps_its_lists_when_the_order_is_written() -> None:
    machine = start_kernel(two_nodes("linux-6.1"), [])
    log = len(machine.dmesg)
    machine.write_sysctl("vm.numa_zonelist_order", "node")
    assert len(machine.dmesg) == log


@pytest.mark.parametrize("preset", ["uma", "eight-node"])
def test_online_nodes_are_walked_in_order(preset: str) -> None:
    spec = load_preset(preset)
    machine = start_kernel(spec)
    assert [p.nid for p in for_each_online_pgdat(machine.pgdats)] == [node.nid for node in spec.nodes]


@pytest.mark.parametrize(
    ("name", "kbytes"), [("i386-lowmem-512m", 2826), ("random-24", 2706), ("uma-1n-6g", 67584)]
)
def test_khugepaged_asks_for_free_memory_only_where_thp_is_on(name: str, kbytes: int) -> None:
    """Below 512 MiB, min_free_kbytes stays the square root of what was managed before initmem was freed."""
    spec = load(str(GROUNDTRUTH / "topologies" / name))
    assert spec.sysctls["vm.min_free_kbytes"] == str(kbytes)
    computed = start_kernel(replace(spec, sysctls={}), []).sysctls.min_free_kbytes
    assert computed is not None
    assert abs(computed - kbytes) <= kbytes // 50
