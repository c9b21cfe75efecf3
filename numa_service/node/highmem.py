"""Bounce decisions for pages of a machine; mapping them is in ``ops/highmem.py`` and ``requests.py``."""

from __future__ import annotations

from collections.abc import Sequence

from numa_service.mm.highmem.bounce import Bounced, Device, blk_queue_bounce
from numa_service.mm.highmem.rules import highmem_rules
from numa_service.node.node import Node


def bounced_pages(node: Node, pfns: Sequence[int], dma_mask: int, *, no_highmem: bool = False) -> Bounced:
    """Return which pages of a request have to be copied for a device, and from which pool the copies are.

    `dma_mask` is the highest address that the device reaches; with `no_highmem` its driver has no address for
    high memory. Nothing is allocated.
    """
    machine = node.machine
    return blk_queue_bounce(
        highmem_rules(machine.profile),
        Device(dma_mask, no_highmem),
        pfns,
        arch=machine.spec.arch,
        max_low_pfn=machine.max_low_pfn,
        max_pfn=machine.max_pfn,
    )
