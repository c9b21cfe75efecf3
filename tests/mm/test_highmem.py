"""High memory: the pool of kmap and its hash, slots for short mappings, and what bounces."""

from __future__ import annotations

import random

import pytest

from numa_service.mm.highmem.bounce import ISA_PAGE_POOL, PAGE_POOL, Bounced, Device, blk_queue_bounce
from numa_service.mm.highmem.highmem import PkmapUsers, Task
from numa_service.mm.highmem.kmap_local import KmapError, KmapLocal
from numa_service.mm.highmem.pkmap import Pkmap
from numa_service.mm.highmem.rules import LAST_PKMAP, PKMAP_BASE, highmem_rules
from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12

OLD, NEW = highmem_rules(LINUX_3_0), highmem_rules(LINUX_6_1)
MEM_MAP, PAGE_BYTES = 0xF5BD3000, 40


def pkmap() -> Pkmap:
    return Pkmap(NEW.golden_ratio, lambda pfn: MEM_MAP + pfn * PAGE_BYTES)


def at(nr: int) -> int:
    return PKMAP_BASE + nr * 4096


# kmap


def test_a_page_gets_the_next_entry_and_keeps_it_while_it_is_used() -> None:
    pool = pkmap()
    assert [pool.kmap_high(pfn) for pfn in (7, 8, 7)] == [at(1), at(2), at(1)]
    assert pool.counts[:4] == [0, 3, 2, 0]
    assert not pool.kunmap_high(7)
    assert pool.kunmap_high(7)
    assert pool.counts[1] == 1  # unused, and mapped until a flush
    assert pool.page_address(7) == at(1)
    assert pool.kmap_high(7) == at(1)
    assert pool.page_address(9) is None


def test_unused_entries_are_unmapped_when_the_search_comes_round() -> None:
    pool = pkmap()
    for pfn in range(LAST_PKMAP - 1):
        pool.kmap_high(pfn)
        if pfn % 2:
            pool.kunmap_high(pfn)
    assert (pool.last_nr, pool.flushes) == (LAST_PKMAP - 1, 0)
    assert pool.kmap_high(5000) == at(0)
    assert (pool.flushes, pool.page_address(1), pool.page_address(0)) == (1, None, at(1))
    assert pool.kmap_high(1) == at(2)  # the first that page 1 had, too
    assert pool.counts.count(1) == 0


def test_without_a_usable_entry_the_caller_sleeps() -> None:
    pool = pkmap()
    assert [pool.kmap_high(pfn) for pfn in range(LAST_PKMAP)][-1] == at(0)
    assert pool.would_wait(5000)
    assert not pool.would_wait(3)
    assert pool.kmap_high(5000) is None
    assert pool.last_nr == LAST_PKMAP - 1  # every entry was looked at after the flush, entry 0 first
    assert pool.kmap_high(3) == at(4)
    assert pool.kunmap_high(100)
    assert not pool.would_wait(5000)
    assert pool.kmap_high(5000) == at(101)  # from entry 0 on, after a flush
    assert (pool.page_address(100), pool.flushes) == (None, 1)


def test_flush_all_zero_pkmaps_leaves_what_is_used() -> None:
    pool = pkmap()
    for pfn in (1, 2, 3):
        pool.kmap_high(pfn)
    pool.kunmap_high(2)
    assert (pool.flush_all_zero_pkmaps(), pool.flush_all_zero_pkmaps(), pool.flushes) == (1, 0, 1)
    assert [pool.page_address(pfn) for pfn in (1, 2, 3)] == [at(1), None, at(3)]


def test_pages_are_hashed_by_the_address_of_their_struct_page() -> None:
    pool = pkmap()
    assert [pool.page_slot(pfn) for pfn in (0x40000, 0x40001, 0x40002)] == [
        (MEM_MAP + pfn * PAGE_BYTES) * 0x61C88647 % (1 << 32) >> 25 for pfn in (0x40000, 0x40001, 0x40002)
    ]
    assert {OLD.golden_ratio, NEW.golden_ratio} == {0x9E370001, 0x61C88647}
    buckets = {pool.page_slot(pfn) for pfn in range(0x40000, 0x40000 + 1000)}
    assert len(buckets) > 100


@pytest.mark.parametrize("seed", range(5))
def test_against_a_dictionary(seed: int) -> None:
    """Whatever happens, a page in use has one address that no other page has."""
    dice, pool, users = random.Random(seed), pkmap(), dict[int, int]()
    for _ in range(20_000):
        pfn = dice.randrange(900)
        if dice.random() < 0.55:
            waits = len(users) == LAST_PKMAP and pfn not in users
            assert pool.would_wait(pfn) == waits
            assert (pool.kmap_high(pfn) is None) == waits
            if not waits:
                users[pfn] = users.get(pfn, 0) + 1
        elif users:
            pfn = dice.choice(sorted(users))
            users[pfn] -= 1
            assert pool.kunmap_high(pfn) == (users[pfn] == 0)
            if not users[pfn]:
                del users[pfn]
    addresses = {pool.page_address(pfn) for pfn in users}
    assert None not in addresses
    assert len(addresses) == len(users)
    assert sum(count - 1 for count in pool.counts if count > 1) == sum(users.values())
    again = pkmap()
    again.load(pool.dump())
    assert again.dump() == pool.dump()


def test_who_has_not_mapped_a_page_cannot_unmap_it() -> None:
    high = PkmapUsers(NEW, lambda pfn: pfn)
    here, other, elsewhere = (0, 1, 1), (0, 1, 2), (3, 1, 1)
    tasks: tuple[Task, ...] = (here, here, elsewhere)
    for task in tasks:
        high.kmap(task, 7)
    assert high.tasks() == [here, elsewhere]
    with pytest.raises(KmapError, match="page 0x7, which is not mapped"):
        high.kunmap(other, 7)
    again = PkmapUsers(NEW, lambda pfn: pfn)
    again.load(high.dump())
    assert again.dump() == high.dump()
    assert not high.kunmap(elsewhere, 7)
    high.end(here)
    assert (high.users, high.pkmap.counts[1]) == ({}, 1)


# kmap_atomic, kmap_local


def test_slots_of_tasks_are_a_stack_that_ends_before_the_last() -> None:
    local = KmapLocal(NEW)
    assert [local.push(1, 0, pfn) for pfn in (5, 6)] == [0, 1]
    assert local.push(2, 3, 7) == 3 * 16  # another task on CPU 3 has its own stack
    with pytest.raises(KmapError, match="page 0x5 is not in the last slot"):
        local.pop(1, 0, 5)
    local.pop(1, 1, 6)  # the task has come to another CPU
    for _ in range(14):
        local.push(1, 0, 9)
    with pytest.raises(KmapError, match="slot 15, KM_MAX_IDX is 16"):
        local.push(1, 0, 9)
    local.end(1)
    assert local.stacks == {2: [(2, 7)]}


def test_slots_of_cpus_are_shared_by_who_runs_there() -> None:
    local = KmapLocal(OLD)
    assert [local.push(task, 1, 5) for task in (1, 2)] == [20, 21]
    with pytest.raises(KmapError, match="not in the last slot"):
        local.pop(1, 1, 5)
    local.pop(2, 1, 5)
    for nth in range(19):
        assert local.push(1, 1, 5) == 21 + nth
    with pytest.raises(KmapError, match="slot 20, KM_TYPE_NR is 20"):
        local.push(1, 1, 5)
    local.end(1)
    assert local.stacks == {}


# bounce buffers

LOW, END = 225_278, 524_256
ISA, ALL = (1 << 24) - 1, (1 << 64) - 1
PFNS = (100, 4096, LOW - 1, LOW, END - 1)


def bounced(rules: object, device: Device, arch: str = "i386", low: int = LOW, end: int = END) -> Bounced:
    # the cases are rows of a table, whose types mypy joins
    return blk_queue_bounce(rules, device, PFNS, arch=arch, max_low_pfn=low, max_pfn=end)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "pages", "pool"),
    [
        (Device(ISA), PFNS[1:], ISA_PAGE_POOL),
        (Device((LOW << 12) - 1), PFNS[3:], PAGE_POOL),
        (Device(ALL, no_highmem=True), PFNS[3:], PAGE_POOL),
        (Device(ISA, no_highmem=True), PFNS[1:], ISA_PAGE_POOL),
        (Device((END << 12) - 1), (), ""),
        (Device(ALL), (), ""),
    ],
)
def test_linux_3_0_bounces_what_is_above_the_queues_limit(
    device: Device, pages: tuple[int, ...], pool: str
) -> None:
    assert bounced(OLD, device) == Bounced(pages, pool)


def test_later_kernels_bounce_high_pages_for_drivers_that_take_none() -> None:
    for rules in (NEW, highmem_rules(LINUX_6_12)):
        assert bounced(rules, Device(ISA)) == Bounced(())
        assert bounced(rules, Device(ALL, no_highmem=True)) == Bounced(PFNS[3:], PAGE_POOL)
        assert bounced(rules, Device(ALL, no_highmem=True), "x86_64", END, END) == Bounced(())


def test_a_64_bit_kernel_leaves_what_is_below_4_gib_to_an_iommu() -> None:
    for device, pages in ((Device((1 << 32) - 1), ()), (Device(ISA), PFNS[1:]), (Device(ALL, True), ())):
        assert bounced(OLD, device, "x86_64", END, END).pfns == pages
    far = blk_queue_bounce(
        OLD, Device((1 << 32) - 1), (5, 1 << 20), arch="x86_64", max_low_pfn=END, max_pfn=1 << 21
    )
    assert far == Bounced((1 << 20,), PAGE_POOL)
