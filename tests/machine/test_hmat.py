"""The latency model as an HMAT: best initiators and their numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from numa_service.machine.hmat import access_of, has_hmat, latency_from_sysfs
from numa_service.machine.presets import load_preset
from numa_service.mm.snapshot import AccessSnapshot


def test_the_nearest_cpus_are_the_initiators() -> None:
    access = access_of(load_preset("cxl-tier"))
    # MB/s in the machine file, MiB/s in sysfs
    assert access[1] == AccessSnapshot((1,), 90, 90, 18_000 * 10**6 // 2**20)
    assert access[2] == AccessSnapshot((0,), 250, 250, 6_000 * 10**6 // 2**20)


def test_equally_good_initiators_are_all_linked() -> None:
    spec = load_preset("cxl-tier")
    latency = replace(
        spec.latency,
        read_ns=spec.latency.read_ns | {(0, 2): 200, (1, 2): 200},
        write_ns={(0, 2): 210, (1, 2): 210},
        link_mb_per_s={(0, 2): 3000, (1, 2): 3000},
    )
    assert access_of(replace(spec, latency=latency))[2] == AccessSnapshot((0, 1), 200, 210, 2861)
    better = replace(latency, link_mb_per_s={(0, 2): 3000, (1, 2): 4000})
    assert access_of(replace(spec, latency=better))[2].initiators == (1,)


def test_bandwidth_without_limit_has_no_number() -> None:
    spec = load_preset("two-socket")
    unlimited = replace(spec.latency, memory_mb_per_s={0: 0, 1: 0})
    assert access_of(replace(spec, latency=unlimited))[0].bandwidth is None


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
        ):
            (folder / name).write_text(f"{value}\n")
    model = latency_from_sysfs(tmp_path, (0, 1))
    assert model.read_ns == {(0, 0): 80, (0, 1): 136}
    assert model.write_ns == {(0, 0): 81, (0, 1): 137}
    assert [model.memory_bandwidth(nid) * 10**6 // 2**20 for nid in (0, 1)] == [102_400, 51_200]
    (tmp_path / "node1/access0/initiators/read_latency").write_text("soon\n")
    assert latency_from_sysfs(tmp_path, (0, 1)).read_ns == {(0, 0): 80}
    assert latency_from_sysfs(None, (0, 1)).read_ns == {}
