"""What a request calls: allocating and freeing on one node, in one call from Python each.

Such a kernel is told all in words of memory (``PgData.call``), and answers there: Numba looks at every
argument of a call from Python, and NumPy makes an array of every part of one; between two requests, when no
cache has any of that code, it took longer than a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from numa_service.mm import page_alloc
from numa_service.mm.jit import kernel
from numa_service.mm.memory import zap_pages
from numa_service.mm.mmzone import ZONE_NAMES
from numa_service.mm.page_alloc import (
    ALLOC_COLD,
    LRU_KIND_NONE,
    alloc_pages_bulk,
    free_hot_cold_pages,
)
from numa_service.mm.page_table import TABLE_SHIFT, PageTables, set_ptes
from numa_service.mm.pgdata import CALL_WORDS, EXPLAIN_ON, I64, U32, ZONE_BOOSTED_WATERMARK, PgData
from numa_service.mm.pgref import pgdata_at
from numa_service.mm.vmstat import NR_PATH
from numa_service.mm.zone_look import ASK, look_at_zones

(
    CALL_BASE_PFN,
    CALL_COUNT,
    CALL_OWNER,
    CALL_CPU,
    CALL_ORDER,
    CALL_COLD,
    CALL_MIGRATETYPE,
    CALL_HIGHEST_ZONEIDX,
    CALL_ALLOC_FLAGS,
    CALL_NUMA_HOW,
    CALL_LRU_KIND,
    CALL_DIRTY,
    CALL_NR_ZONES,
    CALL_ZONES,
) = range(14)
MAX_ZONES = max(map(len, ZONE_NAMES.values()))

#: Work counters; whether :func:`take_boosted` will find a zone.
REPORT_PATH = CALL_ZONES + MAX_ZONES
REPORT_BOOSTED = REPORT_PATH + NR_PATH

assert REPORT_BOOSTED < CALL_WORDS

#: The words of a call and of a report, by the number of zones.
_FREE_CALL = Struct(f"{CALL_COLD + 1}q")
_CALL = tuple(Struct(f"{CALL_ZONES + zones}q") for zones in range(MAX_ZONES + 1))
_PATH = Struct(f"{NR_PATH}q")
_WORD = 8
_PATH_AT, _BOOSTED_AT = _WORD * REPORT_PATH, _WORD * REPORT_BOOSTED

#: Blocks got, in order; PATH_* counters; whether :func:`take_boosted` will find a zone.
Served: TypeAlias = tuple[bytes, tuple[int, ...], bool]

Pfns = npt.NDArray[np.uint64]
Indexes = npt.NDArray[np.uint32]

_NOT_COUNTED = "VM_BUG_ON_PAGE(page_ref_count(page) == 0)"
#: Why a block may not be freed, and what a kernel says of it: page_bad_reason(), or a VM_BUG_ON on its way.
FREE_REASONS = {
    page_alloc.FREE_OUT_OF_RANGE: ("not a page of this node", "VM_BUG_ON(!virt_addr_valid(addr))"),
    page_alloc.FREE_PAGE_FREE: ("page is free", _NOT_COUNTED),
    page_alloc.FREE_ON_PAGESET: ("page is free, on a pageset", _NOT_COUNTED),
    page_alloc.FREE_RESERVED: ("page is reserved", "PAGE_FLAGS_CHECK_AT_FREE flag(s) set"),
    page_alloc.FREE_TAIL_PAGE: ("page is the tail of a block", "VM_BUG_ON_PAGE(PageTail(page))"),
    page_alloc.FREE_WRONG_ORDER: (
        "block is of another order",
        "VM_BUG_ON_PAGE(compound && compound_order(page) != order)",
    ),
    page_alloc.FREE_NOT_OWNER: ("page belongs to somebody else", ""),
    page_alloc.FREE_TWICE_IN_BATCH: ("page is named twice", _NOT_COUNTED),
    page_alloc.FREE_LRU_PAGE: ("page belongs to a region: unmap the region", "nonzero mapcount"),
}

#: Reasons that mean "there is no such allocation", as against "not yours" or "not so".
_NOT_FOUND = frozenset(
    {
        page_alloc.FREE_OUT_OF_RANGE,
        page_alloc.FREE_PAGE_FREE,
        page_alloc.FREE_ON_PAGESET,
        page_alloc.FREE_RESERVED,
        page_alloc.FREE_TAIL_PAGE,
    }
)


@kernel
def serve_alloc(address: int) -> int:
    """:func:`alloc_pages_bulk` for a request, with all that is told of it; blocks got."""
    pg = pgdata_at(address)
    call = pg.call
    pg.path[:] = 0
    got = alloc_pages_bulk(
        pg,
        call[CALL_ZONES : CALL_ZONES + call[CALL_NR_ZONES]],
        call[CALL_CPU],
        call[CALL_ORDER],
        call[CALL_COUNT],
        call[CALL_MIGRATETYPE],
        call[CALL_HIGHEST_ZONEIDX],
        call[CALL_ALLOC_FLAGS],
        call[CALL_NUMA_HOW],
        call[CALL_OWNER],
        call[CALL_LRU_KIND],
        pg.call_indexes,
        call[CALL_DIRTY] != 0,
        pg.call_pfns,
    )
    for i in range(got):
        pg.call_pfns[i] += call[CALL_BASE_PFN]
    for i in range(NR_PATH):
        call[REPORT_PATH + i] = pg.path[i]
    call[REPORT_BOOSTED] = 0
    for zone in range(pg.managed.shape[0]):
        if pg.zone_flags[zone] & ZONE_BOOSTED_WATERMARK:
            call[REPORT_BOOSTED] = 1
    return got


@kernel
def serve_set_ptes(address: int, ptes: U32, ctl: I64, directory: U32, start: int, got: int) -> int:
    """:func:`set_ptes` of what :func:`serve_alloc` has got, from `start` on."""
    pg = pgdata_at(address)
    call, indexes = pg.call, pg.call_indexes[:got]
    base = call[CALL_BASE_PFN]
    return set_ptes(pg, ptes, ctl, directory, call[CALL_OWNER], indexes, pg.call_pfns, base, start)


@kernel
def serve_free(address: int) -> int:
    """:func:`free_hot_cold_pages` for a request."""
    pg = pgdata_at(address)
    call = pg.call
    pages = pg.call_pfns[: call[CALL_COUNT]]
    for i in range(pages.shape[0]):
        pages[i] -= call[CALL_BASE_PFN]
    return free_hot_cold_pages(
        pg, call[CALL_CPU], call[CALL_ORDER], call[CALL_OWNER], pages, call[CALL_COLD] != 0
    )


class BadPageError(Exception):
    """A block may not be freed; nothing was."""

    def __init__(self, pfn: int, reason: str, not_found: bool) -> None:
        super().__init__(f"pfn {pfn:#x}: {reason}")
        self.pfn = pfn
        self.reason = reason
        #: Nothing was allocated there (as against: it is not the caller's, or of another order).
        self.not_found = not_found


class PgdatCalls:
    """The part of a node that requests call. Pages are packed: little-endian uint64 pfns, uint32 indexes."""

    pg: PgData
    base_pfn: int
    cpu_index: dict[int, int]
    zone_names: tuple[str, ...]
    tables: PageTables

    def _bind(self, pg: PgData) -> None:
        """Switch to these arrays and make the raw views anew that the kernels are called with."""
        self.pg = pg
        self._address = pg.address
        self._call = pg.call.data.cast("B")
        #: KSWAPD_* by number: quicker to look at than an array.
        self.kswapd = pg.kswapd.data
        self._looks = pg.looks.data
        self._pfns = pg.call_pfns.data.cast("B")
        self._room = len(pg.call_pfns)
        self._indexes = pg.call_indexes.data.cast("B")

    def _make_room(self, blocks: int) -> None:
        """Grow the call buffers so that `blocks` page frame numbers fit."""
        room = max(blocks, 2 * self._room)
        self._bind(
            self.pg._replace(
                call_pfns=np.zeros(room, dtype=np.int64), call_indexes=np.zeros(room, dtype=np.uint32)
            )
        )

    def trace_into(self, ring: I64, ctl: I64) -> None:
        """Put the events of kernels into this ring, [N, TRACE_WORDS], by these words, [NR_TRACE_CTL]."""
        self._bind(self.pg._replace(trace=ring, trace_ctl=ctl))

    def alloc_packed(
        self,
        zones: Sequence[int],
        cpu: int | None,
        order: int,
        count: int,
        migratetype: int,
        highest_zoneidx: int,
        alloc_flags: int,
        numa_how: int,
        owner: int,
        lru_kind: int = LRU_KIND_NONE,
        indexes: bytes = b"",
        dirty: bool = False,
    ) -> Served:
        """Up to `count` blocks from `zones` in that order."""
        if count > self._room:
            self._make_room(count)
        if indexes:
            self._indexes[: len(indexes)] = indexes
        nr_zones = len(zones)
        _CALL[nr_zones].pack_into(
            self._call,
            0,
            self.base_pfn,
            count,
            owner,
            -1 if cpu is None else self.cpu_index[cpu],
            order,
            False,
            migratetype,
            highest_zoneidx,
            alloc_flags,
            numa_how,
            lru_kind,
            dirty,
            nr_zones,
            *zones,
        )
        got, call = serve_alloc(self._address), self._call
        if lru_kind and got:
            self._enter(owner, got)
        return (
            self._pfns[: _WORD * got].tobytes(),
            _PATH.unpack_from(call, _PATH_AT),
            call[_BOOSTED_AT] != 0,
        )

    def _enter(self, owner: int, got: int) -> None:
        """Put what was got into the owner's page table.

        Who asks again for an index does not know of the page that it has: the answer that named it was lost.
        That page is freed.
        """
        pg, tables, indexes = self.pg, self.tables, self.pg.call_indexes
        at, last = 0, int(indexes[got - 1])
        if last >> TABLE_SHIFT >= len(tables.directory(owner)):
            tables.make_way(pg, owner, last)
        while True:
            at = serve_set_ptes(self._address, tables.ptes, tables.ctl, tables.directory(owner), at, got)
            if at == got:
                return
            if not tables.make_way(pg, owner, int(indexes[at])):
                zap_pages(pg, tables.ptes, tables.directory(owner), owner, indexes[at : at + 1], False, -1)

    def look(self, cpu: int, order: int, highest_zoneidx: int, alloc_flags: int, blocks: int = 0) -> bytes:
        """Every zone now, for ``ZoneLook.of``; and what would be compared there, see :meth:`checks`.

        `blocks` is how many the last allocation got, 0 before it.
        """
        ASK.pack_into(
            self._call, 0, self.base_pfn, blocks, self.cpu_index[cpu], order, highest_zoneidx, alloc_flags
        )
        look_at_zones(self._address)
        return self._looks.tobytes()

    def explain(self, on: bool) -> None:
        """From now on walks write down what they compare, on a clean sheet; or do not any more."""
        self.pg.trace_ctl[EXPLAIN_ON] = on
        if on:
            self.pg.checks[:] = 0

    def checks(self, zone: int) -> list[list[int]]:
        """CHECK_* words of a zone at the first visit of a walk and at the last, or as of a look after it."""
        checks: list[list[int]] = self.pg.checks[zone].tolist()
        return checks

    def alloc(
        self,
        zones: Sequence[int],
        cpu: int | None,
        order: int,
        count: int,
        migratetype: int,
        highest_zoneidx: int,
        alloc_flags: int,
        numa_how: int,
        owner: int,
        lru_kind: int = LRU_KIND_NONE,
        indexes: Indexes | None = None,
        dirty: bool = False,
        cold: bool = False,
    ) -> Pfns:
        """:meth:`alloc_packed` with arrays.

        `cold` asks for pages that no CPU cache holds (__GFP_COLD, 3.0).
        """
        flags = alloc_flags | ALLOC_COLD if cold else alloc_flags
        packed = b"" if indexes is None else indexes.astype("<u4").tobytes()
        how = migratetype, highest_zoneidx, flags, numa_how, owner, lru_kind, packed, dirty
        pfns, _, _ = self.alloc_packed(zones, cpu, order, count, *how)
        return np.frombuffer(pfns, dtype="<u8")

    def free_packed(self, cpu: int | None, order: int, owner: int, pfns: bytes, cold: bool = False) -> int:
        """Free blocks held by hand, all or none; pages freed. BadPageError names the first that may not.

        `cold` pages go behind those that the CPU has in its cache. A refusal is counted, by reason.
        """
        count = len(pfns) // _WORD
        if count > self._room:
            self._make_room(count)
        self._pfns[: len(pfns)] = pfns
        at = -1 if cpu is None else self.cpu_index[cpu]
        _FREE_CALL.pack_into(self._call, 0, self.base_pfn, count, owner, at, order, cold)
        error = serve_free(self._address)
        if error:
            code = error & 0xFF
            reason, kernel = FREE_REASONS[code]
            text = f"{reason} ({kernel})" if kernel else reason
            pfn = int.from_bytes(pfns[error >> 8 << 3 :][:8], "little")
            raise BadPageError(pfn, text, code in _NOT_FOUND)
        return count << order

    def free(self, cpu: int | None, order: int, owner: int, pfns: Pfns, cold: bool = False) -> int:
        """:meth:`free_packed` with an array."""
        return self.free_packed(cpu, order, owner, pfns.astype("<u8", copy=False).tobytes(), cold)
