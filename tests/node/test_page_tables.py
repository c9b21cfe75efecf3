"""The nodes that have a region's pages have its page tables; its home knows only the node of each page."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from node.by_hand import ByHand
from node.page_tables import pfns_of

from numa_service.machine.source import load
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.cma import cma_alloc
from numa_service.node.errors import NotFound
from numa_service.node.memory_hotplug import change_memory_block
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import map_region, touch_region, unmap_region

SPEC = dataclasses.replace(load("demo"), cmdline="cma=16M@1")
LEASE_NS = 10**15


class Regions(ByHand):
    """The regions of one session, whose home is node 0."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.home = self.nodes[0]
        self.session = self.home.apply(ops.OpenSession("tables", LEASE_NS, 0))

    def fill(self, pages: int, nid: int, kind: int = LRU_KIND_ANON) -> int:
        """Map a region bound to a node and write every page of it; return its id."""
        bound = Policy(PolicyMode.BIND, (nid,))
        region = map_region(self.home, self.session, kind, pages, bound)
        for first in range(0, pages, 4096):
            self.touch(region, first, min(4096, pages - first))
        return region

    def touch(self, region: int, first: int, count: int) -> tuple[int, int]:
        """Write pages of a region; return (hits, faults)."""
        steps = touch_region(self.home, self.session, region, first, count, True, 0)
        touched = self.call(0, steps)
        return touched.hits, touched.faults

    def where(self, region: int) -> np.ndarray:
        return pfns_of(self.nodes, 0, region)

    def check(self) -> None:
        assert [problem for node in self.nodes.values() for problem in node.check()] == []
        for nid, node in self.nodes.items():
            assert Node.replay(SPEC, nid, list(node.log)).digest() == node.digest()


@pytest.fixture
def shell() -> Regions:
    return Regions()


def test_what_is_asked_about_a_region_is_4_bytes_a_page(shell: Regions) -> None:
    region = shell.fill(1000, 1)
    shell.touch(region, 0, 1000)
    shell.call(0, unmap_region(shell.home, shell.session, region))
    here, there = shell.home.log, shell.nodes[1].log
    assert [op.payload for op in here if isinstance(op, ops.FillRegion)] == [4000]
    assert [op.payload for op in there if isinstance(op, ops.Touch)] == [4000]
    assert [op.payload for op in there if isinstance(op, ops.FreeOwner)] == [0]
    assert ops.Release(shell.home.owner(region), None, bytes(4000)).payload == 4000
    assert shell.nodes[1].held_pages() == 0


@pytest.mark.parametrize("kind", [LRU_KIND_ANON, LRU_KIND_FILE])
def test_a_move_within_a_node_asks_nobody(shell: Regions, kind: int) -> None:
    node = shell.nodes[1]
    # now most free pages are in the CMA area, so that movable allocations go there
    theirs = node.apply(ops.OpenSession("driver", LEASE_NS, 0))
    bound, cpu = Policy(PolicyMode.BIND, (1,)), node.pgdat.cpus[0]
    request = AllocRequest(theirs, GFP_KERNEL, 0, 1 << 16, cpu, bound, partial=True)
    held = shell.call(1, alloc_pages(node, request))
    region = shell.fill(1500, 1, kind)
    [(start, end)] = node.pgdat.cma_areas
    before, nids = shell.where(region), shell.home.regions[region].nids.copy()
    inside = (before >= start) & (before < end)
    assert inside.sum() > 500
    # make room elsewhere on the node
    node.apply(ops.Free(node.owner(theirs), None, 0, held.pages[0][1][: 8 * 4000]))
    home_log = shell.home.log_length
    shell.asked.clear()
    assert shell.call(1, cma_alloc(node, theirs, 0, end - start)) == (start, end)
    assert shell.asked == []
    assert (node.outbox.asked, shell.home.log_length) == (0, home_log)
    after = shell.where(region)
    assert not ((after >= start) & (after < end)).any()
    assert (after[~inside] == before[~inside]).all()
    assert (shell.home.regions[region].nids == nids).all()
    assert node.pgdat.snapshot().vm_event["pgmigrate_success"] == inside.sum()
    assert shell.touch(region, 0, 1500) == (1500, 0)
    shell.check()


def test_pages_that_go_to_another_node_are_noted_at_home(shell: Regions) -> None:
    region = shell.fill(60_000, 2)
    before, block = shell.where(region), 5
    moving = before // MEMORY_BLOCK_PAGES == block
    assert moving.any()
    node = shell.nodes[2]
    shell.call(2, change_memory_block(node, block, "offline"))
    remaps = [op for op in shell.home.log if isinstance(op, ops.Remap)]
    assert sum(op.payload for op in remaps) == 4 * moving.sum()
    assert set(shell.home.regions[region].nids[moving].tolist()) <= {1, 2}
    assert (shell.where(region)[~moving] == before[~moving]).all()
    assert shell.touch(region, 0, 60_000) == (60_000, 0)
    shell.check()


def test_what_went_while_a_place_was_sought_stays_where_it_is(shell: Regions) -> None:
    """The home is not asked about such a page, its new page is freed, and later faults are left alone."""
    region = shell.fill(60_000, 2)
    node, owner, block = shell.nodes[2], shell.home.owner(region), 5
    moving = np.flatnonzero(shell.where(region) // MEMORY_BLOCK_PAGES == block).astype(np.uint32)
    assert len(moving) > 100
    steps = change_memory_block(node, block, "offline")
    ask, answer, gone = next(steps), None, moving[:10].tobytes()
    try:
        while True:
            answer = shell.nodes[ask.nid].apply(ask.op)
            if isinstance(ask.op, ops.Alloc) and gone:
                node.apply(ops.Release(owner, None, gone))
                assert shell.touch(region, int(moving[0]), 1) == (0, 1)
                gone = b""
            ask = steps.send(answer)
    except StopIteration:
        pass
    remapped = b"".join(op.indexes for op in shell.home.log if isinstance(op, ops.Remap))
    assert not set(np.frombuffer(remapped, np.uint32).tolist()) & set(moving[:10].tolist())
    assert (shell.home.regions[region].nids[moving[:10]] == 3).all()
    assert (shell.where(region)[moving] >= 0).tolist() == [True] + [False] * 9 + [True] * (len(moving) - 10)
    assert sum(n.held_pages() for n in shell.nodes.values()) == 60_000 - 9
    shell.run()
    shell.check()


def test_a_place_that_is_given_back_is_not_what_the_region_has_there_by_now(shell: Regions) -> None:
    region = shell.fill(10, 1)
    node, owner = shell.nodes[1], shell.home.owner(region)
    indexes = np.arange(10, dtype="<u4").tobytes()
    stale = shell.where(region).astype("<u8")
    node.apply(ops.Release(owner, None, indexes[:20]))
    assert shell.touch(region, 0, 10) == (5, 5)
    now = shell.where(region)
    moved = now != stale.astype(np.int64)
    assert 0 < moved.sum() < 10
    assert node.apply(ops.Release(owner, None, indexes, stale.tobytes())) == 10 - moved.sum()
    assert (shell.where(region) >= 0).tolist() == moved.tolist()
    shell.check()


def test_only_where_the_old_node_still_stands_does_the_home_note_a_new_one(shell: Regions) -> None:
    region = shell.fill(10, 1)
    owner, table = shell.home.owner(region), shell.home.regions[region]
    table.nids[3] = 3
    indexes = np.arange(10, dtype="<u4").tobytes()
    entered = shell.home.apply(ops.Remap(owner, indexes, 1, 0))
    assert list(entered) == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]
    assert table.nids.tolist() == [1, 1, 1, 3, 1, 1, 1, 1, 1, 1]
    shell.call(0, unmap_region(shell.home, shell.session, region))
    assert not any(shell.home.apply(ops.Remap(owner, indexes, 1, 0)))
    with pytest.raises(NotFound):
        shell.touch(region, 0, 1)


def test_a_note_whose_answer_came_too_late_is_taken_back(shell: Regions) -> None:
    """The node that moved the pages has kept them, as it got no answer."""
    region = shell.fill(10, 1)
    owner, table = shell.home.owner(region), shell.home.regions[region]
    table.nids[3] = 3
    remap = ops.Remap(owner, np.arange(10, dtype="<u4").tobytes(), 1, 0)
    assert (remap.owed(heard=True), remap.owed(heard=False)) == (True, False)
    undo = remap.undo(shell.home.apply(remap))
    assert undo is not None
    assert list(shell.home.apply(undo)) == [1] * 9
    assert table.nids.tolist() == [2, 2, 2, 3, 2, 2, 2, 2, 2, 2]
    assert undo.undo(bytes([1] * 9)) is None, "or both notes would be undone for ever"
    assert remap.undo(bytes(10)) is None


def test_a_snapshot_holds_the_page_tables_without_what_has_gone_stale(shell: Regions) -> None:
    region = shell.fill(3000, 1)
    node, owner = shell.nodes[1], shell.home.owner(region)
    node.apply(ops.Release(owner, None, np.arange(500, 1500, dtype="<u4").tobytes()))
    again = Node.boot(SPEC, 1)
    again.restore(node.snapshot())
    indexes, slot = np.arange(3000, dtype=np.uint32), node.slots[owner]
    assert (again.pgdat.region_pfns(slot, indexes) == node.pgdat.region_pfns(slot, indexes)).all()
    assert (again.digest(), again.check()) == (node.digest(), [])
    for each in (node, again):
        each.apply(ops.FreeOwner(owner))
    assert (again.digest(), again.held_pages()) == (node.digest(), 0)
