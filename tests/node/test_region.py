"""Regions: faults, hits, reclaim and limits, driven by hand."""

from __future__ import annotations

import pytest
from node.by_hand import ByHand

from numa_service.machine.source import load
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest, LimitExceeded, NotFound, Precondition
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.ops.fields import MAX_REGION_PAGES
from numa_service.node.region import close_session, map_region, touch_region, unmap_region

SPEC = load("demo")


@pytest.fixture
def shell() -> ByHand:
    return ByHand(SPEC)


@pytest.fixture
def node(shell: ByHand) -> Node:
    return shell.nodes[0]


@pytest.fixture
def session(node: Node) -> int:
    return node.apply(ops.OpenSession("regions", 10**15, 0))


def test_first_access_faults_and_the_second_hits(shell: ByHand, node: Node, session: int) -> None:
    region = map_region(node, session, LRU_KIND_ANON, 100, Policy())
    first = shell.call(0, touch_region(node, session, region, 0, 100, True, 0))
    assert (first.hits, first.faults, first.major_faults) == (0, 100, 0)
    again = shell.call(0, touch_region(node, session, region, 50, 50, False, 0))
    assert (again.hits, again.faults, again.placement) == (50, 0, {0: 50})


def test_reading_a_file_is_a_major_fault_and_writing_a_new_page_is_not(
    shell: ByHand, node: Node, session: int
) -> None:
    region = map_region(node, session, LRU_KIND_FILE, 20, Policy())
    assert shell.call(0, touch_region(node, session, region, 0, 10, False, 0)).major_faults == 10
    assert shell.call(0, touch_region(node, session, region, 10, 10, True, 0)).major_faults == 0


def test_anonymous_memory_beyond_the_machine_goes_to_swap_and_comes_back(
    shell: ByHand, node: Node, session: int
) -> None:
    bound = Policy(PolicyMode.BIND, (0,))
    region = map_region(node, session, LRU_KIND_ANON, 70_000, bound)
    for first in range(0, 70_000, 2_000):
        shell.call(0, touch_region(node, session, region, first, 2_000, True, 0))
    assert node.swap_used > 0
    events = node.pgdat.snapshot().vm_event
    assert events["pswpout"] == node.swap_used
    back = shell.call(0, touch_region(node, session, region, 0, 2_000, False, 0))
    assert back.major_faults > 0
    assert node.pgdat.snapshot().vm_event["pswpin"] == back.major_faults
    assert node.check() == []
    shell.call(0, close_session(node, session))
    assert (node.swap_used, node.held_pages()) == (0, 0)


def test_unmapping_frees_on_every_node(shell: ByHand, node: Node, session: int) -> None:
    region = map_region(node, session, LRU_KIND_FILE, 900, Policy(PolicyMode.INTERLEAVE, (0, 1, 2)))
    touched = shell.call(0, touch_region(node, session, region, 0, 900, False, 0))
    assert touched.placement == {0: 300, 1: 300, 2: 300}
    assert shell.call(0, unmap_region(node, session, region)) == 900
    assert [n.held_pages() for n in shell.nodes.values()] == [0, 0, 0]
    with pytest.raises(NotFound):
        shell.call(0, touch_region(node, session, region, 0, 1, False, 0))


def test_what_is_wrong_is_refused_and_changes_nothing(shell: ByHand, node: Node, session: int) -> None:
    region = map_region(node, session, LRU_KIND_FILE, 10, Policy())
    other = node.apply(ops.OpenSession("other", 10**15, 0))
    digest = node.digest()
    for first, count, cpu in ((0, 0, 0), (0, 11, 0), (10, 1, 0), (0, 1, 7)):
        with pytest.raises(InvalidRequest):
            shell.call(0, touch_region(node, session, region, first, count, False, cpu))
    with pytest.raises(Precondition):
        shell.call(0, touch_region(node, other, region, 0, 1, False, 0))
    with pytest.raises(InvalidRequest):
        map_region(node, session, 7, 10, Policy())
    with pytest.raises(InvalidRequest):
        map_region(node, session, LRU_KIND_FILE, MAX_REGION_PAGES + 1, Policy())
    assert node.digest() == digest


def test_page_tables_have_a_limit(node: Node, session: int) -> None:
    for _ in range(4):
        map_region(node, session, LRU_KIND_FILE, MAX_REGION_PAGES, Policy())
    with pytest.raises(LimitExceeded):
        map_region(node, session, LRU_KIND_FILE, 1, Policy())
