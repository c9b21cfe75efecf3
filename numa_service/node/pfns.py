"""Page frame numbers and page indexes as they travel: packed, little-endian, uint64 and uint32."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from numa_service.mm.mmzone import PAGEBLOCK_NR_PAGES
from numa_service.mm.pgdat import Indexes, Pfns
from numa_service.node.errors import InvalidRequest


def pack_pfns(pfns: npt.NDArray[Any]) -> bytes:
    """Page frame numbers as little-endian uint64."""
    return pfns.astype("<u8", copy=False).tobytes()


def check_pfns(data: bytes) -> None:
    """Raise InvalidRequest when the length is no multiple of 8."""
    if len(data) % 8:
        raise InvalidRequest("pfns", f"{len(data)} bytes: not a sequence of 64-bit page frame numbers")


def unpack_pfns(data: bytes) -> Pfns:
    """Inverse of :func:`pack_pfns`; InvalidRequest as :func:`check_pfns`."""
    check_pfns(data)
    return np.frombuffer(data, dtype="<u8")


def unpack_indexes(data: bytes) -> Indexes:
    """Indexes of pages in their region, from little-endian uint32."""
    return np.frombuffer(data, dtype="<u4")


def pageblocks_around(start_pfn: int, end_pfn: int) -> tuple[int, int]:
    """[start, end) of the pageblocks that a range of page frames lies in."""
    size = PAGEBLOCK_NR_PAGES
    return start_pfn // size * size, -(-end_pfn // size) * size
