"""Kernel virtual memory (mm/vmalloc.c): areas of addresses, and the pages that are mapped there.

:mod:`.free_tree` finds addresses, :mod:`.vmap_area` has areas from allocation to purge, :mod:`.pages` asks
for pages, and :mod:`.vmalloc` is what callers use: vmalloc, vmap, ioremap. Users of it that have rules of
their own: :mod:`.stacks` of threads, :mod:`.modules`, :mod:`.percpu` chunks. What differs between kernels and
architectures is data in :mod:`.rules`.
"""
