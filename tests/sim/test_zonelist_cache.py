"""The zonelist cache of linux-3.0: nodes found full are not asked again until a second has passed."""

from __future__ import annotations

import pytest
from node.asking import Asking, bind
from numa_client import FreelistPass, NodeVisit

from numa_service.node import ops
from numa_service.node.mempolicy import Policy, Walk, policy_walk
from numa_service.node.node import Node
from numa_service.node.page_alloc import alloc_pages

SECOND = 1_000_000_000


def fill(asking: Asking, *nids: int) -> None:
    """Allocate pages of nodes until none is left even above MIN."""
    for nid in nids:
        request = asking.request(1 << 16, policy=bind(nid))._replace(partial=True)
        failed = False
        while not failed:
            task = asking.sim.spawn(0, alloc_pages(asking.home, request))
            asking.sim.run()
            failed = task.error is not None


def lookups(asking: Asking, since: list[int]) -> dict[int, int]:
    """Return the Alloc ops that other nodes have been asked for since `before`."""
    return {
        nid: sum(isinstance(op, ops.Alloc) for op in list(node.log)[since[nid] :])
        for nid, node in asking.sim.nodes.items()
        if nid
    }


def marks(asking: Asking) -> list[int]:
    return [len(node.log) for node in asking.sim.nodes.values()]


def skipped(visits: tuple[NodeVisit, ...]) -> list[tuple[int, tuple[str, ...]]]:
    return [(visit.node, visit.cached_full) for visit in visits if visit.cached_full]


@pytest.fixture
def asking() -> Asking:
    """Return a machine whose nodes 0 and 2 are full, node 1 is not; node 0's fallback order is 0, 2, 1."""
    asking = Asking(profile="linux-3.0")
    fill(asking, 0, 2)
    asking.sim.advance(2 * SECOND)
    return asking


def test_a_full_node_is_asked_once_a_second(asking: Asking) -> None:
    before = marks(asking)
    assert [nid for nid, _ in asking.take(10).pages] == [1]
    assert lookups(asking, before) == {1: 1, 2: 1}
    before = marks(asking)
    for _ in range(20):
        assert [nid for nid, _ in asking.take(10).pages] == [1]
    assert lookups(asking, before) == {1: 20, 2: 0}
    asking.sim.advance(SECOND)
    before = marks(asking)
    assert [nid for nid, _ in asking.take(10).pages] == [1]
    assert lookups(asking, before) == {1: 1, 2: 1}
    assert asking.sim.check() == []


def test_later_kernels_have_none() -> None:
    asking = Asking(profile="linux-6.1")
    fill(asking, 0, 2)
    before = marks(asking)
    for _ in range(5):
        asking.take(10)
    assert lookups(asking, before)[2] == 5


def test_pages_that_come_back_to_a_full_node_are_not_seen_until_the_wipe(asking: Asking) -> None:
    asking.take(10)
    node = asking.sim.nodes[2]
    owner = asking.home.owner(asking.session)
    held = [int(p) + node.pgdat.base_pfn for p in (node.pgdat.pg.flags == 4).nonzero()[0]][:20_000]
    pages = b"".join(pfn.to_bytes(8, "little") for pfn in held)
    singles = [p for p in held if node.pgdat.pg.order[p - node.pgdat.base_pfn] == 0]
    assert len(singles) == len(held)
    node.apply(ops.Free(owner, None, 0, pages))
    assert [nid for nid, _ in asking.take(10).pages] == [1]
    asking.sim.advance(SECOND)
    assert [nid for nid, _ in asking.take(10).pages] == [2]


def test_a_scan_that_finds_nothing_is_repeated_without_the_cache(asking: Asking) -> None:
    """When node 1 is full, too, the second scan finds pages freed on node 2, though its marks are recent."""
    asking.take(10)
    node = asking.sim.nodes[2]
    owner = asking.home.owner(asking.session)
    held = [int(p) + node.pgdat.base_pfn for p in (node.pgdat.pg.flags == 4).nonzero()[0]][:20_000]
    node.apply(ops.Free(owner, None, 0, b"".join(pfn.to_bytes(8, "little") for pfn in held)))
    fill(asking, 1)
    # node 2 was marked as full within this second
    asking.home.apply(ops.ZlcMarkFull(0, (2,), asking.home.clock()))
    explanation = asking.ask(10)
    first, again = (step for step in explanation.steps if isinstance(step, FreelistPass))
    assert skipped(first.nodes) == [(0, ("DMA",)), (2, ("DMA32",)), (1, ("DMA32",))]
    assert again.name == "fast path, without the zonelist cache"
    assert skipped(again.nodes) == []
    assert explanation.placement == {2: 10}


def test_why_a_zone_was_not_looked_at(asking: Asking) -> None:
    asking.take(10)
    explanation = asking.ask(10)
    [only] = [step for step in explanation.steps if isinstance(step, FreelistPass)]
    assert skipped(only.nodes) == [(0, ("DMA",)), (2, ("DMA32",))]
    text = str(explanation)
    assert "2:DMA32    skipped: zonelist cache says full" in text
    assert "0:DMA      skipped: zonelist cache says full" in text
    # the first zone is always tried
    assert "0:DMA32    skipped" not in text


def test_reclaim_that_got_pages_clears_it(asking: Asking) -> None:
    asking.take(10)
    cache = asking.home.zonelist_scan(_walk(asking), 0)
    assert cache is not None
    assert cache.cache.fullzones
    asking.home.apply(ops.ZlcClear(0))
    assert not cache.cache.fullzones


def _walk(asking: Asking) -> Walk:
    return policy_walk(asking.home.machine.zonelists, 0, Policy(), 0, 2)


def test_a_list_that_is_built_anew_forgets(asking: Asking) -> None:
    asking.take(10)
    digest = asking.home.digest()
    asking.home.apply(ops.WriteSysctl("vm.numa_zonelist_order", "zone"))
    asking.home.apply(ops.WriteSysctl("vm.numa_zonelist_order", "node"))
    scan = asking.home.zonelist_scan(_walk(asking), 0)
    assert scan is not None
    assert asking.home.digest() != digest


def test_what_is_known_is_state_and_the_log_leads_to_it(asking: Asking) -> None:
    asking.take(10)
    home = asking.home
    again = Node.replay(asking.sim.spec, 0, list(home.log))
    assert again.digest() == home.digest()
    marked = home.digest()
    home.apply(ops.ZlcClear(0))
    assert home.digest() != marked
