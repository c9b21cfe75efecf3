"""A node restored from a snapshot has the same digest and gives the same results to later ops."""

from __future__ import annotations

import dataclasses

import msgpack
import pytest

from numa_service.machine.source import load
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.profile import PROFILES
from numa_service.node import ops
from numa_service.node.ask import Ask, owe
from numa_service.node.errors import NodeError
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import map_region, touch_region
from numa_service.sim.simulation import Simulation


def lived_in(profile: str) -> Simulation:
    """Return a machine in which every part of node 0's state is in use."""
    sim = Simulation(dataclasses.replace(load("demo"), profile=profile))
    home = sim.nodes[0]
    session = home.apply(ops.OpenSession("before", ops.FOREVER_NS, 0))
    for kind in (LRU_KIND_FILE, LRU_KIND_ANON):
        region = map_region(home, session, kind, 30_000, Policy())
        for first in range(0, 30_000, 10_000):
            sim.call(0, touch_region(home, session, region, first, 10_000, True, 0))
    interleave = Policy(PolicyMode.INTERLEAVE, (0, 1, 2))
    sim.call(0, alloc_pages(home, AllocRequest(session, GFP_KERNEL, 0, 3001, 0, interleave)))
    home.apply(ops.WriteSysctl("vm.swappiness", "10"))
    home.apply(ops.WriteSysctl("vm.min_free_kbytes", "9000"))
    home.apply(ops.Remember(session, "r", 7, "pickle", b"reply", 5))
    owe(home, Ask(1, ops.FreeOwner(home.owner(session)), "0.1.77"))
    home.apply(ops.FreeDeadOwners(2, 5))
    home.pgdat.pg.watermark_boost[1] = 5000
    home.pgdat.wakeup_kswapd(0, 2)
    home.apply(ops.KswapdStep())
    return sim


def outcome(node: Node, op: ops.Op[object]) -> object:
    try:
        return node.apply(op)
    except NodeError as error:
        return str(error)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_snapshot_is_the_whole_state(profile: str) -> None:
    before = lived_in(profile).nodes[0]
    assert before.kswapd.running
    after = Node.boot(before.machine.spec, 0, 9)
    after.restore(before.snapshot())
    assert after.digest() == before.digest()
    assert after.snapshot() == before.snapshot()
    assert (after.lineage, after.epoch) == (1, 9)
    assert after.check() == before.check()
    # later ops have the same results, too
    later: list[ops.Op[object]] = [ops.KswapdStep() for _ in range(6)]
    later += [ops.VmstatTick(), ops.Alloc(before.owner(1), (2, 1, 0), 0, 0, 500, 1, 2, 0x41, 3)]
    later += [ops.WriteSysctl("vm.watermark_boost_factor", "0"), ops.EndSession(1), ops.NumberQuestion()]
    for op in later:
        assert outcome(after, op) == outcome(before, op)
        assert after.digest() == before.digest()


def test_of_memory_that_went_off_line() -> None:
    sim = Simulation(load("demo"))
    sim.offline_node(2)
    before = sim.nodes[0]
    after = Node.boot(sim.spec, 0)
    after.restore(before.snapshot())
    assert after.digest() == before.digest()
    assert after.machine.zonelists[0].node_order == before.machine.zonelists[0].node_order
    assert after.machine.watermarks == before.machine.watermarks


def test_what_is_no_snapshot_of_this_node_is_refused() -> None:
    node = Node.boot(load("demo"), 0)
    snapshot = node.snapshot()
    parts = msgpack.unpackb(snapshot, strict_map_key=False)
    with pytest.raises(ValueError, match="of node 0, not 1"):
        Node.boot(load("demo"), 1).restore(snapshot)
    with pytest.raises(ValueError, match="version 99"):
        node.restore(msgpack.packb([99, *parts[1:]]))
    with pytest.raises(ValueError, match="not of node 0 of this machine"):
        Node.boot(load("two-socket"), 0).restore(snapshot)
    parts[4][0] += 1
    with pytest.raises(ValueError, match="does not lead to the state"):
        Node.boot(load("demo"), 0).restore(msgpack.packb(parts))
