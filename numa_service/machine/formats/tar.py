"""Reads a tar archive of a gathered tree as an :class:`Archive`; nothing is unpacked to disk.

It reads ustar, the older V7 and GNU formats with long names, and pax. `tarfile` takes ten times as long for a
header, and an archive from elsewhere may consist of headers only.
"""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numa_service.machine.captured_topology import TOPOLOGY_FILES
from numa_service.machine.captured_tree import MAX_ENTRIES, MAX_TREE_BYTES, Archive
from numa_service.machine.input_files import read_bytes
from numa_service.machine.spec import SpecError

#: Endings of the names of tar archives.
ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MAX_PACKED_BYTES = 4 << 20
_XZ_MEMORY = 72 << 20
_BZIP2 = b"BZh"
#: Decompressor of a file, by the bytes that it begins with.
_PACKERS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    _BZIP2: bz2.BZ2Decompressor,
    b"\xfd7zXZ": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
}
#: Most blocks of bzip2, each of which takes up to 30 ms. A block has 900 kB after runs of equal bytes are
#: shortened, and archives of trees are mostly runs: that of 256 CPUs, 15 MiB, has 4 blocks, and 32 MiB have
#: 8 to 10.
_MAX_BZIP2_BLOCKS = 10
_BZIP2_BLOCK = bytes.fromhex("314159265359")

_BLOCK = 512
#: Fields of a header that are read: name, size, checksum, type, magic, prefix.
_HEADER = struct.Struct("100s24x12s12x8sc100x6s82x155s12x")
_FILES, _DIRECTORY, _LINK = (b"0", b"\0", b"7"), b"5", b"2"
#: Types without content, whatever their size field says: hard links, links, devices, directories, FIFOs.
_BARE = (b"1", _LINK, b"3", b"4", _DIRECTORY, b"6")
_GNU_NAME, _GNU_SPARSE, _PAX = b"L", b"S", (b"x", b"X")
#: Types that are skipped: long targets of links, and pax headers for all files.
_LEFT_OUT = (b"K", b"g")
#: Most bytes of a name, as of a path in Linux (PATH_MAX), and of a pax header, which has a few names.
_MAX_NAME = 4096
_MAX_PAX_BYTES = 64 << 10
#: Most records in all pax headers; GNU tar writes up to five for a file.
_MAX_PAX_RECORDS = 10 * MAX_ENTRIES
_PAX_RECORD = re.compile(rb"([1-9]\d{0,6}) ([^=]{1,255})=")
#: The low half of an Adler-32 is one plus the sum of the bytes, modulo this: a quick way to sum bytes.
_ADLER = 65521
_HIGH = bytes(range(128, 256))
#: Most slashes in a member's name, and most parts of its path within the tree; others are not kept.
_MAX_SLASHES = 32
_MAX_DEPTH = 12
_NO_SPARSE = "a sparse file is in it, as no tree has: make it without --sparse"


def read_tar(path: Path) -> Archive:
    """The files of an archive that importers may read; SpecError names the archive and what is wrong."""
    tree = Archive(str(path), path.name.split(".tar")[0].removesuffix(".tgz"))
    try:
        for name, kind, content in _Members(_inflated(path)):
            _add(tree, name, kind, content)
    except (EOFError, ValueError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{path}: not a tar archive that can be read: {error}") from None
    return tree


def _inflated(path: Path) -> bytes:
    """The unpacked bytes of an archive; SpecError as soon as there are too many."""
    packed = read_bytes(path, MAX_TREE_BYTES)
    magic = next((magic for magic in _PACKERS if packed.startswith(magic)), None)
    if magic is None:
        return packed
    if len(packed) > _MAX_PACKED_BYTES:
        raise SpecError(f"{path}: more than {_MAX_PACKED_BYTES >> 20} MiB, packed: not what it is taken for")
    if magic == _BZIP2 and _bzip2_blocks(packed) > _MAX_BZIP2_BLOCKS:
        raise SpecError(f"{path}: more than {_MAX_BZIP2_BLOCKS} blocks of bzip2: not what it is taken for")
    inflate = _PACKERS[magic]()
    content: bytes = inflate.decompress(packed, MAX_TREE_BYTES + 1)
    if len(content) > MAX_TREE_BYTES:
        raise SpecError(f"{path}: more than {MAX_TREE_BYTES >> 20} MiB, unpacked: not what it is taken for")
    if not inflate.eof:
        raise EOFError("it is cut off")
    return content


def _bzip2_blocks(packed: bytes) -> int:
    """Number of blocks in bzip2 data. A block begins at any bit, with a mark that is searched for."""
    bits = int.from_bytes(packed, "big")
    return sum((bits >> shift).to_bytes(len(packed), "big").count(_BZIP2_BLOCK) for shift in range(8))


class _Members:
    """Iterates over (name, type, content) of the members of an archive, in order.

    ValueError says at which byte, and why, it is not an archive.
    """

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self._at = 0
        self._pax_records = 0

    def __iter__(self) -> Iterator[tuple[bytes, bytes, memoryview]]:
        long_name: bytes | None = None
        long_size: int | None = None
        members = 0
        while header := self._header():
            raw, size_field, _, kind, magic, prefix = _HEADER.unpack(header)
            size = self._number(size_field, "size")
            if kind in _LEFT_OUT:
                self._take(size)
                continue
            if kind == _GNU_NAME:
                long_name = _string(bytes(self._take(size, _MAX_NAME + 1)))
                continue
            if kind in _PAX:
                records = self._records(bytes(self._take(size, _MAX_PAX_BYTES)))
                long_name = records.get(b"path", long_name)
                long_size = self._decimal(records.get(b"size"))
                continue
            if kind == _GNU_SPARSE:
                raise ValueError(_NO_SPARSE)
            name = _string(raw) if long_name is None else long_name
            if long_name is None and magic == b"ustar\0" and prefix[0]:
                name = _string(prefix) + b"/" + name
            if kind == b"\0" and name.endswith(b"/"):
                kind = _DIRECTORY  # V7 has no type for directories: their names end with a slash
            if long_size is not None:
                size = long_size
            content = self._take(0 if kind in _BARE else size)
            members += 1
            if members > MAX_ENTRIES:
                raise ValueError(f"more than {MAX_ENTRIES} files")
            yield name, kind, content
            long_name = long_size = None
        if not members:
            raise ValueError("nothing is in it")

    def _header(self) -> bytes:
        """The next header; empty at the end of the archive: a block of NULs, or the end of the file."""
        start = self._at
        header = bytes(self._content[start : start + _BLOCK])
        self._at += _BLOCK
        if not header.strip(b"\0"):
            return b""
        if len(header) < _BLOCK:
            raise ValueError(f"byte {start}: a header is cut off")
        field = header[148:156]
        stated = self._number(field, "checksum")
        difference = (zlib.adler32(header) & 0xFFFF) - 1 - sum(field) + 8 * ord(" ") - stated
        # some old programs sum signed bytes
        if difference % _ADLER and (difference - 256 * _high_bytes(header)) % _ADLER:
            raise ValueError(f"byte {start}: a header with a wrong checksum")
        return header

    def _take(self, size: int, most: int = MAX_TREE_BYTES) -> memoryview:
        """The content behind a header, which is padded to whole blocks; ValueError if it exceeds `most`."""
        start = self._at
        if size > most:
            raise ValueError(f"byte {start}: {size} bytes, at most {most}")
        if start + size > len(self._content):
            raise ValueError(f"byte {start}: {size} bytes, and the archive ends before them")
        self._at += -(-size // _BLOCK) * _BLOCK
        return self._content[start : start + size]

    def _number(self, field: bytes, what: str) -> int:
        """The value of a numeric field: octal digits, or binary with the first bit set, for large numbers."""
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        digits = _string(field).strip()
        if digits.strip(b"01234567"):  # a binary negative number, which begins with 255, is wrong too
            raise ValueError(f"byte {self._at - _BLOCK}: {what} {field!r} is not a number")
        return int(digits or b"0", 8)

    def _decimal(self, value: bytes | None) -> int | None:
        if value is None:
            return None
        if not value.isdigit() or len(value) > 19:
            raise ValueError(f"byte {self._at}: before it a pax header with a size of {value[:20]!r}")
        return int(value)

    def _records(self, content: bytes) -> dict[bytes, bytes]:
        """The records of a pax header, each a line ``LENGTH KEY=VALUE``, by key."""
        records: dict[bytes, bytes] = {}
        at = 0
        while at < len(content) and content[at]:
            found = _PAX_RECORD.match(content, at)
            end = at + int(found[1]) if found else 0
            if found is None or not found.end() < end <= len(content) or content[end - 1] != ord("\n"):
                raise ValueError(f"byte {self._at}: before it a pax header with a wrong record")
            self._pax_records += 1
            if self._pax_records > _MAX_PAX_RECORDS:
                raise ValueError(f"more than {_MAX_PAX_RECORDS} records in pax headers")
            if found[2].startswith(b"GNU.sparse."):
                raise ValueError(_NO_SPARSE)
            records[found[2]] = content[found.end() : end - 1]
            at = end
        return records


def _string(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _high_bytes(header: bytes) -> int:
    return len(header) - len(header.translate(None, _HIGH))


def _add(tree: Archive, name: bytes, kind: bytes, content: memoryview) -> None:
    """Add a member to the tree if it is below ``proc`` or ``sys``; links become empty directories."""
    if name.count(b"/") > _MAX_SLASHES or not (kind in _FILES or kind in (_DIRECTORY, _LINK)):
        return
    parts = [part for part in name.decode("utf-8", "replace").split("/") if part not in ("", ".")]
    top = next((i for i, part in enumerate(parts[:3]) if part in ("proc", "sys")), None)
    if top is None and len(parts) == 1 and kind in _FILES:
        top = 0
    if top is None or ".." in parts or _is_ballast(parts[top:]):
        return
    if "topology" in parts[-2:]:
        # importers ask whether a CPU has a topology directory, and read few of the files in it
        if parts[-1] in TOPOLOGY_FILES and kind in _FILES:
            tree.add("/".join(parts), content)
        else:
            tree.add("/".join(parts[: parts.index("topology") + 1]), None)
    elif kind in _FILES and len(parts) <= _MAX_DEPTH:
        tree.add("/".join(parts), content)
    elif kind != _LINK or parts[-1].startswith(("node", "cpu", "memory")):
        # links to CPUs, nodes and memory blocks are kept as directories: importers read their names only
        tree.add("/".join(parts[:_MAX_DEPTH]), None)


def _is_ballast(parts: list[str]) -> bool:
    """Whether a path describes devices or caches, as most of an archive does: no importer reads it."""
    return parts[:2] in (["sys", "bus"], ["proc", "device-tree"]) or "cache" in parts[4:6]
