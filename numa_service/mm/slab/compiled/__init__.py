"""SLUB's lists and objects as arrays, and the compiled functions over them.

* ``data.py``: the arrays, and how kernels find them.
* ``lists.py``: which slab a page is of; free lists of objects, partial lists of slabs.
* ``slabs.py``: what a node does with a slab (``struct kmem_cache_node``).
* ``cpu.py``: what a CPU does (``struct kmem_cache_cpu``): batches of allocations and frees.

``mm/slab/slub_node.py`` and ``slub_cpu.py`` are the way in. The kernels' disk cache is named after the text
of this folder, too (``mm/jit.py``).
"""
