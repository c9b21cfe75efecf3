"""Where the captures of real kernels are, for the tests that compare with them.

They are part of the repository, packed (testdata/groundtruth); the first run unpacks them into build/ under a
name that follows from their bytes. NUMA_GROUNDTRUTH names another directory of captures to compare with.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHIVES = Path(__file__).resolve().parent / "testdata" / "groundtruth"
#: What is compared with: other folders of a directory that NUMA_GROUNDTRUTH names are left alone.
FOLDERS = sorted(path.name.removesuffix(".tar.xz") for path in ARCHIVES.glob("*.tar.xz"))


def unpacked(archives: Path, cache: Path) -> Path:
    """The directory in `cache` with what is in the archives, made if it is not there.

    It appears whole or not at all, under a name that says what is in it: of runs that start together each
    unpacks for itself, and one directory stays.
    """
    packed = sorted(archives.glob("*.tar.xz"))
    contents = hashlib.sha256()
    for archive in packed:
        contents.update(hashlib.sha256(archive.read_bytes()).digest())
    target = cache / f"groundtruth-{contents.hexdigest()[:16]}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="groundtruth-", dir=cache))
    try:
        scratch.chmod(0o755)
        for archive in packed:
            with tarfile.open(archive) as members:
                # older Pythons have no filters; these archives are our own
                checked = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                members.extractall(scratch, **checked)
        scratch.rename(target)
    except OSError:
        if not target.is_dir():  # another run was first
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _groundtruth() -> Path:
    if named := os.environ.get("NUMA_GROUNDTRUTH"):
        return Path(named).resolve()
    return unpacked(ARCHIVES, ROOT / "build")


GROUNDTRUTH = _groundtruth()


def topologies() -> list[Path]:
    """Every captured boot, in name order."""
    root = GROUNDTRUTH / "topologies"
    return sorted(p for p in root.iterdir() if (p / "zoneinfo.txt").exists()) if root.is_dir() else []
