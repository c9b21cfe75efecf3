"""``struct list_head`` in arrays: circular, doubly linked lists (``include/linux/list.h``).

`nxt` and `prv` hold, for every entry, the index of its neighbours. Heads are entries too, behind all pages or
pageblocks; an empty list is a head that names itself.
"""

from __future__ import annotations

from numa_service.mm.jit import kernel
from numa_service.mm.mmzone import MIGRATE_TYPES, NR_LRU_LISTS, PAGEBLOCK_ORDER
from numa_service.mm.pgdata import (
    HEAD_FREE,
    HEAD_LRU,
    HEAD_OWNER,
    HEAD_PB,
    HEAD_PCP,
    I64,
    NR_PCP_LISTS,
    U32,
    PgData,
)

#: Adjacent pages from which on they are linked and marked array by array: for fewer it would take longer.
RUN = 8


@kernel(inline=True)  # mm_order0_32k
def list_add(nxt: U32, prv: U32, entry: int, head: int) -> None:
    """Insert `entry` right behind `head`: it becomes the first (list_add)."""
    first = nxt[head]
    nxt[head] = entry
    prv[entry] = head
    nxt[entry] = first
    prv[first] = entry


@kernel(inline=True)  # mm_order0_32k
def list_add_tail(nxt: U32, prv: U32, entry: int, head: int) -> None:
    """Insert `entry` right before `head`: it becomes the last (list_add_tail)."""
    last = prv[head]
    prv[head] = entry
    nxt[entry] = head
    prv[entry] = last
    nxt[last] = entry


@kernel(inline=True)  # mm_order0_32k
def list_del(nxt: U32, prv: U32, entry: int) -> None:
    """Remove `entry` from the list it is on; its own links stay as they were (__list_del_entry)."""
    after = nxt[entry]
    before = prv[entry]
    nxt[before] = after
    prv[after] = before


@kernel(inline=True)  # mm_order0_32k
def list_del_run(nxt: U32, prv: U32, first: int, last: int) -> None:
    """Remove the entries from `first` to `last` from the list that they follow one another on."""
    after = nxt[last]
    before = prv[first]
    nxt[before] = after
    prv[after] = before


@kernel(inline=True)  # mm_order0_32k
def list_append(nxt: U32, prv: U32, first: int, last: int, head: int) -> None:
    """Insert a chain of entries, `first` to `last`, right before `head`."""
    before = prv[head]
    nxt[before] = first
    prv[first] = before
    nxt[last] = head
    prv[head] = last


@kernel(inline=True)  # mm_order0_random_free
def may_be_chain(nxt: U32, first: int, most: int) -> bool:
    """Whether it is worth to call :func:`length_of_chain`: it may be RUN or more."""
    return most >= RUN and nxt[first] == first + 1 and nxt[first + RUN - 2] == first + RUN - 1


@kernel
def length_of_chain(nxt: U32, first: int, most: int) -> int:
    """How many entries from `first` on are each followed by the next higher one; 1 to `most`.

    It first looks whether all of them are, which takes less time than to look for the end.
    """
    links = nxt[first : first + most - 1]
    if nxt[first + max(most - 2, 0)] == first + most - 1:
        other = 0
        for i in range(links.shape[0]):
            other |= links[i] ^ (first + i + 1)
        if other == 0:
            return most
    for i in range(links.shape[0]):
        if links[i] != first + i + 1:
            return i + 1
    return most


@kernel(inline=True)  # mm_order0_random_free
def may_be_run(pages: I64, at: int, most: int) -> bool:
    """Whether it is worth to call :func:`length_of_run`: it may be RUN or more."""
    return most >= RUN and pages[at + RUN - 1] == pages[at] + RUN - 1


@kernel
def length_of_run(pages: I64, at: int, most: int) -> int:
    """How many of pages[at:] are each followed by the next higher number, as :func:`length_of_chain`."""
    first = pages[at]
    numbers = pages[at : at + most]
    if numbers[most - 1] == first + most - 1:
        other = 0
        for i in range(numbers.shape[0]):
            other |= numbers[i] ^ (first + i)
        if other == 0:
            return most
    for i in range(numbers.shape[0]):
        if numbers[i] != first + i:
            return i
    return most


@kernel
def chain_up(nxt: U32, prv: U32, first: int, count: int) -> None:
    """Link `count` entries to one another, so that each is before the one with the next higher index.

    The outer links of the first and the last entry stay as they were.
    """
    links = nxt[first : first + count - 1]
    for i in range(links.shape[0]):
        links[i] = first + i + 1
    links = prv[first + 1 : first + count]
    for i in range(links.shape[0]):
        links[i] = first + i


@kernel(inline=True)  # mm_order0_32k
def free_list(pg: PgData, zone: int, order: int, mt: int) -> int:
    """Index of the head of free_area[order].free_list[mt] of a zone.

    It is an index in ``pb_next`` for orders of pageblock size and above, else in ``next``.
    """
    if order >= PAGEBLOCK_ORDER:
        return pg.heads[HEAD_PB] + (zone * 2 + order - PAGEBLOCK_ORDER) * MIGRATE_TYPES + mt
    return pg.heads[HEAD_FREE] + (zone * PAGEBLOCK_ORDER + order) * MIGRATE_TYPES + mt


@kernel(inline=True)  # mm_order0_32k
def pcp_list(pg: PgData, cpu: int, zone: int, pindex: int) -> int:
    """Index of the head of one list of a CPU's pageset (per_cpu_pages.lists[pindex])."""
    return pg.heads[HEAD_PCP] + (cpu * pg.managed.shape[0] + zone) * NR_PCP_LISTS + pindex


@kernel
def lru_list(pg: PgData, zone: int, lru: int) -> int:
    """Index of the head of a zone's LRU list (lruvec.lists[lru])."""
    return pg.heads[HEAD_LRU] + zone * NR_LRU_LISTS + lru


@kernel
def owner_list(pg: PgData, owner: int) -> int:
    """Index of the head of the list of blocks that an owner holds by hand; a kernel has no such list."""
    return pg.heads[HEAD_OWNER] + owner
