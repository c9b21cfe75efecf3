"""What has to be known of the nodes before a path of /proc or /sys can be read or listed.

A node is asked only where a file depends on it, and only for what the file shows. What nobody has to be asked
for (CPUs, distances, which nodes are on-line) the machine's own server knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from numa_service.machine.snapshot import EVERY_PART, Part


class Of(IntEnum):
    """Which nodes are asked; a later one includes those before it."""

    NOBODY = 0
    #: Any node: all have the same.
    ANY = 1
    #: The node whose number is the first in the path.
    NODE = 2
    EVERY = 3


@dataclass(frozen=True, slots=True)
class Needs:
    """Which nodes are asked, and for what beside the counters that every snapshot has."""

    of: Of
    parts: Part
    #: The node of `Of.NODE`.
    nid: int = -1
    #: The task whose files are asked for; 0: those of all tasks.
    pid: int = 0

    def __or__(self, other: Needs) -> Needs:
        """What both need; their nodes, if any, are the same, as their paths are."""
        pid = self.pid if Part.TASKS in self.parts else other.pid
        return Needs(max(self.of, other.of), self.parts | other.parts, max(self.nid, other.nid), pid)


NOTHING = Needs(Of.NOBODY, Part(0))
EVERYTHING = Needs(Of.EVERY, EVERY_PART)


def of_every_node(*parts: Part) -> Needs:
    """The needs of a file that every node contributes to."""
    return Needs(Of.EVERY, _all_of(parts))


def of_the_node(*parts: Part) -> Needs:
    """The needs of a file of one node."""
    return Needs(Of.NODE, _all_of(parts))


#: The needs of a file that shows sysctls, which all nodes have alike.
SYSCTLS = Needs(Of.ANY, Part.SYSCTLS)


def _all_of(parts: tuple[Part, ...]) -> Part:
    wanted = Part(0)
    for part in parts:
        wanted |= part
    return wanted
