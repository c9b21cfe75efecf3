"""lstopo as the judge: it reads the XML that is written, and reads synthetic strings as the importer does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import typer
from lxml import etree
from machines import shape, times
from skips import needs
from typer.testing import CliRunner

from numa_service.cli.files import register
from numa_service.machine.formats.detect import read_source
from numa_service.machine.formats.export import export
from numa_service.machine.formats.machine_toml import to_spec
from numa_service.machine.presets import load_preset
from numa_service.machine.source import load

pytestmark = needs("lstopo-no-graphics")

SYNTHETIC = [
    "3",
    "2 3",
    "2 2 2",
    "2 2 2 2 2",
    "pack:2 [numa(memory=16GB)] core:2 pu:2",
    "pack:2 [numa(memory=16GiB)] [numa(memory=4GiB)] core:2 pu:2",
    "[numa(memory=4GiB)] pack:2 [numa(memory=1GiB)] core:2 [numa(memory=512MiB)] pu:2",
    "numa:4(memory=2GiB) L3:1 core:2 pu:2(indexes=core:numa)",
    "pack:2 numa:2 core:3 pu:2(indexes=pack:core)",
    "numa:2(memory=16MB indexes=3,5) pu:2(indexes=0,2,5,9)",
    "numa:2 die:2 l2:2 pu:2(indexes=4*4:1*4)",
    "group:2 [numa(memory=1GiB)] pu:3",
    "numa:64 core:16 pu:4",
]


def _lstopo(*arguments: str) -> str:
    done = subprocess.run(
        ["lstopo-no-graphics", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


#: Version 1 of the XML cannot have nodes around nodes.
CASES = [(text, "2") for text in SYNTHETIC] + [(text, "1") for text in SYNTHETIC if text.count("[") < 3]


@pytest.mark.parametrize(("text", "version"), CASES)
def test_a_synthetic_string_means_what_hwloc_makes_of_it(text: str, version: str, tmp_path: Path) -> None:
    flags = ["--export-xml-flags", "1"] if version == "1" else []
    path = tmp_path / "hwloc.xml"
    path.write_text(_lstopo("--input", text, "--of", "xml", *flags))
    ours, theirs = read_source(text, "synthetic"), read_source(str(path))
    want = {node.nid: (node.cpus, node.managed or 0) for node in theirs.nodes}
    assert {node.nid: (node.cpus, node.memory) for node in ours.nodes} == want


_V1 = ["--export-xml-flags", "1"]


@pytest.mark.parametrize(
    ("name", "flags"),
    [(name, []) for name in ("two-socket", "cxl-tier", "nps4", "uma", "i386-highmem")]
    # in version 1 hwloc writes only two of the four nodes of cxl-tier, which is left out
    + [(name, _V1) for name in ("two-socket", "nps4", "uma")],
)
def test_lstopo_reads_what_is_written_and_hands_the_same_back(
    name: str, flags: list[str], tmp_path: Path
) -> None:
    spec = load_preset(name)
    ours, theirs = tmp_path / "ours.xml", tmp_path / "theirs.xml"
    ours.write_text(export(spec, "hwloc-xml")[0])
    theirs.write_text(_lstopo("--input", str(ours), "--if", "xml", "--of", "xml", *flags))
    again = load(str(theirs))
    if spec.arch == "i386":
        assert any("architecture i686" in note for note in again.notes)
        assert [node.cpus for node in again.nodes] == [node.cpus for node in spec.nodes]
    else:
        assert shape(again) == shape(spec)
    if not flags:
        assert times(again) == times(spec) if spec.latency.read_ns else not again.latency.read_ns


def test_lstopo_takes_the_synthetic_string_that_is_written() -> None:
    text = export(load_preset("two-socket"), "synthetic")[0].strip()
    again = _lstopo("--input", text, "--of", "synthetic").strip()
    assert again == text


@needs("hwloc-annotate")
def test_distances_and_attributes_that_hwloc_annotates_are_read(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{i}.xml" for i in range(3))
    first.write_text(_lstopo("--input", "numa:2 core:2 pu:2", "--of", "xml"))
    matrix = tmp_path / "matrix"
    matrix.write_text("name=NUMALatency\n5\n2\nnuma:0\nnuma:1\n10\n17\n21\n10\n")
    subprocess.run(
        ["hwloc-annotate", str(first), str(second), "root", "distances", str(matrix)],
        capture_output=True,
        timeout=60,
        check=True,
    )
    subprocess.run(
        ["hwloc-annotate", str(second), str(third), "numa:1", "memattr", "Latency", "numa:0", "142"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    spec = load(str(third))
    assert spec.distances == ((10, 17), (21, 10))
    assert spec.latency.read_ns[0, 1] == 142


def _seen(
    xml: str,
) -> tuple[dict[int, tuple[str | None, str | None]], list[str], dict[str, dict[object, str]]]:
    """(memory and CPUs by nid, distances, memory attributes by name) of a document."""
    root = etree.fromstring(xml.encode(), etree.XMLParser(load_dtd=False))
    nodes = {int(e.get("os_index")): e for e in root.iter("object") if e.get("type") == "NUMANode"}
    nid_of = {element.get("gp_index"): nid for nid, element in nodes.items()}
    attributes: dict[str, dict[object, str]] = {}
    for attr in root.findall("memattr"):
        if attr.get("name") not in ("Capacity", "Locality"):
            attributes[attr.get("name", "")] = {
                (nid_of[v.get("target_obj_gp_index")], v.get("initiator_cpuset")): v.get("value", "")
                for v in attr
            }
    return (
        {nid: (element.get("local_memory"), element.get("cpuset")) for nid, element in nodes.items()},
        [e.text or "" for matrix in root.findall("distances2") for e in matrix],
        attributes,
    )


def _gathered(root: Path) -> None:
    """A tree of two sockets with HBM, a card with memory for both, and a GPU (node 5); values are made up."""
    cpus = {0: "0-1", 1: "2-3"}
    kb = {0: 8208776, 1: 8257056, 2: 4194304, 3: 4194304, 4: 1048576, 5: 0}
    rows = ["10 21 13 23 17 31", "21 10 23 13 17 31", "13 23 10 23 30 31", "23 13 23 10 30 31"]
    rows += ["17 17 30 30 10 12", "31 31 31 31 12 10"]
    #: (memory, class) → initiators, read ns and MiB/s, write ns and MiB/s
    access = {
        (0, 0): ([0], 90, 100_000, 95, 90_000),
        (1, 0): ([1], 90, 100_000, 95, 90_000),
        (2, 0): ([0], 130, 400_000, 140, 300_000),
        (3, 0): ([1], 130, 400_000, 140, 300_000),
        (4, 0): ([5], 8, 200_000, 9, 200_000),
        (4, 1): ([0, 1], 250, 30_000, 260, 20_000),
    }
    access |= {(nid, 1): told for (nid, _), told in access.items() if nid < 4}
    files = {f"cpu/cpu{cpu}/topology/physical_package_id": f"{cpu // 2}\n" for cpu in range(4)}
    files |= {f"cpu/cpu{cpu}/topology/core_id": f"{cpu}\n" for cpu in range(4)}
    files |= {f"cpu/cpu{cpu}/topology/thread_siblings": f"{1 << cpu:x}\n" for cpu in range(4)}
    files |= {f"cpu/cpu{cpu}/topology/core_siblings": f"{3 << cpu // 2 * 2:x}\n" for cpu in range(4)}
    files |= {"cpu/online": "0-3\n", "node/online": "0-5\n", "node/has_generic_initiator": "5\n"}
    for nid, row in enumerate(rows):
        files[f"node/node{nid}/meminfo"] = f"Node {nid} MemTotal: {kb[nid]} kB\n"
        files[f"node/node{nid}/distance"] = f"{row}\n"
        files[f"node/node{nid}/cpulist"] = f"{cpus.get(nid, '')}\n"
        files[f"node/node{nid}/cpumap"] = f"{3 << 2 * nid if nid in cpus else 0:x}\n"
    for (nid, kind), (of, *numbers) in access.items():
        where = f"node/node{nid}/access{kind}/initiators"
        names = ("read_latency", "read_bandwidth", "write_latency", "write_bandwidth")
        files |= {f"{where}/{name}": f"{n}\n" for name, n in zip(names, numbers, strict=True)}
        files |= {f"{where}/node{initiator}/uevent": "" for initiator in of}
    for name, text in files.items():
        path = root / "sys/devices/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_lstopo_sees_in_a_mirror_what_it_sees_in_the_tree(tmp_path: Path) -> None:
    """Memory, CPUs of CPU-less nodes, distances and memory attributes are equal, in our XML too."""
    source, mirror = tmp_path / "box", tmp_path / "mirror"
    _gathered(source)
    app = typer.Typer()
    register(app)
    assert CliRunner().invoke(app, ["mirror", str(mirror), str(source)]).exit_code == 0
    arguments = ("--if", "fsroot", "--of", "xml")
    theirs = _seen(_lstopo("--input", str(source), *arguments))
    assert _seen(_lstopo("--input", str(mirror), *arguments)) == theirs
    assert theirs[0][4] == (str(1048576 << 10), "0x0000000f")
    assert theirs[2]["Bandwidth"][4, "0x0000000f"] == "25000"
    exported = tmp_path / "box.xml"
    exported.write_text(export(load(str(source)), "hwloc-xml")[0])
    assert _seen(_lstopo("--input", str(exported), "--if", "xml", "--of", "xml")) == theirs


@pytest.mark.slow
@needs("hwloc-gather-topology")
def test_the_tree_that_hwloc_gathers_here_is_read_as_hwloc_reads_it(tmp_path: Path) -> None:
    subprocess.run(
        ["hwloc-gather-topology", "here"], cwd=tmp_path, capture_output=True, timeout=120, check=True
    )
    archive = read_source(str(tmp_path / "here.tar.bz2"))
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(["tar", "xjf", str(tmp_path / "here.tar.bz2"), "-C", str(tree)], timeout=60, check=True)
    unpacked = read_source(str(tree))
    theirs = read_source(str(tmp_path / "here.xml"))
    want = [(node.nid, node.cpus, node.managed) for node in theirs.nodes]
    assert [(node.nid, node.cpus, node.managed) for node in archive.nodes] == want
    assert [(node.nid, node.cpus, node.managed) for node in unpacked.nodes] == want
    assert to_spec(archive, "x").name == "here"
