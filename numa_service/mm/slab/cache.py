"""A cache of any of the three slab allocators, and their names."""

from __future__ import annotations

from numa_service.mm.slab.slab import SlabCache, SlabCaches
from numa_service.mm.slab.slob import SlobCache, SlobCaches
from numa_service.mm.slab.slub import SlubCache, SlubCaches

#: The allocators, by the names that machine files and commands use.
ALLOCATORS = ("slub", "slab", "slob")
#: A cache of any of them.
Cache = SlubCache | SlabCache | SlobCache
#: Those of a machine, in the order of creation, and how new ones are made.
Caches = SlubCaches | SlabCaches | SlobCaches
