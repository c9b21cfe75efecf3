"""What /proc and /sys count of one slab cache on one node, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SlabNodeSnapshot:
    """One cache on one node: its slabs there, and what the node's CPUs have at hand."""

    #: Slabs in the node's memory, and the objects that these have room for.
    slabs: int = 0
    objects: int = 0
    #: Slabs on the node's partial list, and their objects that are in use.
    partial: int = 0
    partial_inuse: int = 0
    #: Objects that are free in slabs which no CPU has.
    free: int = 0
    #: By node: slabs there that CPUs of this node have, those of their partial lists too.
    cpu_slabs: dict[int, int] = field(default_factory=dict)
    #: By CPU of this node: slabs on its partial list; CPUs that have none are left out.
    cpu_partial: dict[int, int] = field(default_factory=dict)
    #: Slabs all of whose objects are free and which wait on a list of their own; only SLAB has those.
    empty: int = 0
    #: Objects in the array that CPUs share.
    shared_available: int = 0
    #: limit, batchcount and shared, which only SLAB has; None: those of the cache's creation.
    tunables: tuple[int, int, int] | None = None
