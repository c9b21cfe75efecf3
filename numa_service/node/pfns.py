"""Page frame numbers (little-endian uint64) and page indexes in a region (uint32), packed into bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from numa_service.mm.mmzone import HUGE_INDEX, PAGEBLOCK_NR_PAGES
from numa_service.mm.pgdat import Indexes, Pfns
from numa_service.node.errors import InvalidRequest


def pack_pfns(pfns: npt.NDArray[Any]) -> bytes:
    """Return page frame numbers as little-endian uint64."""
    return pfns.astype("<u8", copy=False).tobytes()


def check_pfns(data: bytes) -> None:
    """Raise InvalidRequest unless the length is a multiple of 8."""
    if len(data) % 8:
        raise InvalidRequest("pfns", f"{len(data)} bytes: not a sequence of 64-bit page frame numbers")


def unpack_pfns(data: bytes) -> Pfns:
    """Return the page frame numbers that :func:`pack_pfns` packed; InvalidRequest as :func:`check_pfns`."""
    check_pfns(data)
    return np.frombuffer(data, dtype="<u8")


def pack_indexes(indexes: npt.NDArray[Any]) -> bytes:
    """Return indexes of pages in their region as little-endian uint32."""
    return indexes.astype("<u4", copy=False).tobytes()


def unpack_indexes(data: bytes) -> Indexes:
    """Return indexes of pages in their region from little-endian uint32."""
    return np.frombuffer(data, dtype="<u4")


def nr_pages(indexes: npt.NDArray[Any]) -> int:
    """How many pages indexes name: of a huge page (HUGE_INDEX) all."""
    return len(indexes) + (PAGEBLOCK_NR_PAGES - 1) * int(np.count_nonzero(indexes & HUGE_INDEX))


def pageblocks_around(start_pfn: int, end_pfn: int) -> tuple[int, int]:
    """Return [start, end), in pfns, of the pageblocks that a range of page frames lies in."""
    size = PAGEBLOCK_NR_PAGES
    return start_pfn // size * size, -(-end_pfn // size) * size
