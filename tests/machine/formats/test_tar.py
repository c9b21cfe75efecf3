"""Archives of a tree, as tar and others write them, against the tree on disk; files that are no archives."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tar_blocks import header, padded

from numa_service.machine.captured_tree import Directory, Tree
from numa_service.machine.formats.detect import read_source
from numa_service.machine.formats.draft import Draft
from numa_service.machine.formats.tar import read_tar
from numa_service.machine.spec import SpecError

NODE, CPU = "sys/devices/system/node", "sys/devices/system/cpu"
FORMATS = ("v7", "oldgnu", "gnu", "ustar", "pax")


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A tree of two nodes, one of which has its CPU as a link, as in sysfs."""
    root = tmp_path / "box"
    files = {f"{CPU}/cpu{n}/topology/core_id": "0\n" for n in (0, 1)}
    for nid in (0, 1):
        files[f"{NODE}/node{nid}/meminfo"] = f"Node {nid} MemTotal: {1 << 20 + nid} kB\n"
        files[f"{NODE}/node{nid}/distance"] = "10 21\n" if nid == 0 else "21 10\n"
    files[f"{NODE}/node0/cpulist"] = "0\n"
    files["proc/version"] = "Linux version 6.12.1\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / NODE / "node1/cpu1").symlink_to("../../cpu/cpu1")
    return root


def _names(tree: Tree, folder: str = "") -> Iterator[str]:
    for name in tree.names(folder):
        path = f"{folder}/{name}" if folder else name
        yield path
        if tree.is_dir(path):
            yield from _names(tree, path)


def _gathered(box: Path, path: Path, *options: str) -> Draft:
    subprocess.run(["tar", "--create", "--file", path, *options, "-C", box.parent, "."], check=True)
    return read_source(str(path))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_every_form_that_tar_writes_reads_as_the_directory(form: str, ending: str, box: Path) -> None:
    path = box.parent.parent / f"box-{form}.{ending}"
    draft = _gathered(box, path, "--auto-compress", f"--format={form}")
    here = read_source(str(box))
    assert draft.name == f"box-{form}"
    draft.name = here.name
    assert draft == here
    assert [node.cpus for node in here.nodes] == [(0,), (1,)]
    path.unlink()


@pytest.mark.parametrize("form", ["gnu", "ustar", "pax"])
def test_long_names(form: str, box: Path) -> None:
    """Names of more than 100 bytes have a prefix in ustar, and a header of their own in other formats."""
    box = box.rename(box.parent / ("x" * 90))
    draft = _gathered(box, box.parent.parent / "long.tar", f"--format={form}")
    assert len(draft.nodes) == 2
    assert draft.distance(0, 1) == 21
    (box.parent.parent / "long.tar").unlink()


def test_a_tree_in_memory_is_the_one_on_disk(box: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(box, ".")
    archived, there = read_tar(tmp_path / "a.tar"), Directory(box)
    names = list(_names(archived))
    # of a topology directory few files are kept, and a link is an empty directory
    assert names == [name for name in _names(there) if not name.startswith(f"{NODE}/node1/cpu1/topology")]
    for name in names:
        assert archived.is_dir(name) == there.is_dir(name)
        if archived.is_file(name):
            assert archived.read(name) == there.read(name)
    for tree in (archived, there):
        assert tree.below(NODE).where("online") == f"{tree.place}/{NODE}/online"
        assert tree.exists(f"{NODE}/node0")
        assert not tree.exists(f"{NODE}/node2")
        assert tree.names(f"{NODE}/node2") == tree.names("proc/version") == []
        with pytest.raises(SpecError, match="node2/cpulist: No such file"):
            tree.read(f"{NODE}/node2/cpulist")
        with pytest.raises(SpecError, match="version: more than 0 MiB"):
            tree.read("proc/version", 3)


GOOD = header(b"proc/version", 3) + padded(b"abc")
WRONG = {
    "empty": (b"", "nothing is in it"),
    "only NUL": (bytes(4096), "nothing is in it"),
    "text": (b"hello\n" * 500, "byte 0: checksum .* is not a number"),
    "checksum": (GOOD + header(b"a", too_much=1), "byte 1024: a header with a wrong checksum"),
    "cut in a header": (GOOD + header(b"a")[:300], "byte 1024: a header is cut off"),
    "cut in a file": (GOOD[:514], "byte 512: 3 bytes, and the archive ends before them"),
    "size": (header(b"a", 0o77777777777), "byte 512: 8589934591 bytes, at most"),
    "negative size": (header(b"a", field=b"\xff" * 12), "byte 0: size .* is not a number"),
    "binary size": (header(b"a", field=b"\x80" + b"\xff" * 11), "byte 512: .* bytes, at most"),
    "size of letters": (header(b"a", field=b"0000000000z\0"), "byte 0: size .* is not a number"),
    "sparse": (header(b"a", kind=b"S"), "a sparse file is in it"),
    "name": (header(b"a", 5000, b"L") + bytes(5120), "byte 512: 5000 bytes, at most 4097"),
    "pax record": (header(b"a", 9, b"x") + padded(b"99 path=a"), "a pax header with a wrong record"),
    "pax size": (header(b"a", 11, b"x") + padded(b"11 size=-1\n"), "a pax header with a size of b'-1'"),
    "pax sparse": (header(b"a", 22, b"x") + padded(b"22 GNU.sparse.major=1\n"), "a sparse file is in it"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_archive_is_refused_with_the_place(case: str, tmp_path: Path) -> None:
    content, reason = WRONG[case]
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=reason) as caught:
        read_tar(path)
    assert str(caught.value).startswith(f"{path}: not a tar archive that can be read: ")


def test_pax_has_the_last_word_on_size_and_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    records = b"21 path=proc/version\n9 size=4\n"
    path.write_bytes(header(b"x", len(records), b"x") + padded(records) + header(b"y", 1) + padded(b"text"))
    tree = read_tar(path)
    assert tree.read("proc/version") == b"text"


def test_signed_checksums_of_old_tars(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    block = bytearray(header(b"proc/version", 3))
    block[265:267] = b"\xe4\xf6"  # a user's name
    unsigned = sum(block[:148]) + 8 * 32 + sum(block[156:])
    block[148:156] = b"%06o\0 " % (unsigned - 2 * 256)
    path.write_bytes(bytes(block) + padded(b"abc"))
    assert read_tar(path).read("proc/version") == b"abc"


def test_names_that_nothing_reads_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("/".join("a" * 40), "sys/" * 40, "etc/passwd", "a/b/c/sys/x", "sys/bus/x", "a/../sys/y"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        archive.addfile(tarfile.TarInfo("./sys//devices/./system/cpu/online"))
        archive.addfile(tarfile.TarInfo("sys/" + "/".join("d" * 20)))
    tree = read_tar(path)
    assert list(_names(tree)) == [
        "sys",
        "sys/d",
        *("sys/" + "/".join("d" * n) for n in range(2, 12)),
        "sys/devices",
        "sys/devices/system",
        "sys/devices/system/cpu",
        f"{CPU}/online",
    ]


def test_a_directory_has_limits_too(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(read_source(str(box)).nodes) == 2
    with monkeypatch.context() as patch:
        patch.setattr("numa_service.machine.captured_tree.MAX_ENTRIES", 5)
        with pytest.raises(SpecError, match="node1: more than 5 files and directories"):
            read_source(str(box))
    monkeypatch.setattr("numa_service.machine.captured_tree.MAX_TREE_BYTES", 50)
    with pytest.raises(SpecError, match="more than 0 MiB, with what was read before"):
        read_source(str(box))


def test_a_link_inside_is_followed_and_one_that_leaves_is_not(box: Path, tmp_path: Path) -> None:
    (box / "proc/other").symlink_to("version")
    (box / "proc/out").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_text("Linux version 3.0\n")
    (box / "way").symlink_to(tmp_path)
    tree = Directory(box)
    assert tree.read("proc/other") == tree.read("proc/version")
    for name in ("proc/out", "way/secret"):
        with pytest.raises(SpecError, match=f"{name}: a link that leaves"):
            tree.read(name)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer/inner").symlink_to(box)
    with pytest.raises(SpecError, match="outer/inner/proc/version: a link that leaves"):
        read_source(str(tmp_path / "outer"))
