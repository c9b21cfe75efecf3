"""Page tables: which page of this node is page ``index`` of an owner's region.

Each owner has a directory of tables of entries, as in hardware. When a page is freed, the entry for it is not
cleared: an entry counts only while the page's ``mapping`` (owner) and ``index`` agree with it
(docs/decisions/0001), so that reclaim needs no reverse mapping. Tables with stale entries only are given back
before more are allocated.

A huge page has an entry for each of its pages, which lie side by side; until it is split only the first is on
a list, with the order of the whole. An index names it as a whole with the bit HUGE_INDEX. An index without
that bit is a page of 4 KiB: to find one in a huge page is to split that (:func:`single_page_of`), so that
who has pages need not be told of a split.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from numa_service.mm.jit import i64, kernel
from numa_service.mm.mmzone import HUGE_INDEX, PAGEBLOCK_NR_PAGES
from numa_service.mm.pgdata import I64, PG_LRU, U32, PgData
from numa_service.mm.split_huge_page import split_huge_page

#: log2 of the entries of a table: few, since each node has only some of the pages of an interleaved region.
TABLE_SHIFT = 6
PTRS_PER_TABLE = 1 << TABLE_SHIFT

#: Initial number of tables. Table 0 is always empty, and stands for tables that do not exist.
_FIRST_TABLES = 16
#: Tables that :meth:`PageTables.mapped` reads at a time.
_CHUNK = 4096

# words of `ctl`
FREE_TABLE = 0  # number of the first free table, whose first entry names the next; 0: none
NR_TABLES = 1  # tables that have ever been in use, table 0 included

_NO_DIRECTORY = np.zeros(0, dtype=np.uint32)


@kernel
def page_of(pg: PgData, ptes: U32, directory: U32, owner: int, index: int) -> int:
    """The page that an owner has at `index` of its region; -1 if it has none, or has it no more."""
    if index >> TABLE_SHIFT >= directory.shape[0]:
        return i64(-1)
    idx = i64(ptes[i64(directory[index >> TABLE_SHIFT]), index & (PTRS_PER_TABLE - 1)]) - 1
    if idx < 0 or not pg.flags[idx] & PG_LRU or pg.owner[idx] != owner or pg.pgoff[idx] != index:
        return i64(-1)
    return idx


@kernel
def _around(pg: PgData, ptes: U32, directory: U32, owner: int, index: int) -> int:
    """The huge page of which an owner has a part at `index`; -1 if there is none."""
    idx = page_of(pg, ptes, directory, owner, index & ~(PAGEBLOCK_NR_PAGES - 1))
    return idx if idx >= 0 and pg.order[idx] else i64(-1)


@kernel
def single_page_of(pg: PgData, ptes: U32, directory: U32, owner: int, index: int) -> int:
    """:func:`page_of`; if it is a part of a huge page, that is split."""
    idx = page_of(pg, ptes, directory, owner, index)
    if idx >= 0 and not pg.order[idx]:
        return idx
    huge = _around(pg, ptes, directory, owner, index)
    if huge < 0:
        return idx
    split_huge_page(pg, huge)
    return page_of(pg, ptes, directory, owner, index)


@kernel
def pages_of(pg: PgData, ptes: U32, directory: U32, owner: int, indexes: U32, pages: I64) -> int:
    """:func:`page_of` for each of `indexes`, into `pages`; returns how many there are.

    With HUGE_INDEX it is a huge page that has not been split, else a page or the first one of a huge page.
    """
    found = i64(0)
    for i in range(indexes.shape[0]):
        index = i64(indexes[i])
        pages[i] = page_of(pg, ptes, directory, owner, index & ~HUGE_INDEX)
        if index & HUGE_INDEX and pages[i] >= 0 and not pg.order[pages[i]]:
            pages[i] = -1
        if pages[i] >= 0:
            found += 1
    return found


@kernel
def split_named(pg: PgData, ptes: U32, directory: U32, owner: int, indexes: U32) -> None:
    """Split the huge pages of which a part is named: :func:`pages_of` finds the part then."""
    for i in range(indexes.shape[0]):
        index = i64(indexes[i])
        if not index & HUGE_INDEX:
            single_page_of(pg, ptes, directory, owner, index)


@kernel
def set_ptes(
    pg: PgData,
    ptes: U32,
    ctl: I64,
    directory: U32,
    owner: int,
    indexes: U32,
    pages: I64,
    base: int,
    start: int,
) -> int:
    """Enter pages[i] - base at indexes[i], for i from `start` on; returns the i at which it stopped.

    It stops where the directory is too short, where no table is free, and at an index that has another page:
    :meth:`PageTables.make_way` removes the first two obstacles.
    """
    for i in range(start, indexes.shape[0]):
        index = i64(indexes[i])
        page = pages[i] - base
        if index >> TABLE_SHIFT >= directory.shape[0]:
            return i
        table = i64(directory[index >> TABLE_SHIFT])
        if table == 0:
            table = i64(ctl[FREE_TABLE])
            if table:
                ctl[FREE_TABLE] = ptes[table, 0]
                for j in range(PTRS_PER_TABLE):
                    ptes[table, j] = 0
            elif ctl[NR_TABLES] < ptes.shape[0]:
                table = i64(ctl[NR_TABLES])
                ctl[NR_TABLES] += 1
            else:
                return i
            directory[index >> TABLE_SHIFT] = table
        elif ptes[table, index & (PTRS_PER_TABLE - 1)]:
            there = page_of(pg, ptes, directory, owner, index)
            if there >= 0 and there != page:
                return i
        ptes[table, index & (PTRS_PER_TABLE - 1)] = page + 1
    return indexes.shape[0]


@kernel
def free_stale_tables(pg: PgData, ptes: U32, ctl: I64, directory: U32, owner: int) -> None:
    """Free those of an owner's tables that have no entry that counts."""
    for at in range(directory.shape[0]):
        table = i64(directory[at])
        if table == 0:
            continue
        stale = True
        for i in range(PTRS_PER_TABLE):
            index = i64((at << TABLE_SHIFT) + i)
            used = page_of(pg, ptes, directory, owner, index) >= 0
            if used or _around(pg, ptes, directory, owner, index) >= 0:
                stale = False
                break
        if stale:
            directory[at] = 0
            ptes[table, 0] = ctl[FREE_TABLE]
            ctl[FREE_TABLE] = table


def parts_of(heads: U32, pages: I64) -> tuple[U32, I64]:
    """The indexes of all pages of huge pages, and the pages, by those of their first ones."""
    parts = np.arange(PAGEBLOCK_NR_PAGES)
    return (
        (heads[:, None] + parts).astype(np.uint32).reshape(-1),
        (pages[:, None] + parts).astype(np.int64).reshape(-1),
    )


class PageTables:
    """The page tables of all owners with pages on a node, by owner slot."""

    def __init__(self) -> None:
        self.ptes: U32 = np.zeros((_FIRST_TABLES, PTRS_PER_TABLE), dtype=np.uint32)
        self.ctl: I64 = np.array([0, 1], dtype=np.int64)
        self._directories: dict[int, U32] = {}

    def directory(self, owner: int) -> U32:
        """An owner's directory: the number of the table for each index // PTRS_PER_TABLE. Empty if none."""
        return self._directories.get(owner, _NO_DIRECTORY)

    def owners(self) -> list[int]:
        """Slots of the owners with a directory, ascending."""
        return sorted(self._directories)

    def find(self, pg: PgData, owner: int, indexes: U32) -> I64:
        """:func:`page_of` for each of `indexes`."""
        pages = np.empty(len(indexes), dtype=np.int64)
        pages_of(pg, self.ptes, self.directory(owner), owner, indexes, pages)
        return pages

    def enter(self, pg: PgData, owner: int, indexes: U32, pages: I64) -> None:
        """Enter pages, already marked as this owner's, at indexes that have no page."""
        at = 0
        while at < len(indexes):
            args = self.ptes, self.ctl, self.directory(owner), owner, indexes, pages, 0, at
            at = set_ptes(pg, *args)
            if at < len(indexes):
                free = self.make_way(pg, owner, int(indexes[at]))
                assert free, f"owner slot {owner} has a page at {indexes[at]}"

    def make_way(self, pg: PgData, owner: int, index: int) -> bool:
        """Make room for the entry of `index`: a longer directory, or free tables.

        False if neither was missing: the owner has another page at that index.
        """
        table, directory = index >> TABLE_SHIFT, self.directory(owner)
        if table >= len(directory):
            self._lengthen(owner, table)
        elif not directory[table]:
            self._make_room(pg)
        else:
            return False
        return True

    def _lengthen(self, owner: int, table: int) -> None:
        """Make an owner's directory long enough for position `table`, at least twice as long as before."""
        before = self.directory(owner)
        longer = np.zeros(max(table + 1, 2 * len(before)), dtype=np.uint32)
        longer[: len(before)] = before
        self._directories[owner] = longer

    def _make_room(self, pg: PgData) -> None:
        """Free stale tables; if that frees less than a quarter of all tables, double their number."""
        gained = 0
        for owner in self.owners():
            directory = self.directory(owner)
            before = int(np.count_nonzero(directory))
            free_stale_tables(pg, self.ptes, self.ctl, directory, owner)
            gained += before - int(np.count_nonzero(directory))
        if 4 * gained < len(self.ptes):
            more = np.zeros((2 * len(self.ptes), PTRS_PER_TABLE), dtype=np.uint32)
            more[: len(self.ptes)] = self.ptes
            self.ptes = more

    def free(self, owner: int) -> None:
        """Free all tables of an owner, and its directory (free_pgtables)."""
        directory = self._directories.pop(owner, _NO_DIRECTORY)
        tables = directory[directory > 0]
        if len(tables):
            self.ptes[tables[:-1], 0] = tables[1:]
            self.ptes[tables[-1], 0] = self.ctl[FREE_TABLE]
            self.ctl[FREE_TABLE] = tables[0]

    def mapped(self, pg: PgData, owner: int) -> Iterator[tuple[U32, I64]]:
        """(indexes, pages) of an owner's entries that count, ascending by index, in several parts."""
        directory = self.directory(owner)
        for start in range(0, len(directory), _CHUNK):
            at = np.flatnonzero(directory[start : start + _CHUNK]) + start
            entries = self.ptes[directory[at]].reshape(-1)
            filled = np.flatnonzero(entries)
            pages = entries[filled].astype(np.int64) - 1
            indexes = (at[filled >> TABLE_SHIFT] << TABLE_SHIFT) + (filled & (PTRS_PER_TABLE - 1))
            counts = (
                (pg.flags[pages] & PG_LRU != 0) & (pg.owner[pages] == owner) & (pg.pgoff[pages] == indexes)
            )
            if counts.any():
                yield indexes[counts].astype(np.uint32), pages[counts]
