"""Reading input files that nobody vouches for: only regular ones, inside their directory, and up to a size.

Every file of a capture, of a gathered tree (``machine/captured_tree.py``) and of a machine description is
read here. The limits are several times what the largest machines print (64 nodes and 2048 CPUs: 3 MB of XML,
5 MB of zoneinfo), and low enough that any other file is refused within a second.
"""

from __future__ import annotations

import codecs
import os
import stat
from io import BufferedReader
from pathlib import Path

from numa_service.machine.spec import SpecError

#: Largest file that is read, in bytes.
MAX_BYTES = 16 << 20
#: Most lines of a text that is split into lines.
MAX_LINES = 300_000
#: Bytes of one read().
_PIECE = 1 << 18
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class UnreadableError(SpecError):
    """The system refuses to read the file: permissions, or a driver that cannot answer."""


def open_regular(path: Path, root: Path | None = None) -> BufferedReader:
    """Open a regular file for reading.

    SpecError if it is not a regular file, or lies outside `root` (through a link); OSError of the system.
    """
    return os.fdopen(_descriptor(path, root), "rb")


def _descriptor(path: Path, root: Path | None) -> int:
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise SpecError(f"{path}: a link that leaves {root}: not followed")
    # Checked before opening: to open a device may have effects, and to open a FIFO waits for a writer.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise SpecError(f"{path}: not a regular file{'' if root else ': give - for standard input'}")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SpecError(f"{path}: not a regular file")
    return descriptor


def read_bytes(path: Path, limit: int = MAX_BYTES, root: Path | None = None) -> bytes:
    """The content of a file; SpecError if it is not a regular file, or has more than `limit` bytes.

    With `root`, links that lead out of that directory are refused: a capture comes from another machine, and
    files outside are not part of it. UnreadableError if the system refuses to read the file.
    """
    pieces: list[bytes] = []
    length = 0
    try:
        descriptor = _descriptor(path, root)
        try:
            # without a file object, which takes longer: a tree has thousands of small files
            while length <= limit and (piece := os.read(descriptor, _PIECE)):
                pieces.append(piece)
                length += len(piece)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or error}") from None
    if length > limit:
        raise SpecError(f"{path}: more than {limit >> 20} MiB: not what it is taken for")
    return b"".join(pieces)


def decode(content: bytes, source: str) -> str:
    """The text of UTF-8 bytes without a byte order mark; SpecError, naming `source`, for other bytes."""
    if content.startswith(_UTF16):
        raise SpecError(f"{source}: not UTF-8 text, but UTF-16: save it as UTF-8")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{source}: not UTF-8 text at byte {error.start}") from None


def read_text(path: Path, limit: int = MAX_BYTES, root: Path | None = None) -> str:
    """The text of a file; SpecError as of :func:`read_bytes` and :func:`decode`.

    A NUL byte at the end, which some kernels add to their files, is dropped.
    """
    return decode(read_bytes(path, limit, root), str(path)).rstrip("\0")


def whole_lines(text: str, source: str) -> list[str]:
    """The lines of a text; SpecError if the last one does not end with a newline, and is thus cut off."""
    lines = split_lines(text, source)
    if lines.pop():
        raise SpecError(f"{source}:{len(lines) + 1}: truncated: the last line has no end")
    return lines


def split_lines(text: str, source: str) -> list[str]:
    """The text between newlines, "" behind the last one; SpecError if there are more than MAX_LINES lines."""
    if text.count("\n") >= MAX_LINES:
        raise SpecError(f"{source}: more than {MAX_LINES} lines: not what it is taken for")
    return text.split("\n")
