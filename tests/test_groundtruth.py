"""Captures come out of their archives whole, once, and for everybody."""

from __future__ import annotations

import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from groundtruth import ARCHIVES, unpacked


def archive(folder: Path, name: str, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / f"{name}.tar.xz", "w:xz") as out:
        for path, content in files.items():
            member = tarfile.TarInfo(f"{name}/{path}")
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))


def test_runs_that_start_together_share_one_directory(tmp_path: Path) -> None:
    archive(tmp_path / "packed", "topologies", {f"uma/{i}": bytes([i]) * 50_000 for i in range(100)})
    archive(tmp_path / "packed", "traces", {"a/b/t.ntrace": b"x"})
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: unpacked(tmp_path / "packed", tmp_path / "cache"), range(8)))
    (directory,) = found
    assert list((tmp_path / "cache").iterdir()) == [directory]
    assert len(list((directory / "topologies" / "uma").iterdir())) == 100
    assert (directory / "traces/a/b/t.ntrace").read_bytes() == b"x"
    (directory / "seen").touch()
    assert (unpacked(tmp_path / "packed", tmp_path / "cache") / "seen").exists()


def test_other_captures_get_another_directory(tmp_path: Path) -> None:
    archive(tmp_path / "packed", "traces", {"one": b"1"})
    before = unpacked(tmp_path / "packed", tmp_path / "cache")
    archive(tmp_path / "packed", "traces", {"one": b"2"})
    after = unpacked(tmp_path / "packed", tmp_path / "cache")
    assert before != after
    assert (after / "traces" / "one").read_bytes() == b"2"


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    archive(tmp_path / "packed", "traces", {"one": os.urandom(50_000)})
    path = tmp_path / "packed" / "traces.tar.xz"
    path.write_bytes(path.read_bytes()[:25_000])
    with pytest.raises((tarfile.TarError, EOFError)):
        unpacked(tmp_path / "packed", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_packed_is_small() -> None:
    """Every clone fetches it, and its history: 3.1 MB now."""
    assert sum(path.stat().st_size for path in ARCHIVES.glob("*.tar.xz")) < 4_000_000
