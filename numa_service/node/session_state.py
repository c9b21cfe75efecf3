"""Sessions and regions, as their home node keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from numa_service.mm.mempolicy.interleave import FIRST_TURN, Turn
from numa_service.mm.slab.slub_place import SlabRef
from numa_service.node.owners import Owner

#: A policy as plain data (Policy.plain() of ``mempolicy.py``): mode, nodes, home node, flags.
PlainPolicy = tuple[int, tuple[int, ...], int, int]

#: Bytes of a session's token: 128 random bits cannot be guessed.
TOKEN_BYTES = 16


class Held(NamedTuple):
    """An object that a session holds."""

    #: Name of its cache.
    cache: str
    slab: SlabRef


@dataclass(slots=True)
class Session:
    """A client's session, which may hold pages on every node."""

    id: int
    name: str
    lease_ns: int
    expires_ns: int
    owner: Owner
    #: The secret that a client's requests for this session must carry; empty if no clients are served.
    token: bytes = field(default=b"", repr=False)
    #: Other nodes on which the session has, or may have, pages: its end frees them there.
    holdings: set[int] = field(default_factory=set)
    #: Nodes that have rebooted since the session got pages there: those pages are lost.
    lost: set[int] = field(default_factory=set)
    #: Ids of the session's regions.
    regions: set[int] = field(default_factory=set)
    #: Where it is in its round under the interleave policies (il_prev and il_weight).
    turn: Turn = FIRST_TURN
    #: Id of the owner of the pages that are vmalloc'ed for the session; 0 until the first of them. They are
    #: not the session's own, which FreePages frees.
    vmalloc_id: int = 0
    #: Objects of slab caches, by address.
    objects: dict[int, Held] = field(default_factory=dict)

    def dump(self) -> list[Any]:
        """Return all of it as plain data, which :meth:`load` reads."""
        sets = [sorted(part) for part in (self.holdings, self.lost, self.regions)]
        who = self.id, self.name, self.lease_ns, self.expires_ns, self.owner, self.token
        return [*who, *sets, self.turn, self.vmalloc_id, list(self.objects.items())]

    @classmethod
    def load(cls, dumped: list[Any]) -> Session:
        """Make it from what :meth:`dump` returned."""
        id, name, lease_ns, expires_ns, owner, token, holdings, lost, regions, *counted = dumped
        sets = set(holdings), set(lost), set(regions)
        turn, vmalloc_id, objects = counted
        held = {address: Held(cache, SlabRef(*slab)) for address, (cache, slab) in objects}
        who = id, name, lease_ns, expires_ns, Owner(*owner), token
        return cls(*who, *sets, Turn(*turn), vmalloc_id, held)

    @property
    def state(self) -> tuple[object, ...]:
        """The fields that the node's digest covers; sets are sorted, as their order varies."""
        times = self.lease_ns, self.expires_ns
        where = sorted(self.holdings), sorted(self.lost), sorted(self.regions)
        counted = self.turn, self.vmalloc_id, list(self.objects.items())
        return self.id, self.name, self.token, *times, *where, *counted


@dataclass(slots=True)
class Region:
    """Pageable memory of a session. The home knows the node of each page; that node has the page table."""

    id: int
    session: int
    lru_kind: int
    #: (first page, policy) of each part with a policy of its own, as Policy.plain() has it; ascending from 0.
    areas: list[tuple[int, PlainPolicy]]
    #: By page index: nid + 1 of the node on which the page was allocated last; 0 = never faulted in. That
    #: node may have reclaimed the page since.
    nids: npt.NDArray[np.uint16]
    #: Other nodes that ever allocated pages of the region: its end frees pages and swap there.
    holdings: set[int] = field(default_factory=set)

    def dump(self) -> list[Any]:
        """Return all of it as plain data, which :meth:`load` reads."""
        fixed = self.id, self.session, self.lru_kind, self.areas
        return [*fixed, self.nids.tobytes(), sorted(self.holdings)]

    @classmethod
    def load(cls, dumped: list[Any]) -> Region:
        """Make it from what :meth:`dump` returned."""
        id, session, lru_kind, dumped_areas, nids, holdings = dumped
        areas = [
            (first, (mode, tuple(nodes), home_node, flags))
            for first, (mode, nodes, home_node, flags) in dumped_areas
        ]
        where = np.frombuffer(nids, np.uint16).copy()
        return cls(id, session, lru_kind, areas, where, set(holdings))

    def spans(self, first: int, end: int) -> Iterator[tuple[int, int, PlainPolicy]]:
        """(first page, end, policy) of each part of the pages [first, end)."""
        ends = [*(start for start, _ in self.areas[1:]), len(self.nids)]
        for (start, policy), area_end in zip(self.areas, ends, strict=True):
            if start < end and first < area_end:
                yield max(start, first), min(end, area_end), policy

    def bind(self, first: int, end: int, policy: PlainPolicy) -> None:
        """Give the pages [first, end) a policy; neighbours with one policy become one part."""
        parts = [
            *self.spans(0, first),
            (first, end, policy),
            *self.spans(end, len(self.nids)),
        ]
        merged = list[tuple[int, PlainPolicy]]()
        for start, _, of in parts:
            if not merged or merged[-1][1] != of:
                merged.append((start, of))
        self.areas = merged
