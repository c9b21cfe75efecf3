"""The path of requests: one call from Python to allocate or free a batch of blocks on one node.

The kernels here take their arguments from the words of ``PgData.call`` and put their results there. Numba
would unbox every argument of a call from Python, and NumPy make an array of every slice; with caches that are
cold between two requests, that took longer than an order-0 allocation.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from numa_service.mm import page_alloc
from numa_service.mm.internal import ALLOC_COLD
from numa_service.mm.jit import kernel
from numa_service.mm.memory import zap_pages
from numa_service.mm.mmzone import HUGE_INDEX, ZONE_NAMES
from numa_service.mm.page_alloc import LRU_KIND_NONE, alloc_pages_bulk, free_hot_cold_pages
from numa_service.mm.page_table import TABLE_SHIFT, PageTables, parts_of, set_ptes
from numa_service.mm.pgdata import CALL_WORDS, EXPLAIN_ON, I64, U32, ZONE_BOOSTED_WATERMARK, PgData
from numa_service.mm.pgref import pgdata_at
from numa_service.mm.vmstat import NR_PATH
from numa_service.mm.zone_look import ASK, look_at_zones

#: Arguments: words of ``PgData.call``. CALL_ZONES begins a list of CALL_NR_ZONES zone indexes.
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

#: Results: PATH_* work counters, and 1 if the watermarks of a zone have been boosted
#: (ZONE_BOOSTED_WATERMARK).
REPORT_PATH = CALL_ZONES + MAX_ZONES
REPORT_BOOSTED = REPORT_PATH + NR_PATH

assert REPORT_BOOSTED < CALL_WORDS

#: Layout of the arguments; _CALL by the number of zones.
_FREE_CALL = Struct(f"{CALL_COLD + 1}q")
_CALL = tuple(Struct(f"{CALL_ZONES + zones}q") for zones in range(MAX_ZONES + 1))
_PATH = Struct(f"{NR_PATH}q")
_WORD = 8
_PATH_AT, _BOOSTED_AT = _WORD * REPORT_PATH, _WORD * REPORT_BOOSTED

#: Result of an allocation: pfns of the blocks as packed uint64, PATH_* counters, and whether the watermarks
#: of a zone have been boosted, so that kswapd is due (see ``page_alloc.take_boosted``).
Served: TypeAlias = tuple[bytes, tuple[int, ...], bool]

Pfns = npt.NDArray[np.uint64]
Indexes = npt.NDArray[np.uint32]

_NOT_COUNTED = "VM_BUG_ON_PAGE(page_ref_count(page) == 0)"
#: By FREE_* reason: why a block may not be freed, and the kernel's check that fails: the text of
#: page_bad_reason(), or a VM_BUG_ON. Empty where a kernel would not notice.
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

#: Reasons that mean "there is no such allocation"; the others mean that it is another owner's or of another
#: kind.
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
    """:func:`alloc_pages_bulk` with arguments and results in ``PgData.call``; returns the blocks it got."""
    pg = pgdata_at(address)
    call = pg.call
    base = call[CALL_BASE_PFN]
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
    pfns = pg.call_pfns[:got]
    for i in range(pfns.shape[0]):
        pfns[i] += base
    for i in range(NR_PATH):
        call[REPORT_PATH + i] = pg.path[i]
    call[REPORT_BOOSTED] = 0
    for zone in range(pg.managed.shape[0]):
        if pg.zone_flags[zone] & ZONE_BOOSTED_WATERMARK:
            call[REPORT_BOOSTED] = 1
    return got


@kernel
def serve_set_ptes(address: int, ptes: U32, ctl: I64, directory: U32, start: int, got: int) -> int:
    """:func:`set_ptes` for blocks [start, got) of the last :func:`serve_alloc`; returns how far it went."""
    pg = pgdata_at(address)
    call, indexes = pg.call, pg.call_indexes[:got]
    base = call[CALL_BASE_PFN]
    return set_ptes(pg, ptes, ctl, directory, call[CALL_OWNER], indexes, pg.call_pfns, base, start)


@kernel
def serve_free(address: int) -> int:
    """:func:`free_hot_cold_pages` with arguments in ``PgData.call``; the result is that function's."""
    pg = pgdata_at(address)
    call = pg.call
    base = call[CALL_BASE_PFN]
    pages = pg.call_pfns[: call[CALL_COUNT]]
    for i in range(pages.shape[0]):
        pages[i] -= base
    return free_hot_cold_pages(
        pg, call[CALL_CPU], call[CALL_ORDER], call[CALL_OWNER], pages, call[CALL_COLD] != 0
    )


class BadPageError(Exception):
    """A block of a batch may not be freed; no block of the batch was (bad_page)."""

    def __init__(self, pfn: int, reason: str, not_found: bool) -> None:
        super().__init__(f"pfn {pfn:#x}: {reason}")
        self.pfn = pfn
        self.reason = reason
        #: True if no allocated block begins there; False if it is another owner's, or of another order.
        self.not_found = not_found


class PgdatCalls:
    """Base class of :class:`~numa_service.mm.pgdat.Pgdat` with the calls that requests make.

    Packed arguments and results are bytes of little-endian uint64 pfns and uint32 region indexes.
    """

    pg: PgData
    base_pfn: int
    cpu_index: dict[int, int]
    zone_names: tuple[str, ...]
    tables: PageTables

    def _bind(self, pg: PgData) -> None:
        """Switch to other arrays, and renew the raw views of them that calls write to and read."""
        self.pg = pg
        self._address = pg.address
        self._call = pg.call.data.cast("B")
        #: KSWAPD_* words as a memoryview, which is quicker to read than an array.
        self.kswapd = pg.kswapd.data
        self._looks = pg.looks.data
        self._pfns = pg.call_pfns.data.cast("B")
        self._room = len(pg.call_pfns)
        self._indexes = pg.call_indexes.data.cast("B")

    def _make_room(self, blocks: int) -> None:
        """Grow the call buffers so that `blocks` blocks fit."""
        room = max(blocks, 2 * self._room)
        self._bind(
            self.pg._replace(
                call_pfns=np.zeros(room, dtype=np.int64), call_indexes=np.zeros(room, dtype=np.uint32)
            )
        )

    def trace_into(self, ring: I64, ctl: I64) -> None:
        """Write trace events into `ring`, [N, TRACE_WORDS], with the control words `ctl`, [NR_TRACE_CTL]."""
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
        """Allocate up to `count` blocks of one order from `zones`, tried in that order (alloc_pages_bulk).

        `cpu` is the CPU whose pagesets are used, None for none. With an `lru_kind` the pages become the
        owner's region pages `indexes` (packed uint32); blocks are huge pages then (HUGE_INDEX).
        """
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
            if order:
                self._enter_huge(owner, got)
            else:
                self._enter(owner, got)
        return (
            self._pfns[: _WORD * got].tobytes(),
            _PATH.unpack_from(call, _PATH_AT),
            call[_BOOSTED_AT] != 0,
        )

    def _enter(self, owner: int, got: int) -> None:
        """Enter the blocks of the last allocation, `got` in number, into the owner's page table.

        If an index has a page already, the reply that named that page was lost, and the owner asks again. The
        old page is freed.
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

    def _enter_huge(self, owner: int, got: int) -> None:
        """:meth:`_enter` of huge pages: entries for all of their pages."""
        pg, tables = self.pg, self.tables
        heads, pages = pg.call_indexes[:got].copy(), pg.call_pfns[:got] - self.base_pfn
        zap_pages(pg, tables.ptes, tables.directory(owner), owner, heads, False, -1)
        tables.enter(pg, owner, *parts_of(heads & ~np.uint32(HUGE_INDEX), pages))

    def look(self, cpu: int, order: int, highest_zoneidx: int, alloc_flags: int, blocks: int = 0) -> bytes:
        """Record every zone as it is now; the bytes are for ``ZoneLook.of``.

        It also makes the watermark checks of such a request, see :meth:`checks`. `blocks` is how many blocks
        the last allocation got; 0 before an allocation.
        """
        ASK.pack_into(
            self._call, 0, self.base_pfn, blocks, self.cpu_index[cpu], order, highest_zoneidx, alloc_flags
        )
        look_at_zones(self._address)
        return self._looks.tobytes()

    def explain(self, on: bool) -> None:
        """Begin, with all records cleared, or cease to record what walks compare in each zone."""
        self.pg.trace_ctl[EXPLAIN_ON] = on
        if on:
            self.pg.checks[:] = 0

    def checks(self, zone: int) -> list[list[int]]:
        """CHECK_* words of a zone: at a walk's first visit, and at its last or at a later :meth:`look`."""
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
        """:meth:`alloc_packed` with arrays; returns pfns.

        `cold` asks for pages that are not in the CPU's cache (__GFP_COLD, 3.0).
        """
        flags = alloc_flags | ALLOC_COLD if cold else alloc_flags
        packed = b"" if indexes is None else indexes.astype("<u4").tobytes()
        how = migratetype, highest_zoneidx, flags, numa_how, owner, lru_kind, packed, dirty
        pfns, _, _ = self.alloc_packed(zones, cpu, order, count, *how)
        return np.frombuffer(pfns, dtype="<u8")

    def free_packed(self, cpu: int | None, order: int, owner: int, pfns: bytes, cold: bool = False) -> int:
        """Free all the blocks, of one order and held by one owner by hand; returns pages freed.

        `cold` blocks go to the tail of the pageset's list. BadPageError names the first block that may not be
        freed; then none is, and the refusal is counted by reason.
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
