"""Pools of huge pages over the nodes of a machine: turns, clamping, promises, surplus, owners that end."""

from __future__ import annotations

import dataclasses

import pytest

from numa_service.machine.source import load
from numa_service.machine.spec import MachineSpec
from numa_service.mm.hugetlb.hstate import PMD_KB, PUD_KB
from numa_service.node import ops
from numa_service.node.errors import (
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PeerUnavailable,
    Precondition,
)
from numa_service.node.hugetlb import (
    free_huge_page,
    keeper_of,
    reserve_huge_pages,
    set_max_huge_pages,
    take_huge_page,
)
from numa_service.node.node import Node
from numa_service.node.ops.hugetlb import HugetlbTurns
from numa_service.node.region import close_session
from numa_service.sim.network import Faults
from numa_service.sim.simulation import Simulation

DEMO = load("demo")
#: As of profile linux-6.12, where a node's write leaves surplus pages out.
RULES_OF_6_7 = "linux-6.12"


def machine(cmdline: str = "", profile: str = DEMO.profile) -> MachineSpec:
    return dataclasses.replace(DEMO, cmdline=cmdline, profile=profile)


class Driver:
    """All nodes of the demo machine, and one session on node 1."""

    def __init__(self, spec: MachineSpec = DEMO, faults: Faults | None = None, seed: int = 0) -> None:
        self.sim = Simulation(spec, seed, faults)
        self.keeper = keeper_of(self.sim.nodes[0])
        self.inbox = self.sim.hosts[self.keeper].inbox
        self.session = self.sim.nodes[1].apply(ops.OpenSession("driver", 10**15, 0))

    def resize(self, count: int, nid: int | None = None, kb: int = PMD_KB) -> int:
        return self.sim.call(self.keeper, set_max_huge_pages(self.inbox, kb, count, nid))

    def reserve(self, delta: int) -> int:
        steps = reserve_huge_pages(self.sim.hosts[1].inbox, self.session, PMD_KB, delta)
        return self.sim.call(1, steps)

    def take(self, nids: tuple[int, ...] = (1, 0), promised: bool = True) -> int:
        steps = take_huge_page(self.sim.hosts[1].inbox, self.session, PMD_KB, nids, promised)
        return self.sim.call(1, steps)

    def free(self, nid: int, pfn: int) -> None:
        self.sim.call(1, free_huge_page(self.sim.nodes[1], self.session, PMD_KB, nid, pfn))

    def overcommit(self, count: int) -> None:
        for node in self.sim.nodes.values():
            node.apply(ops.WriteSysctl("vm.nr_overcommit_hugepages", str(count)))

    def pools(self, kb: int = PMD_KB) -> dict[int, tuple[int, int, int]]:
        """nid → pages, free ones and surplus ones of its pool."""
        return {nid: tuple(node.pgdat.hugetlb.pools[kb].counts) for nid, node in self.sim.nodes.items()}  # type: ignore[misc]

    @property
    def resv(self) -> int:
        return self.sim.nodes[self.keeper].pgdat.hugetlb.totals[PMD_KB].resv_huge_pages

    def free_pages(self) -> int:
        return sum(
            node.pgdat.free_pages(zone.index) + int(node.pgdat.pg.pcp_count[:, zone.index].sum())
            for node in self.sim.nodes.values()
            for zone in node.pgdat.extents
        )


def test_pages_are_taken_in_turn_and_returned_in_turn() -> None:
    driver = Driver()
    nids = sorted(driver.sim.nodes)
    before = driver.free_pages()
    assert driver.resize(len(nids) + 1) == len(nids) + 1
    assert [pool[0] for pool in driver.pools().values()] == [2] + [1] * (len(nids) - 1)
    assert driver.free_pages() == before - (len(nids) + 1) * 512
    assert driver.resize(len(nids) + 2) == len(nids) + 2  # the turn has come to node 1
    assert driver.pools()[1] == (2, 2, 0)
    assert driver.resize(len(nids)) == len(nids)
    assert [pool[0] for pool in driver.pools().values()] == [1] * len(nids)
    assert driver.resize(0) == 0
    assert driver.free_pages() == before
    assert not driver.sim.check()


def test_a_node_gets_what_it_can_and_the_value_says_so() -> None:
    driver = Driver()
    got = driver.resize(10**6, 1)
    assert 0 < got < 10**6
    assert driver.pools()[1] == (got, got, 0)
    assert all(pool == (0, 0, 0) for nid, pool in driver.pools().items() if nid != 1)
    assert driver.sim.nodes[1].pgdat.snapshot().vm_event["htlb_buddy_alloc_fail"] == 1
    assert driver.sim.nodes[1].pgdat.snapshot().vm_event["htlb_buddy_alloc_success"] == got
    everything = driver.resize(1 << 63)
    assert everything > got
    failed = {nid: node.pgdat.hugetlb.alloc_fail for nid, node in driver.sim.nodes.items()}
    assert failed[1] > 2  # it was asked again in every turn
    assert driver.resize(0) == 0
    assert not driver.sim.check()


def test_promised_pages_stay_and_pages_in_use_become_surplus() -> None:
    driver = Driver()
    driver.resize(8)
    assert driver.reserve(3) == 3
    assert driver.resv == 3
    pfn = driver.take()
    assert driver.resv == 2
    assert driver.resize(0) == 0  # persistent: one in use, two promised, all of them surplus now
    pools = driver.pools()
    assert sum(nr for nr, _, _ in pools.values()) == 3
    assert sum(surplus for _, _, surplus in pools.values()) == 3
    assert driver.reserve(-2) == 0
    assert sum(nr for nr, _, _ in driver.pools().values()) == 1
    driver.free(1, pfn)
    assert all(pool == (0, 0, 0) for pool in driver.pools().values())
    assert not driver.sim.check()


def test_surplus_pages_are_had_up_to_the_overcommit() -> None:
    driver = Driver()
    driver.resize(1)
    with pytest.raises(LimitExceeded, match="ENOMEM"):
        driver.reserve(3)
    assert driver.resv == 0
    driver.overcommit(2)
    assert driver.reserve(3) == 3
    pools = driver.pools()
    assert pools[1] == (2, 2, 2)  # near the session's node
    with pytest.raises(LimitExceeded):
        driver.reserve(1)
    with pytest.raises(LimitExceeded):
        driver.take(promised=False)  # all free pages are promised
    assert driver.resize(2) == 2  # one surplus page becomes persistent, none is allocated
    assert sum(nr for nr, _, _ in driver.pools().values()) == 3
    assert driver.reserve(-3) == 0
    assert sum(nr for nr, _, _ in driver.pools().values()) == 2
    with pytest.raises(NotFound):
        driver.reserve(-1)
    assert not driver.sim.check()


def test_a_page_that_was_not_promised_may_be_surplus() -> None:
    driver = Driver()
    driver.overcommit(1)
    pfn = driver.take((2, 1), promised=False)
    assert driver.pools()[2] == (1, 0, 1)
    with pytest.raises(Precondition, match="not the owner's"):
        driver.free(2, pfn + 512)
    driver.free(2, pfn)
    assert driver.pools()[2] == (0, 0, 0)
    with pytest.raises(Precondition):
        driver.take(promised=True)


def test_pages_of_a_session_go_back_when_it_ends() -> None:
    driver = Driver()
    driver.resize(4)
    driver.reserve(2)
    driver.take((0,))
    driver.take((2,), promised=False)
    assert driver.pools()[0][1] + driver.pools()[2][1] < driver.pools()[0][0] + driver.pools()[2][0]
    driver.sim.call(1, close_session(driver.sim.nodes[1], driver.session))
    assert all(nr == free for nr, free, _ in driver.pools().values())
    assert driver.resv == 0
    assert not driver.sim.check()


def test_pages_of_a_node_that_was_restarted_go_back() -> None:
    driver = Driver()
    driver.resize(6)
    driver.reserve(2)
    driver.take((0,))
    for nid in (0, 2):
        driver.sim.nodes[nid].apply(ops.FreeDeadOwners(1, 2))
    assert driver.pools()[0][0] == driver.pools()[0][1]
    assert driver.resv == 0


def test_a_write_to_a_node_counts_surplus_pages_of_others_or_not() -> None:
    """The kernel's bug until 6.7: a node gets as many more as other nodes have surplus pages."""
    for profile, got in ((DEMO.profile, 3), (RULES_OF_6_7, 2)):
        driver = Driver(machine(profile=profile))
        driver.overcommit(1)
        driver.take((2,), promised=False)
        assert driver.resize(2, 1) == got


def test_gigantic_pages_come_and_go() -> None:
    spec = dataclasses.replace(load("two-socket"), cmdline="hugepagesz=1G")
    sim = Simulation(spec)
    keeper = sim.hosts[0].inbox
    got = sim.call(0, set_max_huge_pages(keeper, PUD_KB, 2))
    assert got == 2
    assert [node.pgdat.hugetlb.pools[PUD_KB].counts.nr for node in sim.nodes.values()][:2] == [1, 1]
    assert not sim.check()
    free = [node.pgdat.free_pages(2) for node in sim.nodes.values()]
    assert sim.call(0, set_max_huge_pages(keeper, PUD_KB, 0)) == 0
    assert sum(node.pgdat.free_pages(2) for node in sim.nodes.values()) > sum(free)
    assert not sim.check()


def test_pages_of_boot() -> None:
    driver = Driver(machine("hugepages=5"))
    assert [pool[0] for pool in driver.pools().values()] == [2, 2, 1][: len(driver.pools())]
    assert not driver.sim.check()
    driver = Driver(machine("hugepages=1:3"))
    assert driver.pools()[1] == (3, 3, 0)
    assert driver.pools()[0] == (0, 0, 0)
    assert driver.resize(0) == 0
    assert not driver.sim.check()


def test_bad_requests_change_nothing() -> None:
    driver = Driver()
    for count, nid, kb, field in ((-1, None, PMD_KB, "value"), (1, 99, PMD_KB, "node")):
        with pytest.raises(InvalidRequest) as refused:
            driver.resize(count, nid, kb)
        assert refused.value.field == field
    with pytest.raises(InvalidRequest) as refused:
        driver.resize(1, None, PUD_KB)
    assert refused.value.field == "huge_page_kb"
    other = next(nid for nid in driver.sim.nodes if nid != driver.keeper)
    with pytest.raises(Precondition, match="keeps the pools"):
        driver.sim.call(other, set_max_huge_pages(driver.sim.hosts[other].inbox, PMD_KB, 1))
    assert all(pool == (0, 0, 0) for pool in driver.pools().values())


def test_logs_replay_and_snapshots_restore() -> None:
    driver = Driver(machine("hugepages=4"))
    driver.overcommit(2)
    driver.resize(9)
    driver.reserve(2)
    driver.take()
    driver.resize(3)
    for nid, node in driver.sim.nodes.items():
        assert Node.replay(driver.sim.spec, nid, list(node.log)).digest() == node.digest()
        copy = Node.boot(driver.sim.spec, nid)
        copy.restore(node.snapshot())
        assert copy.digest() == node.digest()
        assert not copy.check()


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_in_a_bad_network(seed: int) -> None:
    """Resizes, promises and pages while messages are lost and repeated: at the end all numbers agree."""
    driver = Driver(faults=Faults(lose=0.15, duplicate=0.15), seed=seed)
    driver.overcommit(3)
    dice = driver.sim.dice
    held: list[int] = []
    for _ in range(60):
        try:
            match dice.randrange(5):
                case 0:
                    driver.resize(dice.randrange(12))
                case 1:
                    driver.resize(dice.randrange(6), dice.choice(sorted(driver.sim.nodes)))
                case 2:
                    driver.reserve(dice.randrange(1, 4))
                case 3:
                    held.append(driver.take(promised=dice.random() < 0.5))
                case 4:
                    driver.reserve(-1)
        except (LimitExceeded, Precondition, NotFound, PeerUnavailable):
            continue
    driver.sim.network.faults = Faults()
    driver.sim.advance(10**12)
    driver.sim.run()
    driver.sim.call(1, close_session(driver.sim.nodes[1], driver.session))
    driver.sim.advance(10**12)
    driver.sim.run()
    assert driver.resv == 0
    assert all(nr == free for nr, free, _ in driver.pools().values())
    assert driver.resize(0) == 0
    assert all(pool == (0, 0, 0) for pool in driver.pools().values())
    assert not driver.sim.check()
    assert driver.sim.nodes[driver.keeper].log
    assert any(isinstance(op, HugetlbTurns) for op in driver.sim.nodes[driver.keeper].log)
