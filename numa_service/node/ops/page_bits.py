"""Ops that lock and unlock pages, and begin and end their writeback (``mm/filemap.c``)."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.mmzone import PAGEBLOCK_ORDER
from numa_service.mm.page_alloc import NO_PAGEBLOCK
from numa_service.mm.pgdata import PG_HOLE
from numa_service.node.errors import InvalidRequest, NotFound, Precondition, TooMany
from numa_service.node.ops.fields import MAX_NODE_PAGES, check_below
from numa_service.node.ops.op import Op
from numa_service.node.page_bits import BITS
from numa_service.node.state import NodeState

#: Bits of pages that all sessions of a node may have set at one time.
MAX_PAGE_BITS = 1 << 16


def _check(bit: str, pfn: int) -> None:
    if bit not in BITS:
        raise InvalidRequest("bit", f"{bit!r:.40} is not {' or '.join(BITS)}")
    check_below("pfn", pfn, MAX_NODE_PAGES)


@dataclass(frozen=True, slots=True)
class SetPageBit(Op[bool]):
    """Sets PG_locked or PG_writeback of a page for a session (trylock_page, set_page_writeback).

    The result is False, and nothing is changed, if another session has set it. NotFound for a page that this
    node has not; Precondition if the session has set it itself, as a task would wait for itself for ever.
    """

    tag = "set_page_bit"

    session: int
    pfn: int
    bit: str

    def apply(self, node: NodeState) -> bool:
        """Set the bit unless it is set."""
        node.session(self.session)
        idx, pg = self.pfn - node.pgdat.base_pfn, node.pgdat.pg
        there = 0 <= idx < len(pg.flags) and pg.pb_migratetype[idx >> PAGEBLOCK_ORDER] != NO_PAGEBLOCK
        if not there or pg.flags[idx] & PG_HOLE:
            raise NotFound("page", f"{self.pfn:#x}", f"no page of node {node.nid}")
        holder = node.page_bits.holder(self.pfn, self.bit)
        if holder == self.session:
            raise Precondition(f"page {self.pfn:#x} is {self.bit} by session {holder} itself")
        if holder is None:
            if len(node.page_bits) >= MAX_PAGE_BITS:
                raise TooMany(f"{MAX_PAGE_BITS} bits of pages are set on node {node.nid}")
            node.page_bits.set(self.pfn, self.bit, self.session)
        return holder is None

    def check(self, node: NodeState) -> None:
        """Check the bit and the pfn."""
        _check(self.bit, self.pfn)

    def text(self, node: NodeState, result: bool) -> str:
        """Return the op and its result as one line."""
        return f"set_page_{self.bit} pfn={self.pfn:#x} session={self.session} -> {result}"


@dataclass(frozen=True, slots=True)
class ClearPageBit(Op[None]):
    """Clears PG_locked or PG_writeback of a page (unlock_page, end_page_writeback).

    Precondition if the session has not set it: VM_BUG_ON_PAGE(!PageLocked(page)).
    """

    tag = "clear_page_bit"

    session: int
    pfn: int
    bit: str

    def apply(self, node: NodeState) -> None:
        """Clear the bit."""
        node.session(self.session)
        if node.page_bits.holder(self.pfn, self.bit) != self.session:
            raise Precondition(f"page {self.pfn:#x} is not {self.bit} by session {self.session}")
        node.page_bits.clear(self.pfn, self.bit)

    def check(self, node: NodeState) -> None:
        """Check the bit and the pfn."""
        _check(self.bit, self.pfn)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"clear_page_{self.bit} pfn={self.pfn:#x} session={self.session}"
