"""Readahead of mapped files: which pages come into memory with one that faults (``mm/readahead.c``).

Only what mmap does of it: the window around a first miss, and the next one when the marked page is reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: VM_READAHEAD_PAGES: 128 KiB, the default of a block device.
RA_PAGES: Final = 32
#: MMAP_LOTSAMISS: after so many misses that were not worth it, only the page itself is read.
_LOTSAMISS: Final = 100


@dataclass(slots=True)
class ReadaheadState:
    """struct file_ra_state, of one open file; in pages."""

    start: int = 0
    size: int = 0
    async_size: int = 0
    misses: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """Pages to be read, unless they are in memory; `marked` is the one that asks for the next window."""

    start: int
    size: int
    marked: int


def missed(state: ReadaheadState, page: int) -> Window:
    """do_sync_mmap_readahead: a page is not in memory."""
    if state.misses < _LOTSAMISS * 10:
        state.misses += 1
    if state.misses > _LOTSAMISS:
        return Window(page, 1, -1)
    state.start, state.size, state.async_size = max(0, page - RA_PAGES // 2), RA_PAGES, RA_PAGES // 4
    return Window(state.start, state.size, state.start + state.size - state.async_size)


def hit(state: ReadaheadState) -> None:
    """do_async_mmap_readahead: a page is in memory."""
    state.misses = max(state.misses - 1, 0)


def reached(state: ReadaheadState, page: int) -> Window | None:
    """ondemand_readahead: the marked page is used. None if the mark is of another open file's window."""
    expected = state.start + state.size - state.async_size
    if page not in (expected, state.start + state.size) or not state.size:
        return None
    state.start += state.size
    state.size = state.async_size = _next_size(state.size)
    return Window(state.start, state.size, state.start)


def _next_size(size: int) -> int:
    """get_next_ra_size."""
    if size < RA_PAGES // 16:
        return 4 * size
    return 2 * size if size <= RA_PAGES // 2 else RA_PAGES
