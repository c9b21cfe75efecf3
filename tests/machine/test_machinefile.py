"""Machine files: what they describe, and for every way in which they can be wrong the error and its line."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numa_service.machine.boot import start_kernel
from numa_service.machine.latency import LatencyModel
from numa_service.machine.machine_tables import LatencyTable
from numa_service.machine.machinefile import load_machine_file, parse_machine
from numa_service.machine.spec import SpecError
from numa_service.procfs.tree import read

GOOD = """\
name = "box"
arch = "x86_64"
profile = "linux-6.12"
swap = "1GiB"
distances = [
    [10, 21, 17],
    [22, 10, 28],  # asymmetric is legal
    [17, 28, 10],
]

[[node]]
cpus = "0-1,4"
memory = "1GiB"

[[node]]
cpus = [2, 3]
memory = "1GiB"
movable = "256MiB"

[[node]]
memory = 0

[sysctl]
"vm.min_free_kbytes" = 65536
vm.swappiness = 10
"vm/lowmem_reserve_ratio" = [128, 64]

[latency]
local_read_ns = 100
read_ns = [
    [100, 140, 250],
    [140, 100, 300],
    [250, 300, 100],
]
"""


def _error(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_machine(text, "m.toml", "m")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_that_a_machine_file_can_say() -> None:
    spec = parse_machine(GOOD, "m.toml", "m")
    assert (spec.name, spec.source, spec.arch, spec.profile) == ("box", "m.toml", "x86_64", "linux-6.12")
    assert spec.swap_pages == 262144
    assert spec.distances == ((10, 21, 17), (22, 10, 28), (17, 28, 10))
    assert [node.cpus for node in spec.nodes] == [(0, 1, 4), (2, 3), ()]
    assert spec.cpus == (0, 1, 2, 3, 4)
    assert [zone.name for zone in spec.nodes[0].zones] == ["DMA", "DMA32"]
    assert [zone.name for zone in spec.nodes[1].zones] == ["DMA32", "Movable"]
    # 256 MiB below the end of RAM, 128 KiB before 2 GiB, rounded up to 4 MiB.
    assert spec.nodes[1].zones[1].start_pfn == 524288 - 65536
    assert spec.nodes[2].zones == ()
    assert spec.nodes[2].ram == ()
    assert spec.sysctls == {
        "vm.min_free_kbytes": "65536",
        "vm.swappiness": "10",
        "vm.lowmem_reserve_ratio": "128\t64",
    }
    assert spec.latency.local_read_ns == 100
    assert spec.latency.read_latency_ns(1, 2, 28) == 300
    assert spec.latency.pageset_hit_ns == LatencyModel().pageset_hit_ns


def test_defaults() -> None:
    spec = parse_machine(
        '[[node]]\ncpus = "0"\nmemory = "64MiB"\n[[node]]\nmemory = "64MiB"\n', "a/b.toml", "b"
    )
    assert (spec.name, spec.arch, spec.profile, spec.swap_pages) == ("b", "x86_64", "linux-6.1", 0)
    assert spec.distances == ((10, 20), (20, 10))
    assert spec.sysctls == {}
    assert spec.latency == LatencyModel()


def test_ids_in_any_order_and_rows_and_memory_in_the_order_of_the_tables() -> None:
    spec = parse_machine(
        """
distances = [[10, 11, 12], [13, 10, 14], [15, 16, 10]]
[[node]]
id = 7
cpus = "0"
memory = "1GiB"
[[node]]
id = 2
memory = "1GiB"
[[node]]
id = 5
memory = "1GiB"
[latency]
read_ns = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
memory_mb_per_s = [100, 200, 300]
link_mb_per_s = [[0, 20, 30], [40, 0, 60], [70, 80, 0]]
memory_curve = ["cxl", "", "ddr4"]
link_curve = [["", "", ""], ["", "", "steep"], ["", "", ""]]
[latency.curves]
steep = [[0, 0], [99.5, 1], [100, 1000]]
""",
        "m.toml",
        "m",
    )
    assert [node.nid for node in spec.nodes] == [2, 5, 7]
    assert spec.distances == ((10, 14, 13), (16, 10, 15), (11, 12, 10))
    assert spec.distance(7, 2) == 11
    assert spec.latency.read_ns[7, 2] == 2
    assert spec.latency.memory_bandwidth(2) == 200
    assert spec.latency.link_bandwidth(7, 2) == 20
    assert spec.latency.link_bandwidth(5, 2) == 80
    assert spec.latency.link_bandwidth(5, 5) == 0
    assert spec.latency.memory_curve_name(7) == "cxl"
    assert spec.latency.link_curve_name(2, 5) == "steep"
    assert spec.latency.link_curve_name(5, 2) == "socket"
    assert spec.latency.curve("steep") == ((0, 0), (99.5, 1), (100, 1000))
    assert spec.node(7).ram[0][0] == 1
    assert spec.node(7).ram[-1][1] == spec.node(2).ram[0][0]


def test_explicit_ranges_lose_the_bios_holes_only() -> None:
    spec = parse_machine(
        """
[[node]]
cpus = "0"
ranges = [["0x0", "0x40000000"], ["2GiB", "3GiB"]]
[[node]]
ranges = [["0x40000000", "0x80000000"]]
""",
        "m.toml",
        "m",
    )
    assert spec.node(0).ram == ((1, 0x9F), (0x100, 0x40000), (0x80000, 0xC0000))
    assert spec.node(1).ram == ((0x40000, 0x80000),)
    # Node 0 spans node 1, as interleaved nodes do.
    assert spec.node(0).zones[1].spanned == 0xC0000 - 4096
    assert spec.node(0).zones[1].present == 0x80000 - 4096


def test_latency_table_has_every_field_of_the_model() -> None:
    assert list(LatencyTable.model_fields) == [field.name for field in fields(LatencyModel)]


ONE = '[[node]]\ncpus = "0"\nmemory = "1GiB"\n'
TWO = ONE + '[[node]]\ncpus = "1"\nmemory = "1GiB"\n'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('name = "x"\nname = "y"\n', "m.toml:2: TOML: Cannot overwrite a value"),
        ("a = [1,\n", "m.toml:1: TOML: "),
        ("x = " + "[" * 3000 + "]" * 3000, "m.toml: TOML: nested too deeply"),
        ("", "m.toml:1: node: missing"),
        ("node = []\n", "m.toml:1: node: a machine has at least one [[node]]"),
        ("nodes = 3\n" + ONE, "m.toml:1: nodes: unknown key: did you mean node?"),
        (
            "xyz = 3\n" + ONE,
            "m.toml:1: xyz: unknown key: known are name, arch, profile, swap, cmdline, memory_model, "
            "counter_drift, slab, packages, cores, possible, node, ",
        ),
        (ONE + "\ncpu = 3\n", "m.toml:5: node[0].cpu: unknown key: did you mean cpus?"),
        (
            ONE + "[latency]\nlocal_read = 3\n",
            "m.toml:5: latency.local_read: unknown key: did you mean local_read_ns?",
        ),
        ("name = 5\n" + ONE, "m.toml:1: name: Input should be a valid string"),
        ('name = "a b"\n' + ONE, "m.toml:1: name: 'a b' is not a name"),
        ('arch = "arm64"\n' + ONE, "m.toml:1: arch: unknown arch 'arm64': x86_64, i386"),
        (
            '\nprofile = "linux-2.4"\n' + ONE,
            "m.toml:2: profile: unknown profile 'linux-2.4': linux-2.6.30 to linux-6.19, "
            "or as linux-4.18-el8",
        ),
        ('swap = "3 bytes"\n' + ONE, "m.toml:1: swap: unknown unit 'bytes'"),
        ("swap = 1.5\n" + ONE, "m.toml:1: swap: a size is a string"),
        ("sysctl = 3\n" + ONE, "m.toml:1: sysctl: Input should be a table"),
        ('[[node]]\nid = "0"\nmemory = 0\n', "m.toml:2: node[0].id: Input should be a valid integer"),
        ("[[node]]\nid = true\nmemory = 0\n", "m.toml:2: node[0].id: Input should be a valid integer"),
        ("[[node]]\nid = 1024\nmemory = 0\n", "m.toml:2: node[0].id: Input should be less than 1024"),
        (TWO + "id = 0\n", "m.toml:7: node[1].id: node 0 is already node[0]"),
        ('[[node]]\ncpus = "0-x"\n', "m.toml:2: node[0].cpus: '0-x' in cpulist '0-x' is not a CPU"),
        ('[[node]]\ncpus = "0-8192"\n', "m.toml:2: node[0].cpus: CPU 8192 does not exist: 0 to 8191"),
        (ONE + ONE, "m.toml:5: node[1].cpus: CPU 0 is already on node 0"),
        ('[[node]]\nmemory = "1GiB"\n', "m.toml:1: node: no node has a CPU"),
        ('\n[[node]]\ncpus = "0"\n', "m.toml:2: node[0]: neither memory nor ranges"),
        ("[[node]]\ncpus = [0]\nmemory = 0\n", "m.toml:1: node: no node has memory"),
        ("[[node]]\ncpus = [0]\nranges = []\n", "m.toml:1: node: no node has memory"),
        ('[[node]]\ncpus = [0]\nmemory = "5KiB"\n', "m.toml:3: node[0].memory: '5KiB' is not page-aligned"),
        ('[[node]]\ncpus = [0]\nmemory = "1 GB"\n', "m.toml:3: node[0].memory: unknown unit 'GB'"),
        (
            '[[node]]\ncpus = [0]\nmemory = "65TiB"\n',
            "m.toml:3: node[0].memory: memory beyond 64TiB, the most that x86_64 can address",
        ),
        (
            ONE + '[[node]]\nmemory = "64TiB"\n',
            "m.toml:5: node[1].memory: memory beyond 64TiB, the most that x86_64 can address",
        ),
        (
            'arch = "i386"\n[[node]]\ncpus = [0]\nmemory = "65GiB"\n',
            "m.toml:4: node[0].memory: memory beyond 64GiB, the most that i386 can address",
        ),
        (
            '[[node]]\ncpus = [0]\nranges = [\n  ["1GiB", "2GiB"],\n  ["1TiB", "65TiB"],\n]\n',
            "m.toml:5: node[0].ranges[1]: memory beyond 64TiB",
        ),
        (
            ONE + 'ranges = [["0x0", "0x1000"]]\n',
            "m.toml:3: node[0].memory: memory and ranges exclude each other",
        ),
        (
            ONE + '[[node]]\nranges = [["4GiB", "5GiB"]]\n',
            "m.toml:3: node[0].memory: node[1] gives ranges: then every node with memory must",
        ),
        (
            '[[node]]\ncpus = [0]\nranges = [\n  ["0x1001", "0x2000"],\n]\n',
            "m.toml:4: node[0].ranges[0]: '0x1001' is not page-aligned",
        ),
        (
            '[[node]]\nranges = [["2GiB", "1GiB"]]\n',
            "m.toml:2: node[0].ranges[0]: the range 0x80000000-0x40000000 is empty",
        ),
        ('[[node]]\nranges = [["2GiB"]]\n', "m.toml:2: node[0].ranges[0]: a range is a pair"),
        (
            '[[node]]\ncpus = [0]\nranges = [["4GiB", "6GiB"]]\n[[node]]\nranges = [\n["1GiB", "2GiB"],\n'
            '["3GiB", "5GiB"]]\n',
            "m.toml:7: node[1].ranges[1]: 0xc0000000-0x140000000 overlaps 0x100000000-0x180000000 of node 0",
        ),
        (
            '[[node]]\ncpus = [0]\nranges = [["1GiB", "3GiB"],\n["2GiB", "4GiB"]]\n',
            "m.toml:4: node[0].ranges[1]: 0x80000000-0x100000000 overlaps 0x40000000-0xc0000000 of node 0",
        ),
        (ONE + 'movable = "2GiB"\n', "m.toml:4: node[0].movable: only "),
        ('[[node]]\nmovable = "1000B"\n', "m.toml:2: node[0].movable: '1000B' is not page-aligned"),
        ("distances = [[10]]\n" + TWO, "m.toml:1: distances: 1 rows for 2 nodes"),
        ("distances = [\n[10, 20],\n[20]]\n" + TWO, "m.toml:3: distances[1]: 1 columns for 2 nodes"),
        (
            "distances = [\n[10, 20],\n[9,\n10]]\n" + TWO,
            "m.toml:3: distances[1][0]: 9 is less than 10, the local distance",
        ),
        (
            "distances = [\n[10, 20],\n[20,\n12]]\n" + TWO,
            "m.toml:4: distances[1][1]: the distance of a node to itself is 10, not 12",
        ),
        (
            "distances = [[10, 256], [20, 10]]\n" + TWO,
            "m.toml:1: distances[0][1]: 256 is more than 255, the largest SLIT distance",
        ),
        (
            'distances = [\n[10, 20],\n["20", 10]]\n' + TWO,
            "m.toml:3: distances[1][0]: Input should be a valid integer",
        ),
        (ONE + "[latency]\n\nzone_skip_ns = -1\n", "m.toml:6: latency.zone_skip_ns: Input should be greater"),
        (ONE + "[latency]\nread_ns = [[1, 2]]\n", "m.toml:5: latency.read_ns[0]: 2 columns for 1 nodes"),
        (ONE + "[latency]\nread_ns = [\n[-1]]\n", "m.toml:6: latency.read_ns[0][0]: Input should be greater"),
        (
            TWO + "[latency]\nwrite_mb_per_s = [[0, 1]]\n",
            "m.toml:8: latency.write_mb_per_s: 1 rows for 2 nodes",
        ),
        (ONE + 'managed = "5000"\n', "m.toml:4: node[0].managed: '5000' is not page-aligned"),
        (
            ONE + 'managed = "1GiB"\n',
            "m.toml:4: node[0].managed: 1GiB, and the node has 1048056KiB of RAM",
        ),
        (
            'cmdline = "numa=fake=2"\n' + ONE + 'managed = "512MiB"\n',
            "m.toml:5: node[0].managed: the cmdline cuts nodes: what they manage is computed",
        ),
        (
            TWO + "[latency]\nmemory_mb_per_s = [1]\n",
            "m.toml:8: latency.memory_mb_per_s: 1 values for 2 nodes",
        ),
        (
            TWO + "[latency]\nmemory_mb_per_s = [\n1,\n-1]\n",
            "m.toml:10: latency.memory_mb_per_s[1]: Input should be greater",
        ),
        (
            TWO + "[latency]\nlink_mb_per_s = [[0, 1]]\n",
            "m.toml:8: latency.link_mb_per_s: 1 rows for 2 nodes",
        ),
        (
            TWO + '[latency]\nmemory_curve = ["ddr4",\n"dd4"]\n',
            "m.toml:9: latency.memory_curve[1]: there is no curve 'dd4': ddr4, ddr4-rome, cxl, socket",
        ),
        (
            TWO + '[latency]\nlink_curve = [["", "y"],\n["", ""]]\n',
            "m.toml:8: latency.link_curve[0][1]: there is no curve 'y': ",
        ),
        (
            ONE + "[latency.curves]\na = [[0, 0], [100, 3]]\nb = [[0, 1], [100, 3]]\n",
            "m.toml:6: latency.curves.b: a curve goes from [0, 0] to [100, …]",
        ),
        (
            ONE + "[latency]\ncurves = {x = [[0, 0], [50, 5], [40, 6], [100, 7]]}\n",
            "m.toml:5: latency.curves.x: percentages ascend: 40 comes after 50",
        ),
        (
            ONE + "[latency]\ncurves = {x = [[0, 0], [50, 5], [100, 4]]}\n",
            "m.toml:5: latency.curves.x: load makes nothing faster: 4 ns comes after 5 ns",
        ),
        (
            ONE + "[latency]\ncurves = {x = [[0, 0],\n[100, 3, 4]]}\n",
            "m.toml:6: latency.curves.x[1]: Tuple should have at most 2 items",
        ),
        (ONE + "[latency]\nwindow_ns = 10\n", "m.toml:5: latency.window_ns: Input should be greater"),
        (ONE + '[latency]\nmode = "sleep"\n', "m.toml:5: latency.mode: unknown mode 'sleep'"),
        (ONE + '[latency]\nmode = "inject"\n', 'm.toml:4: latency: mode = "inject" and time_dilation go'),
        (ONE + "[latency]\ntime_dilation = 2\n", 'm.toml:4: latency: mode = "inject" and time_dilation go'),
        (
            ONE + '[latency]\nmode = "inject"\ntime_dilation = 0\n',
            "m.toml:6: latency.time_dilation: Input should be greater than 0",
        ),
        (ONE + '[sysctl]\n"vm.nope" = 1\n', "m.toml:5: sysctl.vm.nope: unknown sysctl"),
        (ONE + "[sysctl]\nvm.swappiness = 300\n", "m.toml:5: sysctl.vm.swappiness: 300 is not in 0 to 200"),
        (ONE + "[sysctl]\n\nvm.swappiness = true\n", "m.toml:6: sysctl.vm.swappiness: a sysctl is a number,"),
        (
            ONE + '[sysctl]\nvm.swappiness = 3\n"vm/swappiness" = 4\n',
            "m.toml:6: sysctl.vm/swappiness: vm.swappiness is set twice",
        ),
        (
            'profile = "linux-3.0"\n' + ONE + "[sysctl]\nvm.watermark_scale_factor = 10\n",
            "m.toml:6: sysctl.vm.watermark_scale_factor: linux-3.0 has no such sysctl",
        ),
        ("[[node]]\nmemory = 0\n" * 1025, "m.toml:2049: node[1024]: 1025 nodes, at most 1024"),
    ],
)
def test_errors_name_line_key_and_reason(text: str, error: str) -> None:
    assert _error(text).startswith(error)


def test_of_several_errors_the_first_in_the_file_is_reported() -> None:
    assert _error("[[node]]\nmemory = 1\nname = 3\n[[node]]\ncpus = 1\n").startswith(
        "m.toml:2: node[0].memory"
    )


@given(
    st.integers(0, len(GOOD)),
    st.integers(0, 12),
    st.sampled_from(
        ["", "[", "]", '"', ",", "=", "9", "-", ".", "\n", "0x", "[[node]]\n", "true", "1979-05-27"]
    ),
)
def test_any_damage_is_survived_or_reported_in_one_line_with_its_number(
    at: int, cut: int, paste: str
) -> None:
    reason = "m.toml:1: survived"
    try:
        spec = parse_machine(GOOD[:at] + paste + GOOD[at + cut :], "m.toml", "m")
        assert spec.nodes
    except SpecError as error:
        reason = str(error)
    assert re.fullmatch(r"m\.toml:\d+: .+", reason)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    with pytest.raises(SpecError, match=r"m.toml: No such file"):
        load_machine_file(path)
    path.write_bytes(b"name = '\xff'\n")
    with pytest.raises(SpecError, match=r"m.toml: not UTF-8 text at byte 8"):
        load_machine_file(path)
    path.write_text("[[node]]\ncpus = [0]\nmemory = 4096_000\n")
    assert load_machine_file(path).name == "m"


def test_the_largest_machines_are_legal() -> None:
    spec = parse_machine(
        '[[node]]\ncpus = "0-8191"\nmemory = "64TiB"\n' + "[[node]]\nmemory = 0\n" * 1023, "m", "m"
    )
    assert (len(spec.nodes), len(spec.cpus)) == (1024, 8192)


def test_pairs_that_an_hmat_says_nothing_of_are_zero() -> None:
    spec = parse_machine(
        TWO + "[latency]\nread_ns = [[80, 0], [140, 0]]\nread_mb_per_s = [[0, 9000], [0, 0]]\n", "m", "m"
    )
    assert spec.latency.read_ns == {(0, 0): 80, (1, 0): 140}
    assert spec.latency.read_latency_ns(1, 1, 10) == 90
    assert spec.latency.read_mb_per_s == {(0, 1): 9000}
    # a bandwidth that was measured is at least that of the memory and of the link
    assert (spec.latency.memory_bandwidth(1), spec.latency.link_bandwidth(0, 1)) == (9000, 9000)
    assert (spec.latency.memory_bandwidth(0), spec.latency.link_bandwidth(1, 0)) == (108_000, 51_000)


def test_memory_that_is_added_rebuilds_the_zonelists_with_cpus_on_line() -> None:
    """As a log of two CXL regions has it: node 3 prefers node 2, which has no CPUs, to node 0."""
    text = (
        '[[node]]\ncpus = "0-3"\nmemory = "4GiB"\n[[node]]\nmemory = 0\n'
        + '[[node]]\nmemory = "4GiB"\nadded = true\n' * 2
    )
    booted = start_kernel(parse_machine(text, "m.toml", "m"))
    assert [booted.zonelists[nid].node_order for nid in range(4)] == [
        (0, 2, 3),
        (1, 3, 2, 0),
        (2, 3, 0),
        (3, 2, 0),
    ]
    at_boot = start_kernel(parse_machine(text.replace("added = true\n", ""), "m.toml", "m"))
    assert at_boot.zonelists[3].node_order == (3, 0, 2)
    orders = [line for _, line in booted.dmesg if line.startswith("Fallback order for Node 3")]
    assert orders == ["Fallback order for Node 3: 3 0 ", "Fallback order for Node 3: 3 2 0 "]
    assert booted.managed[2, "Normal"] == booted.spec.node(2).zones[-1].present
    assert booted.watermarks[2, "Normal"].min > 0
    other = start_kernel(booted.spec, [0])
    other.load(booted.dump())
    assert other.zonelists[3].node_order == (3, 2, 0)


def test_packages_and_cores() -> None:
    text = 'packages = ["0-3", "4-7"]\ncores = ["0,2", "1,3", "4-5", "6", "7"]\n'
    text += '[[node]]\ncpus = "0-5"\nmemory = "1GiB"\n[[node]]\ncpus = "6-7"\nmemory = "1GiB"\n'
    snapshot = start_kernel(parse_machine(text, "m.toml", "m")).snapshot()

    def read_of(cpu: int, name: str) -> str:
        return read(snapshot, f"sys/devices/system/cpu/cpu{cpu}/topology/{name}").strip()

    names = (
        "physical_package_id",
        "core_id",
        "thread_siblings_list",
        "core_siblings_list",
        "thread_siblings",
    )
    assert [read_of(2, name) for name in names] == ["0", "0", "0,2", "0-3", "05"]
    assert [read_of(7, name) for name in names] == ["1", "2", "7", "4-7", "80"]
    block = read(snapshot, "proc/cpuinfo").split("\n\n")[5].splitlines()
    assert {"physical id\t: 1", "siblings\t: 4", "core id\t\t: 0", "cpu cores\t: 3", "apicid\t\t: 9"} <= set(
        block
    )


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ('packages = ["0"]', "m.toml:1: packages: CPU 1 is in none of them"),
        ('packages = ["0-1", "1"]', "m.toml:1: packages[1]: CPU 1 is already in packages[0]"),
        ('packages = ["0-2"]', "m.toml:1: packages[0]: CPU 2 is on no node"),
        ('packages = ["0-1", ""]', "m.toml:1: packages[1]: it has no CPU"),
        ('cores = ["0-1"]', "m.toml:1: cores: cores without packages"),
        ('cores = ["0-1"]\npackages = ["0", "1"]', "m.toml:1: cores[0]: a core is in one package"),
    ],
)
def test_wrong_packages(keys: str, error: str) -> None:
    with pytest.raises(SpecError, match=re.escape(error)):
        parse_machine(f'{keys}\n[[node]]\ncpus = "0-1"\nmemory = "1GiB"\n', "m.toml", "m")


def test_all_memory_added_is_an_error() -> None:
    with pytest.raises(SpecError, match="no node has memory at boot"):
        parse_machine('[[node]]\ncpus = "0"\nmemory = "1GiB"\nadded = true\n', "m.toml", "m")
