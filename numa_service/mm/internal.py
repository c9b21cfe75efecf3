"""alloc_flags: what one try to allocate may do (``mm/internal.h``; bit values of 6.1).

The low two bits are the number of the watermark that the zone has to stay above. 6.3 renamed some flags and
gave them other rights; where the bit is the same, both names stand here.
"""

from __future__ import annotations

from numa_service.mm.mmzone import WMARK_HIGH, WMARK_LOW, WMARK_MIN

ALLOC_WMARK_MIN = WMARK_MIN
ALLOC_WMARK_LOW = WMARK_LOW
ALLOC_WMARK_HIGH = WMARK_HIGH
ALLOC_NO_WATERMARKS = 0x04
#: Selects the bits that are a watermark's number.
ALLOC_WMARK_MASK = ALLOC_NO_WATERMARKS - 1

ALLOC_OOM = 0x08
ALLOC_HARDER = 0x10
ALLOC_HIGH = 0x20
ALLOC_CPUSET = 0x40
ALLOC_CMA = 0x80
ALLOC_NOFRAGMENT = 0x100
#: __GFP_KSWAPD_RECLAIM is set: the allocation may wake kswapd.
ALLOC_KSWAPD = 0x800

# names since 6.3, and a bit of their own for high-order atomic requests
ALLOC_NON_BLOCK = ALLOC_HARDER
ALLOC_MIN_RESERVE = ALLOC_HIGH
ALLOC_HIGHATOMIC = 0x200
#: Flags that open some part of the reserve below the MIN watermark.
ALLOC_RESERVES = ALLOC_NON_BLOCK | ALLOC_MIN_RESERVE | ALLOC_HIGHATOMIC | ALLOC_OOM

#: __GFP_COLD of 3.0: the page will not be used on this CPU soon, so take one that is not in its cache either.
#: A kernel looks at the gfp flag; this bit is the model's own.
ALLOC_COLD = 0x10000

#: First pass of the fast path from 3.12 to 4.7: a zone gives no more than its share (NR_ALLOC_BATCH). Those
#: kernels have it where later ones have ALLOC_NOFRAGMENT, so this bit is the model's own as well.
ALLOC_FAIR = 0x20000
