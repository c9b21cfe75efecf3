"""Which accesses the TLBs miss, and what that costs."""

from __future__ import annotations

import numpy as np
import pytest

from numa_service.machine.tlb import L2_HIT_NS, WALK_NS, Misses, Translation


def after_a_round(translation: Translation, indexes: np.ndarray) -> Misses:
    """Misses of accesses that come a second time."""
    translation.access(indexes)
    return translation.access(indexes)


@pytest.mark.parametrize(
    ("pages", "l1", "l2"),
    [(60, 0, 0), (1000, 1000, 0), (10_000, 10_000, 10_000)],
    ids=["in both", "in the second", "in none"],
)
def test_rounds_over_memory_hit_if_it_is_within_reach(pages: int, l1: int, l2: int) -> None:
    assert after_a_round(Translation(pages), np.arange(pages)) == Misses(l1, l2)


def test_the_first_access_to_a_page_misses() -> None:
    assert Translation(50).access(np.arange(50)) == Misses(50, 50)


def test_random_accesses_hit_as_often_as_entries_are_of_the_pages() -> None:
    """An LRU of 1536 of 10,000 pages, accessed uniformly, hits in 15.4 %."""
    random = np.random.Generator(np.random.PCG64(1))
    translation = Translation(10_000)
    translation.access(random.integers(0, 10_000, 100_000))
    misses = translation.access(random.integers(0, 10_000, 20_000))
    assert misses.l2 / 20_000 == pytest.approx(1 - 0.1536, abs=0.01)
    assert misses.l1 / 20_000 == pytest.approx(1 - 0.0064, abs=0.01)


def lru_misses(indexes: list[int], entries: int) -> int:
    """A TLB that any page may use every entry of."""
    held: dict[int, None] = {}
    missed = 0
    for page in indexes:
        missed += page not in held
        held.pop(page, None)
        held[page] = None
        if len(held) > entries:
            del held[next(iter(held))]
    return missed


def test_popular_pages_hit_as_in_a_simulated_tlb() -> None:
    random = np.random.Generator(np.random.PCG64(2))
    zipf = np.minimum(random.zipf(1.2, 60_000), 20_000) - 1
    translation = Translation(20_000)
    translation.access(zipf[:40_000])
    found = translation.access(zipf[40_000:])
    for got, entries in ((found.l1, 64), (found.l2, 1536)):
        exact = lru_misses(zipf.tolist(), entries) - lru_misses(zipf[:40_000].tolist(), entries)
        assert got == pytest.approx(exact, rel=0.05)


def test_huge_pages_reach_further() -> None:
    pages = np.arange(0, 1 << 18, 512)  # 1 GiB, a page in each 2 MiB
    misses = {kb: after_a_round(Translation(1 << 18, kb), pages) for kb in (4, 2048, 1 << 20)}
    assert misses == {4: Misses(512, 0), 2048: Misses(512, 0), 1 << 20: Misses(0, 0)}
    everything = np.arange(1 << 18)
    # and within a huge page every access but the first one hits
    assert after_a_round(Translation(1 << 18, 2048), everything) == Misses(512, 0)
    assert after_a_round(Translation(1 << 18), everything) == Misses(1 << 18, 1 << 18)


def test_a_share_of_the_tlbs() -> None:
    assert after_a_round(Translation(1000, share=0.5), np.arange(1000)) == Misses(1000, 1000)


def test_what_misses_cost() -> None:
    small, large = Translation(1 << 17), Translation(1 << 19)
    assert small.miss_ns(Misses(10, 0), 100) == 10 * L2_HIT_NS
    assert small.miss_ns(Misses(10, 10), 100) == 10 * WALK_NS, "all entries of its tables are in the cache"
    assert large.miss_ns(Misses(10, 10), 100) == 10 * (WALK_NS + 75), "three quarters of them are not"
    assert large.miss_ns(Misses(10, 10), 200) == 10 * (WALK_NS + 150)
