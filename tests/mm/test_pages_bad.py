"""Each kind of wrong free is refused with its own reason, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from mm.nodes import NORMAL, START, one_zone, pgdat

from numa_service.mm.invariants import check_pgdat
from numa_service.mm.mmzone import MIGRATE_MOVABLE, WMARK_LOW
from numa_service.mm.page_alloc import LRU_KIND_FILE, NUMA_HOW_HIT
from numa_service.mm.pgdat import BadPageError, Pfns, Pgdat

RESERVED = 100
MINE, YOURS = 1, 2


def take(node: Pgdat, order: int, count: int, owner: int = MINE, lru: int = 0, cpu: int | None = 0) -> Pfns:
    indexes = np.arange(count if lru else 0, dtype=np.uint32)
    got = node.alloc(
        [NORMAL], cpu, order, count, MIGRATE_MOVABLE, NORMAL, WMARK_LOW, NUMA_HOW_HIT, owner, lru, indexes
    )
    assert len(got) == count
    return got


def pfns(*values: int) -> Pfns:
    return np.array(values, dtype=np.uint64)


def below(node: Pgdat) -> tuple[int, Pfns]:
    return 0, pfns(START - 1)


def above(node: Pgdat) -> tuple[int, Pfns]:
    return 0, pfns(START + 8192)


def far_above(node: Pgdat) -> tuple[int, Pfns]:
    return 0, pfns(1 << 63)


def never_given(node: Pgdat) -> tuple[int, Pfns]:
    return 0, pfns(START + 4000)


def in_a_large_free_block(node: Pgdat) -> tuple[int, Pfns]:
    return 10, pfns(START + 6144)


def given_back(node: Pgdat) -> tuple[int, Pfns]:
    pages = take(node, 5, 1)
    node.free(0, 5, MINE, pages)
    return 5, pages


def on_a_pageset(node: Pgdat) -> tuple[int, Pfns]:
    pages = take(node, 0, 1)
    node.free(0, 0, MINE, pages)
    return 0, pages


def second_page_of_a_pageset_block(node: Pgdat) -> tuple[int, Pfns]:
    pages = take(node, 3, 1)
    node.free(0, 3, MINE, pages)
    return 0, pages + np.uint64(3)


def reserved(node: Pgdat) -> tuple[int, Pfns]:
    return 0, pfns(START + RESERVED - 1)


def tail_of_my_block(node: Pgdat) -> tuple[int, Pfns]:
    return 0, take(node, 4, 1) + np.uint64(9)


def tail_of_a_huge_block(node: Pgdat) -> tuple[int, Pfns]:
    return 0, take(node, 10, 1) + np.uint64(1023)


def too_small_an_order(node: Pgdat) -> tuple[int, Pfns]:
    return 2, take(node, 3, 1)


def too_large_an_order(node: Pgdat) -> tuple[int, Pfns]:
    return 4, take(node, 3, 1)


def somebody_elses(node: Pgdat) -> tuple[int, Pfns]:
    return 0, take(node, 0, 1, owner=YOURS)


def twice_in_a_batch(node: Pgdat) -> tuple[int, Pfns]:
    pages = take(node, 0, 40)
    return 0, np.append(pages, pages[7])


def of_a_region(node: Pgdat) -> tuple[int, Pfns]:
    return 0, take(node, 0, 1, lru=LRU_KIND_FILE)


#: page_bad_reason() and the VM_BUG_ONs of __free_pages(), 6.1.
KERNEL_SAYS = {
    "not a page of this node": "VM_BUG_ON(!virt_addr_valid(addr))",
    "page is free": "VM_BUG_ON_PAGE(page_ref_count(page) == 0)",
    "page is free, on a pageset": "VM_BUG_ON_PAGE(page_ref_count(page) == 0)",
    "page is named twice": "VM_BUG_ON_PAGE(page_ref_count(page) == 0)",
    "page is reserved": "PAGE_FLAGS_CHECK_AT_FREE flag(s) set",
    "page is the tail of a block": "VM_BUG_ON_PAGE(PageTail(page))",
    "block is of another order": "VM_BUG_ON_PAGE(compound && compound_order(page) != order)",
    "page belongs to a region: unmap the region": "nonzero mapcount",
    "page belongs to somebody else": "",
}


@pytest.mark.parametrize(
    ("mistake", "reason", "not_found"),
    [
        (below, "not a page of this node", True),
        (above, "not a page of this node", True),
        (far_above, "not a page of this node", True),
        (never_given, "page is free", True),
        (in_a_large_free_block, "page is free", True),
        (given_back, "page is free", True),
        (on_a_pageset, "page is free, on a pageset", True),
        (second_page_of_a_pageset_block, "page is free, on a pageset", True),
        (reserved, "page is reserved", True),
        (tail_of_my_block, "page is the tail of a block", True),
        (tail_of_a_huge_block, "page is the tail of a block", True),
        (too_small_an_order, "block is of another order", False),
        (too_large_an_order, "block is of another order", False),
        (somebody_elses, "page belongs to somebody else", False),
        (twice_in_a_batch, "page is named twice", False),
        (of_a_region, "page belongs to a region: unmap the region", False),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_reason(mistake: Callable[[Pgdat], tuple[int, Pfns]], reason: str, not_found: bool) -> None:
    node = one_zone(reserved=RESERVED)
    order, pages = mistake(node)
    before = node.digest()
    with pytest.raises(BadPageError) as error:
        node.free(0, order, MINE, pages)
    kernel = KERNEL_SAYS[reason]
    text = f"{reason} ({kernel})" if kernel else reason
    assert error.value.reason == text
    assert error.value.not_found == not_found
    assert error.value.pfn == int(pages[-1])
    assert str(error.value) == f"pfn {int(pages[-1]):#x}: {text}"
    assert node.digest() == before
    assert check_pgdat(node) == []
    # counted, by reason, without being state
    assert {name: count for name, count in node.bad_pages().items() if count} == {reason: 1}


@pytest.mark.parametrize("hole", [(2048, 3072), (2048 + 100, 2048 + 200), (1000, 1500)])
def test_holes_are_no_pages_of_this_node(hole: tuple[int, int]) -> None:
    """Holes: whole pageblocks, and a part of one."""
    low, high = START + hole[0], START + hole[1]
    ram = [(START, low), (high, START + 4096)]
    node = pgdat({NORMAL: (START, START + 4096)}, {NORMAL: (64, 80, 96)}, ram, ram)
    before = node.digest()
    for pfn in (low, high - 1):
        with pytest.raises(BadPageError, match="not a page of this node"):
            node.free(0, 0, MINE, pfns(pfn))
    with pytest.raises(BadPageError, match="page is free"):
        node.free(0, 0, MINE, pfns(high))
    assert node.digest() == before
    assert check_pgdat(node) == []


@pytest.mark.parametrize("position", [0, 17, 63])
def test_one_bad_page_spoils_the_batch(position: int) -> None:
    node = one_zone()
    pages = take(node, 0, 64)
    bad = pages.copy()
    bad[position] = START + 8000
    before = node.digest()
    with pytest.raises(BadPageError) as error:
        node.free(1, 0, MINE, bad)
    assert error.value.pfn == START + 8000
    assert node.digest() == before
    assert node.free(1, 0, MINE, pages) == 64
    assert check_pgdat(node) == []


def test_a_page_is_freed_once() -> None:
    node = one_zone()
    pages = take(node, 10, 2)
    assert node.free(0, 10, MINE, pages) == 2048
    with pytest.raises(BadPageError, match="page is free"):
        node.free(0, 10, MINE, pages[:1])


def test_region_pages_that_are_somebody_elses_are_left_alone() -> None:
    node = one_zone()
    pages = take(node, 0, 8, lru=LRU_KIND_FILE)
    indexes = np.arange(8, dtype=np.uint32)
    before = node.digest()
    assert node.release(YOURS, indexes, 0) == 0
    assert node.release(MINE, indexes + np.uint32(8), 0) == 0
    assert node.release(MINE, indexes + np.uint32(1 << 30), 0) == 0
    for others in (pages + np.uint64(1 << 40), pages[::-1]):
        assert node.release(MINE, indexes, 0, others) == 0
    assert node.digest() == before
    assert node.release(MINE, indexes[:3], 0, pages[:3]) == 3
    assert node.release(MINE, indexes, 0) == 5
    assert node.release(MINE, indexes, 0) == 0
