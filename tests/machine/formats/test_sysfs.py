"""Gathered trees of /sys, from which any file may be missing."""

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
from numa_service.procfs import tree

NODE, CPU = "sys/devices/system/node", "sys/devices/system/cpu"
BLOCK = "sys/devices/system/memory"
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
    """The draft of a tree; checks that it boots and can be written in every format, whatever it lacks."""
    draft = read_source(str(root))
    spec = load(str(root))
    managed = start_kernel(spec).managed
    for node in draft.nodes:
        if node.managed is not None:
            assert sum(pages for (nid, _), pages in managed.items() if nid == node.nid) << 12 == node.managed
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
    """(CPUs, bytes) by nid: the managed memory (MemTotal), or the RAM if that is not given."""
    return {n.nid: (n.cpus, n.memory if n.managed is None else n.managed) for n in draft.nodes}


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
        f"{CPU}/cpu7/online": "1\n",  # without a topology directory a CPU is not on-line
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
    assert [node.managed for node in draft.nodes] == [GIB, GIB]


def test_a_node_without_meminfo_is_empty_if_others_have_one(tmp_path: Path) -> None:
    """Such trees come from a kernel without the node files, or from a gathering that was cut short."""
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
    # MiB/s in sysfs, MB/s here
    assert draft.latency.read_mb_per_s == {(0, 0): 94372, (0, 1): 20972}


def _initiators(
    nid: int, access: int, of: str, read: tuple[int, int], write: tuple[int, int]
) -> dict[str, str]:
    """The files of one access class of a node; `read` and `write` are (ns, MiB/s)."""
    where = f"{NODE}/node{nid}/access{access}/initiators"
    values = {"read_latency": read[0], "write_latency": write[0]}
    values |= {"read_bandwidth": read[1], "write_bandwidth": write[1]}
    links = {f"{where}/{name}/uevent": "" for name in of.split()}
    return links | {f"{where}/{name}": f"{value}\n" for name, value in values.items()}


def test_access_comes_back_as_it_was(tmp_path: Path) -> None:
    """Bandwidths of reads and writes, faster than links are by default, and a GPU as the best initiator."""
    files = {**_cpus(0, 1), **_meminfo(0, GIB >> 10), **_meminfo(1, 0), **_meminfo(2, GIB >> 9)}
    files |= {f"{NODE}/node{nid}/cpulist": text for nid, text in enumerate(("0-1\n", "\n", "\n"))}
    rows = ("10 20 20\n", "20 10 11\n", "20 11 10\n")
    files |= {f"{NODE}/node{nid}/distance": row for nid, row in enumerate(rows)}
    files |= {f"{NODE}/has_generic_initiator": "1\n", f"{NODE}/online": "0-2\n"}
    files |= {f"{NODE}/node2/memory_side_cache/uevent": ""}
    numbers = _initiators(0, 0, "node0", (90, 100_000), (95, 90_000))
    numbers |= _initiators(0, 1, "node0", (90, 100_000), (95, 90_000))
    numbers |= _initiators(2, 0, "node1", (8, 400_000), (9, 300_000))
    numbers |= _initiators(2, 1, "node0", (180, 40_000), (190, 30_000))
    root = _tree(tmp_path, files | numbers)
    draft = _read(root)
    assert draft.latency.read_ns == {(0, 0): 90, (1, 2): 8, (0, 2): 180}
    snapshot = start_kernel(load(str(root))).snapshot()
    for name, text in numbers.items():
        if name.endswith("uevent"):
            assert tree.resolve(snapshot, "/" + name.removesuffix("/uevent"))[-1] == name.split("/")[-2]
        else:
            assert tree.read(snapshot, "/" + name) == text
    assert tree.read(snapshot, f"/{NODE}/has_generic_initiator") == "1\n"
    links = {entry.name for entry in tree.listdir(snapshot, f"/{NODE}/node2/access0/initiators")}
    assert {name for name in links if name.startswith("node")} == {"node1"}
    assert any("memory-side cache" in note for note in draft.notes)


def test_no_numbers_in_the_tree_none_in_the_machine(tmp_path: Path) -> None:
    files = {**_cpus(0), **_meminfo(0, GIB >> 10), f"{NODE}/node0/cpulist": "0\n"}
    root = _tree(tmp_path, files)
    snapshot = start_kernel(load(str(root))).snapshot()
    assert not [e.name for e in tree.listdir(snapshot, f"/{NODE}/node0") if e.name.startswith("access")]


@pytest.mark.parametrize(
    "sizes",
    [
        (8208776, 8257056),  # a server of 2 x 8 GiB
        (524288, 4, 4096, 100_000_004),
        (3_000, 5_000_000),  # the kernel is on another node, or on none
        (1 << 30, 1 << 30, (1 << 30) + 4),
        (16_384, 0),  # a small machine, and a node without memory
    ],
)
def test_memtotal_comes_back_to_the_kilobyte(sizes: tuple[int, ...], tmp_path: Path) -> None:
    files = {**_cpus(0), f"{NODE}/node0/cpulist": "0\n"}
    for nid, kb in enumerate(sizes):
        files |= _meminfo(nid, kb)
    root = _tree(tmp_path, files)
    _read(root)
    snapshot = start_kernel(load(str(root))).snapshot()
    for nid, kb in enumerate(sizes):
        text = tree.read(snapshot, f"/{NODE}/node{nid}/meminfo")
        assert text.split("\n")[0].split() == ["Node", str(nid), "MemTotal:", str(kb), "kB"]
    assert tree.read(snapshot, "/proc/meminfo").split("\n")[0].split() == ["MemTotal:", str(sum(sizes)), "kB"]


def test_files_that_end_with_a_nul_byte(tmp_path: Path) -> None:
    files = {**_cpus(0, 1, 2, 3), f"{CPU}/online": "0-3\n", f"{NODE}/online": "0-1\n"}
    for nid, (cpus, row) in enumerate((("0-1", "10 21"), ("2-3", "21 10"))):
        files |= _meminfo(nid, GIB >> 9)
        files |= {f"{NODE}/node{nid}/cpulist": f"{cpus}\n", f"{NODE}/node{nid}/distance": f"{row}\n"}
    plain = _read(_tree(tmp_path / "box", files))
    ended = _read(_tree(tmp_path / "nul/box", {name: text + "\0" for name, text in files.items()}))
    assert ended == plain
    assert _nodes(plain) == {0: ((0, 1), 2 * GIB), 1: ((2, 3), 2 * GIB)}


def _blocks(*numbers: int, offline: int | None = None) -> dict[str, str]:
    """The files of memory blocks of 128 MiB."""
    files = {f"{BLOCK}/memory{n}/state": "offline\n" if n == offline else "online\n" for n in numbers}
    return files | {f"{BLOCK}/block_size_bytes": "8000000\n"}


def test_memory_blocks_alone_are_one_node(tmp_path: Path) -> None:
    draft = _read(_tree(tmp_path, _blocks(0, 1, 3, 32, offline=3)))
    (node,) = draft.nodes
    assert node.ranges == ((0, 0x10000), (0x100000, 0x108000))
    assert node.cpus == (0,)
    assert any("neither CPUs nor nodes are told" in note for note in draft.notes)
    assert any("1 memory blocks of 128 MiB are off-line" in note for note in draft.notes)


def test_memory_blocks_say_where_ram_is_and_memtotal_how_much_is_managed(tmp_path: Path) -> None:
    files = {**_cpus(0, 1), **_blocks(0, 1, 2, 3, 32, 33), **_meminfo(0, 500_000), **_meminfo(1, 255_000)}
    files |= {f"{NODE}/node{nid}/cpulist": f"{nid}\n" for nid in (0, 1)}
    files |= {f"{NODE}/node0/memory{n}/uevent": "" for n in (0, 1, 2, 3)}
    files |= {f"{NODE}/node1/memory{n}/uevent": "" for n in (32, 33)}
    tree_of = _tree(tmp_path / "box", files)
    draft = _read(tree_of)
    assert [node.ranges for node in draft.nodes] == [((0, 0x20000),), ((0x100000, 0x110000),)]
    assert [node.managed for node in draft.nodes] == [500_000 << 10, 255_000 << 10]
    path = tmp_path / "box.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tree_of / "sys", "sys")
    assert read_source(str(path)) == draft


def test_memory_blocks_that_hold_too_little_are_not_used(tmp_path: Path) -> None:
    files = {**_cpus(0), **_blocks(0, 1), **_meminfo(0, GIB >> 10), f"{NODE}/node0/cpulist": "0\n"}
    files |= {f"{NODE}/node0/memory{n}/uevent": "" for n in (0, 1)}
    draft = _read(_tree(tmp_path, files))
    assert draft.nodes[0].ranges is None
    assert any("hold less than its MemTotal" in note for note in draft.notes)


def test_memory_blocks_of_a_machine_of_one_node(tmp_path: Path) -> None:
    files = {**_cpus(0), **_blocks(16, 17, 18, 19), "proc/meminfo": "MemTotal: 500000 kB\n"}
    (node,) = _read(_tree(tmp_path / "a", files)).nodes
    assert (node.ranges, node.managed) == (((0x80000, 0xA0000),), 500_000 << 10)
    del files["proc/meminfo"]
    (node,) = _read(_tree(tmp_path / "b", files)).nodes
    assert (node.ranges, node.managed) == (((0x80000, 0xA0000),), None)


def test_an_own_distance_of_0_is_what_a_kernel_calls_local(tmp_path: Path) -> None:
    files = {**_cpus(0, 1), **_meminfo(0, GIB >> 10), **_meminfo(1, GIB >> 10)}
    files |= {f"{NODE}/node{nid}/cpulist": f"{nid}\n" for nid in (0, 1)}
    files |= {f"{NODE}/node0/distance": "0 20\n", f"{NODE}/node1/distance": "20 0\n"}
    draft = _read(_tree(tmp_path, files))
    assert [draft.distance(0, to) for to in (0, 1)] == [10, 20]
    assert any("0 from node 0 to node 0 was made 10" in note for note in draft.notes)


def test_hwlocs_own_notes_are_read(tmp_path: Path) -> None:
    nofile = (
        "OSName: Linux\nOSRelease: 6.12.1\nArchitecture: aarch64\nFallbackNbProcessors: 3\nPageSize: 65536\n"
    )
    files = {"proc/hwloc-nofile-info": nofile, "proc/cpuinfo": "", f"{NODE}/node0/uevent": ""}
    draft = _read(_tree(tmp_path, files))
    assert draft.nodes[0].cpus == (0, 1, 2)
    assert draft.profile == "linux-6.12.1"
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


def _siblings(packages: dict[int, str], cores: dict[int, str]) -> dict[str, str]:
    return {
        f"{CPU}/cpu{cpu}/topology/{name}": f"{mask}\n"
        for name, masks in (("core_siblings", packages), ("thread_siblings", cores))
        for cpu, mask in masks.items()
    }


def test_packages_and_cores_by_masks_of_siblings(tmp_path: Path) -> None:
    """Two nodes of a package; threads of a core are two apart. Masks that overlap are not used."""
    files = {
        **{f"{NODE}/node{nid}/cpulist": f"{nid * 4}-{nid * 4 + 3}\n" for nid in (0, 1)},
        **_meminfo(0, GIB >> 10),
        **_meminfo(1, GIB >> 10),
        **_siblings(dict.fromkeys(range(8), "ff"), {n: f"{5 << (n // 4 * 4 + n % 2):x}" for n in range(8)}),
    }
    draft = _read(_tree(tmp_path / "good", files))
    assert draft.packages == [tuple(range(8))]
    assert draft.cores == [(0, 2), (1, 3), (4, 6), (5, 7)]
    files |= _siblings({0: "7f"}, {})
    draft = _read(_tree(tmp_path / "overlapping", files))
    assert (draft.packages, draft.cores) == ([], [])


def test_packages_and_cores_by_cpuinfo(tmp_path: Path) -> None:
    paragraphs = (f"processor\t: {n}\nphysical id\t: {n // 4}\ncore id\t\t: {n % 2}\n" for n in range(8))
    draft = _read(
        _tree(tmp_path, {"proc/cpuinfo": "\n".join(paragraphs), "proc/meminfo": "MemTotal: 999 kB\n"})
    )
    assert draft.packages == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert draft.cores == [(0, 2), (1, 3), (4, 6), (5, 7)]


def test_possible_nodes(tmp_path: Path) -> None:
    files = {**_cpus(0, 1), f"{NODE}/node0/cpulist": "0-1\n", **_meminfo(0, GIB >> 10)}
    assert _read(_tree(tmp_path / "same", files | {f"{NODE}/possible": "0\n"})).possible == ()
    draft = _read(_tree(tmp_path / "more", files | {f"{NODE}/possible": "0-3\n"}))
    assert draft.possible == (0, 1, 2, 3)
