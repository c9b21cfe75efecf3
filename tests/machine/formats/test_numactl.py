"""The text of numactl -H, and how formats are told apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from numa_service.machine.boot import start_kernel
from numa_service.machine.formats.detect import read_source
from numa_service.machine.formats.numactl import read_numactl
from numa_service.machine.source import load
from numa_service.machine.spec import SpecError
from numa_service.procfs.numactl import numactl

TEXT = """available: 3 nodes (0,2-3)
node 0 cpus: 0 1 4 5
node 0 size: 15952 MB
node 0 free: 220 MB
node 2 cpus: 2 3
node 2 size: 0 MB
node 2 free: 0 MB
node 3 cpus:
node 3 size: 16120 MB
node 3 free: 15990 MB
node distances:
node   0   2   3
  0:  10  21  17
  2:  20  10  28
  3:  17  28  10
"""


def test_nodes_sizes_and_distances() -> None:
    draft = read_numactl(TEXT, "x", "x")
    assert [(n.nid, n.cpus, (n.managed or 0) >> 20) for n in draft.nodes] == [
        (0, (0, 1, 4, 5), 15952),
        (2, (2, 3), 0),
        (3, (), 16120),
    ]
    assert [draft.distance(a, b) for a, b in ((0, 2), (2, 0), (2, 3))] == [21, 20, 28]


def test_a_file_of_it_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "box.txt"
    path.write_text(TEXT)
    spec = load(str(path))
    assert spec.name == "box"
    assert [node.nid for node in spec.nodes] == [0, 2, 3]
    assert any("kept exactly" in note for note in spec.notes)
    assert "node 0 size: 15952 MB\n" in numactl(start_kernel(spec).snapshot())


def test_old_kernels_have_no_distances() -> None:
    text = TEXT.split("node distances")[0] + "No distance information available.\n"
    assert any("numactl had none" in note for note in read_numactl(text, "x", "x").notes)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            TEXT.replace("node 2 cpus: 2 3\nnode 2 size: 0 MB\nnode 2 free: 0 MB\n", ""),
            "3 nodes are available, 2",
        ),
        (TEXT.replace("  3:  17  28  10\n", ""), "it is cut off"),
        (TEXT.replace("  2:  20  10  28", "  2:  20  10"), "x:14: node 2: 2 distances, not one per column"),
        (TEXT.replace("cpus: 2 3", "cpus: 2 three"), "x:5: not a list of CPUs"),
        (TEXT.replace("15952 MB", "lots"), "x:3: not a size in MB"),
        (TEXT.replace("node 3 cpus", "node 99999 cpus"), "x:8: node 99999: there are at most 1024"),
        ("available: 1 nodes (0)\n", "not the text of numactl -H"),
    ],
)
def test_garbled_text_is_named_by_line(text: str, reason: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_numactl(text, "x", "x")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\x7fELF\x02\0\0\0", "looks like a program"),
        (b"hello world\n", r"formats known here \(toml, .*, acpi.*\): it looks like text that begins 'hello"),
        (b"\xff\xfe = 1\n", "looks like UTF-16 text"),
        (b"a = 1 # \xff\n", "not UTF-8 text at byte 8"),
        (b"SRAT1234", "8 bytes: an ACPI table has a header of 36"),
    ],
)
def test_what_is_nothing_is_an_error(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "SRAT"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=reason) as caught:
        read_source(str(path))
    assert str(path) in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(SpecError, match="give - for standard input"):
        read_source(str(path))
    with pytest.raises(SpecError, match="is neither"):
        load(str(path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nowhere", "no such file or directory"),
        ("core:2 pu:x", "'pu:x' is not a level"),
        ("core:2", "the last level is PUs"),
        ("pack:0 pu:2", "an arity of 0"),
        ("pu:9999", "at most 8192 CPUs"),
        ("core:99999 core:99999 pu:2", "at most 65536"),
        ("numa:2000 pu:1", "2000 nodes, at most 1024"),
        ("core:1000 [numa] [numa] pu:1", "2000 nodes, at most 1024"),
        ("turbo:2 pu:2", "unknown type 'turbo'"),
        ("numa:2(memory=big) pu:2", "memory=big is not a size"),
        ("numa:2(indexes=1) pu:2", "1 numbers for 2 objects"),
        ("core:2 pu:2(indexes=2*2)", "the loops make 2 numbers for 4 objects"),
        ("core:2 3 pu:2", "levels with and without a type"),
    ],
)
def test_wrong_descriptions_are_named(text: str, reason: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_source(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (
            "[  12.3] kworker invoked oom-killer: gfp_mask=0xcc0\n[  12.4] Mem-Info:\n",
            "an OOM report of a kernel",
        ),
        ("[    0.000000] Linux version 6.1.0\n", "a boot log (dmesg)"),
        ("<domainCapabilities/>", "the capabilities of libvirt's domains"),
        ("<html><body/></html>", "a web page"),
        ('{"policyName": "Static"}\n', "JSON"),
        ("[1, 2]\n", "JSON"),
        ("MemTotal:  9 kB\n", "the text of /proc/meminfo"),
        ("From: a@b\nSubject: numa\n\nhello\n", "an email"),
        ("# tracer: nop\n#\n  init-1 [000] ..... 9.1: mm_page_free: pfn=0x1\n", "a kernel trace"),
        ("kind: Pod\n", "YAML"),
        (b"\x1f\x8b\x08" + bytes(20), "gzip data"),
        (b"PK\x03\x04" + bytes(20), "a zip archive"),
        (bytes(100), "binary data"),
        ("nodes: 2\n", "text that begins 'nodes: 2'"),
    ],
)
def test_what_is_in_no_format_is_called_what_it_looks_like(
    content: str | bytes, looks: str, tmp_path: Path
) -> None:
    path = tmp_path / "given"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    for read in (read_source, load):
        with pytest.raises(SpecError) as caught:
            read(str(path))
        assert f"it looks like {looks}" in str(caught.value)
        assert "TOML" not in str(caught.value)


def test_what_is_called_toml_is_toml(tmp_path: Path) -> None:
    path = tmp_path / "machine.toml"
    path.write_text("nodes: 2\n")
    with pytest.raises(SpecError, match=r"machine\.toml:1: TOML: "):
        load(str(path))
