"""SLOB's limits, where the traces have no object."""

from __future__ import annotations

import pytest

from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.profile import slob_of
from numa_service.mm.slab.slob import SlobBlock, SlobCache, SlobList, cache_block, kmalloc_block


@pytest.mark.parametrize(
    ("size", "block"),
    [
        (0, None),
        (1, SlobBlock(9, 8, 8, SlobList.SMALL, None)),
        (247, SlobBlock(255, 8, 8, SlobList.SMALL, None)),
        (248, SlobBlock(256, 8, 8, SlobList.MEDIUM, None)),
        (512, SlobBlock(520, 512, 8, SlobList.MEDIUM, None)),
        (1015, SlobBlock(1023, 8, 8, SlobList.MEDIUM, None)),
        (1016, SlobBlock(1024, 8, 8, SlobList.LARGE, None)),
        (4087, SlobBlock(4095, 8, 8, SlobList.LARGE, None)),
        (4088, SlobBlock(4096, 4096, 0, None, 0)),
        (4097, SlobBlock(8192, 4096, 0, None, 1)),
    ],
)
def test_what_kmalloc_takes(size: int, block: SlobBlock | None) -> None:
    assert kmalloc_block(size) == block


def test_blocks_have_units_of_two_bytes() -> None:
    block = kmalloc_block(1)
    assert block
    assert block.units == 5


@pytest.mark.parametrize(
    ("args", "block"),
    [
        (
            KmemCacheArgs("files", 224, flags=SlabFlag.HWCACHE_ALIGN),
            SlobBlock(224, 64, 0, SlobList.SMALL, None),
        ),
        (
            KmemCacheArgs("rcu", 240, flags=SlabFlag.TYPESAFE_BY_RCU),
            SlobBlock(264, 8, 0, SlobList.MEDIUM, None),
        ),
        (KmemCacheArgs("nodes", 256, align=256), SlobBlock(256, 256, 0, SlobList.MEDIUM, None)),
        (KmemCacheArgs("names", 4096), SlobBlock(4096, 4096, 0, None, 0)),
        (KmemCacheArgs("nearly", 4080, flags=SlabFlag.TYPESAFE_BY_RCU), SlobBlock(4104, 4096, 0, None, 1)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_an_object_of_a_cache_takes(args: KmemCacheArgs, block: SlobBlock) -> None:
    assert cache_block(args) == block


def test_what_3_0_does_differently() -> None:
    """No alignment of powers of two, and a whole cache line for small objects that ask for one."""
    old, new = slob_of("linux-3.0"), slob_of("linux-6.1")
    small = KmemCacheArgs("small", 24, flags=SlabFlag.HWCACHE_ALIGN)
    assert [kmalloc_block(512, rules) for rules in (old, new)] == [
        SlobBlock(520, 8, 8, SlobList.MEDIUM, None),
        SlobBlock(520, 512, 8, SlobList.MEDIUM, None),
    ]
    assert [cache_block(small, rules).align for rules in (old, new)] == [64, 32]


def test_a_32_bit_kernel_has_a_shorter_footer_and_shorter_lines() -> None:
    rules = slob_of("linux-6.1", "i386")
    args = KmemCacheArgs("rcu", 240, flags=SlabFlag.TYPESAFE_BY_RCU | SlabFlag.HWCACHE_ALIGN)
    assert SlobCache(args, rules).block == SlobBlock(252, 32, 0, SlobList.SMALL, None)
