"""Tar archives block by block: quick to make, and wrong where a test wants it."""

from __future__ import annotations

from collections.abc import Mapping

_BLOCK = 512


def header(name: bytes, size: int = 0, kind: bytes = b"0", field: bytes = b"", too_much: int = 0) -> bytes:
    """One of ustar. `field` is the size's instead of `size`; the checksum is that much too large."""
    sizes = field or b"%011o\0" % size
    block = b"%b0000644\0%b%b%b        %b" % (name.ljust(100, b"\0"), bytes(16), sizes, bytes(12), kind)
    block = (block + bytes(100) + b"ustar\x0000").ljust(_BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % (sum(block) + too_much) + block[156:]


def padded(content: bytes) -> bytes:
    """Filled up to whole blocks."""
    return content + bytes(-len(content) % _BLOCK)


def member(name: str, text: str = "") -> bytes:
    """A file."""
    return header(name.encode(), len(text)) + padded(text.encode())


def tar_of(files: Mapping[str, str], end: bytes = bytes(2 * _BLOCK)) -> bytes:
    """An archive of texts by name; `end` is what follows."""
    return b"".join(member(name, text) for name, text in files.items()) + end
