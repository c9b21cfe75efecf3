"""Memory policies of requests and regions: the walks that come of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from numa_service.machine.source import load
from numa_service.machine.spec import SpecError
from numa_service.mm.gfp import GFP_KERNEL, parse_gfp
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.profile import LINUX_6_1, LINUX_6_12
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import map_region, touch_region
from numa_service.procfs import tree
from numa_service.procfs.write import WriteSysctl, parse_write
from numa_service.sim.simulation import Simulation

WEIGHTS = "mempolicy.weighted_interleave.node{}"
WEIGHT_FILES = "/sys/kernel/mm/mempolicy/weighted_interleave"
WEIGHTED = Policy(PolicyMode.WEIGHTED_INTERLEAVE, (0, 1, 2))


class Asker:
    """A session on node 0 of the demo machine."""

    def __init__(self, profile: str = "linux-6.12", **weights: str) -> None:
        self.sim = Simulation(dataclasses.replace(load("demo"), profile=profile))
        self.home = self.sim.nodes[0]
        for nid, weight in weights.items():
            for node in self.sim.nodes.values():
                node.apply(ops.WriteSysctl(WEIGHTS.format(nid.removeprefix("node")), weight))
        self.session = self.home.apply(ops.OpenSession("asks", 10**15, 0))

    def alloc(self, count: int, policy: Policy, gfp: int = int(GFP_KERNEL)) -> dict[int, int]:
        request = AllocRequest(self.session, gfp, 0, count, 0, policy)
        got = self.sim.call(0, alloc_pages(self.home, request))
        blocks: dict[int, int] = {}
        for nid, pfns in got.pages:
            blocks[nid] = blocks.get(nid, 0) + len(pfns) // 8
        return blocks

    def touched(self, kind: int, policy: Policy, pages: int) -> str:
        region = map_region(self.home, self.session, kind, pages, policy)
        self.sim.call(0, touch_region(self.home, self.session, region, 0, pages, True, 0))
        return "".join(map(str, (self.home.regions[region].nids.astype(int) - 1).tolist()))


def test_weights_deal_pages_out_in_rounds() -> None:
    asker = Asker(node0="3", node2="2")
    assert asker.alloc(12, WEIGHTED) == {0: 6, 1: 2, 2: 4}
    # the turn goes on with the next request: it was node 0's
    assert asker.alloc(4, WEIGHTED) == {0: 3, 1: 1}
    assert asker.alloc(1, WEIGHTED) == {2: 1}
    hits = [int(node.pgdat.pg.numa_event[:, 3].sum()) for node in asker.sim.nodes.values()]
    assert hits == [0, 0, 0], "interleave_hit is of plain interleave only"
    assert asker.sim.check() == []


def test_anonymous_pages_are_dealt_out_by_their_place_and_files_by_turn() -> None:
    asker = Asker(node0="3", node2="2")
    interleave = Policy(PolicyMode.INTERLEAVE, (0, 1, 2))
    assert asker.touched(LRU_KIND_ANON, WEIGHTED, 14) == "00012200012200"
    assert asker.touched(LRU_KIND_ANON, interleave, 8) == "01201201"
    assert asker.touched(LRU_KIND_FILE, interleave, 4) == "0120"
    assert asker.touched(LRU_KIND_FILE, interleave, 4) == "1201"
    assert asker.touched(LRU_KIND_ANON, interleave, 3) == "012"


def test_bind_does_not_bind_zones_below_the_policy_zone() -> None:
    """The demo machine's highest zone is DMA32: GFP_DMA goes by no policy, whatever a session binds."""
    asker = Asker()
    bound = Policy(PolicyMode.BIND, (1,))
    assert asker.alloc(3, bound) == {1: 3}
    assert asker.alloc(3, bound, int(parse_gfp("GFP_KERNEL|__GFP_DMA"))) == {0: 3}
    with pytest.raises(InvalidRequest, match="no zone is both"):
        asker.alloc(1, bound, int(parse_gfp("GFP_KERNEL|__GFP_THISNODE")))


def test_a_home_node_is_where_the_walk_begins() -> None:
    asker = Asker()
    assert asker.alloc(3, Policy(PolicyMode.BIND, (0, 1, 2), home_node=2)) == {2: 3}
    assert asker.alloc(3, Policy(PolicyMode.PREFERRED_MANY, (1, 2), home_node=1)) == {1: 3}
    assert asker.alloc(3, Policy(PolicyMode.PREFERRED_MANY, (1, 2))) == {2: 3}, "the nearer one"


def test_weights_are_kept_like_sysctls() -> None:
    asker = Asker(node1="7")
    snapshot = asker.home.machine.snapshot()
    files = {path: text for path, _, text in tree.walk(snapshot) if "weighted_interleave" in path}
    assert {path.rsplit("/", 1)[1]: text for path, text in files.items()}["node1"] == "7\n"
    assert parse_write(snapshot, f"{WEIGHT_FILES}/node1", b"9\n") == WriteSysctl(WEIGHTS.format(1), "9")
    with pytest.raises(OSError, match="'256' is not in 0 to 255"):
        parse_write(snapshot, f"{WEIGHT_FILES}/node1", b"256")
    again = Node.replay(asker.sim.spec, 0, list(asker.home.log))
    assert again.machine.sysctls.interleave_weights == {1: 7}
    asker.home.apply(ops.WriteSysctl(WEIGHTS.format(1), "0"))
    assert tree.read(asker.home.machine.snapshot(), f"{WEIGHT_FILES}/node1") == "1\n", "the default again"
    with pytest.raises(InvalidRequest, match="there is no node 9"):
        asker.home.apply(ops.WriteSysctl(WEIGHTS.format(9), "1"))


def test_kernels_without_it_have_no_weights() -> None:
    asker = Asker("linux-6.1")
    snapshot = asker.home.machine.snapshot()
    assert not [path for path, _, _ in tree.walk(snapshot) if "weighted_interleave" in path]
    with pytest.raises(SpecError, match="has no weighted interleave"):
        asker.home.machine.write_sysctl(WEIGHTS.format(0), "1")


def test_a_snapshot_has_turns_and_parts() -> None:
    asker = Asker(node0="3")
    asker.alloc(5, WEIGHTED)
    region = map_region(asker.home, asker.session, LRU_KIND_ANON, 10, WEIGHTED)
    near = Policy(PolicyMode.BIND, (0, 2), home_node=2)
    asker.home.apply(ops.BindRegion(region, 2, 5, near.plain()))
    again = Node.boot(asker.sim.spec, 0)
    again.restore(asker.home.snapshot())
    assert again.digest() == asker.home.digest()
    assert again.sessions[asker.session].turn == asker.home.sessions[asker.session].turn
    assert [first for first, _ in again.regions[region].areas] == [0, 2, 5]


def test_which_kernels_know_what() -> None:
    known = (0, 1, 2)
    assert Policy.checked(6, [0], known, LINUX_6_12).mode is PolicyMode.WEIGHTED_INTERLEAVE
    with pytest.raises(InvalidRequest, match="EINVAL: linux"):
        Policy.checked(6, [0], known, LINUX_6_1)
    assert np.array_equal(Policy.of(Policy(PolicyMode.BIND, (1,), 2).plain()).nodes, (1,))
