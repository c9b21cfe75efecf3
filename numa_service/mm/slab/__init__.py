"""The slab allocators: what their caches look like, and objects that come from them.

``mm/slab.h`` of Linux hides three allocators behind one interface: SLUB, SLAB (until 6.7) and SLOB (until
6.3). Most of this package computes the geometry of their caches: sizes, alignment, orders, limits, and which
caches merge. Compiled are only SLUB's objects. Where to read:

* ``flags.py``, ``kmem_cache.py``: what is passed to kmem_cache_create, and the alignment that follows.
* ``merge.py``: which caches become one.
* ``kmalloc.py``: the size classes of kmalloc.
* ``slub_parameters.py``, ``slub.py``: SLUB, and what the command line changes.
* ``slub_node.py``, ``slub_cpu.py``: SLUB at work, on the node that has a slab and on that of the CPU that
  allocates; ``slub_place.py``: the arrays of a machine or node; ``compiled/``: the kernels over them;
  ``slub_reports.py``: what it says of wrong frees.
* ``slab.py``: SLAB, and what is written to /proc/slabinfo; at work: ``slab_node.py`` (a node's slabs),
  ``slab_alloc.py`` (a CPU's array), ``slab_boot.py``.
* ``slob.py``: SLOB, which has blocks of pages for caches; at work: ``slob_page.py``, ``slob_alloc.py``.
* ``allocator.py``: the interface of all three; ``slub_alloc.py``, ``slab_alloc.py`` and ``slob_alloc.py``
  keep to it, and ``start.py`` makes one with the caches of a boot.
* ``pages.py``: how an allocator at work asks for pages; ``reports.py``: what it says of wrong frees.
* ``boot_caches.py`` and the tables ``boot_caches_*.py``: the caches of captured kernels.
* ``profile.py``: the rules of each kernel version, and its tables.
"""
