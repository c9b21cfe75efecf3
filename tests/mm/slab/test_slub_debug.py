"""What SLUB's checks say of bytes that were written to where they should not be."""

from __future__ import annotations

from itertools import pairwise

import pytest

from numa_service.mm.slab.flags import DEBUG_DEFAULT_FLAGS, SlabFlag
from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.profile import slub_of
from numa_service.mm.slab.slub import SlubCache, SlubCaches
from numa_service.mm.slab.slub_debug import Checked, check_object, extent, parts
from numa_service.mm.slab.slub_parameters import SlubParameters

SLAB = 0xFFFF888000100000
ALL = DEBUG_DEFAULT_FLAGS


def cache(kernel: str, flags: SlabFlag = ALL, size: int = 100, ctor: str = "") -> SlubCache:
    caches = SlubCaches(slub_of(kernel).rules, SlubParameters(), 4, 4)
    return caches.kmem_cache_create(KmemCacheArgs("foo", size, flags=flags, ctor=ctor))


def check(of: SlubCache, kernel: str, written: dict[int, int], inuse: bool = True) -> Checked:
    profile = slub_of(kernel)
    at = SLAB + of.red_left_pad + of.size  # the second object
    return check_object(of, profile.rules, profile.work, written, address=at, slab_address=SLAB, inuse=inuse)


@pytest.mark.parametrize("kernel", ["linux-6.1", "linux-6.12", "linux-3.0"])
@pytest.mark.parametrize("flags", [ALL, SlabFlag.RED_ZONE, SlabFlag.POISON, ALL | SlabFlag.TYPESAFE_BY_RCU])
@pytest.mark.parametrize("inuse", [True, False])
def test_parts_lie_one_behind_the_other(kernel: str, flags: SlabFlag, inuse: bool) -> None:
    for size in (1, 8, 100, 4096):
        of = cache(kernel, flags, size)
        profile = slub_of(kernel)
        start, end = extent(of)
        looked_at = [p for p in parts(of, profile.rules, profile.work, inuse) if p.start < p.end]
        spans = sorted((p.start, p.end) for p in looked_at)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
        assert all(start <= low < high <= end for low, high in spans)


def test_a_write_past_the_end() -> None:
    of = cache("linux-6.1")
    at = SLAB + of.red_left_pad + of.size
    found = check(of, "linux-6.1", {100: 0x41, 101: 0x42})
    assert (found.good, found.restored) == (False, {100, 101})
    assert found.report == [
        "BUG foo (Not tainted): Right Redzone overwritten",
        f"0x{at + 100:016x}-0x{at + 101:016x} @offset={at + 100 - SLAB}. First byte 0x41 instead of 0xcc",
        f"FIX foo: Restoring Right Redzone 0x{at + 100:016x}-0x{at + 101:016x}=0xcc",
    ]


def test_kernels_have_their_own_words() -> None:
    old = cache("linux-3.0")
    at = SLAB + old.size
    assert check(old, "linux-3.0", {100: 0}).report == [
        "BUG foo (Not tainted): Redzone overwritten",
        f"INFO: 0x{at + 100:016x}-0x{at + 100:016x}. First byte 0x0 instead of 0xcc",
        f"FIX foo: Restoring 0x{at + 100:016x}-0x{at + 100:016x}=0xcc",
    ]


def bugs(found: Checked) -> list[str]:
    return [line.partition(": ")[2] for line in found.report if line.startswith("BUG")]


def test_since_6_11_all_that_is_wrong_is_said() -> None:
    written = {-8: 1, 100: 2}
    assert bugs(check(cache("linux-6.1"), "linux-6.1", written)) == ["Left Redzone overwritten"]
    assert bugs(check(cache("linux-6.12"), "linux-6.12", written)) == [
        "Left Redzone overwritten",
        "Right Redzone overwritten",
    ]


@pytest.mark.parametrize(("kernel", "good"), [("linux-6.1", True), ("linux-6.12", False)])
def test_padding_makes_an_object_bad_since_6_11(kernel: str, good: bool) -> None:
    of = cache(kernel)
    found = check(of, kernel, {extent(of)[1] - 1: 7})
    assert (bugs(found), found.good) == (["Object padding overwritten"], good)
    aligned = cache(kernel, SlabFlag.POISON)
    found = check(aligned, kernel, {100: 7})
    assert (bugs(found), found.good) == (["Alignment padding overwritten"], good)


def test_a_write_to_a_free_object() -> None:
    of = cache("linux-6.1")
    assert bugs(check(of, "linux-6.1", {5: 0}, inuse=False)) == ["Poison overwritten"]
    assert bugs(check(of, "linux-6.1", {99: 0}, inuse=False)) == ["End Poison overwritten"]
    assert bugs(check(of, "linux-6.1", {5: 0x6B, 99: 0xA5}, inuse=False)) == []
    assert bugs(check(of, "linux-6.1", {5: 0}, inuse=True)) == []
    assert bugs(check(of, "linux-6.1", {100: 0xCC}, inuse=False)) == ["Right Redzone overwritten"]
    assert bugs(check(cache("linux-6.1", ctor="f"), "linux-6.1", {5: 0}, inuse=False)) == []


def test_the_free_pointer() -> None:
    of = cache("linux-6.1")
    outside = {of.offset + at: 0x41 for at in range(8)}
    found = check(of, "linux-6.1", outside)
    assert (bugs(found), found.good, found.restored) == (["Freepointer corrupt"], False, set(outside))
    assert check(of, "linux-6.1", dict.fromkeys(outside, 0)).good
    inside = cache("linux-6.1", SlabFlag.CONSISTENCY_CHECKS)
    middle = {inside.offset: 0x41}
    assert check(inside, "linux-6.1", middle).good
    assert bugs(check(inside, "linux-6.1", middle, inuse=False)) == ["Freepointer corrupt"]
