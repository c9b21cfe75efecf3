"""hugetlb pools of one node, and how pages are spread over nodes."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from numa_service.mm.hugetlb.hstate import PMD_KB, PUD_KB, Hstate
from numa_service.mm.hugetlb.pool import NodePool, PoolCounts
from numa_service.mm.hugetlb.spread import in_turn, outcome, spread


def one_by_one(
    mask: tuple[int, ...], first: int, has: Mapping[int, int], total: int
) -> tuple[dict[int, int], dict[int, int], int]:
    """Attempts as a kernel makes them: pages and failures by nid, and the node that is next."""
    got, failed, at = dict.fromkeys(mask, 0), dict.fromkeys(mask, 0), first
    for _ in range(total):
        for _ in mask:
            nid = next((nid for nid in mask if nid >= at), mask[0])
            at = next((other for other in mask if other > nid), mask[0])
            if got[nid] < has[nid]:
                got[nid] += 1
                break
            failed[nid] += 1
        else:
            break
    return got, failed, at


@given(
    st.dictionaries(st.integers(0, 7), st.integers(0, 9), min_size=1, max_size=5),
    st.integers(0, 7),
    st.integers(1, 40),
)
def test_pages_are_spread_as_one_by_one(has: dict[int, int], first: int, total: int) -> None:
    mask = tuple(sorted(has))
    turns = in_turn(mask, first)
    shares = spread(turns, has, total)
    got, failed, at = one_by_one(mask, first, has, total)
    assert shares == got
    assert outcome(turns, shares, total) == (at, failed)


def test_a_node_without_a_limit_takes_what_is_left() -> None:
    assert spread((1, 0, 2), {0: 3}, 20) == {0: 3, 1: 9, 2: 8}


def test_failed_attempts_of_a_captured_machine() -> None:
    """numa-2n-big, j-hugepages: 100000 wanted, 1395 and 1470 got, htlb_buddy_alloc_fail 2 → 78."""
    turns = in_turn((0, 1), 1)  # the write before was to node 1
    assert sum(outcome(turns, {0: 1395, 1: 1470}, 100_000).failed.values()) == 76


def test_sizes() -> None:
    assert (Hstate(PMD_KB).order, Hstate(PMD_KB).gigantic, Hstate(PMD_KB).name) == (
        9,
        False,
        "hugepages-2048kB",
    )
    assert (Hstate(PUD_KB).order, Hstate(PUD_KB).gigantic) == (18, True)


def test_a_page_that_becomes_free_leaves_a_pool_with_surplus_pages() -> None:
    pool = NodePool()
    pool.enqueue([512, 1024, 1536])
    assert pool.dequeue(2) == [1536, 1024]
    pool.used = {1536: (0, 1, 7), 1024: (0, 1, 8)}
    assert pool.adjust_surplus(9) == 3
    assert pool.adjust_surplus(-2) == -2
    assert pool.put(1536)
    assert not pool.put(1024)
    assert pool.counts == PoolCounts(nr=2, free=2, surplus=0)
    assert NodePool.load(pool.dump()).counts == pool.counts
