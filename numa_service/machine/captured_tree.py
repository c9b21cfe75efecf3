"""Files gathered on another machine, in a directory or an archive: captures, trees of ``/proc`` and ``/sys``.

Names are paths within the tree, with slashes: ``proc/zoneinfo``; "" is the tree itself. Readers need not know
whether it is a directory or an archive. Both have limits: on entries, on bytes, and on where links may lead.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from numa_service.machine.input_files import MAX_BYTES, UnreadableError, decode, read_bytes, whole_lines
from numa_service.machine.spec import SpecError

#: Most files and directories of an archive, and most that are listed of a directory. hwloc-gather-topology
#: of 256 CPUs has 16,000 files; of 8192 CPUs on 64 nodes 17,000 are read.
MAX_ENTRIES = 30_000
#: Most bytes of an archive, unpacked, and most that are read of a directory.
MAX_TREE_BYTES = 32 << 20


class Tree(ABC):
    """A tree of files: a directory on disk or an archive in memory."""

    def __init__(self, place: str, name: str) -> None:
        #: Path of the tree in error messages.
        self.place = place
        #: Name for the machine, if nothing else gives one.
        self.name = name
        #: Where this tree begins in the directory or archive: "", or a path that ends with a slash.
        self._top = ""

    def below(self, folder: str) -> Tree:
        """The subtree that begins at a directory of this tree; it shares this tree's limits."""
        part = copy(self)
        part.place = self.where(folder)
        part.name = PurePath(folder).name
        part._top = f"{self._top}{folder}/"
        return part

    def where(self, name: str) -> str:
        """The path of a file of the tree in error messages."""
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
        """Names of a directory's entries, sorted; none if it does not exist. SpecError beyond MAX_ENTRIES."""

    @abstractmethod
    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """The content of a file; SpecError as of :func:`read_bytes`."""

    def text(self, name: str, limit: int = MAX_BYTES) -> str:
        """The text of a file, without a NUL byte at its end; SpecError as of :func:`read_bytes`, `decode`."""
        return decode(self.read(name, limit), self.where(name)).rstrip("\0")

    def lines(self, name: str) -> list[str]:
        """The lines of a text file; SpecError also if the last one is cut off."""
        return whole_lines(self.text(name), self.where(name))


@dataclass(slots=True)
class _Seen:
    """What has been listed and read of a directory on disk, for its limits."""

    entries: int = 0
    bytes: int = 0
    listed: dict[str, list[str]] = field(default_factory=dict)
    #: Whether the path to a directory has no links: its files are then inside the tree.
    plain: dict[str, bool] = field(default_factory=lambda: {"": True})


class Directory(Tree):
    """A directory on disk. Links that lead out of it are refused when they are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root), root.resolve().name)
        self._root = root
        self._prefix = os.path.join(root, "")
        self._seen = _Seen()

    def exists(self, name: str) -> bool:
        """Whether there is anything of that name, even a device: that is refused when it is read."""
        return os.path.exists(self._prefix + self._top + name)

    def is_file(self, name: str) -> bool:
        """Whether it is a file. Links are followed wherever they lead: reading is what is refused."""
        return os.path.isfile(self._prefix + self._top + name)

    def is_dir(self, name: str) -> bool:
        """Whether it is a directory. Links are followed as in :meth:`is_file`."""
        return os.path.isdir(self._prefix + self._top + name)

    def names(self, folder: str = "") -> list[str]:
        """Names of a directory's entries, sorted; OSError. A directory is listed, and counted, once."""
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
        """The content of a file; SpecError also if all that was read exceeds MAX_TREE_BYTES."""
        path = Path(self._prefix + self._top + name)
        content = read_bytes(path, limit, None if self._is_plain(self._top + name) else self._root)
        self._seen.bytes += len(content)
        if self._seen.bytes > MAX_TREE_BYTES:
            raise SpecError(f"{path}: more than {MAX_TREE_BYTES >> 20} MiB, with what was read before it")
        return content

    def _is_plain(self, name: str) -> bool:
        """Whether a name is a regular file reached without links, so that its path need not be resolved."""
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
    """A tree of files and directories in memory, as read from an archive."""

    def __init__(self, place: str, name: str) -> None:
        super().__init__(place, name)
        self._files: dict[str, memoryview] = {}
        self._folders: dict[str, list[str]] = {"": []}

    def add(self, name: str, content: memoryview | None) -> None:
        """Add a file, or a directory if `content` is None; of several files of one name the last counts."""
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
        """Whether it is a file. Links are not kept in an archive."""
        return self._top + name in self._files

    def is_dir(self, name: str) -> bool:
        """Whether it is a directory, even one that only appears in the paths of files."""
        return (self._top + name).rstrip("/") in self._folders

    def names(self, folder: str = "") -> list[str]:
        """Names of a directory's entries, sorted. Who fills the archive checks MAX_ENTRIES."""
        return sorted(self._folders.get((self._top + folder).rstrip("/"), ()))

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """A copy of a file's content; UnreadableError if there is no such file, SpecError beyond `limit`."""
        content = self._files.get(self._top + name)
        if content is None:
            reason = "not a regular file" if self.is_dir(name) else os.strerror(2)
            raise UnreadableError(f"{self.where(name)}: {reason}")
        if len(content) > limit:
            raise SpecError(f"{self.where(name)}: more than {limit >> 20} MiB: not what it is taken for")
        return bytes(content)
