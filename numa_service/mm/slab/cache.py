"""A cache of any of the three slab allocators, and their names."""

from __future__ import annotations

from numa_service.mm.slab.slab import SlabCache
from numa_service.mm.slab.slob import SlobCache
from numa_service.mm.slab.slub import SlubCache

#: The allocators, by the names that machine files and commands use.
ALLOCATORS = ("slub", "slab", "slob")
#: A cache of any of them.
Cache = SlubCache | SlabCache | SlobCache
