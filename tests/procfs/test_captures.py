"""Every captured file, parsed into a snapshot and rendered again, is the same bytes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from groundtruth import FOLDERS, GROUNDTRUTH, topologies
from procfs.parse import (
    key_values,
    machine_of_zoneinfo,
    meminfo_counters,
    meminfo_values,
    with_buddyinfo,
    with_dmesg,
    with_machine_counters,
    with_pagetypeinfo,
    with_topology,
)

from numa_service.machine.boot import start_kernel
from numa_service.machine.source import load
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs import SHOW
from numa_service.procfs.meminfo import meminfo
from numa_service.procfs.tree import read, walk

#: Lines of meminfo that are not modelled, and are rendered as 0.
NOT_MODELLED = {"Committed_AS", "VmallocUsed", "Percpu"}
#: Kernels split the direct map further after boot: only the sum of these lines is compared.
DIRECT_MAP = {"DirectMap4k", "DirectMap2M"}


def captured(name: str) -> list[Path]:
    """Files of that name pattern anywhere in the captures: boots, tuned boots and workload steps.

    But for those of slab caches: some of their kernels were configured otherwise, and lack counters.
    """
    folders = [GROUNDTRUTH / folder for folder in FOLDERS if folder != "slab"]
    return sorted(path for folder in folders for path in folder.rglob(name))


def ids(path: Path) -> str:
    return str(path.relative_to(GROUNDTRUTH))


def machine(directory: Path) -> MachineSnapshot:
    return machine_of_zoneinfo((directory / "zoneinfo.txt").read_text())


@pytest.mark.parametrize("path", captured("zoneinfo*.txt"), ids=ids)
def test_zoneinfo(path: Path) -> None:
    text = path.read_text()
    assert SHOW["zoneinfo"](machine_of_zoneinfo(text)) == text


@pytest.mark.parametrize("path", captured("buddyinfo.txt"), ids=ids)
def test_buddyinfo(path: Path) -> None:
    text = path.read_text()
    assert SHOW["buddyinfo"](with_buddyinfo(machine(path.parent), text)) == text


@pytest.mark.parametrize("path", captured("pagetypeinfo.txt"), ids=ids)
def test_pagetypeinfo(path: Path) -> None:
    text = path.read_text()
    assert SHOW["pagetypeinfo"](with_pagetypeinfo(machine(path.parent), text)) == text


@pytest.mark.parametrize("path", topologies(), ids=ids)
def test_vmstat_of_a_boot(path: Path) -> None:
    """The dirty thresholds are computed from the watermarks and the free pages in the same file."""
    text = (path / "vmstat.txt").read_text()
    assert SHOW["vmstat"](with_machine_counters(machine(path), key_values(text))) == text


@pytest.mark.parametrize("path", topologies(), ids=ids)
def test_meminfo_of_a_boot(path: Path) -> None:
    text = (path / "meminfo.txt").read_text()
    values = meminfo_values(text)
    given = machine(path)
    rendered = meminfo(with_machine_counters(given, meminfo_counters(values)))

    def without(lines: str, names: set[str]) -> str:
        return "".join(
            re.sub(r"\d+ kB", "?", line) if line.split(":")[0] in names else line
            for line in lines.splitlines(keepends=True)
        )

    hidden = NOT_MODELLED | DIRECT_MAP
    squeezed = re.sub(r" +\?", " ?", without(rendered, hidden))
    assert squeezed == re.sub(r" +\?", " ?", without(text, hidden))
    ours = meminfo_values(rendered)
    assert sum(ours[name] for name in DIRECT_MAP) == sum(values[name] for name in DIRECT_MAP)
    assert [ours[name] for name in sorted(NOT_MODELLED)] == [0] * len(NOT_MODELLED)


def nodes_of(directory: Path) -> list[tuple[Path, int]]:
    found = [(path, int(path.name[4:])) for path in directory.glob("node/node[0-9]*")]
    return sorted(found, key=lambda item: item[1])


@pytest.mark.parametrize("path", [p for p in topologies() if (p / "node").is_dir()], ids=ids)
def test_node_directories(path: Path) -> None:
    """Each node's counters are taken from its own files, which were read one after the other."""
    given = with_topology(machine(path), path)
    nodes = nodes_of(path)
    assert [nid for _, nid in nodes] == [node.nid for node in given.nodes]
    for directory, nid in nodes:
        node = given.nodes[[n.nid for n in given.nodes].index(nid)]
        where = f"/sys/devices/system/node/node{nid}"
        numastat = (directory / "numastat").read_text()
        counted = replace(given, nodes=(replace(node, numastat=key_values(numastat)),))
        assert read(counted, f"{where}/numastat") == numastat
        alone = replace(given, nodes=(node,))
        vmstat = (directory / "vmstat").read_text()
        assert read(with_machine_counters(alone, key_values(vmstat)), f"{where}/vmstat") == vmstat
        text = (directory / "meminfo").read_text()
        counters = meminfo_counters(meminfo_values(text))
        assert read(with_machine_counters(alone, counters), f"{where}/meminfo") == text


@pytest.mark.parametrize("path", topologies(), ids=ids)
def test_dmesg_and_zonelists(path: Path) -> None:
    text = (path / "dmesg.txt").read_text()
    given = with_dmesg(machine(path), text)
    assert SHOW["dmesg"](given) == text
    said = [line for _, line in given.dmesg if re.match(r"Fallback order|mminit::zonelist", line)]
    assert said
    assert SHOW["zonelists"](given) == "".join(f"{line}\n" for line in said)


@pytest.mark.parametrize("root", topologies(), ids=lambda root: root.name)
def test_memory_tiers(root: Path) -> None:
    """Nodes by tier, as captured: 6.1 has one tier, 6.12 reads the HMAT."""
    path = root / "mm.txt"
    said = (
        re.findall(r"memory_tiering/(memory_tier\d+/nodelist): (\S+)", path.read_text())
        if path.exists()
        else []
    )
    snapshot = start_kernel(load(str(root))).snapshot()
    files = [(name, text) for name, _, text in walk(snapshot) if "memory_tiering" in name]
    ours = [(name.removeprefix("sys/devices/virtual/memory_tiering/"), text.strip()) for name, text in files]
    assert not said or sorted(ours) == sorted(said)
