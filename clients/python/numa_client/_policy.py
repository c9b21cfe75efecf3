"""Memory policies (``set_mempolicy(2)``), and how a command line spells them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from numa_client._errors import InvalidRequest


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
        name, _, mask = text.partition(":")
        try:
            mode = PolicyMode(name)
        except ValueError:
            known = ", ".join(PolicyMode)
            raise InvalidRequest(f"unknown policy {name!r}: choose from {known}", field="policy") from None
        nodes: list[int] = []
        for part in mask.split(",") if mask else []:
            first, dash, last = part.partition("-")
            if not first.isdecimal() or (dash and not last.isdecimal()):
                raise InvalidRequest(f"policy {text!r}: {part!r} is not a node or a range", field="policy")
            nodes.extend(range(int(first), int(last if dash else first) + 1))
        if mode is PolicyMode.DEFAULT and mask:
            raise InvalidRequest(f"policy {text!r}: default takes no nodes", field="policy")
        if mode is not PolicyMode.DEFAULT and not nodes:
            raise InvalidRequest(f"policy {text!r}: give nodes, as in {name}:0,1", field="policy")
        return cls(mode, tuple(nodes))

    def __str__(self) -> str:
        """The spelling that :meth:`parse` takes."""
        return f"{self.mode}:{','.join(map(str, self.nodes))}" if self.nodes else str(self.mode)
