"""Memory policies (``set_mempolicy(2)``), and their spelling on command lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from numa_client._errors import InvalidRequest

#: The kernel's MAX_NUMNODES with the CONFIG_NODES_SHIFT of 10 that distributions use: nids are below it.
MAX_NUMNODES = 1024
#: Most characters of a policy: more than a list of every single node has.
_MAX_TEXT = 8192
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


class PolicyMode(StrEnum):
    """How nodes are chosen. The values are the long options of numactl."""

    DEFAULT = "default"
    BIND = "bind"
    PREFERRED = "preferred"
    INTERLEAVE = "interleave"
    PREFERRED_MANY = "preferred-many"
    LOCAL = "local"
    WEIGHTED_INTERLEAVE = "weighted-interleave"


#: Modes that take no nodes.
_WITHOUT_NODES = (PolicyMode.DEFAULT, PolicyMode.LOCAL)


class PolicyFlag(StrEnum):
    """What the nodes of a policy are; without a flag they are nodes by number."""

    #: Nodes by number, which no cpuset maps to others (MPOL_F_STATIC_NODES).
    STATIC = "static"
    #: Places among the nodes that may be used, 0 being the first (MPOL_F_RELATIVE_NODES).
    RELATIVE = "relative"


@dataclass(frozen=True, slots=True)
class Policy:
    """A mode and its nodes. Whether the machine has them is checked by the service."""

    mode: PolicyMode = PolicyMode.DEFAULT
    nodes: tuple[int, ...] = ()
    #: Where the walk of BIND and PREFERRED_MANY begins; None: at the node of the CPU.
    home_node: int | None = None
    flag: PolicyFlag | None = None

    @classmethod
    def default(cls) -> Policy:
        """MPOL_DEFAULT: the node of the requesting CPU, then its zonelist."""
        return cls()

    @classmethod
    def local(cls) -> Policy:
        """MPOL_LOCAL: the node of the requesting CPU, then its zonelist."""
        return cls(PolicyMode.LOCAL)

    @classmethod
    def bind(cls, *nodes: int, home_node: int | None = None) -> Policy:
        """MPOL_BIND: only these nodes."""
        return cls(PolicyMode.BIND, nodes, home_node)

    @classmethod
    def preferred(cls, node: int) -> Policy:
        """MPOL_PREFERRED: this node's zonelist."""
        return cls(PolicyMode.PREFERRED, (node,))

    @classmethod
    def interleave(cls, *nodes: int) -> Policy:
        """MPOL_INTERLEAVE: page by page over these nodes."""
        return cls(PolicyMode.INTERLEAVE, nodes)

    @classmethod
    def weighted_interleave(cls, *nodes: int) -> Policy:
        """MPOL_WEIGHTED_INTERLEAVE: of each of these nodes in turn as many pages as its weight says."""
        return cls(PolicyMode.WEIGHTED_INTERLEAVE, nodes)

    @classmethod
    def preferred_many(cls, *nodes: int, home_node: int | None = None) -> Policy:
        """MPOL_PREFERRED_MANY: these nodes first, then every node."""
        return cls(PolicyMode.PREFERRED_MANY, nodes, home_node)

    @classmethod
    def parse(cls, text: str) -> Policy:
        """``default``, ``bind:0,1``, ``preferred:2``, ``interleave:0-3``, ``preferred-many:0,2``, and more.

        A flag stands behind the mode, as in ``bind=relative:0``, a home node at the end: ``bind:0,1@1``.
        InvalidRequest (field ``policy``) says which part is wrong.
        """
        if len(text) > _MAX_TEXT:
            raise _wrong(text, f"{len(text)} characters, at most {_MAX_TEXT}")
        told, _, home = text.partition("@")
        named, _, mask = told.partition(":")
        name, equals, flag = named.partition("=")
        try:
            mode = PolicyMode(name)
        except ValueError:
            known = ", ".join(PolicyMode)
            raise InvalidRequest(
                f"unknown policy {name[:40]!r}: choose from {known}", field="policy"
            ) from None
        if mode in _WITHOUT_NODES and mask:
            raise _wrong(text, f"{mode} takes no nodes")
        if mode not in _WITHOUT_NODES and not mask:
            raise _wrong(text, f"give nodes, as in {name}:0,1")
        if equals and flag not in PolicyFlag.__members__.values():
            raise _wrong(text, f"{flag[:40]!r} is neither static nor relative")
        near = _nodes(text, home)
        if len(near) != ("@" in text):
            raise _wrong(text, "give one home node, as in bind:0,1@1")
        return cls(mode, _nodes(text, mask), near[0] if near else None, PolicyFlag(flag) if flag else None)

    def __str__(self) -> str:
        """The spelling that :meth:`parse` takes."""
        flag = f"={self.flag}" if self.flag else ""
        nodes = f":{','.join(map(str, self.nodes))}" if self.nodes else ""
        home = "" if self.home_node is None else f"@{self.home_node}"
        return f"{self.mode}{flag}{nodes}{home}"


def _nodes(text: str, mask: str) -> tuple[int, ...]:
    """The nodes of a list such as ``0-3,8``, each once, in order; bounds are checked before it expands."""
    nodes: dict[int, None] = {}
    for part in mask.split(",") if mask else ():
        match = _RANGE.fullmatch(part)
        if match is None:
            raise _wrong(text, f"{part[:40]!r} is not a node or a range")
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= MAX_NUMNODES or first >= MAX_NUMNODES:
            raise _wrong(text, f"{part}: there is no node above {MAX_NUMNODES - 1}")
        if last < first:
            raise _wrong(text, f"{part} runs backwards")
        nodes.update(dict.fromkeys(range(first, last + 1)))
    return tuple(nodes)


def _wrong(text: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"policy {text[:60]!r}: {reason}", field="policy")
