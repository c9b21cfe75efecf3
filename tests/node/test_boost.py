"""Boosted reclaim: kswapd reclaims only clean page cache for the sake of watermark boosts."""

from __future__ import annotations

import numpy as np
import pytest
from node.by_hand import ByHand

from numa_service.machine.source import load
from numa_service.mm.internal import ALLOC_WMARK_MIN
from numa_service.mm.mmzone import DEF_PRIORITY
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.kswapd import BOOST_PRIORITY
from numa_service.node.mempolicy import Policy
from numa_service.node.node import Node
from numa_service.node.region import map_region

DEMO = load("demo")
DMA32 = 1
PAGES = 20_000


def node_with(kind: int, pages: int = PAGES, dirty: bool = False) -> Node:
    """Return node 0 with so many pages of page cache or anonymous memory; the node is balanced."""
    node = ByHand(DEMO).nodes[0]
    session = node.apply(ops.OpenSession("test", 10**15, 0))
    region = map_region(node, session, kind, pages, Policy())
    indexes = np.arange(pages, dtype="<u4").tobytes()
    owner = node.owner(region)
    got = node.apply(ops.Alloc(owner, (DMA32,), 0, 0, pages, 1, 2, ALLOC_WMARK_MIN, 3, kind, indexes, dirty))
    assert len(got.pfns) == 8 * pages
    assert node.pgdat.balanced(0, 2)
    return node


def run(node: Node) -> tuple[int, list[ops.KswapdStepResult]]:
    """Run kswapd until it sleeps; return the pages reclaimed, and its steps except the first and the last."""
    steps, runs_on = [], True
    while runs_on:
        step = node.apply(ops.KswapdStep())
        steps.append(step)
        runs_on = step.runs_on
    scans = [s for s in steps if s.did in (ops.KswapdDid.LOOKED, ops.KswapdDid.SCANNED)]
    return sum(step.reclaimed for step in scans), scans


def boost(node: Node, pages: int) -> None:
    node.pgdat.pg.watermark_boost[DMA32] = pages
    assert node.apply(ops.WakeKswapd(0, 2))


def test_as_many_clean_pages_go_as_the_boost_and_then_the_boost() -> None:
    node = node_with(LRU_KIND_FILE)
    free = node.pgdat.free_pages(DMA32)
    boost(node, 512)
    reclaimed, steps = run(node)
    assert reclaimed >= 512
    assert node.pgdat.free_pages(DMA32) == free + reclaimed
    assert reclaimed < 512 + 5000
    assert all(step.boosted and step.priority >= BOOST_PRIORITY for step in steps[:-1])
    assert not steps[-1].boosted
    assert node.pgdat.pg.watermark_boost[DMA32] == 0
    assert not node.kswapd_wanted
    assert node.check() == []


@pytest.mark.parametrize(("kind", "dirty"), [(LRU_KIND_FILE, True), (LRU_KIND_ANON, False)])
def test_nothing_is_written_for_a_boost(kind: int, dirty: bool) -> None:
    node = node_with(kind, dirty=dirty)
    boost(node, 512)
    reclaimed, steps = run(node)
    assert reclaimed == 0
    assert node.swap_used == 0
    assert node.pgdat.snapshot().node_stat["nr_vmscan_write"] == 0
    # without progress it stops at once, as it could otherwise go on for ever
    assert [step.priority for step in steps] == [DEF_PRIORITY]
    # the boost ends all the same
    assert node.pgdat.pg.watermark_boost[DMA32] == 0
    assert node.check() == []


def test_a_node_below_its_marks_is_balanced_first() -> None:
    node = node_with(LRU_KIND_FILE, dirty=True)
    pg = node.pgdat.pg
    boost(node, 512)
    pg.watermark[:, 2] = node.pgdat.free_pages(DMA32) + 1000
    reclaimed, steps = run(node)
    first = steps[0]
    assert (first.did, first.boosted, first.balanced) == (ops.KswapdDid.LOOKED, True, False)
    assert not any(step.boosted for step in steps[1:])
    assert reclaimed > 0
    # it reclaims pages that flushers have written, and writes no file pages itself
    stat = node.pgdat.snapshot().node_stat
    assert stat["nr_written"] >= reclaimed
    assert stat["nr_vmscan_immediate_reclaim"] >= stat["nr_written"]
    assert stat["nr_vmscan_write"] == 0
    assert node.check() == []


def test_a_boost_that_comes_while_kswapd_runs_is_left_for_its_next_run() -> None:
    node = node_with(LRU_KIND_FILE)
    boost(node, 512)
    node.apply(ops.KswapdStep())
    assert node.kswapd.run
    assert node.kswapd.run.boosts[DMA32] == 512
    node.pgdat.pg.watermark_boost[DMA32] += 300
    step = node.apply(ops.KswapdStep())
    while step.did is not ops.KswapdDid.SLEPT:
        step = node.apply(ops.KswapdStep())
    assert step.wanted_again
    assert node.pgdat.pg.watermark_boost[DMA32] == 300
