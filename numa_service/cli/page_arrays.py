"""Copies of files that are read by offset, for tools that read them as files: sparse, and of bounded size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final

#: pread of the machine: path, offset and length in bytes.
Read = Callable[[str, int, int], bytes]
#: Part of a file in bytes: [start, end).
Span = tuple[int, int]

#: Most bytes that a copy has, without those that are 0: entries of 64 GiB of memory.
MAX_COPIED: Final = 1 << 27
#: Bytes that are read at once, and in which zeros are left out.
_CHUNK, _PAGE = 1 << 20, 4096
#: Bytes of an entry, and of the page that it is of.
_ENTRY, _OF_PAGE = 8, 4096


def mapped_spans(maps: str) -> tuple[Span, ...]:
    """Where /proc/PID/pagemap has entries, by the text of /proc/PID/maps."""
    found = (line.split(" ", 1)[0].split("-") for line in maps.splitlines())
    return tuple(
        (int(low, 16) // _OF_PAGE * _ENTRY, int(high, 16) // _OF_PAGE * _ENTRY) for low, high in found
    )


def copy_of(path: str, size: int, spans: Iterable[Span], read: Read) -> int:
    """A descriptor of a copy of a file of `size` bytes, of which only `spans` are other than 0.

    It is empty if there would be more than MAX_COPIED bytes of them.
    """
    copy = os.memfd_create("numa-service-pages")
    spans = tuple(spans)
    if sum(end - start for start, end in spans) > MAX_COPIED:
        return copy
    os.ftruncate(copy, size)
    for start, end in spans:
        at = start
        while at < end and (data := read(path, at, min(_CHUNK, end - at))):
            for first in range(0, len(data), _PAGE):
                part = data[first : first + _PAGE]
                if part.count(0) != len(part):
                    os.pwrite(copy, part, at + first)
            at += len(data)
    return copy
