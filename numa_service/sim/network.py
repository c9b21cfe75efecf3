"""The network between the nodes of a simulation: what becomes of one message, drawn from the run's seed."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """What the network does to messages between nodes, and clients and their nodes."""

    #: Probability that a message is lost: a question, or the answer to one that was carried out.
    lose: float = 0.0
    #: Probability that a question arrives twice.
    duplicate: float = 0.0
    #: Each message takes up to this many times longer than it must; so messages overtake each other.
    jitter: float = 0.0
    #: Who asked gives up after so long.
    timeout_ns: int = 1_000_000


class Network:
    """Delays, losses and cuts."""

    def __init__(self, dice: random.Random, faults: Faults, one_way_ns: int) -> None:
        self.faults = faults
        self._dice = dice
        self._one_way_ns = one_way_ns
        #: Groups of nodes that do not reach those outside; empty: all are connected.
        self.partition: frozenset[int] = frozenset()

    def reaches(self, a: int, b: int) -> bool:
        """Whether no cut is between two nodes."""
        return (a in self.partition) == (b in self.partition)

    def delay_ns(self) -> int:
        """One way between nodes: half of what the latency model charges for a lookup, and the jitter."""
        return self._one_way_ns + int(self._one_way_ns * self.faults.jitter * self._dice.random())

    def loses(self) -> bool:
        """Whether this message is lost."""
        return self.faults.lose > 0 and self._dice.random() < self.faults.lose

    def repeats(self) -> bool:
        """Whether this question arrives twice."""
        return self.faults.duplicate > 0 and self._dice.random() < self.faults.duplicate
