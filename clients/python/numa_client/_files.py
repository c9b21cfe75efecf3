"""Files of the emulated machine's /proc and /sys, as clients see them."""

from __future__ import annotations

import stat
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DirEntry:
    """One name in a directory."""

    name: str
    #: As in struct stat: kind and permissions.
    mode: int
    #: Where a symbolic link leads; empty for the rest.
    target: str

    @property
    def is_dir(self) -> bool:
        """Whether there is more below it."""
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file or link of a tree."""

    #: From the root, without a leading slash.
    path: str
    #: As in struct stat: kind and permissions.
    mode: int
    #: Where a symbolic link leads; empty for a file.
    target: str
    #: Text of a file; empty for a link.
    text: str
