"""/proc/slabinfo and /sys/kernel/slab: the text of captured kernels, and that of booted machines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fidelity.slab import guest_of, read_attributes, slab_captures, slub_of
from groundtruth import topologies
from node.test_kmem import Machine

from numa_service.machine.boot import start_kernel
from numa_service.machine.capture import load_capture
from numa_service.machine.snapshot import assemble
from numa_service.machine.source import load
from numa_service.mm.slab.allocator import SlabInfo
from numa_service.mm.slab.snapshot import SlabNodeSnapshot
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs import tree
from numa_service.procfs.slabinfo import render
from numa_service.procfs.sysfs_slab import ATTRIBUTES, Seen, attribute_names

SLABINFO = [path / "slabinfo.txt" for of in ("slub", "slab") for path in slab_captures(of)]


def parsed(text: str) -> list[SlabInfo]:
    """The caches of a slabinfo, in the order of creation."""
    infos = []
    for line in text.splitlines()[2:]:
        name, *words = line.split()
        n = [int(word) for word in words if word.isdigit()]
        infos.append(
            SlabInfo(
                name=name,
                active_objects=n[0],
                objects=n[1],
                size=n[2],
                objects_per_slab=n[3],
                order=n[4].bit_length() - 1,
                limit=n[5],
                batchcount=n[6],
                shared=n[7],
                active_slabs=n[8],
                slabs=n[9],
                shared_available=n[10],
            )
        )
    return infos[::-1]


@pytest.mark.parametrize(
    "path", [p for p in SLABINFO if p.exists()], ids=lambda path: "-".join(path.parts[-3:-1])
)
def test_slabinfo_is_printed_as_captured(path: Path) -> None:
    text = path.read_text()
    assert render(parsed(text)) == text


def places(text: str, letter: str) -> dict[int, int]:
    return {int(at): int(count) for at, count in re.findall(rf" {letter}(\d+)=(\d+)", text)}


def node_counts(captured: dict[str, str]) -> dict[int, SlabNodeSnapshot]:
    """The numbers from which a kernel printed what it did; CPUs are taken to be of the first node."""
    each = {name: places(value, "N") for name, value in captured.items()}
    cpus = {
        int(cpu): int(slabs)
        for cpu, slabs in re.findall(r" C(\d+)=\d+\((\d+)\)", captured["slabs_cpu_partial"])
    }
    nids = {0, *each["slabs"]}
    return {
        nid: SlabNodeSnapshot(
            slabs=each["slabs"].get(nid, 0),
            objects=each["total_objects"].get(nid, 0),
            partial=each["partial"].get(nid, 0),
            partial_inuse=each["objects_partial"].get(nid, 0),
            free=each["total_objects"].get(nid, 0) - each["objects"].get(nid, 0),
            cpu_slabs=each["cpu_slabs"] if nid == 0 else {},
            cpu_partial=cpus if nid == 0 else {},
        )
        for nid in nids
    }


@pytest.mark.parametrize("capture", slab_captures("slub"), ids=lambda path: "-".join(path.parts[-2:]))
def test_attributes_are_printed_as_captured(capture: Path) -> None:
    guest = guest_of(capture)
    path = capture / "slab.txt"
    captured, _ = read_attributes(path if path.exists() else capture / "slab-attributes.txt")
    caches = {cache.sysfs_name: cache for cache in slub_of(guest).caches}
    for name, attributes in captured.items():
        seen = Seen(caches[name], node_counts(attributes))
        ours = {file: str(ATTRIBUTES[file](seen)) for file in attribute_names(guest.profile)}
        assert ours == {"ctor": ""} | attributes, name


@pytest.mark.parametrize("capture", topologies(), ids=lambda path: path.name)
def test_a_booted_machine_has_the_caches_of_the_captured_one(capture: Path) -> None:
    """Those of modules that the guest loaded are not there, and no cache has a slab yet."""
    snapshot = start_kernel(load_capture(capture)).snapshot()
    ours = tree.read(snapshot, "/proc/slabinfo")
    text = (capture / "slabinfo.txt").read_text()

    def shape(infos: list[SlabInfo]) -> list[tuple[str, int, int, int]]:
        return [(info.name, info.size, info.objects_per_slab, info.order) for info in infos]

    captured = shape(parsed(text))
    booted = shape(parsed(ours))
    assert booted == captured[: len(booted)]
    assert len(captured) - len(booted) < 20


def shown(machine: Machine) -> MachineSnapshot:
    """What the files say of a simulated machine."""
    nodes = machine.sim.nodes
    return assemble(
        machine.spec, [n.machine.node_part(nid, slab=n.kmem.counts()) for nid, n in nodes.items()]
    )


def test_objects_of_a_machine_are_counted() -> None:
    machine = Machine()
    here = machine.alloc(0, "dentry", 30)
    machine.alloc(0, "dentry", 3, of=1)
    snapshot = shown(machine)
    folder = "/sys/kernel/slab/dentry"
    files = {
        entry.name: tree.read(snapshot, f"{folder}/{entry.name}").strip()
        for entry in tree.listdir(snapshot, folder)
    }
    assert files["slabs"] == "3 N0=2 N1=1"
    assert files["total_objects"] == "63 N0=42 N1=21"
    # the CPU's slab went back, with 12 objects free, for one of the other node
    assert files["objects"] == "51 N0=30 N1=21"
    assert files["partial"] == "1 N0=1"
    assert files["objects_partial"] == "9 N0=9"
    assert files["cpu_slabs"] == "1 N1=1"
    (line,) = [
        line for line in tree.read(snapshot, "/proc/slabinfo").splitlines() if line.startswith("dentry ")
    ]
    assert line.split()[1:3] == ["51", "63"]
    machine.free(0, "dentry", here)
    snapshot = shown(machine)
    assert tree.read(snapshot, f"{folder}/slabs_cpu_partial").startswith("10(1) C0=10(1)")


def test_merged_caches_are_links() -> None:
    snapshot = start_kernel(load("two-socket")).snapshot()
    (fs_cache,) = [e for e in tree.listdir(snapshot, "/sys/kernel/slab") if e.name == "fs_cache"]
    assert fs_cache.target == ":A-0000064"
    assert tree.read(snapshot, "/sys/kernel/slab/fs_cache/slab_size") == "64\n"
    aliases = int(tree.read(snapshot, "/sys/kernel/slab/:A-0000064/aliases"))
    links = [e for e in tree.listdir(snapshot, "/sys/kernel/slab") if e.target == ":A-0000064"]
    assert len(links) == aliases + 1


def test_a_kernel_has_the_files_that_it_printed() -> None:
    assert "skip_kfence" in attribute_names("linux-6.12")
    assert "skip_kfence" not in attribute_names("linux-6.1")
    assert not {"cpu_partial", "slabs_cpu_partial", "usersize"} & set(attribute_names("linux-3.0"))
