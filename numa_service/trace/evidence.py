"""What a trace tells about the memory it began with, and how many pages were free as it went.

The first event of a page says where it was when tracing began: freed first, it was in use; taken from the
buddy lists first (``mm_page_alloc_zone_locked``), it was free; allocated without that, it was on a pageset.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from numa_service.mm.mmzone import PAGEBLOCK_ORDER
from numa_service.trace.events import EventKind, TraceError, TraceEvents

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

_KSWAPD = re.compile(rb" (\d+)\.(\d{6}): mm_vmscan_kswapd_(wake|sleep): nid=(\d+)")
#: Text held at once.
_TEXT_BYTES = 8 << 20

#: Orders that pagesets keep (6.1); blocks of other orders go straight to the buddy lists.
_PCP_ORDERS = (0, 1, 2, 3, PAGEBLOCK_ORDER)


@dataclass(frozen=True, slots=True)
class FirstEvents:
    """The first event of every page that any event names, by ascending pfn; a column each."""

    pfn: U64
    #: MM_PAGE_ALLOC, MM_PAGE_FREE or MM_PAGE_ALLOC_ZONE_LOCKED.
    kind: npt.NDArray[np.uint8]
    #: Position of the event among all of the trace.
    at: I64
    #: First page of the block that the event names.
    head: U64
    order: I64
    migratetype: I64
    cpu: I64
    #: The trace has MM_PAGE_ALLOC_ZONE_LOCKED events: without them, allocated first may also mean free.
    zone_locked: bool

    def between(self, start: int, end: int) -> FirstEvents:
        """Those of the pages in [start, end)."""
        low, high = np.searchsorted(self.pfn, np.array([start, end], dtype=np.uint64)).tolist()
        here = slice(low, high)
        return FirstEvents(
            self.pfn[here],
            self.kind[here],
            self.at[here],
            self.head[here],
            self.order[here],
            self.migratetype[here],
            self.cpu[here],
            self.zone_locked,
        )

    @property
    def blocks(self) -> npt.NDArray[np.bool_]:
        """Pages that head the block of their first event."""
        return np.equal(self.pfn, self.head)


def first_events(chunks: Iterable[TraceEvents]) -> FirstEvents:
    """Read a trace for the first event of every page."""
    merged = _columns(TraceEvents.empty(0), 0)
    seen = 0
    zone_locked = False
    for chunk in chunks:
        zone_locked |= bool((chunk.kind == EventKind.MM_PAGE_ALLOC_ZONE_LOCKED).any())
        added = _columns(chunk, seen)
        seen += len(chunk)
        columns = [np.concatenate(pair) for pair in zip(merged, added, strict=True)]
        # np.unique names the first of equals, and what was there before stands first
        _, first = np.unique(columns[0], return_index=True)
        merged = tuple(column[first] for column in columns)
    pfn, kind, at, head, order, migratetype, cpu = merged
    return FirstEvents(pfn, kind, at, head, order, migratetype, cpu, zone_locked)


def _columns(chunk: TraceEvents, seen: int) -> tuple[npt.NDArray[Any], ...]:
    kinds = (EventKind.MM_PAGE_ALLOC, EventKind.MM_PAGE_FREE, EventKind.MM_PAGE_ALLOC_ZONE_LOCKED)
    chosen = np.flatnonzero(np.isin(chunk.kind, kinds) & (chunk.pfn != 0) & (chunk.order <= 10))
    order = chunk.order[chosen].astype(np.int64)
    sizes = np.left_shift(1, order)
    rows = np.repeat(chosen, sizes)
    heads = chunk.pfn[rows]
    within = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return (
        heads + within.astype(np.uint64),
        chunk.kind[rows],
        rows.astype(np.int64) + seen,
        heads,
        np.repeat(order, sizes),
        chunk.migratetype[rows].astype(np.int64),
        chunk.cpu[rows].astype(np.int64),
    )


def buddy_delta(chunk: TraceEvents) -> I64:
    """By how many pages each event changed NR_FREE_PAGES of the zone of its pfn.

    Pagesets take pages with ``mm_page_alloc_zone_locked`` and give them back with ``mm_page_pcpu_drain``; a
    free of an order that they do not keep goes to the buddy lists at once.
    """
    pages = np.left_shift(1, np.minimum(chunk.order, 10).astype(np.int64))
    delta = np.zeros(len(chunk), dtype=np.int64)
    taken = chunk.kind == EventKind.MM_PAGE_ALLOC_ZONE_LOCKED
    given = chunk.kind == EventKind.MM_PAGE_PCPU_DRAIN
    given |= (chunk.kind == EventKind.MM_PAGE_FREE) & ~np.isin(chunk.order, _PCP_ORDERS)
    delta[taken] = -pages[taken]
    delta[given] = pages[given]
    return delta


@dataclass(frozen=True, slots=True)
class KswapdChange:
    """A kswapd of the traced kernel that began to run, or went to sleep."""

    time_ns: int
    nid: int
    awake: bool


def read_kswapd(path: Path) -> tuple[KswapdChange, ...]:
    """When each kswapd ran, from a trace's text; nothing for a columnar trace, which has no such events.

    TraceError if the file cannot be read.
    """
    changes = []
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            rest = b""
            text: Iterable[bytes] = iter(
                partial((gzip.GzipFile(fileobj=raw) if packed else raw).read, _TEXT_BYTES), b""
            )
            for block in text:
                block = rest + block
                end = block.rfind(b"\n") + 1
                rest = block[end:]
                changes += [
                    KswapdChange(int(seconds) * 10**9 + int(micros) * 1000, int(nid), what == b"wake")
                    for seconds, micros, what, nid in _KSWAPD.findall(block, 0, end)
                ]
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path}: {error}") from None
    return tuple(changes)
