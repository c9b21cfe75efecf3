"""What kernel versions do differently when SLUB allocates (``mm/slub.c``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SlubWorkRules:
    """What kernel versions do differently."""

    #: A preferred node is tried alone first, partial slabs and pages, before others are (since 6.10); else
    #: partial slabs of other nodes are not looked at for such a request.
    preferred_node_first: bool
    #: Slabs of a single page are asked for with __GFP_COMP, too.
    always_compound: bool
