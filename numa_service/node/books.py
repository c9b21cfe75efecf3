"""What a node's books are made of: sessions, regions, and pages as they travel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from numa_service.mm.mmzone import PAGEBLOCK_NR_PAGES
from numa_service.mm.pgdat import Indexes, Pfns
from numa_service.node.cost import Cost
from numa_service.node.errors import InvalidRequest
from numa_service.node.ops import Owner


def pack_pfns(pfns: npt.NDArray[Any]) -> bytes:
    """Little-endian uint64."""
    return pfns.astype("<u8", copy=False).tobytes()


def check_pfns(data: bytes) -> None:
    """InvalidRequest when the length is no multiple of 8."""
    if len(data) % 8:
        raise InvalidRequest("pfns", f"{len(data)} bytes: not a sequence of 64-bit page frame numbers")


def unpack_pfns(data: bytes) -> Pfns:
    """Inverse of :func:`pack_pfns`; InvalidRequest as :func:`check_pfns`."""
    check_pfns(data)
    return np.frombuffer(data, dtype="<u8")


def unpack_indexes(data: bytes) -> Indexes:
    """Region page indexes, little-endian uint32."""
    return np.frombuffer(data, dtype="<u4")


def pageblocks_around(start_pfn: int, end_pfn: int) -> tuple[int, int]:
    """[start, end) of the pageblocks that a range lies in."""
    size = PAGEBLOCK_NR_PAGES
    return start_pfn // size * size, -(-end_pfn // size) * size


@dataclass(slots=True)
class Session:
    """A client that may hold pages."""

    id: int
    name: str
    lease_ns: int
    expires_ns: int
    owner: Owner
    #: Nodes, beside this one, where it has pages.
    holdings: set[int] = field(default_factory=set)
    #: Nodes that have booted anew since: what it had there then is lost.
    lost: set[int] = field(default_factory=set)
    regions: set[int] = field(default_factory=set)
    #: il_prev: how many interleaved pages it has asked for.
    interleaved: int = 0

    @property
    def state(self) -> tuple[object, ...]:
        """What a digest sees of it."""
        times = self.lease_ns, self.expires_ns
        where = sorted(self.holdings), sorted(self.lost), sorted(self.regions)
        return self.id, self.name, *times, *where, self.interleaved


@dataclass(slots=True)
class Region:
    """Pageable memory of a session: its page table."""

    id: int
    session: int
    lru_kind: int
    policy: tuple[int, tuple[int, ...]]
    #: nid + 1 of the node where each page was put; 0 = never faulted in. The page may be gone since.
    nids: npt.NDArray[np.uint16]
    pfns: npt.NDArray[np.uint64]
    #: Nodes, beside this one, that were ever given pages of it: what is in swap there is in no table.
    holdings: set[int] = field(default_factory=set)


@dataclass(slots=True)
class KswapdStats:
    """What kswapd has done, for status and metrics; not state."""

    wakeups: int = 0
    reclaimed: int = 0
    running: bool = False
    #: What its work took; nobody waits for it.
    cost: Cost = field(default_factory=Cost)
