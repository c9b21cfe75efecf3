"""Processes and the pages that they map as plain data, for snapshots and digests; and back.

VMAs, anon_vmas and files refer to each other: each is written once, under a number in the order in which the
processes lead to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple
from typing import Any, TypeVar

import numpy as np

from numa_service.mm.mempolicy.policy import Mempolicy, Mode
from numa_service.mm.mmap.frames import AddressSpace, Frames
from numa_service.mm.mmap.hugetlb import HugeFile, HugePool, ResvMap, huge_file
from numa_service.mm.mmap.limits import Limits
from numa_service.mm.mmap.mm_struct import Counters, MmStruct
from numa_service.mm.mmap.pgtables import PageTables, TablePages
from numa_service.mm.mmap.process import Place, Process
from numa_service.mm.mmap.readahead import ReadaheadState
from numa_service.mm.mmap.vma import AnonVma, File, NumabState, Vma

T = TypeVar("T")

#: Fields of an address space that are numbers.
_BOUNDS = (
    "mmap_base",
    "def_flags",
    "start_code",
    "end_code",
    "start_data",
    "end_data",
    "start_brk",
    "brk",
    "start_stack",
)


class _Numbers(dict[int, int]):
    """The numbers of objects, by their id(), in the order in which they were seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def of(self, thing: object) -> int:
        """The number of an object; -1 of None."""
        if thing is None:
            return -1
        if id(thing) not in self:
            self[id(thing)] = len(self.seen)
            self.seen.append(thing)
        return self[id(thing)]


def dump_processes(processes: Mapping[int, Process], frames: Frames) -> list[Any]:
    """All processes that have pages of `frames`, by a number of each, and `frames` itself."""
    spaces, files, anons, vmas, resvs = _Numbers(), _Numbers(), _Numbers(), _Numbers(), _Numbers()
    dumped = [(number, _dump_process(one, files, anons, vmas, resvs)) for number, one in processes.items()]
    for anon in anons.seen:  # grows meanwhile: parents are found by their children
        anons.of(anon.parent)
    kept = [
        (
            number,
            isinstance(owner, AddressSpace),
            (spaces if isinstance(owner, AddressSpace) else anons).of(owner),
        )
        for number, owner in frames._owners.items()
    ]
    of_files = [_dump_file(file, spaces) for file in files.seen]
    return [
        dumped,
        of_files,
        [_dump_space(space, vmas) for space in spaces.seen],
        [(anons.of(a.parent), a.active, a.children, a.number, _linked(a, vmas)) for a in anons.seen],
        (kept, frames._last, frames._sweep_at),
        [(name, column.dtype.str, column.tobytes()) for name, column in _columns(frames)],
        [sorted(resv.consumed) for resv in resvs.seen],
    ]


def load_processes(
    dumped: list[Any],
    frames: Frames,
    tables: TablePages,
    place: Place,
    make_mm: Callable[[Limits, bool], MmStruct],
    pools: Mapping[int, HugePool] | None = None,
) -> dict[int, Process]:
    """Make the processes of :func:`dump_processes`, and fill `frames`.

    `make_mm` makes an empty address space with these limits, of the old layout if so told; `pools` are those
    of the huge pages that files are of.
    """
    processes, of_files, of_spaces, of_anons, (kept, last, sweep_at), columns, of_resvs = dumped
    spaces = [AddressSpace(kind) for kind, *_ in of_spaces]
    files = [_load_file(file, spaces, pools or {}) for file in of_files]
    resvs = [ResvMap(set(consumed)) for consumed in of_resvs]
    anons = [AnonVma(parent=None) for _ in of_anons]
    vmas: list[Vma] = []
    made = {
        number: _load_process(one, files, anons, vmas, resvs, frames, tables, place, make_mm)
        for number, one in processes
    }
    for space, (_, number, pfns, linked, poisoned) in zip(spaces, of_spaces, strict=True):
        space.number, space._pfns = number, np.frombuffer(pfns, np.int64).copy()
        space.poisoned = set(poisoned)
        space.vmas = {vmas[at]: None for at in linked}
    for anon, (parent, active, children, number, linked) in zip(anons, of_anons, strict=True):
        anon.parent = anons[parent] if parent >= 0 else None
        anon.active, anon.children, anon.number = active, children, number
        anon.vmas = {vmas[at]: None for at in linked}
    frames._owners = {number: (spaces if is_space else anons)[at] for number, is_space, at in kept}
    frames._last, frames._sweep_at = last, sweep_at
    for name, kind, column in columns:
        setattr(frames, name, np.frombuffer(column, kind).copy())
    return made


def _dump_space(space: AddressSpace, vmas: _Numbers) -> list[Any]:
    pages = space.kind, space.number, space._pfns.tobytes()
    return [*pages, _linked(space, vmas), sorted(space.poisoned)]


def _linked(owner: AddressSpace | AnonVma, vmas: _Numbers) -> list[int]:
    """The VMAs that are linked to an anon_vma or map a file, in their order."""
    return [vmas[id(vma)] for vma in owner.vmas]


def _columns(frames: Frames) -> Iterable[tuple[str, Any]]:
    return ((name, value) for name, value in sorted(vars(frames).items()) if isinstance(value, np.ndarray))


def _dump_file(file: File, spaces: _Numbers) -> list[Any]:
    of_path = file.path, file.major, file.minor, file.inode, file.readable, file.writable
    kind = file.shmem, file.thp_aligned, file.mappings, spaces.of(file.pages), file.unlinked, file.size
    huge = huge_file(file)
    of_huge = huge and [huge.pool.shift, huge.size, sorted(huge.reserved), sorted(huge.restored)]
    return [of_path, kind, astuple(file.readahead), file.promised, of_huge]


def _load_file(dumped: list[Any], spaces: list[AddressSpace], pools: Mapping[int, HugePool]) -> File:
    of_path, (shmem, thp_aligned, mappings, space, unlinked, size), readahead, promised, of_huge = dumped
    file = File(*of_path)
    file.shmem, file.thp_aligned, file.mappings = shmem, thp_aligned, mappings
    file.pages = spaces[space] if space >= 0 else None
    file.unlinked, file.size, file.promised = unlinked, size, promised
    file.readahead = ReadaheadState(*readahead)
    if of_huge is not None:
        shift, pages, reserved, restored = of_huge
        file.huge = HugeFile(pools[shift], pages, set(reserved), set(restored))
    return file


def _dump_process(
    process: Process, files: _Numbers, anons: _Numbers, vmas: _Numbers, resvs: _Numbers
) -> list[Any]:
    mm = process.mm
    for vma in mm.tree:
        vmas.of(vma)
    return [
        (astuple(mm.limits), mm.legacy, astuple(mm.counters), [getattr(mm, name) for name in _BOUNDS]),
        [_dump_vma(vma, files, anons, resvs) for vma in mm.tree],
        _dump_tables(process.tables),
        (process.rss, process.hiwater_rss, process.minflt, process.hwpoisons),
        (len(process._pool), process._free, [(at, slot) for at, slot in process._slots.items()]),
        [process._pool[slot].tobytes() for slot in process._slots.values()],
        sorted(mm.tree.huge_entries.items()),
    ]


def _load_process(
    dumped: list[Any],
    files: list[File],
    anons: list[AnonVma],
    vmas: list[Vma],
    resvs: list[ResvMap],
    frames: Frames,
    tables: TablePages,
    place: Place,
    make_mm: Callable[[Limits, bool], MmStruct],
) -> Process:
    (limits, legacy, counters, bounds), areas, of_tables, counted, (rows, free, slots), *of_pages = dumped
    entries, huge_entries = of_pages
    mm = make_mm(Limits(*limits), legacy)
    for area in areas:
        vma = _load_vma(area, files, anons, resvs)
        mm.tree.insert(vma)
        if vma.file is not None:
            vma.file.mappings -= 1  # it has been counted when it was dumped
        vmas.append(vma)
    mm.counters = Counters(*counters)
    mm.tree.huge_entries = dict(huge_entries)
    for name, value in zip(_BOUNDS, bounds, strict=True):
        setattr(mm, name, value)
    process = Process(mm, _load_tables(of_tables, mm, tables), frames, place)
    process.rss, process.hiwater_rss, process.minflt, process.hwpoisons = counted
    process._pool = np.zeros((rows, process._width), np.int64)
    process._free, process._slots = free, dict(slots)
    process._order = sorted(process._slots)
    for (_, slot), row in zip(slots, entries, strict=True):
        process._pool[slot] = np.frombuffer(row, np.int64)
    return process


def _dump_vma(vma: Vma, files: _Numbers, anons: _Numbers, resvs: _Numbers) -> list[Any]:
    chain = [anons.of(anon) for anon in vma.chain]
    what = vma.anon_name, vma.special, files.of(vma.file), vma.policy
    numab = astuple(vma.numab) if vma.numab is not None else None
    resv = resvs.of(vma.resv), vma.resv_unmapped
    return [vma.start, vma.end, vma.flags, vma.pgoff, what, anons.of(vma.anon_vma), chain, numab, resv]


def _load_vma(dumped: list[Any], files: list[File], anons: list[AnonVma], resvs: list[ResvMap]) -> Vma:
    start, end, flags, pgoff, (anon_name, special, file, policy), anon, chain, numab, of_resv = dumped
    vma = Vma(start, end, flags, pgoff, files[file] if file >= 0 else None)
    vma.policy = load_policy(policy)
    vma.anon_name, vma.special = anon_name, special
    vma.anon_vma = anons[anon] if anon >= 0 else None
    vma.chain = tuple(anons[at] for at in chain)
    vma.numab = None if numab is None else NumabState(*numab)
    resv, vma.resv_unmapped = of_resv
    vma.resv = resvs[resv] if resv >= 0 else None
    return vma


def load_policy(dumped: list[int] | None) -> Mempolicy | None:
    """A policy of a task or a VMA, which is dumped as it is."""
    return None if dumped is None else Mempolicy(Mode(dumped[0]), *dumped[1:])


def _dump_tables(tables: PageTables) -> list[Any]:
    return [tables.pgd, [list(level.items()) for level in tables._levels], sorted(tables._huge)]


def _load_tables(dumped: list[Any], mm: MmStruct, pages: TablePages) -> PageTables:
    pgd, levels, huge = dumped
    tables = PageTables.__new__(PageTables)
    tables._layout, tables._pages, tables._shifts = mm.layout, pages, mm.layout.level_shifts
    tables.pgd, tables._levels, tables._huge = pgd, [dict(level) for level in levels], set(huge)
    return tables
