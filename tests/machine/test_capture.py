"""Captures of real kernels as machines, compared with their files as this test reads them itself."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from groundtruth import GROUNDTRUTH, topologies

from numa_service.machine.boot import start_kernel
from numa_service.machine.capture import load_capture
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.source import load
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.procfs.tree import walk

every_topology = pytest.mark.parametrize("root", topologies(), ids=lambda root: root.name)


def _sum(spec: MachineSpec, field: str) -> int:
    return sum(getattr(zone, field) or 0 for node in spec.nodes for zone in node.zones)


def test_there_are_39_captures() -> None:
    assert len(topologies()) == 39


@every_topology
def test_totals_are_those_of_the_files(root: Path) -> None:
    spec = load(str(root))
    text = (root / "zoneinfo.txt").read_text()
    for field in ("spanned", "present", "managed"):
        assert _sum(spec, field) == sum(map(int, re.findall(rf"^ +{field} +(\d+)$", text, re.M)))
    starts = [zone.start_pfn for node in spec.nodes for zone in node.zones]
    assert starts == [int(pfn) for pfn in re.findall(r"^ +start_pfn: +(\d+)$", text, re.M)]
    assert [node.nid for node in spec.nodes] == sorted(
        {int(nid) for nid in re.findall(r"^Node (\d+)", text, re.M)}
    )
    memtotal = re.search(r"MemTotal: +(\d+) kB", (root / "meminfo.txt").read_text())
    assert memtotal is not None
    assert _sum(spec, "managed") * 4 == int(memtotal[1])
    assert len(spec.cpus) == (root / "cpuinfo.txt").read_text().count("processor\t:")
    assert spec.arch == ("i386" if root.name.startswith("i386") else "x86_64")
    assert spec.profile == ("linux-6.12" if "k612" in root.name else "linux-6.1")
    assert spec.swap_pages == 0


@every_topology
def test_ram_is_the_boot_log_s_memory_node_ranges(root: Path) -> None:
    spec = load(str(root))
    ranges = re.findall(
        r"\]   node +(\d+): \[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\]", (root / "dmesg.txt").read_text()
    )
    assert ranges
    logged: dict[int, tuple[tuple[int, int], ...]] = {node.nid: () for node in spec.nodes}
    for nid, start, last in ranges:
        logged[int(nid)] += ((int(start, 16) >> 12, int(last, 16) + 1 >> 12),)
    assert {node.nid: node.ram for node in spec.nodes} == logged
    for node in spec.nodes:
        assert sum(zone.present for zone in node.zones) == sum(end - start for start, end in node.ram)


@every_topology
def test_sysctls_are_kept_as_printed(root: Path) -> None:
    lines = (root / "sysctl.txt").read_text().splitlines()
    assert load(str(root)).sysctls == dict(line.split(" = ", 1) for line in lines)


@pytest.mark.parametrize(
    # numa=fake cuts nodes that qemu does not know
    "root",
    [root for root in topologies() if "numa=fake" not in (root / "cmdline.txt").read_text()],
    ids=lambda root: root.name,
)
def test_a_machine_file_of_the_same_box_has_the_same_zones(root: Path) -> None:
    """A machine file with the sizes of qemu's arguments has the memory that the kernel found."""
    scenario = json.loads((root / "scenario.json").read_text())
    captured = load(str(root))
    nodes = scenario.get("nodes") or [{"mem": scenario["mem"]}]
    text = f'arch = "{captured.arch}"\nprofile = "{captured.profile}"\n'
    if scenario.get("dist"):
        text += f"distances = {json.dumps(scenario['dist'])}\n"
    nid_of = _nid_of_proximity_domain(root)
    for pxm, qemu_node in enumerate(nodes):
        node = captured.node(nid_of.get(pxm, pxm))
        # taken from the capture, because kernelcore= and movablecore= spread memory by a rule of their own
        movable = sum(zone.present for zone in node.zones if zone.name == "Movable")
        text += f'[[node]]\nid = {node.nid}\ncpus = {list(node.cpus)}\nmemory = "{qemu_node["mem"]}MiB"\n'
        text += f"movable = {movable * 4096}\n"
    written = parse_machine(text, "written", root.name)
    assert written.distances == captured.distances
    # ACPI tables take 32 pages at the end of low memory; with many nodes they grow to 33.
    acpi_pages = _low_end(written) - _low_end(captured)
    assert acpi_pages in (0, 1)
    assert _flat(written, 0) == _flat(captured, acpi_pages)


def _nid_of_proximity_domain(root: Path) -> dict[int, int]:
    """The kernel numbers nodes in the order in which the SRAT names them, CPUs first."""
    dmesg = (root / "dmesg.txt").read_text()
    pairs = [(int(pxm), int(nid)) for pxm, nid in re.findall(r"PXM (\d+) -> .* Node (\d+)", dmesg)]
    pairs += [(int(pxm), int(nid)) for nid, pxm in re.findall(r"SRAT: Node (\d+) PXM (\d+)", dmesg)]
    return dict(pairs)


def _low_end(spec: MachineSpec) -> int:
    return max(end for node in spec.nodes for _, end in node.ram if end <= 1 << 20)


def _flat(spec: MachineSpec, acpi_pages: int) -> list[object]:
    """RAM and zones of every node, as if low memory ended `acpi_pages` later."""
    low_end = _low_end(spec)
    shown: list[object] = []
    for node in spec.nodes:
        shown.append([(start, end + acpi_pages * (end == low_end)) for start, end in node.ram])
        for zone in node.zones:
            end = zone.start_pfn + zone.spanned
            spanned = zone.spanned + acpi_pages * (end == low_end)
            present = zone.present + acpi_pages * (zone.start_pfn < low_end <= end)
            shown.append((zone.name, zone.start_pfn, spanned, present))
    return shown


def test_memoryless_and_cpuless_nodes_are_kept() -> None:
    spec = load(str(GROUNDTRUTH / "topologies" / "memoryless-cpuless"))
    assert [node.cpus for node in spec.nodes] == [(0, 1), (2, 3), (), ()]
    assert [bool(node.zones) for node in spec.nodes] == [True, False, True, True]
    assert spec.distances[0] == (10, 20, 25, 40)


def test_fake_nodes_all_have_the_cpus() -> None:
    spec = load(str(GROUNDTRUTH / "topologies" / "fake-4"))
    assert [node.cpus for node in spec.nodes] == [(0, 1, 2, 3)] * 4
    assert spec.cpus == (0, 1, 2, 3)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of a two-node capture, for tests that damage it."""
    root = tmp_path / "copy"
    shutil.copytree(GROUNDTRUTH / "topologies" / "numa-2n-big", root)
    return root


def _tree_of(flat: Path, root: Path) -> Path:
    """The same capture with the paths of a running system."""
    (root / "proc/sys/kernel").mkdir(parents=True)
    (root / "proc/sys/vm").mkdir()
    for name in ("zoneinfo", "version", "swaps", "iomem"):
        shutil.copy(flat / f"{name}.txt", root / "proc" / name)
    for line in (flat / "sysctl.txt").read_text().splitlines():
        key, value = line.split(" = ", 1)
        (root / "proc/sys" / key.replace(".", "/")).write_text(value + "\n")
    shutil.copytree(flat / "node", root / "sys/devices/system/node")
    shutil.copy(flat / "dmesg.txt", root)  # not a file of a running system: `dmesg > dmesg.txt`
    return root


def test_a_proc_and_sys_tree_is_the_same_machine(copy: Path, tmp_path: Path) -> None:
    flat, tree = load_capture(copy), load_capture(_tree_of(copy, tmp_path / "tree"))
    assert (tree.nodes, tree.distances, tree.profile) == (flat.nodes, flat.distances, flat.profile)
    assert tree.sysctls == flat.sysctls


def test_without_iomem_holes_are_at_the_end_of_the_zone(copy: Path) -> None:
    captured = load_capture(copy)
    (copy / "iomem.txt").unlink()
    spec = load_capture(copy)
    assert spec.node(0).zones == captured.node(0).zones
    assert spec.node(0).ram == ((1, 3999), (4096, 4096 + 520160), (1048576, 1310720))
    # this is what a reader who is not root sees
    (copy / "iomem.txt").write_text("00000000-00000000 : System RAM\n  00000000-00000000 : Kernel code\n")
    assert load_capture(copy) == spec


@pytest.mark.parametrize(
    ("version", "profile"),
    [
        ("6.1.0", "6.1"),
        ("6.11.2", "6.11"),
        ("6.12.1", "6.12.1"),
        ("6.12.117+deb12-amd64", "6.12"),
        ("4.18.0-305.el8.x86_64", "4.18-el8"),
        ("2.6.32-754.el6.i686", "2.6.32-el6"),
        ("7.3", "6.19"),
    ],
)
def test_profile_of_other_versions(copy: Path, version: str, profile: str) -> None:
    (copy / "version.txt").write_text(f"Linux version {version} (a@b)\n")
    assert load_capture(copy).profile == f"linux-{profile}"
    (copy / "version.txt").unlink()
    assert load_capture(copy).profile == "linux-6.1"


def test_reserve_ratios_of_a_kernel_with_other_zone_types(copy: Path) -> None:
    zoneinfo, sysctl = copy / "zoneinfo.txt", copy / "sysctl.txt"
    text = re.sub(r"Node \d, zone +Device\n(?: .*\n)*", "", zoneinfo.read_text())
    zoneinfo.write_text(re.sub(r"(protection: \(.*), \d+\)", r"\1)", text))
    sysctl.write_text(sysctl.read_text().replace("256\t256\t32\t0\t0", "100\t200\t30\t4"))
    assert load_capture(copy).sysctls["vm.lowmem_reserve_ratio"] == "100\t200\t30\t4\t0"
    (copy / "version.txt").write_text("Linux version 4.2.0 (a@b)\n")
    assert load_capture(copy).sysctls["vm.lowmem_reserve_ratio"] == "100\t200\t30"


def test_swap_is_read(copy: Path) -> None:
    with (copy / "swaps.txt").open("a") as file:
        file.write("/dev/vda2                               partition\t1048572\t\t0\t\t-2\n")
        file.write("/swap\\040file                           file\t\t524284\t\t12\t\t5\n")
    assert load_capture(copy).swap_pages == (1048572 + 524284) // 4


@pytest.mark.parametrize("root", topologies()[::6], ids=lambda root: root.name)
def test_a_zoneinfo_cut_off_anywhere_is_refused(root: Path, tmp_path: Path) -> None:
    """It is cut at the end of every line, and at every 40th character."""
    copy = tmp_path / "copy"
    copy.mkdir()
    if (root / "node").exists():
        shutil.copytree(root / "node", copy / "node")
    text = (root / "zoneinfo.txt").read_text()
    ends = {match.end() for match in re.finditer("\n", text)} | set(range(0, len(text), 40))
    last_block = text.rindex("protection:")
    ends -= {end for end in ends if text.find("\n", last_block) < end}
    for end in sorted(ends):
        (copy / "zoneinfo.txt").write_text(text[:end])
        with pytest.raises(SpecError, match=r"zoneinfo"):
            load_capture(copy)


@pytest.mark.parametrize(
    ("name", "old", "new", "error"),
    [
        ("zoneinfo.txt", "Node 0, zone      DMA\n", "", "zoneinfo.txt:1: not a zoneinfo: "),
        (
            "zoneinfo.txt",
            "        present  3998\n",
            "",
            "zoneinfo.txt:95: Node 0, zone DMA: no present: the zone",
        ),
        (
            "zoneinfo.txt",
            "present  3998",
            "present  3x98",
            "zoneinfo.txt:52: Node 0, zone DMA: present: '3x98'",
        ),
        (
            "zoneinfo.txt",
            "managed  3840",
            "managed  4840",
            "zoneinfo.txt:1: Node 0, zone DMA: not managed 4840",
        ),
        (
            "zoneinfo.txt",
            "Node 1, zone   Normal",
            "Node 1, zone     High",
            "zones DMA, DMA32, Device, High, ",
        ),
        (
            "zoneinfo.txt",
            "start_pfn:           1310720",
            "start_pfn:           1310000",
            "overlaps node 0, zone",
        ),
        ("zoneinfo.txt", "Node 1, zone      DMA", "Node 1, zone   Device", "zone Device: a second time"),
        ("zoneinfo.txt", "Node 1,", "Node 2,", "node: node 2 is in zoneinfo, and node2 is missing here"),
        (
            "sysctl.txt",
            "vm.swappiness = 60",
            "vm.swappiness",
            "sysctl.txt:43: not 'key = value': 'vm.swappiness'",
        ),
        (
            "sysctl.txt",
            "vm.swappiness = 60",
            "vm.swappiness = 6x",
            "sysctl.txt:43: vm.swappiness: '6x' is not an",
        ),
        (
            "sysctl.txt",
            "zone_reclaim_mode = 0\n",
            "zone_reclaim_mode = 0",
            "sysctl.txt:49: truncated: the last line",
        ),
        (
            "iomem.txt",
            "00100000-7ffdffff :",
            "00100000 :",
            "iomem.txt:8: not an iomem line: '00100000 : System RAM'",
        ),
        ("swaps.txt", "Filename", "Xilename", "swaps.txt:1: not a line of /proc/swaps: "),
        ("version.txt", "Linux version 6", "Linux version x", "version.txt:1: no 'Linux version X.Y'"),
        ("node/node1/distance", "20 10", "20", "node1/distance:1: 1 distances for 2 nodes"),
        (
            "node/node1/distance",
            "20 10",
            "9 10",
            "node1/distance:1: distance '9' to node 0 is not a number of at",
        ),
        (
            "node/node1/distance",
            "20 10",
            "20 20",
            "node1/distance:1: the distance of node 1 to itself is 20, not 10",
        ),
        ("node/node1/cpulist", "2-3", "2-", "node1/cpulist:1: '2-' in cpulist "),
        ("node/online", "0-1", "0-2", "node: node 2 is online, and node2 is missing here"),
        ("node/online", "0-1", "0", "node: node 1 is in zoneinfo, and node1 is missing here"),
    ],
)
def test_garbled_files_are_named_with_the_line(copy: Path, name: str, old: str, new: str, error: str) -> None:
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new))
    with pytest.raises(SpecError, match=re.escape(error)) as caught:
        load_capture(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("zoneinfo.txt", "not a capture: no zoneinfo.txt or proc/zoneinfo"),
        ("node", "2 nodes in zoneinfo, and no node or sys/devices/system/node"),
        ("node/node1", "node: node 1 is online, and node1 is missing here"),
        ("node/node1/distance", "node1/distance: No such file or directory"),
        ("node/node0/cpulist", "node0/cpulist: No such file or directory"),
    ],
)
def test_missing_files_are_named(copy: Path, name: str, error: str) -> None:
    path = copy / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(SpecError, match=re.escape(error)):
        load_capture(copy)


def test_what_was_free_is_said_by_pagetypeinfo_or_buddyinfo_or_zoneinfo(copy: Path) -> None:
    spec = load_capture(copy)
    zones = {(node.nid, zone.name): zone for node in spec.nodes for zone in node.zones}
    assert {(zone.nid, zone.zone) for zone in spec.occupancy} == set(zones)
    for zone in spec.occupancy:
        assert 0 < zone.listed <= zone.free <= (zones[zone.nid, zone.zone].managed or 0)
    assert {block.migratetype for zone in spec.occupancy for block in zone.blocks} == {0, 1, 2}
    assert {name for zone in spec.occupancy for name, _ in zone.held} >= {"anonymous memory"}
    (copy / "pagetypeinfo.txt").unlink()
    by_order = load_capture(copy)
    assert {(zone.nid, zone.zone) for zone in by_order.occupancy} == set(zones)
    assert all(zone.free == zone.listed for zone in by_order.occupancy)
    assert by_order.notes == ()
    (copy / "buddyinfo.txt").unlink()
    free_only = load_capture(copy)
    assert [zone.free for zone in free_only.occupancy if zone.zone == "DMA"] == [
        int(line.split()[-1])
        for line in (copy / "zoneinfo.txt").read_text().splitlines()
        if "pages free" in line
    ][:1]
    assert free_only.notes == ("in what blocks memory was free is not told: as large as possible was taken",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hello\n", "not 'Node N, zone NAME counts'"),
        (f"Node 0, zone DMA {'0 ' * 14}\n", "14 orders, not 11"),
        (f"Node 0, zone DMA {'0 ' * 10}9999\n", "10238976 pages free of "),
    ],
)
def test_a_buddyinfo_of_no_use_is_noted(copy: Path, text: str, reason: str) -> None:
    (copy / "buddyinfo.txt").write_text(text)
    (copy / "pagetypeinfo.txt").write_text("Page block order: 9\n")
    spec = load_capture(copy)
    assert spec.occupancy
    by_type, by_order, _ = spec.notes
    assert "no free pages by type" in by_type
    assert reason in by_order


def test_a_capture_without_cpus_is_refused(copy: Path) -> None:
    for nid in (0, 1):
        (copy / "node" / f"node{nid}" / "cpulist").write_text("\n")
    with pytest.raises(SpecError, match="no node has a CPU"):
        load_capture(copy)


def _old_zone(nid: int, name: str, start: int, pages: int, managed: int | None = None) -> str:
    """A zone's block as kernels before 4.12 print it; `managed` came with 3.9."""
    told = "" if managed is None else f"        managed  {managed}\n"
    return (
        f"Node {nid}, zone {name:>8}\n  pages free     9\n        min      1\n        scanned  0\n"
        f"        spanned  {pages}\n        present  {pages}\n{told}"
        "    nr_free_pages 9\n        protection: (0, 900, 900, 900)\n  pagesets\n    cpu: 0\n"
        f"  start_pfn:         {start}\n"
    )


def _old_capture(root: Path, version: str, managed: int | None) -> Path:
    for nid, row in enumerate(("10 20 20", "20 10 20", "20 20 10")):
        folder = root / f"sys/devices/system/node/node{nid}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{nid}\n")
        (folder / "distance").write_text(f"{row}\n")
    (root / "proc").mkdir()
    (root / "proc/version").write_text(f"Linux version {version} (x@y)\n")
    zones = _old_zone(0, "DMA", 1, 4000, managed and 3900), _old_zone(0, "DMA32", 4096, 500_000, managed)
    (root / "proc/zoneinfo").write_text("".join((*zones, _old_zone(2, "DMA32", 600_000, 250_000, managed))))
    return root


def test_an_archive_or_a_directory_above_is_the_same_machine(tmp_path: Path) -> None:
    """Zones keep the pages that they manage, and managed at boot, one by one."""
    inside = tmp_path / "above" / "box"
    _old_capture(inside, "3.10.0-957.el7", 240_000)
    with tarfile.open(tmp_path / "box.tar.gz", "w:gz") as archive:
        archive.add(inside, "box")
    whole = load(str(inside))
    # reserves of 900 times 256 pages: the zones of node 0 have grown since
    assert [zone.freed_late for zone in whole.nodes[0].zones] == [0, 240_000 - 901 * 256 + 1]
    for other in (load(str(tmp_path / "above")), load(str(tmp_path / "box.tar.gz"))):
        assert (other.nodes, other.sysctls, other.profile) == (whole.nodes, whole.sysctls, whole.profile)


@pytest.mark.parametrize(("version", "managed"), [("3.10.0-957.el7", 240_000), ("2.6.32-754.el6", None)])
def test_old_kernels_print_populated_zones_only(tmp_path: Path, version: str, managed: int | None) -> None:
    """Node 1 has no memory and is therefore not in the zoneinfo; before 3.9 there is no ``managed``."""
    spec = load(str(_old_capture(tmp_path, version, managed)))
    assert [[zone.name for zone in node.zones] for node in spec.nodes] == [["DMA", "DMA32"], [], ["DMA32"]]
    assert _sum(spec, "present") == 754_000
    assert _sum(spec, "managed") == (754_000 if managed is None else 3900 + 2 * managed)
    assert start_kernel(spec).zonelists[1].node_order[-2:] == (2, 0)


def test_a_zoneinfo_with_empty_zones_is_not_complete_without_the_others(copy: Path) -> None:
    text = (copy / "zoneinfo.txt").read_text()
    (copy / "zoneinfo.txt").write_text(text[: text.rindex("Node 1, zone")])
    with pytest.raises(SpecError, match="node 1 has 4 zones of 5: truncated"):
        load_capture(copy)


@pytest.mark.parametrize("preset", ["two-socket", "i386-highmem"])
@pytest.mark.parametrize("profile", ["linux-3.0", "linux-6.1", "linux-6.12"])
def test_a_mirror_is_a_capture_of_the_same_kernel(tmp_path: Path, preset: str, profile: str) -> None:
    booted = start_kernel(load(preset).with_profile(profile))
    snapshot = booted.snapshot()
    for path, entry, text in walk(snapshot):
        if (
            path.startswith(("proc/zoneinfo", "proc/version", "sys/devices/system/node/"))
            and not entry.target
        ):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
    spec = load(str(tmp_path))
    assert (spec.profile, spec.arch) == (profile, booted.spec.arch)
    assert [[zone.present for zone in node.zones] for node in spec.nodes] == [
        [zone.present for zone in node.zones] for node in booted.spec.nodes
    ]


def test_zones_that_manage_nothing_count_for_khugepaged(copy: Path) -> None:
    """It raises min_free_kbytes by populated zones, that is, those with present pages."""
    kbytes = start_kernel(load(str(copy))).sysctls.get("vm.min_free_kbytes")
    text = (copy / "zoneinfo.txt").read_text()
    at = text.index("Node 1, zone   Normal")
    emptied = re.sub(r"managed  \d+", "managed  0", text[at:], count=1)
    (copy / "zoneinfo.txt").write_text(text[:at] + emptied)
    (copy / "sysctl.txt").unlink()
    machine = start_kernel(load(str(copy)))
    assert machine.managed[1, "Normal"] == 0
    assert machine.sysctls.get("vm.min_free_kbytes") == kbytes


def test_a_partial_tree_shares_cpus_and_has_no_distances(tmp_path: Path) -> None:
    """Trees of other tools have a zoneinfo, and of their nodes a meminfo only."""
    sections = []
    for nid in range(2):
        zone = _old_zone(nid, "Normal", 0x100000 + nid * 0x10000, 0x10000)
        sections.append(
            zone.replace("    cpu: 0", "".join(f"    cpu: {cpu}\n" for cpu in range(4)).rstrip("\n"))
        )
    for name, text in {
        "proc/zoneinfo": "".join(sections),
        "proc/cpuinfo": "".join(f"processor : {n}\nphysical id : {n % 2}\ncore id : 0\n" for n in range(4)),
        "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 262144 kB\n",
        "sys/devices/system/node/node1/meminfo": "Node 1 MemTotal: 262144 kB\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    spec = load(str(tmp_path))
    assert [node.cpus for node in spec.nodes] == [(0, 2), (1, 3)]
    assert spec.cores == ((0, 2), (1, 3))
    assert spec.distances == ((10, 20), (20, 10))
    assert spec.profile == "linux-2.6.32"
    assert spec.notes == (
        "in what blocks memory was free is not told: as large as possible was taken",
        "no version: by the form of its zoneinfo, linux-2.6.32 was taken",
        "no distances: 20 between all nodes was taken",
        "no file lists the CPUs of nodes: each has an equal share of the packages, in order",
        "vm.min_free_kbytes=12 makes the printed watermarks: boot would make others",
    )
    marks = start_kernel(spec).watermarks
    assert [marks[nid, "Normal"].min for nid in (0, 1)] == [1, 1]
