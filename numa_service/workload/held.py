"""What a program holds until it is due to be freed, or until the program ends."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from numa_service.mm.pgdat import Pfns
from numa_service.workload.due import MAX_TICKS, Due

K = TypeVar("K")


class Held(Generic[K]):
    """Blocks, objects or areas by a key of theirs: pfns or addresses, with a lifetime or without one."""

    def __init__(self) -> None:
        self._due: dict[K, Due] = {}
        self._forever: dict[K, list[Pfns]] = {}

    def keep(self, key: K, some: Pfns) -> None:
        """Keep some until the program ends."""
        self._forever.setdefault(key, []).append(some)

    def keep_for(self, key: K, some: Pfns, lifetimes: npt.NDArray[np.float64], now: int) -> None:
        """Keep some for their lifetimes, in ticks of the key's clock, which is at `now`."""
        due = np.minimum(lifetimes, MAX_TICKS).astype(np.int64) + now
        self._due.setdefault(key, Due()).add(due, some)

    def with_lifetimes(self) -> list[K]:
        """Keys of what may be due, in the order in which they came."""
        return list(self._due)

    def take(self, key: K, now: int) -> Pfns:
        """Take what is due at `now`."""
        return self._due[key].take(now)

    def drain(self) -> list[tuple[K, Pfns]]:
        """Take everything: what has a lifetime before what has none."""
        held = [(key, waiting.drain()) for key, waiting in self._due.items()]
        held += [(key, np.concatenate(parts)) for key, parts in self._forever.items()]
        self._forever.clear()
        return held
