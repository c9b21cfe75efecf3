"""Memory policies (``set_mempolicy(2)``), and how a command line spells them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from numa_client._errors import InvalidRequest

#: 1 << CONFIG_NODES_SHIFT of distributions' kernels: nodes are numbered from 0 to one below it.
MAX_NUMNODES = 1024
#: Characters: more than a list of every single node has.
_MAX_TEXT = 8192
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


class PolicyMode(StrEnum):
    """How nodes are chosen; values as numactl's long options spell them."""

    DEFAULT = "default"
    BIND = "bind"
    PREFERRED = "preferred"
    INTERLEAVE = "interleave"
    PREFERRED_MANY = "preferred-many"


@dataclass(frozen=True, slots=True)
class Policy:
    """A mode and the nodes it speaks of. The service judges whether they fit the machine."""

    mode: PolicyMode = PolicyMode.DEFAULT
    nodes: tuple[int, ...] = ()

    @classmethod
    def default(cls) -> Policy:
        """MPOL_DEFAULT: the node of the requesting CPU, then its zonelist."""
        return cls()

    @classmethod
    def bind(cls, *nodes: int) -> Policy:
        """MPOL_BIND: only these nodes."""
        return cls(PolicyMode.BIND, nodes)

    @classmethod
    def preferred(cls, node: int) -> Policy:
        """MPOL_PREFERRED: this node's zonelist."""
        return cls(PolicyMode.PREFERRED, (node,))

    @classmethod
    def interleave(cls, *nodes: int) -> Policy:
        """MPOL_INTERLEAVE: page by page over these nodes."""
        return cls(PolicyMode.INTERLEAVE, nodes)

    @classmethod
    def preferred_many(cls, *nodes: int) -> Policy:
        """MPOL_PREFERRED_MANY: these nodes first, then every node."""
        return cls(PolicyMode.PREFERRED_MANY, nodes)

    @classmethod
    def parse(cls, text: str) -> Policy:
        """``default``, ``bind:0,1``, ``preferred:2``, ``interleave:0-3``, ``preferred-many:0,2``.

        InvalidRequest (field ``policy``) says which part is wrong.
        """
        if len(text) > _MAX_TEXT:
            raise _wrong(text, f"{len(text)} characters, at most {_MAX_TEXT}")
        name, _, mask = text.partition(":")
        try:
            mode = PolicyMode(name)
        except ValueError:
            known = ", ".join(PolicyMode)
            raise InvalidRequest(
                f"unknown policy {name[:40]!r}: choose from {known}", field="policy"
            ) from None
        if mode is PolicyMode.DEFAULT and mask:
            raise _wrong(text, "default takes no nodes")
        if mode is not PolicyMode.DEFAULT and not mask:
            raise _wrong(text, f"give nodes, as in {name}:0,1")
        return cls(mode, _nodes(text, mask))

    def __str__(self) -> str:
        """The spelling that :meth:`parse` takes."""
        return f"{self.mode}:{','.join(map(str, self.nodes))}" if self.nodes else str(self.mode)


def _nodes(text: str, mask: str) -> tuple[int, ...]:
    """Nodes of a list as ``0-3,8``, each once, in the order given; bounds are checked before it expands."""
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
