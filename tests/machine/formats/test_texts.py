"""Texts of tools, alone or quoted: lscpu, lstopo, numastat, zoneinfo, buddyinfo, kubelet, arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from numa_service.machine.formats.detect import read_source
from numa_service.machine.formats.draft import Draft
from numa_service.machine.spec import SpecError

LSCPU = """Architecture:             x86_64
CPU(s):                   8
  On-line CPU(s) list:    0-7
    Thread(s) per core:   2
    Core(s) per socket:   2
    Socket(s):            2
NUMA:
  NUMA node(s):           2
  NUMA node0 CPU(s):      {}
  NUMA node1 CPU(s):      {}
"""
LSTOPO = """Machine (16GB total)
  Package L#0
    NUMANode L#0 (P#0 8190MB)
    L3 L#0 (20MB) + Core L#0
      PU L#0 (P#0)
      PU L#1 (P#2)
  Package L#1
    NUMANode L#1 (P#3 8GB)
    NUMANode L#2 (MCDRAM P#4 1.5GB)
    L2 L#1 (1MB) + L1d L#1 (32KB) + Core L#1 + PU L#2 (P#1)
"""
LSTOPO_1 = """Machine (8192MB)
  NUMANode L#0 (P#0 4096MB) + Socket L#0
    Core L#0 + PU L#0 (P#0)
    Core L#1 + PU L#1 (P#1)
  NUMANode L#1 (P#1 4096MB) + Socket L#1 + Core L#2 + PU L#2 (P#2)
"""
NUMASTAT_M = """
Per-node system memory usage (in MBs):
                          Node 0          Node 2           Total
                 --------------- --------------- ---------------
MemTotal                64315.25        64467.48       128782.73
MemFree                 60000.00        60000.00       120000.00
"""
NUMASTAT = """                           node0           node1
numa_hit                 1234567         7654321
numa_miss                      0               5
"""
BUDDYINFO = """\
Node 0, zone      DMA      0      0      1      0      0      0      0      0      1      1      3
Node 0, zone   Normal      1      0      0      0      0      0      0      0      0      0   2000
Node 1, zone   Normal      2      1      0      0      0      0      0      0      0      0   4000
"""
ZONE = (
    "Node {}, zone {:>8}\n  pages free     1\n        spanned  {}\n        present  {}\n"
    "        managed  {}\n        protection: (0, 0, 0, 0, 0)\n"
)


def zoneinfo() -> str:
    """Two nodes with two CPUs each, as a kernel since 4.12 prints it."""
    text = ""
    for nid in (0, 1):
        for name in ("DMA", "DMA32", "Normal", "Movable", "Device"):
            pages = 300_000 if name == "Normal" else 0
            text += ZONE.format(nid, name, pages, pages, max(0, pages - 9000))
            if pages:
                text += "".join(f"    cpu: {cpu}\n" for cpu in range(4))
                text += f"  start_pfn:           {(4 + 2 * nid) << 18}\n"
    return text


KUBELET = {
    "policyName": "Static",
    "machineState": {
        str(nid): {"memoryMap": {"memory": {"total": 8 << 30, "systemReserved": 1 << 30, "free": 7 << 30}}}
        for nid in (0, 1)
    },
}
CLOUD = (
    "cloud-hypervisor --cpus boot=4,topology=2:1:1:2 --memory size=0 \\\n"
    " --memory-zone id=a,size=1G id=b,size=2G --numa guest_numa_id=0,cpus=[0-1],distances=[1@21],"
    "memory_zones=[a] guest_numa_id=1,cpus=[2,3],distances=[0@21],memory_zones=[b]\n"
)
VNG = "vng -r --cpus 4 --numa 1G,cpus=0-1 --numa 512M,cpus=2-3 --numa-distance 0,1=51 -- uname\n"
TEXTS = {
    "lscpu": LSCPU.format("0-3", "4-7"),
    "lstopo": LSTOPO,
    "numastat": NUMASTAT,
    "buddyinfo": BUDDYINFO,
    "zoneinfo": zoneinfo(),
    "kubelet": json.dumps(KUBELET),
    "cloud-hypervisor": CLOUD,
    "virtme-ng": VNG,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test writes its text."""
    return tmp_path / "given"


def _read(path: Path, text: str) -> Draft:
    path.write_text(text)
    return read_source(str(path))


@pytest.mark.parametrize(
    ("lists", "cores"),
    [
        (("0-3", "4-7"), [(0, 1), (2, 3), (4, 5), (6, 7)]),
        (("0-1,4-5", "2-3,6-7"), [(0, 4), (1, 5), (2, 6), (3, 7)]),
        (("0,2,4,6", "1,3,5,7"), [(0, 4), (2, 6), (1, 5), (3, 7)]),
    ],
    ids=["adjacent", "halves", "odd and even"],
)
def test_lscpu(path: Path, lists: tuple[str, str], cores: list[tuple[int, ...]]) -> None:
    draft = _read(path, LSCPU.format(*lists))
    assert [len(node.cpus) for node in draft.nodes] == [4, 4]
    assert draft.cores == cores
    assert any("1GiB each was taken" in note for note in draft.notes)


def test_lscpu_of_several_sockets_a_node_and_without_nodes(path: Path) -> None:
    text = LSCPU.format("0-3", "4-7").replace("Socket(s):            2", "Socket(s): 4")
    assert _read(path, text).packages == [(0, 1), (2, 3), (4, 5), (6, 7)]
    draft = _read(path, "Architecture: aarch64\nCPU(s): 3\nSocket(s): 1\n")
    assert [node.cpus for node in draft.nodes] == [(0, 1, 2)]
    assert any("architecture aarch64" in note for note in draft.notes)


def test_lstopo(path: Path) -> None:
    draft = _read(path, LSTOPO)
    assert [(node.nid, node.cpus, (node.managed or 0) >> 20) for node in draft.nodes] == [
        (0, (0, 2), 8190),
        (3, (1,), 8192),
        (4, (), 1536),
    ]
    assert draft.cores == [(0, 2), (1,)]
    draft = _read(path, LSTOPO_1)
    assert [node.cpus for node in draft.nodes] == [(0, 1), (2,)]


def test_lstopo_with_its_matrix(path: Path) -> None:
    matrix = (
        "depth 0: 1 Machine\nRelative latency matrix (name NUMALatency kind 5) between 2 NUMANodes (depth -3)"
    )
    matrix += " by logical indexes:\n  index     0     1\n      0    10    21\n      1    17    10\n"
    draft = _read(path, LSTOPO_1 + matrix)
    assert [draft.distance(0, 1), draft.distance(1, 0)] == [21, 17]


def test_numastat(path: Path) -> None:
    draft = _read(path, NUMASTAT_M)
    assert [(node.nid, node.managed) for node in draft.nodes] == [
        (0, 64315 * 2**20 + 2**18),
        (2, round(64467.48 * 256) * 4096),
    ]
    assert [node.nid for node in _read(path, NUMASTAT).nodes] == [0, 1]


def test_zoneinfo_and_buddyinfo_alone(path: Path) -> None:
    draft = _read(path, zoneinfo())
    assert [(node.cpus, node.managed) for node in draft.nodes] == [
        ((0, 1), 291_000 * 4096),
        ((2, 3), 291_000 * 4096),
    ]
    assert any("whose the CPUs are" in note for note in draft.notes)
    draft = _read(path, BUDDYINFO)
    assert [(node.managed or 0) >> 12 for node in draft.nodes] == [
        4 + 256 + 512 + 3 * 1024 + 1 + 2000 * 1024,
        4 + 4000 * 1024,
    ]


def test_kubelet(path: Path) -> None:
    draft = _read(path, json.dumps(KUBELET))
    assert [(node.cpus, node.managed) for node in draft.nodes] == [((0,), 8 << 30), ((1,), 8 << 30)]
    assert any("node 0: of its memory 1GiB is reserved for the system" in note for note in draft.notes)


def test_arguments_of_cloud_hypervisor_and_virtme_ng(path: Path) -> None:
    for text, sizes, distance in ((CLOUD, [1024, 2048], 21), (VNG, [1024, 512], 51)):
        draft = _read(path, text)
        assert [(node.cpus, node.memory >> 20) for node in draft.nodes] == [
            ((0, 1), sizes[0]),
            ((2, 3), sizes[1]),
        ]
        assert (draft.distance(0, 1), draft.distance(1, 0)) == (distance, distance)
    assert _read(path, CLOUD).cores == [(0, 1), (2, 3)]


def test_early_arguments_of_cloud_hypervisor(path: Path) -> None:
    draft = _read(
        path,
        "./cloud-hypervisor --memory size=0 --memory-zone size=1G,guest_numa_node=0 "
        "size=1G,guest_numa_node=1 --numa id=0,distances=1@20 id=1,distances=0@15",
    )
    assert [node.cpus for node in draft.nodes] == [(0,), (1,)]
    assert (draft.distance(0, 1), draft.distance(1, 0)) == (20, 15)


@pytest.mark.parametrize(
    "prefix", ["> ", ">> ", "2026-11-30T21:00:01.1234567Z ", "Nov 30 21:00:01 host sh[12]: "]
)
@pytest.mark.parametrize("form", ["lscpu", "lstopo", "numastat", "buddyinfo", "zoneinfo", "cloud-hypervisor"])
def test_prefixes_of_mails_and_logs_are_taken_off(path: Path, form: str, prefix: str) -> None:
    bare = _read(path, TEXTS[form])
    quoted = _read(path, "".join(f"{prefix}{line}\n" for line in TEXTS[form].splitlines()))
    assert quoted.nodes == bare.nodes


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (LSCPU.format("0-3", "4-x"), "NUMA node1 CPU(s): '4-x'"),
        (LSCPU.format("0-3", "4-7").rsplit("\n", 2)[0], "NUMA node(s): 2, and 1 are listed: cut off"),
        ("Architecture: x86_64\n", "neither CPU(s) nor On-line CPU(s) list"),
        ("Machine (1GB) L#0\n  NUMANode L#0 (P#0 1GB)\n", "no PU: not what lstopo prints"),
        (LSTOPO.replace("P#3", "P#2000"), ":8: NUMANode P#2000: there are at most 1024 nodes"),
        (LSTOPO.replace("P#3", "P#0"), "NUMANode P#0 is there twice"),
        (NUMASTAT_M.replace("64467.48       128782.73", ""), ":5: MemTotal: 1 values for 2 nodes"),
        (NUMASTAT.replace("node1", "node1024"), ":1: node 1024: at most 1024 nodes"),
        (BUDDYINFO.replace("Node 1", "Node 9999"), "node 9999: there are at most 1024 nodes"),
        (zoneinfo().rsplit("Node 1, zone", 1)[0], "node 1 has 4 zones of 5: truncated"),
        ('{"machineState": {"0": {}}}', "machineState.0.memoryMap: no table memoryMap"),
        ('{"machineState": {"x": {}}}', "machineState: 'x' is not a node from 0 to 1023"),
        ('{"machineState": [}', "JSON: "),
        (CLOUD.replace("1@21", "1@2x"), "--numa distances: '1@2x' is not a node and its distance"),
        (CLOUD.replace("[2,3]", "[1-3]"), "--numa cpus: CPU 1 is on node 0 already"),
        (CLOUD.replace("2:1:1:2", "2:1"), "--cpus topology: not threads:cores:dies:packages"),
        (CLOUD.replace("size=2G", "size=much"), "--memory-zone size: 'much' is not a size"),
        (VNG.replace("0,1=51", "0,7=51"), "--numa-distance: '0,7=51' is not two nodes and their distance"),
        (VNG.replace("cpus=2-3", "cpus=1-3"), "--numa: a CPU is on two nodes"),
        (VNG.replace("512M", "big"), "--numa: 'big' is not a size"),
    ],
)
def test_errors_say_what_is_wrong(path: Path, text: str, error: str) -> None:
    with pytest.raises(SpecError) as caught:
        _read(path, text)
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)
