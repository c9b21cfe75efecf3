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
    #: What is printed of a slab with objects when its cache is destroyed (free_partial), and at the end of
    #: that (kmem_cache_destroy).
    objects_remaining: str = "Objects remaining in {cache} on __kmem_cache_shutdown()"
    still_has_objects: str = "kmem_cache_destroy {cache}: Slab cache still has objects"
    #: How lines of a report begin that are not the first.
    report_prefix: str = ""
    #: What is said of red zones in front of an object and behind it, and of the last byte of poison (5.11).
    left_redzone: str = "Left Redzone"
    right_redzone: str = "Right Redzone"
    end_poison: str = "End Poison"
    #: Where in its slab the first wrong byte is, is told (5.8); which part of an object is restored (5.14).
    tells_offset: bool = True
    tells_restored: bool = True
    #: All that is wrong with an object is reported, and also padding makes it bad (6.11).
    all_is_checked: bool = False
    #: Only a cache with debugging is checked (since 6.1).
    validates_debugged: bool = True
