"""Which pages of a process are there, and on which nodes of the machine each was placed."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Nids = npt.NDArray[np.int16]
Bools = npt.NDArray[np.bool_]

#: Pages whose nodes are in one array: 2 MiB.
CHUNK: Final = 512
PAGE_SHIFT: Final = 12
#: A page of which nothing is known.
NOWHERE: Final = -1
#: What is added to the node of a page that the process had from its parent, and of one that is of a file or
#: of shared memory: neither is its own. Below are the bits of a node.
INHERITED: Final = 1 << 12
POOLED: Final = 1 << 13
NODE_BITS: Final = INHERITED - 1

#: Device and inode of a file, or of a piece of shared memory.
Key = tuple[str, int]


class Vma(NamedTuple):
    """A line of /proc/PID/maps; addresses in bytes."""

    start: int
    end: int
    #: As printed: rwxp.
    flags: str
    #: Page of the file.
    pgoff: int
    device: str
    inode: int
    path: str

    @property
    def of_file(self) -> bool:
        """Whether pages that were not written are of a file, which has them for all who map it."""
        return self.inode != 0 and not self.path.startswith(("/memfd:", "/dev/zero", "/dev/shm/", "/SYSV"))

    @property
    def of_shared_memory(self) -> bool:
        """Whether all that is written there is seen by everybody who maps it, and no file keeps it."""
        return self.flags[3] == "s" and self.inode != 0 and not self.of_file

    @property
    def key(self) -> Key:
        """What tells files and pieces of shared memory apart."""
        return self.device, self.inode


_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) (\S+) (\d+) *(.*)")
#: What the kernel maps of its own: it has no pages of the process.
_SPECIAL: Final = ("[vsyscall]", "[vvar]", "[vvar_vclock]", "[vdso]")


def vmas(pid: int) -> list[Vma]:
    """The address space of a process; empty if it has ended."""
    try:
        text = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    found = list[Vma]()
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match and match[7] not in _SPECIAL:
            start, end, flags, offset, device, inode, path = match.groups()
            pgoff = int(offset, 16) >> PAGE_SHIFT
            found.append(Vma(int(start, 16), int(end, 16), flags, pgoff, device, int(inode), path))
    return found


class Resident(NamedTuple):
    """Pages that are there, by number: [first, end)."""

    first: int
    end: int
    #: They are pages of a file, or of shared memory.
    of_file: bool


# struct pm_scan_arg and struct page_region of linux/fs.h
_SCAN: Final = struct.Struct("12Q")
_REGION: Final = struct.Struct("3Q")
_PAGEMAP_SCAN: Final = 3 << 30 | _SCAN.size << 16 | ord("f") << 8 | 16
_IS_FILE, _IS_PRESENT, _IS_SWAPPED, _IS_PFNZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_REGIONS: Final = 1024


def resident(pid: int, start: int, end: int) -> Iterator[Resident]:
    """The pages of a part of an address space that are in memory or in swap, but for the page of zeros.

    They are found by PAGEMAP_SCAN, which passes over what is not there; kernels before 6.7 do not have it,
    and are asked page by page. Nothing if the process has ended.
    """
    try:
        pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        try:
            yield from _scanned(pagemap, start, end)
        except OSError:
            yield from _read(pagemap, start, end)
    finally:
        os.close(pagemap)


def _scanned(pagemap: int, start: int, end: int) -> Iterator[Resident]:
    out = ctypes.create_string_buffer(_REGIONS * _REGION.size)
    there, told = _IS_PRESENT | _IS_SWAPPED, _IS_FILE
    while start < end:
        fields = 0, start, end, 0, ctypes.addressof(out), _REGIONS, 0, _IS_PFNZERO, _IS_PFNZERO, there, told
        argument = array.array("B", _SCAN.pack(_SCAN.size, *fields))
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
        for at in range(count):
            low, high, categories = _REGION.unpack_from(out, at * _REGION.size)
            yield Resident(low >> PAGE_SHIFT, high >> PAGE_SHIFT, bool(categories & _IS_FILE))
        walked = _SCAN.unpack(argument)[4]
        if walked <= start:
            return
        start = walked


def _read(pagemap: int, start: int, end: int) -> Iterator[Resident]:
    for at in range(start, end, CHUNK << PAGE_SHIFT):
        pages = (min(end, at + (CHUNK << PAGE_SHIFT)) - at) >> PAGE_SHIFT
        try:
            entries = np.frombuffer(os.pread(pagemap, 8 * pages, at >> PAGE_SHIFT << 3), np.uint64)
        except OSError:
            return
        kinds = np.where(entries >> np.uint64(62) != 0, 1 + (entries >> np.uint64(61) & np.uint64(1)), 0)
        edges = np.flatnonzero(np.diff(kinds, prepend=0, append=0))
        for low, high in pairwise(edges):
            if kinds[low]:
                first = at >> PAGE_SHIFT
                yield Resident(first + int(low), first + int(high), bool(kinds[low] == 2))


def page_flags(pid: int, pages: Sequence[int]) -> list[int]:
    """The words of /proc/PID/pagemap of pages, by number; 0 for what is not there."""
    try:
        pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return [0] * len(pages)
    try:
        read = (os.pread(pagemap, 8, page << 3) if page < 1 << 51 else b"" for page in pages)
        return [int.from_bytes(word, "little") for word in read]
    finally:
        os.close(pagemap)


@dataclass
class Placement:
    """The node of each page of a process that has one, in arrays of a CHUNK of pages."""

    _chunks: dict[int, Nids] = field(default_factory=dict)
    #: Pages that the process has no more, by node: they are to be given back to the machine.
    left: dict[int, int] = field(default_factory=dict)

    def inherited(self) -> Placement:
        """Return the placement for a forked child, whose pages are its parent's until it writes to them."""
        return Placement(
            {at: np.where(nids == NOWHERE, nids, nids | INHERITED) for at, nids in self._chunks.items()}
        )

    def chunks(self, first: int, end: int) -> Iterator[int]:
        """Numbers of the arrays that have anything of the pages [first, end), ascending."""
        low, high = first // CHUNK, -(-end // CHUNK)
        if high - low > len(self._chunks):
            yield from sorted(at for at in self._chunks if low <= at < high)
        else:
            yield from (at for at in range(low, high) if at in self._chunks)

    def of_chunk(self, at: int) -> Nids:
        """The nodes of a chunk's pages, to be changed in place."""
        if at not in self._chunks:
            self._chunks[at] = np.full(CHUNK, NOWHERE, np.int16)
        return self._chunks[at]

    def node(self, page: int) -> int:
        """The node of a page, or NOWHERE."""
        nids = self._chunks.get(page // CHUNK)
        return NOWHERE if nids is None or nids[page % CHUNK] < 0 else int(nids[page % CHUNK]) & NODE_BITS

    def get(self, first: int, end: int) -> Nids:
        """The nodes of pages [first, end), as a copy."""
        found = np.full(end - first, NOWHERE, np.int16)
        for at in self.chunks(first, end):
            low, high = max(first, at * CHUNK), min(end, (at + 1) * CHUNK)
            found[low - first : high - first] = self._chunks[at][low - at * CHUNK : high - at * CHUNK]
        return found

    def put(self, first: int, nids: Nids) -> None:
        """The nodes of pages from `first` on."""
        end = first + len(nids)
        for at in range(first // CHUNK, -(-end // CHUNK)):
            low, high = max(first, at * CHUNK), min(end, (at + 1) * CHUNK)
            self.of_chunk(at)[low - at * CHUNK : high - at * CHUNK] = nids[low - first : high - first]

    def by_node(self, first: int, end: int) -> dict[int, int]:
        """Pages of [first, end) by node, ascending."""
        counts: dict[int, int] = {}
        for at in self.chunks(first, end):
            nids = self._chunks[at][max(first - at * CHUNK, 0) : max(end - at * CHUNK, 0)]
            found, many = np.unique(nids[nids >= 0] & NODE_BITS, return_counts=True)
            for nid, count in zip(found.tolist(), many.tolist(), strict=True):
                counts[nid] = counts.get(nid, 0) + count
        return dict(sorted(counts.items()))

    def forget(self, nids: Nids, where: Bools) -> None:
        """Pages of an array are there no more."""
        if not where.any():
            return
        own = nids[where & (nids >= 0) & (nids < INHERITED)]
        self.note_left(own)
        nids[where] = NOWHERE

    def note_left(self, nids: Nids) -> None:
        """Pages of these nodes are to be given back."""
        counts = np.bincount(nids)
        for nid in np.flatnonzero(counts).tolist():
            self.left[nid] = self.left.get(nid, 0) + int(counts[nid])

    def forget_range(self, first: int, end: int) -> None:
        """Pages [first, end) are there no more."""
        gone = list[Nids]()
        for at in list(self.chunks(first, end)):
            low, high = at * CHUNK, (at + 1) * CHUNK
            if first <= low and high <= end:
                gone.append(self._chunks.pop(at))
            else:
                part = self._chunks[at][max(first - low, 0) : end - low]
                gone.append(part.copy())
                part[:] = NOWHERE
        self._note_gone(gone)

    def drop(self, first: int, end: int) -> None:
        """Pages [first, end) have another address now, and nothing is given back."""
        for at in self.chunks(first, end):
            self._chunks[at][max(first - at * CHUNK, 0) : end - at * CHUNK] = NOWHERE

    def forget_all(self) -> None:
        """Nothing is there any more."""
        gone, self._chunks = list(self._chunks.values()), {}
        self._note_gone(gone)

    def _note_gone(self, gone: Sequence[Nids]) -> None:
        """Pages of these arrays are there no more; those of the process alone are to be given back."""
        if gone:
            together = np.concatenate(gone)
            self.note_left(together[(together >= 0) & (together < INHERITED)])


def masks(ranges: Iterable[Resident]) -> dict[int, tuple[Bools, Bools]]:
    """Return two masks for each CHUNK with resident pages: of these pages, and of those that are of files."""
    found: dict[int, tuple[Bools, Bools]] = {}
    for first, end, of_file in ranges:
        for at in range(first // CHUNK, -(-end // CHUNK)):
            there, file = found.setdefault(at, (np.zeros(CHUNK, np.bool_), np.zeros(CHUNK, np.bool_)))
            part = slice(max(first - at * CHUNK, 0), end - at * CHUNK)
            there[part] = True
            file[part] = of_file
    return found
