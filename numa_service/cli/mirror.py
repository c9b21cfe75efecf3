"""A tree of files on disk that is always whole: every file is replaced by renaming another one over it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

#: Marks a directory as a mirror, and has the files that are being written.
_WORK = ".numa-service"
_ROOTS = ("proc", "sys")


class File(NamedTuple):
    """One file or link to write."""

    #: Relative, below proc/ or sys/.
    path: str
    mode: int
    #: Where a link leads; empty for a file.
    target: str
    text: str


class Mirror:
    """A directory that has a machine's files, and nothing else but hidden files."""

    def __init__(self, root: Path) -> None:
        """ENOTEMPTY for a directory that has files and is no mirror: its files are not ours to replace."""
        self.root = root
        self._work = root / _WORK
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()) and not self._work.is_dir():
            raise OSError(errno.ENOTEMPTY, "has files and is no mirror of a machine", str(root))
        # what an earlier run was writing when it ended
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir()
        #: What lies there: path → (mode, target, text).
        self._there: dict[str, File] = {}

    def write(self, files: Iterable[File]) -> None:
        """Bring the directory up to date; files that are no longer among them go."""
        wanted = {file.path: file for file in files}
        for path, file in wanted.items():
            if self._there.get(path) != file:
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
            fresh.write_text(file.text, encoding="utf-8")
            # not the emulated machine's permissions: who may read the mirror is up to its directory
            fresh.chmod(0o444)
        fresh.replace(place)

    def _strangers(self, wanted: dict[str, File]) -> list[Path]:
        """Files and links that are not wanted."""
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
