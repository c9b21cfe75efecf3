"""list_head through arrays: circular, doubly linked, with the heads behind the entries."""

from __future__ import annotations

from numa_service.mm.jit import kernel
from numa_service.mm.mmzone import MIGRATE_TYPES, NR_LRU_LISTS, PAGEBLOCK_ORDER
from numa_service.mm.pgdata import (
    HEAD_FREE,
    HEAD_LRU,
    HEAD_OWNER,
    HEAD_PB,
    HEAD_PCP,
    NR_PCP_LISTS,
    U32,
    PgData,
)


@kernel(inline=True)  # mm_order0_32k
def list_add(nxt: U32, prv: U32, entry: int, head: int) -> None:
    """Put an entry right behind the head."""
    first = nxt[head]
    nxt[head] = entry
    prv[entry] = head
    nxt[entry] = first
    prv[first] = entry


@kernel(inline=True)  # mm_order0_32k
def list_add_tail(nxt: U32, prv: U32, entry: int, head: int) -> None:
    """Put an entry right before the head: last."""
    last = prv[head]
    prv[head] = entry
    nxt[entry] = head
    prv[entry] = last
    nxt[last] = entry


@kernel(inline=True)  # mm_order0_32k
def list_del(nxt: U32, prv: U32, entry: int) -> None:
    """Take an entry out of whatever list it is on."""
    after = nxt[entry]
    before = prv[entry]
    nxt[before] = after
    prv[after] = before


@kernel(inline=True)  # mm_order0_32k
def free_list(pg: PgData, zone: int, order: int, mt: int) -> int:
    """Head of free_area[order].free_list[mt]; in pb_next for orders of pageblock size and above."""
    if order >= PAGEBLOCK_ORDER:
        return pg.heads[HEAD_PB] + (zone * 2 + order - PAGEBLOCK_ORDER) * MIGRATE_TYPES + mt
    return pg.heads[HEAD_FREE] + (zone * PAGEBLOCK_ORDER + order) * MIGRATE_TYPES + mt


@kernel(inline=True)  # mm_order0_32k
def pcp_list(pg: PgData, cpu: int, zone: int, pindex: int) -> int:
    """Head of a pageset list."""
    return pg.heads[HEAD_PCP] + (cpu * pg.managed.shape[0] + zone) * NR_PCP_LISTS + pindex


@kernel
def lru_list(pg: PgData, zone: int, lru: int) -> int:
    """Head of an LRU list."""
    return pg.heads[HEAD_LRU] + zone * NR_LRU_LISTS + lru


@kernel
def owner_list(pg: PgData, owner: int) -> int:
    """Head of the list of blocks that an owner holds by hand."""
    return pg.heads[HEAD_OWNER] + owner
