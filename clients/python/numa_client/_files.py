"""Files of the emulated machine's /proc and /sys, as clients see them."""

from __future__ import annotations

import stat
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DirEntry:
    """One name in a directory."""

    name: str
    #: st_mode of struct stat: kind of file and permissions.
    mode: int
    #: Target of a symbolic link; empty for everything else.
    target: str

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file or link of a tree."""

    #: Path from the root, without a leading slash.
    path: str
    #: st_mode of struct stat: kind of file and permissions.
    mode: int
    #: Target of a symbolic link; empty for a file.
    target: str
    #: Text of a file; empty for a link.
    text: str
    #: Bytes of a file that is read by offset (``pread``), and has no text; 0 of all others.
    size: int = 0
