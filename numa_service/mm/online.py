"""Iteration over on-line nodes (``mm/mmzone.c``); `pgdats` has an entry of any type for each on-line nid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


def first_online_pgdat(pgdats: Mapping[int, T]) -> T | None:
    """The on-line node with the lowest nid; None when none is."""
    return pgdats[min(pgdats)] if pgdats else None


def next_online_pgdat(pgdats: Mapping[int, T], nid: int) -> T | None:
    """The on-line node with the next higher nid, or None; `nid` itself may have gone off-line meanwhile."""
    following = min((other for other in pgdats if other > nid), default=None)
    return None if following is None else pgdats[following]


def for_each_online_pgdat(pgdats: Mapping[int, T]) -> Iterator[T]:
    """Every on-line node in nid order; a node that comes or goes during the iteration may be missed."""
    nid = min(pgdats, default=None)
    while nid is not None:
        if nid in pgdats:
            yield pgdats[nid]
        nid = min((other for other in pgdats if other > nid), default=None)
