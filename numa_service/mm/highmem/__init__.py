"""High memory: pages that a 32-bit kernel has no address for until it maps them (``mm/highmem.c``).

:mod:`.pkmap` is the pool of kmap, with the hash by which ``page->virtual`` is found, :mod:`.kmap_local` the
slots of kmap_atomic and kmap_local, :mod:`.bounce` tells which pages a device cannot reach, and
:mod:`.highmem` is a machine's: who has mapped what. What differs between kernels is in :mod:`.rules`.
"""
