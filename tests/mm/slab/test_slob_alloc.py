"""SLOB at work, beside a model that knows of every unit of every page whether it is free."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mm.slab.made_up_pages import MadeUpPages

from numa_service.mm.gfp import Gfp
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.pages import page_address
from numa_service.mm.slab.reports import SlabBugError
from numa_service.mm.slab.slob import SlobList, SlobRules
from numa_service.mm.slab.slob_alloc import Slob

FILES = KmemCacheArgs("files", 224, flags=SlabFlag.HWCACHE_ALIGN)
NAMES = KmemCacheArgs("names", 4096)
READ_LATER = KmemCacheArgs("read later", 96, flags=SlabFlag.TYPESAFE_BY_RCU)
CACHES = (
    FILES,
    NAMES,
    READ_LATER,
    KmemCacheArgs("nodes", 256, align=256),
    KmemCacheArgs("big", 2880, align=64),
)


def slob_of(source: MadeUpPages) -> Slob:
    slob = Slob({0: 0}, source, SlobRules())
    for args in CACHES:
        slob.kmem_cache_create(args)
    return slob


class Reference:
    """SLOB by sets: free units of each page, and pages in lists that are searched from the front."""

    def __init__(self) -> None:
        self.unused = set(range(4096))
        self.free: dict[int, set[int]] = {}
        self.lists: tuple[list[int], list[int], list[int]] = ([], [], [])

    def take(self, size: int, align: int, header: int) -> int:
        """The address of a block of `size` bytes, header included."""
        if size >= 4096:
            pages = -(-size // 4096)
            pages = 1 << (pages - 1).bit_length()
            pfn = min(p for p in self.unused if p % pages == 0 and set(range(p, p + pages)) <= self.unused)
            self.unused -= set(range(pfn, pfn + pages))
            return page_address(pfn)
        units = -(-size // 2)
        pages_of = self.lists[(size >= 256) + (size >= 1024)]
        for pfn in pages_of:
            if (place := self.first(pfn, units, align, header)) is not None:
                at = pages_of.index(pfn)
                pages_of[:] = pages_of[at:] + pages_of[:at]
                break
        else:
            pfn = min(self.unused)
            self.unused.remove(pfn)
            self.free[pfn] = set(range(2048))
            pages_of.insert(0, pfn)
            place = self.first(pfn, units, align, header)
        self.free[pfn] -= set(range(place, place + units))
        if not self.free[pfn]:
            pages_of.remove(pfn)
        return page_address(pfn) + 2 * place + header

    def first(self, pfn: int, units: int, align: int, header: int) -> int | None:
        free = self.free[pfn]
        for start in sorted(free):
            if start - 1 in free:
                continue
            length = next(n for n in range(2049) if start + n not in free)
            place = start
            while (2 * place + header) % align:
                place += 1
            if place + units <= start + length:
                return place
        return None

    def give(self, address: int, size: int, header: int) -> None:
        pfn = (address - page_address(0)) >> 12
        if size >= 4096:
            pages = 1 << (-(-size // 4096) - 1).bit_length()
            self.unused |= set(range(pfn, pfn + pages))
            return
        pages_of = self.lists[(size >= 256) + (size >= 1024)]
        place = (address - header - page_address(pfn)) // 2
        if not self.free[pfn]:
            pages_of.insert(0, pfn)
        self.free[pfn] |= set(range(place, place - (-size // 2)))
        if len(self.free[pfn]) == 2048:
            pages_of.remove(pfn)
            del self.free[pfn]
            self.unused.add(pfn)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("kmalloc"), st.integers(1, 4200)),
        st.tuples(st.just("kmalloc"), st.sampled_from([8, 32, 64, 96, 200, 512, 640])),
        st.tuples(st.just("cache"), st.integers(0, len(CACHES) - 1)),
        st.tuples(st.just("free"), st.integers(0, 10**6)),
        st.tuples(st.just("grace"), st.integers(0, 3)),
    ),
    max_size=150,
)


def sizes_of(args: KmemCacheArgs | None, size: int) -> tuple[int, int, int]:
    """Bytes, alignment and header of a block, by hand."""
    if args is None:
        if size >= 4088:
            return size if size > 4096 else 4096, 4096, 0
        return size + 8, size if size in (1 << n for n in range(3, 12)) else 8, 8
    aligns = {"files": 64, "nodes": 256, "big": 64}
    return args.size + 24 * (args is READ_LATER), aligns.get(args.name, 8), 0


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_blocks_are_where_a_model_of_units_has_them(steps: list[tuple[str, int]]) -> None:
    source = MadeUpPages()
    slob = slob_of(source)
    reference = Reference()
    live: list[tuple[int, KmemCacheArgs | None, tuple[int, int, int]]] = []
    waiting: list[tuple[int, tuple[int, int, int]]] = []
    for step, number in steps:
        if step in ("kmalloc", "cache"):
            args = CACHES[number] if step == "cache" else None
            block = sizes_of(args, number)
            address = slob.kmem_cache_alloc(args.name, 0, 0) if args else slob.kmalloc(number, 0, 0)
            assert address == reference.take(*block)
            live.append((address, args, block))
        elif step == "free" and live:
            address, args, block = live.pop(number % len(live))
            if args:
                slob.kmem_cache_free(args.name, 0, address)
            else:
                slob.kfree(0, address)
            if args is READ_LATER:
                waiting.append((address, block))
            else:
                reference.give(address, block[0], block[2])
        elif step == "grace":
            slob.rcu_callbacks(number)
            for address, block in waiting[:number]:
                reference.give(address, block[0], block[2])
            del waiting[:number]
        units = {
            pfn: {u for at, n in page.blocks for u in range(at, at + n)} for pfn, page in slob.pages.items()
        }
        assert units == reference.free
        assert tuple([page.pfn for page in slob.lists[kind]] for kind in SlobList) == reference.lists
        assert source.free[0] == reference.unused
        for page in slob.pages.values():
            assert page.units == len(units[page.pfn])
            assert all(a + n < b for (a, n), (b, _) in zip(page.blocks, page.blocks[1:], strict=False))


def test_no_bytes_have_an_address_of_their_own() -> None:
    slob = slob_of(MadeUpPages())
    assert slob.kmalloc(0, 0, 0) == 16
    slob.kfree(0, 16)
    slob.kfree(0, 0)


def test_a_grace_period_passes_before_memory_is_used_again() -> None:
    slob = slob_of(MadeUpPages())
    kept, freed = (slob.kmem_cache_alloc(READ_LATER.name, 0, 0) for _ in range(2))
    assert kept
    assert freed
    slob.kmem_cache_free(READ_LATER.name, 0, freed)
    assert slob.kmem_cache_alloc(READ_LATER.name, 0, 0) == freed + 120
    slob.rcu_callbacks()
    assert slob.kmem_cache_alloc(READ_LATER.name, 0, 0) == freed


def test_a_request_for_a_node_uses_pages_of_that_node() -> None:
    source = MadeUpPages(nodes=2)
    slob = slob_of(source)
    addresses = [slob.kmalloc(8, 0, Gfp.ZERO, node) for node in (0, 1, 0, -1)]
    assert addresses == [page_address(pfn) + place for pfn, place in ((0, 8), (4096, 8), (0, 24), (0, 40))]
    assert source.asked == [(0, 0, 0), (1, 0, 0)]


def test_without_memory_there_is_no_object() -> None:
    slob = slob_of(MadeUpPages(pages=1))
    assert slob.kmalloc(5000, 0, 0) is None
    assert slob.kmalloc(4000, 0, 0)
    assert slob.kmalloc(4000, 0, 0) is None
    assert slob.kmalloc(32, 0, 0) is None  # of another list
    assert len(slob.objects) == 1


def test_larger_requests_are_compound_pages() -> None:
    source = MadeUpPages()
    slob = slob_of(source)
    slob.kmalloc(4096, 0, 0)
    slob.kmalloc(4097, 0, 0)
    slob.kmem_cache_create(KmemCacheArgs("buffers", 8192))
    slob.kmem_cache_alloc("buffers", 0, 0)
    assert source.asked == [(0, 0, 0), (0, 1, Gfp.COMP), (0, 1, 0)]


@pytest.mark.parametrize("bad", ["twice", "inside", "other cache", "kmalloc", "never"])
def test_a_bad_free_changes_nothing(bad: str) -> None:
    source = MadeUpPages()
    slob = slob_of(source)
    address = slob.kmem_cache_alloc(FILES.name, 0, 0)
    other = slob.kmem_cache_alloc(FILES.name, 0, 0)
    assert address
    assert other
    slob.kmem_cache_free(FILES.name, 0, other)
    before = list(slob.pages[0].blocks), dict(slob.objects)
    frees = {
        "twice": lambda: slob.kmem_cache_free(FILES.name, 0, other),
        "inside": lambda: slob.kmem_cache_free(FILES.name, 0, address + 8),
        "other cache": lambda: slob.kmem_cache_free(NAMES.name, 0, address),
        "kmalloc": lambda: slob.kfree(0, address),
        "never": lambda: slob.kfree(0, 99),
    }
    with pytest.raises(SlabBugError, match="no object of"):
        frees[bad]()
    assert (list(slob.pages[0].blocks), dict(slob.objects)) == before
