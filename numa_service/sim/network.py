"""The network of a simulation: losses, repeats and delays of messages, drawn from the run's seed."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """What the network does to messages: between nodes, and between clients and their nodes."""

    #: Probability that a message is lost, be it a question or an answer.
    lose: float = 0.0
    #: Probability that a question arrives twice.
    duplicate: float = 0.0
    #: A message is delayed by a random factor of 1 to 1 + jitter, so that messages overtake each other.
    jitter: float = 0.0
    #: A node that asked gives up after this time without an answer.
    timeout_ns: int = 1_000_000


class Network:
    """Draws delays, losses and repeats of messages, and keeps the current partition."""

    def __init__(self, dice: random.Random, faults: Faults, one_way_ns: int) -> None:
        self.faults = faults
        self._dice = dice
        self._one_way_ns = one_way_ns
        #: Nodes that are cut off from all others; they still reach each other. Empty: all nodes are
        #: connected.
        self.partition: frozenset[int] = frozenset()

    def reaches(self, a: int, b: int) -> bool:
        """Return whether two nodes are on the same side of the partition."""
        return (a in self.partition) == (b in self.partition)

    def delay_ns(self) -> int:
        """Draw the delay of one message in ns: half of the latency model's remote lookup, plus jitter."""
        return self._one_way_ns + int(self._one_way_ns * self.faults.jitter * self._dice.random())

    def loses(self) -> bool:
        """Draw whether a message is lost."""
        return self.faults.lose > 0 and self._dice.random() < self.faults.lose

    def repeats(self) -> bool:
        """Draw whether a question arrives twice."""
        return self.faults.duplicate > 0 and self._dice.random() < self.faults.duplicate
