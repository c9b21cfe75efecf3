"""The arrays of SLUB: which slab a page is of, rows that are used again, and arrays that grow."""

from __future__ import annotations

import random

import pytest

from numa_service.mm.profile import LINUX_6_1
from numa_service.mm.slab.compiled.data import NONE
from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.profile import SLUB
from numa_service.mm.slab.slub import SlubCache, SlubCaches
from numa_service.mm.slab.slub_parameters import SlubParameters
from numa_service.mm.slab.slub_place import SlabRef, SlubPlace

#: Far apart, near one another, and such that many begin at the same place of the table.
SPREADS = {"dense": 1 << 9, "sparse": 1 << 40, "same low bits": 1 << 20}


def a_cache(size: int = 512, name: str = "test") -> SlubCache:
    caches = SlubCaches(SLUB[LINUX_6_1.name].rules, SlubParameters(nomerge=True), 4, 4)
    return caches.kmem_cache_create(KmemCacheArgs(name, size))


@pytest.mark.parametrize("spread", SPREADS)
def test_the_slab_of_every_page_is_found_and_of_no_other(spread: str) -> None:
    dice = random.Random(spread)
    place = SlubPlace([0], [0])
    row = place.row_of(a_cache())
    slab_of: dict[int, int] = {}
    slabs: dict[int, tuple[int, int]] = {}
    for _ in range(3000):
        if dice.random() < (0.6 if len(slabs) < 300 else 0.4) or not slabs:
            order = dice.choice((0, 0, 1, 3))
            pfn = dice.randrange(SPREADS[spread]) >> order << order
            if spread == "same low bits":
                pfn = (pfn << 20) + (pfn & 8)
            frames = range(pfn, pfn + (1 << order))
            if any(frame in slab_of for frame in frames):
                continue
            at = place.add_slab(row, SlabRef(pfn, 0), order, 8, here=True)
            slabs[at] = (pfn, order)
            slab_of.update(dict.fromkeys(frames, at))
        else:
            at = dice.choice(list(slabs))
            pfn, order = slabs.pop(at)
            place.remove_slab(at)
            for frame in range(pfn, pfn + (1 << order)):
                del slab_of[frame]
                assert place.find(frame) == NONE
        for frame in dice.sample(list(slab_of), min(len(slab_of), 5)):
            assert place.find(frame) == slab_of[frame]
    assert all(place.find(frame) == at for frame, at in slab_of.items())
    assert len(place.data.slabs) < 1024  # rows were used again


def test_slabs_of_another_place_are_not_found_by_their_pages() -> None:
    place = SlubPlace([0], [0])
    row = place.row_of(a_cache())
    at = place.add_slab(row, SlabRef(64, 1, 3), 0, 8, here=False)
    assert place.find(64) == NONE
    assert place.ref(at) == SlabRef(64, 1, 3)
    mine = place.add_slab(row, SlabRef(64, 0), 0, 8, here=True)
    place.remove_slab(at)
    assert place.find(64) == mine


def test_a_row_that_is_used_again_has_nothing_of_the_slab_before() -> None:
    place = SlubPlace([0], [0])
    row = place.row_of(a_cache())
    at = place.add_slab(row, SlabRef(64, 0), 0, 8, here=True, home=5)
    address = 0xFFFF888000000000 + (64 << 12)
    assert [place.home_of(address + 512 * index) for index in range(9)] == [5] * 8 + [0]
    place.remove_slab(at)
    assert place.home_of(address) == 0
    assert place.add_slab(row, SlabRef(128, 0), 0, 4, here=True) == at
    moved = 0xFFFF888000000000 + (128 << 12)
    assert [place.home_of(moved + 512 * index) for index in range(8)] == [0] * 8


def test_an_address_has_64_bits() -> None:
    place = SlubPlace([0], [0])
    for wrong in (-1, 1 << 64):
        assert place.home_of(wrong) == 0
        with pytest.raises(OverflowError):
            place.put([wrong])
    assert place.find(-1) == place.find(1 << 60) == NONE
