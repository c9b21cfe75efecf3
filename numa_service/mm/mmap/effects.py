"""What a call leaves to be done to the page tables and the pages of an address space, in order."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.mmap.vma import Vma


@dataclass(frozen=True, slots=True)
class Unmap:
    """Pages from `start` to `end` go, with page tables of which nothing is needed from `floor` to `ceiling`.

    unmap_region: floor is the end of the VMA before, ceiling the start of the one behind; ceiling 0 is none.
    """

    start: int
    end: int
    floor: int
    ceiling: int
    #: What was mapped there; page tables of holes are left alone.
    vmas: tuple[Vma, ...]


@dataclass(frozen=True, slots=True)
class Zap:
    """Pages of a range go, page tables stay (zap_page_range: MADV_DONTNEED)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Move:
    """move_page_tables: entries of `length` bytes move from one address to another."""

    old: int
    new: int
    length: int


@dataclass(frozen=True, slots=True)
class Protect:
    """change_protection: entries of a range get the protection of their VMA."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Populate:
    """mm_populate: pages of a range are faulted in, to be written to if the VMA is private and writable.

    With `write` they are written to, or read, as that says (faultin_page_range).
    """

    start: int
    end: int
    write: bool | None = None


@dataclass(frozen=True, slots=True)
class Advise:
    """Pages of a part of a VMA are treated as an advice says that changes no VMA (MADV_FREE, COLD, …)."""

    vma: Vma
    start: int
    end: int
    advice: int


Effect = Unmap | Zap | Move | Protect | Populate | Advise
