"""A directory of somebody else's machine, on disk or out of an archive: captures and gathered ``/sys`` trees.

Names are paths within it, with slashes: ``proc/zoneinfo``; "" is the tree itself. Readers see no difference
between a directory and an archive, and both have limits: on entries, on bytes, and on where links lead.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from numa_service.machine.files import MAX_BYTES, UnreadableError, decode, read_bytes, whole_lines
from numa_service.machine.spec import SpecError

#: Of an archive, and of what is listed of a directory. hwloc-gather-topology of 256 CPUs has 16,000 files,
#: 8192 CPUs on 64 nodes have 17,000 that are read.
MAX_ENTRIES = 30_000
#: Of an archive, unpacked, and of what is read of a directory.
MAX_TREE_BYTES = 32 << 20


class Tree(ABC):
    """One such directory."""

    def __init__(self, place: str, name: str) -> None:
        #: What errors call it.
        self.place = place
        #: What the machine is called if nothing else tells.
        self.name = name
        #: Where it begins, within what it was made of: "" or a directory with a slash behind it.
        self._top = ""

    def below(self, folder: str) -> Tree:
        """The same, beginning at a directory of it."""
        part = copy(self)
        part.place = self.where(folder)
        part.name = PurePath(folder).name
        part._top = f"{self._top}{folder}/"
        return part

    def where(self, name: str) -> str:
        """What errors call a file of it."""
        return str(PurePath(self.place, name))

    def exists(self, name: str) -> bool:
        """Whether there is a file or a directory of that name."""
        return self.is_file(name) or self.is_dir(name)

    @abstractmethod
    def is_file(self, name: str) -> bool:
        """Whether there is a regular file of that name, or a link to one."""

    @abstractmethod
    def is_dir(self, name: str) -> bool:
        """Whether there is a directory of that name, or a link to one."""

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """What is in a directory, sorted; nothing if there is none. SpecError beyond MAX_ENTRIES."""

    @abstractmethod
    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """A file's content; SpecError as of :func:`read_bytes`."""

    def text(self, name: str, limit: int = MAX_BYTES) -> str:
        """A text file, without the NUL byte at its end; SpecError as of :func:`read_bytes`, `decode`."""
        return decode(self.read(name, limit), self.where(name)).rstrip("\0")

    def lines(self, name: str) -> list[str]:
        """Lines of a text file; SpecError also if the last one is cut off."""
        return whole_lines(self.text(name), self.where(name))


@dataclass(slots=True)
class _Seen:
    """What was looked at of a directory on disk."""

    entries: int = 0
    bytes: int = 0
    listed: dict[str, list[str]] = field(default_factory=dict)
    #: Whether the way to a directory is without links: what lies there is inside.
    plain: dict[str, bool] = field(default_factory=lambda: {"": True})


class Directory(Tree):
    """A directory on disk. Links that lead out of it are refused when they are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root), root.resolve().name)
        self._root = root
        self._prefix = os.path.join(root, "")
        self._seen = _Seen()

    def exists(self, name: str) -> bool:
        """Whether there is anything of that name: a device is refused when it is read."""
        return os.path.exists(self._prefix + self._top + name)

    def is_file(self, name: str) -> bool:
        """Links are followed, wherever they lead: reading is what is refused."""
        return os.path.isfile(self._prefix + self._top + name)

    def is_dir(self, name: str) -> bool:
        """As `is_file`."""
        return os.path.isdir(self._prefix + self._top + name)

    def names(self, folder: str = "") -> list[str]:
        """Listed once, and counted with all that was listed before; OSError."""
        name = self._top + folder
        found = self._seen.listed.get(name)
        if found is None:
            found = self._seen.listed[name] = sorted(self._list(name, folder))
        return found

    def _list(self, name: str, folder: str) -> list[str]:
        found: list[str] = []
        try:
            with os.scandir(self._prefix + name) as entries:
                for entry in entries:
                    self._seen.entries += 1
                    if self._seen.entries > MAX_ENTRIES:
                        raise SpecError(
                            f"{self.where(folder)}: more than {MAX_ENTRIES} files and directories: "
                            "not what it is taken for"
                        )
                    found.append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        return found

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """SpecError also for more than MAX_TREE_BYTES with what was read before."""
        path = Path(self._prefix + self._top + name)
        content = read_bytes(path, limit, None if self._is_plain(self._top + name) else self._root)
        self._seen.bytes += len(content)
        if self._seen.bytes > MAX_TREE_BYTES:
            raise SpecError(f"{path}: more than {MAX_TREE_BYTES >> 20} MiB, with what was read before it")
        return content

    def _is_plain(self, name: str) -> bool:
        """Whether a name is that of a regular file, and no link on the way: it need not be resolved."""
        try:
            mode = os.lstat(self._prefix + name).st_mode
        except OSError:
            return False
        return stat.S_ISREG(mode) and self._is_plain_folder(name.rpartition("/")[0])

    def _is_plain_folder(self, folder: str) -> bool:
        plain = self._seen.plain
        if folder not in plain:
            above, _, last = folder.rpartition("/")
            plain[folder] = (
                last not in ("", ".", "..")
                and self._is_plain_folder(above)
                and stat.S_ISDIR(os.lstat(self._prefix + folder).st_mode)
            )
        return plain[folder]


class Archive(Tree):
    """Files and directories in memory."""

    def __init__(self, place: str, name: str) -> None:
        super().__init__(place, name)
        self._files: dict[str, memoryview] = {}
        self._folders: dict[str, list[str]] = {"": []}

    def add(self, name: str, content: memoryview | None) -> None:
        """A file with that content, or a directory; the last of a name counts."""
        if content is None:
            self._add_folder(name)
            return
        if name not in self._files:
            self._into_folder(name)
        self._files[name] = content

    def _add_folder(self, name: str) -> None:
        if name not in self._folders:
            self._folders[name] = []
            self._into_folder(name)

    def _into_folder(self, name: str) -> None:
        folder, _, last = name.rpartition("/")
        self._add_folder(folder)
        self._folders[folder].append(last)

    def is_file(self, name: str) -> bool:
        """Links are none: they are not kept."""
        return self._top + name in self._files

    def is_dir(self, name: str) -> bool:
        """Also those that only lie on the way to a file."""
        return (self._top + name).rstrip("/") in self._folders

    def names(self, folder: str = "") -> list[str]:
        """Whoever made it kept to MAX_ENTRIES."""
        return sorted(self._folders.get((self._top + folder).rstrip("/"), ()))

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """A copy of it."""
        content = self._files.get(self._top + name)
        if content is None:
            reason = "not a regular file" if self.is_dir(name) else os.strerror(2)
            raise UnreadableError(f"{self.where(name)}: {reason}")
        if len(content) > limit:
            raise SpecError(f"{self.where(name)}: more than {limit >> 20} MiB: not what it is taken for")
        return bytes(content)
