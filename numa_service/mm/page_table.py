"""Page tables: which page of this node holds page ``index`` of an owner's region.

A directory and tables of entries per owner, as in hardware. Who frees a page does not look for the entries
that name it: an entry counts only while ``mapping`` and ``index`` of its page agree with it
(docs/decisions/0001), and reclaim asks nobody. What has gone stale is swept out before the tables grow.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from numa_service.mm.jit import i64, kernel
from numa_service.mm.pgdata import I64, PG_LRU, U32, PgData

#: Entries of a table: few, as an interleaved region has a page in every table of every node.
TABLE_SHIFT = 6
PTRS_PER_TABLE = 1 << TABLE_SHIFT

#: Tables that there is room for at first; table 0 is empty for ever, and stands for all that are missing.
_FIRST_TABLES = 16
#: Tables that are looked through at a time.
_CHUNK = 4096

# ctl
FREE_TABLE = 0  # first of the tables that were given back, each naming the next; 0 = none
NR_TABLES = 1  # tables that were ever given out, and the empty one

_NO_DIRECTORY = np.zeros(0, dtype=np.uint32)


@kernel
def page_of(pg: PgData, ptes: U32, directory: U32, owner: int, index: int) -> int:
    """The page that an owner has at `index`; -1 when there is none, or none any more."""
    if index >> TABLE_SHIFT >= directory.shape[0]:
        return i64(-1)
    idx = i64(ptes[i64(directory[index >> TABLE_SHIFT]), index & (PTRS_PER_TABLE - 1)]) - 1
    if idx < 0 or not pg.flags[idx] & PG_LRU or pg.owner[idx] != owner or pg.pgoff[idx] != index:
        return i64(-1)
    return idx


@kernel
def pages_of(pg: PgData, ptes: U32, directory: U32, owner: int, indexes: U32, pages: I64) -> int:
    """:func:`page_of` of many; how many there are."""
    found = i64(0)
    for i in range(indexes.shape[0]):
        pages[i] = page_of(pg, ptes, directory, owner, i64(indexes[i]))
        if pages[i] >= 0:
            found += 1
    return found


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
    """Enter pages, less `base`, from `start` on; how far that went.

    It stops where the directory is too short, where there is no table left, and at an index that has another
    page: see :meth:`PageTables.make_way`.
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
    """Give back an owner's tables without an entry that counts."""
    for at in range(directory.shape[0]):
        table = i64(directory[at])
        if table == 0:
            continue
        stale = True
        for i in range(PTRS_PER_TABLE):
            if page_of(pg, ptes, directory, owner, i64((at << TABLE_SHIFT) + i)) >= 0:
                stale = False
                break
        if stale:
            directory[at] = 0
            ptes[table, 0] = ctl[FREE_TABLE]
            ctl[FREE_TABLE] = table


class PageTables:
    """The page tables of all owners with pages on a node, by owner slot."""

    def __init__(self) -> None:
        self.ptes: U32 = np.zeros((_FIRST_TABLES, PTRS_PER_TABLE), dtype=np.uint32)
        self.ctl: I64 = np.array([0, 1], dtype=np.int64)
        self._directories: dict[int, U32] = {}

    def directory(self, owner: int) -> U32:
        """An owner's directory: by index / PTRS_PER_TABLE, the number of a table. Empty if it has none."""
        return self._directories.get(owner, _NO_DIRECTORY)

    def owners(self) -> list[int]:
        """Slots with a directory, ascending."""
        return sorted(self._directories)

    def find(self, pg: PgData, owner: int, indexes: U32) -> I64:
        """The page at each index, by its place in the node; -1 where there is none, or none any more."""
        pages = np.empty(len(indexes), dtype=np.int64)
        pages_of(pg, self.ptes, self.directory(owner), owner, indexes, pages)
        return pages

    def enter(self, pg: PgData, owner: int, indexes: U32, pages: I64) -> None:
        """Enter pages that bear this owner's mark, at indexes that have none."""
        at = 0
        while at < len(indexes):
            args = self.ptes, self.ctl, self.directory(owner), owner, indexes, pages, 0, at
            at = set_ptes(pg, *args)
            if at < len(indexes):
                free = self.make_way(pg, owner, int(indexes[at]))
                assert free, f"owner slot {owner} has a page at {indexes[at]}"

    def make_way(self, pg: PgData, owner: int, index: int) -> bool:
        """Make what an entry needs; False when that is not it: the owner has another page there."""
        table, directory = index >> TABLE_SHIFT, self.directory(owner)
        if table >= len(directory):
            self._lengthen(owner, table)
        elif not directory[table]:
            self._make_room(pg)
        else:
            return False
        return True

    def _lengthen(self, owner: int, table: int) -> None:
        before = self.directory(owner)
        longer = np.zeros(max(table + 1, 2 * len(before)), dtype=np.uint32)
        longer[: len(before)] = before
        self._directories[owner] = longer

    def _make_room(self, pg: PgData) -> None:
        """Sweep out stale tables; unless that gains a quarter of all, double them."""
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
        """Give back the tables of an owner that is no more."""
        directory = self._directories.pop(owner, _NO_DIRECTORY)
        tables = directory[directory > 0]
        if len(tables):
            self.ptes[tables[:-1], 0] = tables[1:]
            self.ptes[tables[-1], 0] = self.ctl[FREE_TABLE]
            self.ctl[FREE_TABLE] = tables[0]

    def mapped(self, pg: PgData, owner: int) -> Iterator[tuple[U32, I64]]:
        """Indexes, ascending, and pages of all entries of an owner that count; a part at a time."""
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
