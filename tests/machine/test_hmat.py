"""The HMAT of a machine: best initiators, their latencies and bandwidths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from numa_service.machine.boot import start_kernel
from numa_service.machine.captured_tree import Directory
from numa_service.machine.hmat import (
    access_of,
    has_hmat,
    hmat_from_sysfs,
    mb_per_s,
    mib_per_s,
)
from numa_service.machine.latency import LatencyModel
from numa_service.machine.presets import load_preset
from numa_service.mm.snapshot import AccessSnapshot
from numa_service.procfs import tree

NODES = "/sys/devices/system/node"


@given(st.integers(0, 10**9))
def test_mib_are_the_same_after_a_machine_file_in_mb(mib: int) -> None:
    assert mib_per_s(mb_per_s(mib)) == mib


def test_the_nearest_cpus_are_the_initiators() -> None:
    access = access_of(load_preset("cxl-tier"))
    # MB/s in the machine file, MiB/s in sysfs
    local, card = 18_000 * 10**6 // 2**20, 6_000 * 10**6 // 2**20
    assert access[1, 0] == access[1, 1] == AccessSnapshot((1,), 90, 90, local, local)
    assert access[2, 0] == access[2, 1] == AccessSnapshot((0,), 250, 250, card, card)


def test_equally_good_initiators_are_all_linked() -> None:
    spec = load_preset("cxl-tier")
    latency = replace(
        spec.latency,
        read_ns=spec.latency.read_ns | {(0, 2): 200, (1, 2): 200},
        write_ns={(0, 2): 210, (1, 2): 210},
        link_mb_per_s={(0, 2): 3000, (1, 2): 3000},
    )
    assert access_of(replace(spec, latency=latency))[2, 0] == AccessSnapshot((0, 1), 200, 210, 2861, 2861)
    better = replace(latency, link_mb_per_s={(0, 2): 3000, (1, 2): 4000})
    assert access_of(replace(spec, latency=better))[2, 0].initiators == (1,)


def test_what_nobody_said_is_zero_as_in_the_kernels_files() -> None:
    spec = load_preset("two-socket")
    unlimited = replace(spec.latency, memory_mb_per_s={0: 0, 1: 0})
    assert access_of(replace(spec, latency=unlimited))[0, 0].read_bandwidth == 0
    only_bandwidth = LatencyModel(read_mb_per_s={(0, 0): 1049}, write_mb_per_s={(0, 0): 525})
    assert access_of(replace(spec, latency=only_bandwidth)) == {
        (0, access): AccessSnapshot((0,), 0, 0, 1000, 500) for access in (0, 1)
    }


def test_without_numbers_of_pairs_there_is_no_hmat() -> None:
    spec = load_preset("four-ring")  # bandwidths of memories and links, which load is computed from
    assert not has_hmat(spec)
    snapshot = start_kernel(spec).snapshot()
    assert "access0" not in {entry.name for entry in tree.listdir(snapshot, f"{NODES}/node0")}
    snapshot = start_kernel(load_preset("two-socket")).snapshot()
    assert "access0" in {entry.name for entry in tree.listdir(snapshot, f"{NODES}/node0")}


def test_3_0_reads_no_hmat() -> None:
    assert not has_hmat(load_preset("cxl-tier").with_profile("linux-3.0"))


def test_sysfs_is_read_back(tmp_path: Path) -> None:
    for nid, read, bandwidth in ((0, 80, 102_400), (1, 136, 51_200)):
        folder = tmp_path / f"node{nid}/access0/initiators"
        (folder / "node0").mkdir(parents=True)
        for name, value in (
            ("read_latency", read),
            ("write_latency", read + 1),
            ("read_bandwidth", bandwidth),
            ("write_bandwidth", bandwidth // 2),
        ):
            # some kernels put a NUL byte last
            (folder / name).write_bytes(b"%d\n\0" % value)
    model, _ = hmat_from_sysfs(Directory(tmp_path), (0, 1), {0})
    assert model.read_ns == {(0, 0): 80, (0, 1): 136}
    assert model.write_ns == {(0, 0): 81, (0, 1): 137}
    assert [mib_per_s(model.memory_bandwidth(nid)) for nid in (0, 1)] == [102_400, 51_200]
    assert [mib_per_s(model.write_mb_per_s[0, nid]) for nid in (0, 1)] == [51_200, 25_600]
    (tmp_path / "node1/access0/initiators/read_latency").write_text("soon\n")
    assert hmat_from_sysfs(Directory(tmp_path), (0, 1), {0})[0].read_ns == {(0, 0): 80}
    assert hmat_from_sysfs(None, (0, 1), {0}) == (LatencyModel(), set())


def test_initiators_without_cpus_are_generic(tmp_path: Path) -> None:
    (tmp_path / "node2/access0/initiators/node1").mkdir(parents=True)
    (tmp_path / "node2/access1/initiators/node0").mkdir(parents=True)
    assert hmat_from_sysfs(Directory(tmp_path), (0, 1, 2), {0})[1] == {1}
    (tmp_path / "has_generic_initiator").write_text("2-3\n")
    assert hmat_from_sysfs(Directory(tmp_path), (0, 1, 2), {0})[1] == {1, 2}
    (tmp_path / "has_generic_initiator").write_text("some\n")
    assert hmat_from_sysfs(Directory(tmp_path), (0, 1, 2), {0})[1] == {1}


def test_a_capture_of_files_lists_its_links(tmp_path: Path) -> None:
    folder = tmp_path / "node1/access0/initiators"
    folder.mkdir(parents=True)
    (folder / "read_latency").write_text("90\n")
    lines = (
        "node1/access0/initiators/node0 -> ../../../node0",
        "node1/access1/initiators/node7 -> x",
        "y -> z",
    )
    (tmp_path / "symlinks.txt").write_text("\n".join(lines))
    model, generic = hmat_from_sysfs(Directory(tmp_path), (0, 1), {1})
    assert model.read_ns == {(0, 1): 90}
    assert generic == {0}
