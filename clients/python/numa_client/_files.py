"""Files of the emulated machine's /proc and /sys, as clients see them, and their mapping from protobuf."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from numa_client._gen.numa.v1 import files_service_pb2 as pb2


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


def write_request(path: str, text: str) -> pb2.WriteFileRequest:
    """What ``echo text > path`` sends."""
    return pb2.WriteFileRequest(path=path, data=text.encode())


def entries(response: pb2.ListDirResponse) -> tuple[DirEntry, ...]:
    """A directory, by name."""
    return tuple(DirEntry(entry.name, entry.mode, entry.target) for entry in response.entries)


def tree_files(response: pb2.ReadTreeResponse) -> Iterator[TreeFile]:
    """One message of a tree."""
    for file in response.files:
        yield TreeFile(file.path, file.mode, file.target, file.data.decode())
