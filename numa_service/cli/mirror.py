"""Writes a tree of files in which readers never see half a file: a new file is renamed over the old one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from numa_service.cli.namespace import copy_sparse

#: Marks a directory as a mirror, and has the files that are being written.
_WORK = ".numa-service"
_ROOTS = ("proc", "sys")


class File(NamedTuple):
    """One file or link to write."""

    #: Relative path below proc/ or sys/.
    path: str
    mode: int
    #: Target of a symbolic link; empty for a file.
    target: str
    text: str
    #: A descriptor of the content, of a file that is read by offset and has no text; -1 of all others.
    content: int = -1


class Mirror:
    """A directory with the files of a machine, and a hidden one to write them in."""

    def __init__(self, root: Path) -> None:
        """Create the directory if needed. OSError (ENOTEMPTY) if it has files and is no mirror."""
        self.root = root
        self._work = root / _WORK
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()) and not self._work.is_dir():
            raise OSError(errno.ENOTEMPTY, "has files and is no mirror of a machine", str(root))
        # remove what an earlier run left half written
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir()
        #: path → file, as last written.
        self._there: dict[str, File] = {}

    def write(self, files: Iterable[File]) -> None:
        """Bring the directory up to date: files that changed are replaced, and all others are removed."""
        wanted = {file.path: file for file in files}
        for path, file in wanted.items():
            if file.content >= 0 or self._there.get(path) != file:
                self._replace(file)
        for stranger in self._strangers(wanted):
            stranger.unlink()
        self._remove_empty()
        self._there = wanted

    def _replace(self, file: File) -> None:
        place, fresh = self.root / file.path, self._work / "fresh"
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        if file.target:
            fresh.symlink_to(file.target)
        else:
            if file.content >= 0:
                copy_sparse(file.content, str(fresh))
            else:
                fresh.write_text(file.text, encoding="utf-8")
            # readable by all, whatever the emulated machine's mode: the directory decides who may read the
            # mirror
            fresh.chmod(0o444)
        fresh.replace(place)

    def _strangers(self, wanted: dict[str, File]) -> list[Path]:
        """Files and links below proc/ and sys/ that are not wanted."""
        found = []
        for root in _ROOTS:
            for folder, folders, names in os.walk(self.root / root):
                links = [name for name in folders if (Path(folder) / name).is_symlink()]
                paths = [Path(folder) / name for name in (*names, *links)]
                found += [path for path in paths if str(path.relative_to(self.root)) not in wanted]
        return found

    def _remove_empty(self) -> None:
        for root in _ROOTS:
            for folder, _, _ in os.walk(self.root / root, topdown=False):
                if not os.listdir(folder):
                    os.rmdir(folder)
