"""Gathered /sys trees with anything missing that can be missing."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from machines import shape

from numa_service.machine.boot import start_kernel
from numa_service.machine.formats.detect import read_source
from numa_service.machine.formats.draft import Draft, draft_of
from numa_service.machine.formats.export import EXPORTS, export
from numa_service.machine.formats.machine_toml import to_spec
from numa_service.machine.source import load
from numa_service.machine.spec import SpecError

NODE, CPU = "sys/devices/system/node", "sys/devices/system/cpu"
GIB = 1 << 30


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _cpus(*numbers: int) -> dict[str, str]:
    return {f"{CPU}/cpu{n}/topology/physical_package_id": "0\n" for n in numbers}


def _meminfo(nid: int, kb: int) -> dict[str, str]:
    return {f"{NODE}/node{nid}/meminfo": f"\nNode {nid} MemTotal:       {kb} kB\nNode {nid} MemFree: 1 kB\n"}


def _read(root: Path) -> Draft:
    """What a tree is read as. Whatever is missing in it, it boots and is written in every format."""
    draft = read_source(str(root))
    spec = load(str(root))
    start_kernel(spec)
    for form in EXPORTS:
        owners = [node for node in draft_of(spec).nodes if node.cpus]
        if form == "synthetic" and len({(len(node.cpus), node.bytes) for node in owners}) > 1:
            with pytest.raises(SpecError, match="write hwloc-xml instead"):
                export(spec, form)
            continue
        text, _ = export(spec, form)
        if form in ("toml", "hwloc-xml"):
            assert shape(to_spec(read_source("-", form, text.encode()), form)) == shape(spec)
    return draft


def _nodes(draft: Draft) -> dict[int, tuple[tuple[int, ...], int]]:
    return {node.nid: (node.cpus, node.memory) for node in draft.nodes}


def test_sparse_nodes_and_cpus_by_map_only(tmp_path: Path) -> None:
    files = {
        **_cpus(0, 1, 40, 41),
        **_meminfo(0, GIB >> 10),
        **_meminfo(8, GIB >> 9),
        **_meminfo(255, GIB >> 10),
    }
    files |= {
        f"{NODE}/node0/cpumap": "00000000,00000003\n",
        f"{NODE}/node8/cpumap": "00000300,00000000\n",
        f"{NODE}/node255/cpumap": "00000000,00000000\n",
        f"{NODE}/node0/distance": "10 40 80\n",
        f"{NODE}/node8/distance": "40 10 80\n",
        f"{NODE}/node255/distance": "80 80 10\n",
    }
    draft = _read(_tree(tmp_path, files))
    assert _nodes(draft) == {0: ((0, 1), GIB), 8: ((40, 41), 2 * GIB), 255: ((), GIB)}
    assert [draft.distance(a, b) for a, b in ((0, 8), (8, 255), (255, 255))] == [40, 80, 10]


def test_no_node_directory_is_one_node_with_the_memory_of_meminfo(tmp_path: Path) -> None:
    files = {**_cpus(0, 3), "proc/meminfo": "MemTotal: 2097152 kB\n"}
    draft = _read(_tree(tmp_path, files))
    assert _nodes(draft) == {0: ((0, 3), 2 * GIB)}


def test_nothing_but_cpuinfo(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": "processor\t: 0\ncpu : POWER7\n\nprocessor\t: 1\ncpu : POWER7\n"}
    draft = _read(_tree(tmp_path, files))
    assert _nodes(draft) == {0: ((0, 1), GIB)}
    assert any("architecture ppc64" in note for note in draft.notes)
    assert any("no MemTotal in proc/meminfo" in note for note in draft.notes)


def test_s390_names_processors_its_own_way(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": "vendor_id : IBM/S390\nprocessor 0: version = 00\nprocessor 1: version = 00\n"}
    assert _nodes(_read(_tree(tmp_path, files)))[0][0] == (0, 1)


def test_cpus_and_nodes_offline(tmp_path: Path) -> None:
    files = {
        **_cpus(0, 1, 2, 3),
        **_meminfo(0, GIB >> 10),
        **_meminfo(1, GIB >> 10),
        **_meminfo(2, GIB >> 10),
    }
    files |= {
        f"{CPU}/cpu1/online": "0\n",
        f"{CPU}/cpu7/online": "1\n",  # without topology: not really there
        f"{NODE}/online": "0,2\n",
        f"{NODE}/node0/cpulist": "0-1\n",
        f"{NODE}/node1/cpulist": "\n",
        f"{NODE}/node2/cpulist": "2-3\n",
        f"{NODE}/node0/distance": "10 20\n",
        f"{NODE}/node2/distance": "21 10\n",
    }
    draft = _read(_tree(tmp_path, files))
    assert _nodes(draft) == {0: ((0,), GIB), 2: ((2, 3), GIB)}
    assert draft.distance(2, 0) == 21
    assert {"off-line CPUs left out: 1,7", "off-line nodes left out: 1"} <= set(draft.notes)


def test_distances_of_another_number_of_nodes_are_left_out(tmp_path: Path) -> None:
    files = {**_cpus(0, 1), **_meminfo(0, GIB >> 10), **_meminfo(1, GIB >> 10)}
    files |= {f"{NODE}/node{n}/cpulist": f"{n}\n" for n in (0, 1)}
    files |= {f"{NODE}/node{n}/distance": "10 16 16\n" for n in (0, 1)}
    draft = _read(_tree(tmp_path, files))
    assert draft.distance(0, 1) == 20
    assert any("3 distances for 2 nodes" in note for note in draft.notes)


def test_no_meminfo_of_the_nodes_shares_out_that_of_all(tmp_path: Path) -> None:
    files = {**_cpus(0, 1), f"{NODE}/node0/cpulist": "0\n", f"{NODE}/node1/cpulist": "1\n"}
    files["proc/meminfo"] = f"MemTotal: {GIB >> 9} kB\n"
    draft = _read(_tree(tmp_path, files))
    assert [node.memory for node in draft.nodes] == [GIB, GIB]


def test_a_node_without_meminfo_is_empty_if_others_have_one(tmp_path: Path) -> None:
    """What a kernel without CONFIG_SYSFS' node files, or a gatherer that was cut short, leaves behind."""
    files = {
        **_cpus(0, 1, 2),
        **_meminfo(3, GIB >> 10),
        f"{NODE}/node7/uevent": "",
        f"{NODE}/node9/uevent": "",
    }
    files |= {f"{NODE}/node3/cpulist": "0\n", f"{NODE}/node7/cpulist": "1-2\n"}
    assert _nodes(_read(_tree(tmp_path, files))) == {3: ((0,), GIB), 7: ((1, 2), 0), 9: ((), 0)}


def test_fake_nodes_share_cpus_and_the_first_has_them(tmp_path: Path) -> None:
    files = {
        **_cpus(0),
        **_meminfo(0, GIB >> 10),
        **_meminfo(1, GIB >> 10),
        "proc/cmdline": "ro numa=fake=2\n",
    }
    files |= {f"{NODE}/node{n}/cpulist": "0\n" for n in (0, 1)}
    draft = _read(_tree(tmp_path, files))
    assert [node.cpus for node in draft.nodes] == [(0,), ()]
    assert draft.cmdline == ""


def test_cpus_of_no_node_go_to_the_first(tmp_path: Path) -> None:
    files = {**_cpus(0, 1), **_meminfo(0, GIB >> 10), f"{NODE}/node0/cpulist": "0\n"}
    draft = _read(_tree(tmp_path, files))
    assert draft.nodes[0].cpus == (0, 1)


def test_latencies_of_the_nearest_cpus(tmp_path: Path) -> None:
    files = {**_cpus(0), **_meminfo(0, GIB >> 10), **_meminfo(1, GIB >> 10)}
    files |= {f"{NODE}/node0/cpulist": "0\n", f"{NODE}/node1/cpulist": "\n"}
    for nid, ns, mb in ((0, 80, 90000), (1, 250, 20000)):
        where = f"{NODE}/node{nid}/access0/initiators"
        files |= {f"{where}/read_latency": f"{ns}\n", f"{where}/read_bandwidth": f"{mb}\n"}
        files |= {f"{where}/node0/uevent": "", f"{where}/write_latency": f"{ns + 5}\n"}
    draft = _read(_tree(tmp_path, files))
    assert draft.latency.read_ns == {(0, 0): 80, (0, 1): 250}
    assert draft.latency.write_ns == {(0, 0): 85, (0, 1): 255}
    assert draft.latency.memory_mb_per_s == {0: 90000, 1: 20000}


def test_hwlocs_own_notes_are_read(tmp_path: Path) -> None:
    nofile = (
        "OSName: Linux\nOSRelease: 6.12.1\nArchitecture: aarch64\nFallbackNbProcessors: 3\nPageSize: 65536\n"
    )
    files = {"proc/hwloc-nofile-info": nofile, "proc/cpuinfo": "", f"{NODE}/node0/uevent": ""}
    draft = _read(_tree(tmp_path, files))
    assert draft.nodes[0].cpus == (0, 1, 2)
    assert draft.profile == "linux-6.12"
    assert any("pages of 65536" in note for note in draft.notes)
    assert any("aarch64" in note for note in draft.notes)


def test_a_machine_of_64_nodes_and_4096_cpus_is_read_and_written(tmp_path: Path) -> None:
    files: dict[str, str] = {f"{CPU}/online": "0-4095\n", "proc/cpuinfo": ""}
    for nid in range(64):
        files |= _meminfo(nid, 1 << 20)
        files[f"{NODE}/node{nid}/cpulist"] = f"{nid * 64}-{nid * 64 + 63}\n"
        files[f"{NODE}/node{nid}/distance"] = " ".join("10" if nid == other else "30" for other in range(64))
    spec = load(str(_tree(tmp_path, files)))
    assert len(spec.nodes) == 64
    assert len(spec.cpus) == 4096
    for form in EXPORTS:
        assert export(spec, form)[0]


@pytest.mark.parametrize("inside", ["", "gathered/"])
def test_an_archive_of_a_tree_is_a_source(inside: str, tmp_path: Path) -> None:
    files = {**_cpus(0), **_meminfo(0, GIB >> 10), f"{NODE}/node0/cpulist": "0\n"}
    tree = _tree(tmp_path / "tree", files)
    path = tmp_path / "host-7.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("sys", "proc"):
            if (tree / name).exists():
                archive.add(tree / name, inside + name)
    draft = read_source(str(path))
    assert draft.name == "host-7"
    assert _nodes(draft) == {0: ((0,), GIB)}
    assert load(str(path)).name == "host-7"


def test_an_archive_that_climbs_out_writes_nothing_there(tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.write_text("0\n")
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(evil, "../../sys/escaped")
        archive.add(evil, "proc/../../escaped")
    with pytest.raises(SpecError, match="neither a capture"):
        read_source(str(path))
    assert not list(tmp_path.parent.rglob("escaped"))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (f"{NODE}/node0/cpulist", "0-x\n", "'0-x' in cpulist"),
        (f"{NODE}/node0/cpumap", "zz\n", "'zz' is not a CPU mask"),
        (f"{NODE}/node0/distance", "ten\n", "distance 'ten' is not a number"),
        (f"{CPU}/online", "9999\n", "CPU 9999 does not exist"),
        (f"{NODE}/online", "all\n", "'all' in cpulist"),
    ],
)
def test_a_wrong_file_is_named(name: str, text: str, reason: str, tmp_path: Path) -> None:
    files = {**_cpus(0), **_meminfo(0, GIB >> 10), name: text}
    with pytest.raises(SpecError) as caught:
        read_source(str(_tree(tmp_path, files)))
    assert str(caught.value).startswith(f"{tmp_path / name}:1: ")
    assert reason in str(caught.value)


def test_a_directory_that_is_nothing_says_what_was_looked_for(tmp_path: Path) -> None:
    for ask in (read_source, load):
        with pytest.raises(SpecError, match=r"neither a capture .* nor a tree of /sys .* nor ACPI tables"):
            ask(str(tmp_path))


def test_a_tree_without_cpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no CPU: no sys/devices/system/cpu"):
        read_source(str(_tree(tmp_path, {f"{NODE}/node0/meminfo": ""})))
