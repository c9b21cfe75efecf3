"""Bounce buffers: which pages of a request a device cannot reach, and where their copies come from.

In linux-3.0 a driver gives its queue the highest address that its device reaches (blk_queue_bounce_limit).
Since 5.13 a driver can only say that it takes no high memory; what a device cannot reach is mapped or copied
when it is mapped for DMA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numa_service.mm.highmem.rules import HighmemRules
from numa_service.mm.mmzone import PAGE_SHIFT

#: A 64-bit kernel takes an IOMMU for granted from here on.
_4GIB = 0xFFFF_FFFF
#: Pools of pages that are kept for copies: of low memory and of ZONE_DMA.
PAGE_POOL = "page_pool"
ISA_PAGE_POOL = "isa_page_pool"


@dataclass(frozen=True, slots=True)
class Device:
    """What a driver says of its request queue."""

    #: Highest address that the device reaches: a mask of all ones (dma_mask).
    dma_mask: int
    #: The driver copies data itself, and has no address for high memory (no_highmem; BLK_BOUNCE_HIGH).
    no_highmem: bool = False


@dataclass(frozen=True, slots=True)
class Bounced:
    """The pages of a request that have to be copied, and the pool that the copies are from; "" for none."""

    pfns: tuple[int, ...]
    pool: str = ""


def blk_queue_bounce(
    rules: HighmemRules, device: Device, pfns: Sequence[int], *, arch: str, max_low_pfn: int, max_pfn: int
) -> Bounced:
    """Which pages of a request bounce, in a machine whose low memory and RAM end at the given pfns."""
    if not rules.bounces_by_mask:
        may_bounce = device.no_highmem and arch == "i386"  # CONFIG_HIGHMEM
        high = tuple(pfn for pfn in pfns if may_bounce and pfn >= max_low_pfn)
        return Bounced(high, PAGE_POOL) if high else Bounced(())
    limit = device.dma_mask >> PAGE_SHIFT
    if device.no_highmem and arch == "i386":
        limit = min(limit, max_low_pfn - 1)  # BLK_BOUNCE_HIGH; a 64-bit kernel has no high memory
    if arch == "i386":
        dma = limit < max_low_pfn - 1
    else:
        dma = limit < _4GIB >> PAGE_SHIFT
        limit = limit if dma else max(max_low_pfn, limit)
    if not dma and limit >= max_pfn - 1:
        return Bounced(())
    above = tuple(pfn for pfn in pfns if pfn > limit)
    return Bounced(above, ISA_PAGE_POOL if dma else PAGE_POOL) if above else Bounced(())
