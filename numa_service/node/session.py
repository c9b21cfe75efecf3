"""Sessions and regions: who holds pages, as the node keeps it where a client's session is at home."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from numa_service.node.owners import Owner

#: 128 bits: as many as nobody tries.
TOKEN_BYTES = 16


@dataclass(slots=True)
class Session:
    """A client that may hold pages."""

    id: int
    name: str
    lease_ns: int
    expires_ns: int
    owner: Owner
    #: What a request from outside has to have, to speak for it; empty where none comes from outside.
    token: bytes = field(default=b"", repr=False)
    #: Nodes, beside this one, where it has pages.
    holdings: set[int] = field(default_factory=set)
    #: Nodes that have booted anew since: what it had there then is lost.
    lost: set[int] = field(default_factory=set)
    regions: set[int] = field(default_factory=set)
    #: il_prev: how many interleaved pages it has asked for.
    interleaved: int = 0

    def dump(self) -> list[Any]:
        """All of it as plain data; see :meth:`load`."""
        sets = [sorted(part) for part in (self.holdings, self.lost, self.regions)]
        who = self.id, self.name, self.lease_ns, self.expires_ns, self.owner, self.token
        return [*who, *sets, self.interleaved]

    @classmethod
    def load(cls, dumped: list[Any]) -> Session:
        """Inverse of :meth:`dump`."""
        id, name, lease_ns, expires_ns, owner, token, holdings, lost, regions, interleaved = dumped
        sets = set(holdings), set(lost), set(regions)
        return cls(id, name, lease_ns, expires_ns, Owner(*owner), token, *sets, interleaved)

    @property
    def state(self) -> tuple[object, ...]:
        """The fields that a digest covers, in an order that does not depend on how the sets were filled."""
        times = self.lease_ns, self.expires_ns
        where = sorted(self.holdings), sorted(self.lost), sorted(self.regions)
        return self.id, self.name, self.token, *times, *where, self.interleaved


@dataclass(slots=True)
class Region:
    """Pageable memory of a session, and which node each page is on; the page tables are there."""

    id: int
    session: int
    lru_kind: int
    policy: tuple[int, tuple[int, ...]]
    #: nid + 1 of the node where each page was put; 0 = never faulted in. The page may be gone since.
    nids: npt.NDArray[np.uint16]
    #: Nodes, beside this one, that were ever given pages of it: what is in swap there is in no table.
    holdings: set[int] = field(default_factory=set)

    def dump(self) -> list[Any]:
        """All of it as plain data; see :meth:`load`."""
        fixed = self.id, self.session, self.lru_kind, self.policy
        return [*fixed, self.nids.tobytes(), sorted(self.holdings)]

    @classmethod
    def load(cls, dumped: list[Any]) -> Region:
        """Inverse of :meth:`dump`."""
        id, session, lru_kind, (mode, nodes), nids, holdings = dumped
        where = np.frombuffer(nids, np.uint16).copy()
        return cls(id, session, lru_kind, (mode, tuple(nodes)), where, set(holdings))
