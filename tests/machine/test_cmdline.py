"""Boot parameters that concern memory, and the zones that captured kernels had with them."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from groundtruth import GROUNDTRUTH, topologies

from numa_service.machine.boot import start_kernel
from numa_service.machine.cmdline import Amount, BootParameters, parse_cmdline, thp_mode
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.numa_emulation import Fake, numa_emulation
from numa_service.machine.source import load
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.machine.zones import (
    count_pages,
    find_zone_movable_pfns_for_nodes,
    layout_zones,
    merge,
    movable_zone,
)

GIB = 1 << 18
MIB = 1 << 8


@pytest.mark.parametrize(
    ("cmdline", "mode"),
    [
        ("", "always"),
        ("quiet transparent_hugepage=never", "never"),
        ("transparent_hugepage=madvise", "madvise"),
        ("transparent_hugepage=never transparent_hugepage=always", "always"),
        ("transparent_hugepage=never transparent_hugepage=sometimes", "never"),
    ],
)
def test_the_command_line_says_who_gets_huge_pages(cmdline: str, mode: str) -> None:
    assert thp_mode(cmdline) == mode


def test_parameters() -> None:
    assert parse_cmdline("") == BootParameters()
    assert parse_cmdline("quiet console=ttyS0 root=/dev/vda").moves is False
    parameters = parse_cmdline("kernelcore=1G movablecore=25% numa=fake=4 numa_zonelist_order=zone")
    assert parameters.kernelcore == Amount(pages=GIB)
    assert parameters.movablecore.of(1000) == 250
    assert parameters.fake_nodes == Fake(count=4)
    assert parameters.zonelist_order == "zone"
    assert parse_cmdline("movablecore=512m movablecore=0x40000000").movablecore == Amount(pages=GIB)
    assert parse_cmdline("kernelcore=8191").kernelcore == Amount(pages=1)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("kernelcore", "kernelcore: a value is missing"),
        ("kernelcore=lots", "kernelcore: 'lots' is not a size as 2G or 30%"),
        ("kernelcore=mirror", "kernelcore: 'mirror' is not a size"),
        ("movablecore=101%", "movablecore: 101% is more than there is"),
        ("movable_core=2G", "movable_core: unknown boot parameter: did you mean movablecore?"),
        ("numa=on", "numa: 'on' is not modelled: off, fake=4 and fake=512M are"),
        ("numa=fake=0", "numa: fake=0 is not in 1 to "),
        ("numa_zonelist_order=best", "numa_zonelist_order: 'best' is not default, node or zone"),
    ],
)
def test_wrong_parameters(text: str, error: str) -> None:
    with pytest.raises(SpecError, match=re.escape(error)):
        parse_cmdline(f"quiet {text}")


def test_numa_off_is_one_node_with_everything() -> None:
    """The hardware stays: an access takes the mean over nodes, and bandwidths add up."""
    text = """distances = [[10, 30], [30, 10]]
        [[node]]
        cpus = "0-1"
        memory = "2GiB"
        [[node]]
        cpus = "2-3"
        memory = "2GiB"
        [latency]
        memory_mb_per_s = [1000, 2000]
        """
    spec = parse_machine('cmdline = "quiet numa=off"\n' + text, "m.toml", "m")
    assert [(node.nid, node.cpus, node.managed) for node in spec.nodes] == [(0, (0, 1, 2, 3), None)]
    assert count_pages(spec.nodes[0].ram) == sum(
        count_pages(node.ram) for node in parse_machine(text, "m.toml", "m").nodes
    )
    assert spec.distances == ((10,),)
    assert spec.latency.memory_bandwidth(0) == 3000
    assert 175 < spec.latency.read_latency_ns(0, 0, 10) < 185
    lines = [line for _, line in start_kernel(spec).dmesg]
    assert "NUMA turned off" in lines
    assert "Faking a node at [mem 0x0000000000000000-0x000000017fffffff]" in lines
    assert not any(line.startswith("SRAT") for line in lines)


def test_numa_off_sums_what_nodes_manage() -> None:
    node = '[[node]]\ncpus = "{}"\nmemory = "2GiB"\nmanaged = "2000MiB"\n'
    text = 'cmdline = "numa=off"\n' + node.format(0) + node.format(1)
    assert parse_machine(text, "m.toml", "m").nodes[0].managed == 4000 * MIB


def computed_zones(captured: MachineSpec) -> dict[int, list[tuple[str, int, int, int]]]:
    """(name, start, spanned, present) of every zone, by nid, computed from RAM and the command line only."""
    parameters = parse_cmdline(captured.cmdline)
    ram = {node.nid: node.ram for node in captured.nodes}
    _, lowest = movable_zone(captured.arch, merge(span for ranges in ram.values() for span in ranges))
    total = sum(map(count_pages, ram.values()))
    starts = find_zone_movable_pfns_for_nodes(
        ram, parameters.kernelcore.of(total), parameters.movablecore.of(total), lowest
    )
    return {
        node.nid: [
            (zone.name, zone.start_pfn, zone.spanned, zone.present)
            for zone in layout_zones(captured.arch, node.ram, starts.get(node.nid), lowest)
        ]
        for node in captured.nodes
    }


@pytest.mark.parametrize("root", topologies(), ids=lambda root: root.name)
def test_zones_of_captures_are_computed_from_their_command_line(root: Path) -> None:
    captured = load(str(root))
    assert captured.cmdline == (root / "cmdline.txt").read_text().strip()
    assert computed_zones(captured) == {
        node.nid: [(zone.name, zone.start_pfn, zone.spanned, zone.present) for zone in node.zones]
        for node in captured.nodes
    }


def test_eight_captures_have_a_movable_zone() -> None:
    """Without them the comparison above would show nothing."""
    movable = [
        root.name
        for root in topologies()
        if any(zone.name == "Movable" for node in load(str(root)).nodes for zone in node.zones)
    ]
    assert len(movable) == 8


def test_the_kernel_s_share_is_spread_evenly() -> None:
    ram = {nid: ((nid * GIB, (nid + 1) * GIB),) for nid in range(4)}
    quarter = {nid: nid * GIB + GIB // 4 for nid in range(4)}
    assert find_zone_movable_pfns_for_nodes(ram, GIB, 0, 0) == quarter
    assert find_zone_movable_pfns_for_nodes(ram, 0, 3 * GIB, 0) == quarter
    # kernelcore= and movablecore= each leave the kernel an amount: the larger one counts
    assert find_zone_movable_pfns_for_nodes(ram, GIB, GIB, 0) == {
        nid: nid * GIB + 3 * GIB // 4 for nid in range(4)
    }


def test_what_a_small_node_cannot_give_the_others_do() -> None:
    ram: dict[int, tuple[tuple[int, int], ...]] = {
        0: ((0, GIB // 4),),
        1: ((GIB, 2 * GIB),),
        2: (),
        3: ((3 * GIB, 4 * GIB),),
    }
    starts = find_zone_movable_pfns_for_nodes(ram, 3 * GIB // 2, 0, 0)
    # each gives half a GiB at first; node 0 lacks a quarter of a GiB, which the two others then share
    assert starts == {1: GIB + 5 * GIB // 8, 3: 3 * GIB + 5 * GIB // 8}


def test_nothing_movable_when_the_kernel_wants_everything_or_nothing() -> None:
    ram = {0: ((0, GIB),)}
    assert find_zone_movable_pfns_for_nodes(ram, 0, 0, 0) == {}
    assert find_zone_movable_pfns_for_nodes(ram, GIB, 0, 0) == {}
    assert find_zone_movable_pfns_for_nodes(ram, GIB - 5, 0, 0) == {}
    assert find_zone_movable_pfns_for_nodes(ram, 0, 2 * GIB, 0) == {}


def machine(text: str) -> MachineSpec:
    return parse_machine(text, "box.toml", "box")


BIG = '[[node]]\ncpus = "0-1"\nmemory = "3GiB"\n[[node]]\ncpus = "2-3"\nmemory = "3GiB"\n'


@pytest.mark.parametrize(
    ("capture", "cmdline"),
    [("movable-movablecore-2g", "movablecore=2G"), ("movable-kernelcore-1g", "quiet kernelcore=1G")],
)
def test_a_machine_file_says_it_like_the_kernel(capture: str, cmdline: str) -> None:
    spec = machine(f'cmdline = "{cmdline}"\n{BIG}')
    captured = load(str(GROUNDTRUTH / "topologies" / capture))
    assert spec.cmdline == cmdline
    for node, real in zip(spec.nodes, captured.nodes, strict=True):
        assert [(z.name, z.start_pfn, z.spanned, z.present) for z in node.zones] == [
            (z.name, z.start_pfn, z.spanned, z.present) for z in real.zones
        ]


def test_numa_fake_is_what_the_kernel_made() -> None:
    spec = machine('cmdline = "numa=fake=4"\n[[node]]\ncpus = "0-3"\nmemory = "2GiB"\n')
    captured = load(str(GROUNDTRUTH / "topologies" / "fake-4"))
    assert spec.distances == captured.distances
    assert spec.own_cpus == captured.own_cpus == {0: (0, 1, 2, 3), 1: (), 2: (), 3: ()}
    for node, real in zip(spec.nodes, captured.nodes, strict=True):
        assert (node.nid, node.cpus, node.ram) == (real.nid, real.cpus, real.ram)
        assert [(z.name, z.start_pfn, z.spanned, z.present) for z in node.zones] == [
            (z.name, z.start_pfn, z.spanned, z.present) for z in real.zones
        ]


def test_fake_nodes_are_cut_from_every_real_one() -> None:
    """Distances and CPUs are those of the real node; the first fake ones get the remainder."""
    spec = machine(
        'cmdline = "numa=fake=4 kernelcore=50%"\ndistances = [[10, 21], [31, 10]]\n'
        '[[node]]\ncpus = [0]\nmemory = "1GiB"\n[[node]]\ncpus = [1]\nmemory = "1GiB"\n'
        "[latency]\nread_ns = [[100, 200], [210, 110]]\nwrite_ns = [[1, 2], [3, 4]]\n"
        'memory_mb_per_s = [1000, 2000]\nlink_mb_per_s = [[0, 50], [60, 0]]\nmemory_curve = ["cxl", ""]\n'
    )
    assert [node.cpus for node in spec.nodes] == [(0,), (1,), (0,), (1,)]
    assert spec.distances == ((10, 21, 10, 21), (31, 10, 31, 10)) * 2
    assert spec.latency.read_ns[0, 2] == 100
    assert spec.latency.read_ns[3, 0] == 210
    assert spec.latency.write_latency_ns(3, 2, 31) == 3
    # the halves of a node share its bandwidth, and there is no link between them
    assert [spec.latency.memory_bandwidth(nid) for nid in range(4)] == [500, 1000, 500, 1000]
    assert [spec.latency.link_bandwidth(0, nid) for nid in range(4)] == [0, 50, 0, 50]
    assert [spec.latency.memory_curve_name(nid) for nid in range(4)] == ["cxl", "ddr4", "cxl", "ddr4"]
    assert [sum(end - start for start, end in node.ram) // MIB for node in spec.nodes] == [511, 512, 512, 511]
    assert [node.zones[-1].name for node in spec.nodes] == ["Movable"] * 4


def test_fake_nodes_of_a_size_are_what_a_kernel_made() -> None:
    """The boot log of a 6.1 under qemu with two nodes of 3500 and 2600 MiB, and numa=fake=1G."""
    ram = {0: ((1, 0x9F), (0x100, 0x7FFE0), (0x100000, 0x15AC00)), 1: ((0x15AC00, 0x1FD400),)}
    fakes = numa_emulation(ram, {0: (0, 1), 1: (2, 3, 4)}, Fake(pages=GIB))
    assert [(hex(block[0]), hex(block[1])) for fake in fakes for block in fake.blocks] == [
        ("0x0", "0x42000"),
        ("0x15ac00", "0x19ac00"),
        ("0x42000", "0x104000"),
        ("0x19ac00", "0x1fd400"),
        ("0x104000", "0x15ac00"),
    ]
    assert [fake.phys_nid for fake in fakes] == [0, 1, 0, 1, 0]
    text = "".join(f'[[node]]\ncpus = [{cpu}]\nmemory = "{size}GiB"\n' for cpu, size in ((0, 2), (1, 1)))
    spec = machine('cmdline = "numa=fake=512M"\n' + text)
    sizes = [sum(end - start for start, end in node.ram) // MIB for node in spec.nodes]
    assert sizes == [543, 512, 512, 512, 991]


def test_no_page_is_lost_or_on_two_fake_nodes() -> None:
    ram = {0: ((1, 159), (256, 3 * GIB // 2)), 2: ((2 * GIB, 5 * GIB),), 5: ((6 * GIB, 6 * GIB + 9000),)}
    for count in (1, 2, 3, 5, 8, 13):
        fakes = numa_emulation(ram, {0: (0, 1), 1: (2,), 2: (3,), 5: ()}, Fake(count=count))
        assert [fake.nid for fake in fakes] == list(range(count))
        pieces = sorted(span for fake in fakes for span in fake.ram)
        assert all(low[1] <= high[0] for low, high in pairwise(pieces))
        assert merge(pieces) == merge(span for ranges in ram.values() for span in ranges)
        # the CPU of the memory-less node 1 goes where those of the first fake node are, and so does node 2's
        # when no fake node is cut from it first
        assert fakes[0].cpus == ((0, 1, 2) if count > 1 else (0, 1, 2, 3))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('cmdline = "kernelcore=x"\n' + BIG, "box.toml:1: cmdline: kernelcore: 'x' is not a size"),
        (
            'cmdline = "kernelcore=1G"\n[[node]]\ncpus = [0]\nmemory = "6GiB"\nmovable = "1GiB"\n',
            "box.toml:5: node[0].movable: the cmdline places ZONE_MOVABLE or cuts nodes",
        ),
        (
            'cmdline = "numa=fake=500"\n' + BIG,
            "box.toml:1: cmdline: numa: fake=500: less than 32 MiB for each node",
        ),
        (
            'cmdline = "numa_zonelist_order=zone"\n' + BIG,
            "box.toml:1: cmdline: numa_zonelist_order: linux-6.1 has node order only",
        ),
        ('memory_model = "flatmem"\n' + BIG, "box.toml:1: memory_model: flatmem has one memory map"),
        ('memory_model = "flat"\n' + BIG, "box.toml:1: memory_model: unknown memory model 'flat': sparsemem"),
    ],
)
def test_machine_files_that_contradict_themselves(text: str, error: str) -> None:
    with pytest.raises(SpecError, match=re.escape(error)):
        machine(text)
