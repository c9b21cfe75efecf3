"""Fallback orders against orders derived by hand, published upstream, or printed by booted kernels."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12, Profile
from numa_service.mm.zonelist import (
    Topology,
    Zoneref,
    build_all_zonelists,
    default_zonelist_order,
    policy_zone,
    set_zonelist_order,
    turns_zone_reclaim_on,
)

Slit = Sequence[Sequence[int]]


def orders(
    slit: Slit, profile: Profile, *, without_cpus: tuple[int, ...] = (), memoryless: tuple[int, ...] = ()
) -> list[str]:
    """Node order of each node, as a string of digits."""
    nids = tuple(range(len(slit)))
    topology = Topology(
        nids=nids,
        populated={nid: () if nid in memoryless else (2,) for nid in nids},
        has_cpus={nid: nid not in without_cpus for nid in nids},
        distance=lambda a, b: slit[a][b],
    )
    lists = build_all_zonelists(topology, profile)
    return ["".join(map(str, lists[nid].node_order)) for nid in nids]


def blocks(size: int, near: int, far: int, count: int) -> Slit:
    """Distances of `count` sockets of `size` nodes: 10 to itself, `near` in a socket, `far` between."""
    nodes = range(size * count)
    return [[10 if a == b else near if a // size == b // size else far for b in nodes] for a in nodes]


FLAT = blocks(4, 20, 20, 1)
RING = [[10, 20, 30, 20], [20, 10, 20, 30], [30, 20, 10, 20], [20, 30, 20, 10]]
CPULESS = [[10, 21, 14, 24], [21, 10, 24, 14], [14, 24, 10, 26], [24, 14, 26, 10]]
NPS4 = blocks(4, 12, 32, 2)
PAIRS = blocks(2, 12, 32, 2)


@pytest.mark.parametrize("profile", [LINUX_3_0, LINUX_6_1, LINUX_6_12], ids=lambda p: p.name)
def test_orders_that_all_kernels_agree_on(profile: Profile) -> None:
    assert orders(FLAT, profile) == ["0123", "1230", "2301", "3012"]
    assert orders(RING, profile) == ["0132", "1203", "2310", "3021"]
    assert orders(CPULESS, profile, without_cpus=(2, 3)) == ["0213", "1302", "2013", "3102"]


def test_nps4_overflows_onto_node_0_in_3_0_and_is_spread_later() -> None:
    old, new = orders(NPS4, LINUX_3_0), orders(NPS4, LINUX_6_12)
    assert [order[4:] for order in old[4:]] == ["0123"] * 4
    assert [order[4:] for order in new[4:]] == ["0123", "1230", "2301", "3012"]
    assert new == orders(NPS4, LINUX_6_1)
    assert [set(order[:4]) for order in new] == [set("0123")] * 4 + [set("4567")] * 4


OLD_NPS4 = "01234567 12305674 23016745 30127456 45670123 56740123 67450123 74560123"
NEW_NPS4 = "01234567 12305674 23016745 30127456 45670123 56741230 67452301 74563012"


@pytest.mark.parametrize("without_cpus", [(), tuple(range(8))], ids=["with CPUs", "at boot"])
def test_nps4_row_by_row(without_cpus: tuple[int, ...]) -> None:
    """Full tables: the first socket spreads over the second in both; the second over the first not in 3.0."""
    assert orders(NPS4, LINUX_3_0, without_cpus=without_cpus) == OLD_NPS4.split()
    assert orders(NPS4, LINUX_6_1, without_cpus=without_cpus) == NEW_NPS4.split()
    assert orders(NPS4, LINUX_6_12, without_cpus=without_cpus) == NEW_NPS4.split()


def test_the_example_of_upstream() -> None:
    """The old orders as the message of commit 54d032ced983 prints them, with the odd last row."""
    assert orders(PAIRS, LINUX_3_0) == ["0123", "1032", "2301", "3201"]
    assert orders(PAIRS, LINUX_6_1) == orders(PAIRS, LINUX_6_12) == ["0123", "1032", "2301", "3210"]


# What 6.1 printed at boot, when no CPU was on-line yet.


@pytest.mark.parametrize(
    ("slit", "expected"),
    [
        ([[10, 16, 22, 16], [16, 10, 16, 22], [22, 16, 10, 16], [16, 22, 16, 10]], "0132 1203 2310 3021"),
        (
            blocks(4, 16, 32, 2),
            "01234567 12305674 23016745 30127456 45670123 56741230 67452301 74563012",
        ),
        ([[10, 21, 17, 28], [21, 10, 28, 17], [17, 28, 10, 28], [28, 17, 28, 10]], "0213 1302 2031 3102"),
        (FLAT, "0123 1230 2301 3012"),
        ([[10, 20], [20, 10]], "01 10"),
    ],
    ids=["numa-4n-ring", "numa-8n", "cxl-tier", "fake-4", "numa-2n"],
)
def test_captured_orders(slit: Slit, expected: str) -> None:
    assert orders(slit, LINUX_6_1, without_cpus=tuple(range(8))) == expected.split()


MEMORYLESS = [[10, 20, 30], [20, 10, 15], [30, 15, 10]]
MEMORYLESS_CPULESS = [[10, 20, 25, 40], [20, 10, 15, 12], [25, 15, 10, 22], [40, 12, 22, 10]]


def test_a_node_without_memory_is_first_in_its_own_list_and_in_no_other() -> None:
    assert orders(MEMORYLESS, LINUX_6_1, memoryless=(1,), without_cpus=(0, 1, 2)) == ["02", "120", "20"]
    captured = ["023", "1320", "230", "320"]
    assert orders(MEMORYLESS_CPULESS, LINUX_6_1, memoryless=(1,), without_cpus=(0, 1, 2, 3)) == captured


def test_6_12_leaves_it_out_of_its_own_list_too() -> None:
    assert orders(MEMORYLESS, LINUX_6_12, memoryless=(1,), without_cpus=(0, 1, 2)) == ["02", "20", "20"]


def test_a_node_with_cpus_is_a_little_farther() -> None:
    slit = [[10, 20, 20], [20, 10, 20], [20, 20, 10]]
    assert orders(slit, LINUX_6_1, without_cpus=(2,))[0] == "021"
    assert orders(slit, LINUX_6_1)[0] == "012"


def test_zones_of_a_node_come_together_highest_first() -> None:
    topology = Topology(
        nids=(0, 1),
        populated={0: (0, 1, 2), 1: (2, 3)},
        has_cpus={0: True, 1: True},
        distance=lambda a, b: 10 if a == b else 20,
    )
    lists = build_all_zonelists(topology, LINUX_6_1)
    local = [Zoneref(0, 2), Zoneref(0, 1), Zoneref(0, 0)]
    remote = [Zoneref(1, 3), Zoneref(1, 2)]
    assert list(lists[0].fallback) == local + remote
    assert list(lists[1].fallback) == remote + local
    assert list(lists[0].thisnode) == local
    assert list(lists[1].thisnode) == remote
    assert [(ref.node, ref.zone_idx) for ref in lists[1].thisnode] == [(1, 3), (1, 2)]


# Zone order, and when 3.0 chooses it

GIB = 1 << 18


def sized(*nodes: dict[int, int], distance: int = 20) -> Topology:
    """A topology of nodes with these present pages, by zone index (DMA, DMA32, Normal, Movable)."""
    return Topology(
        nids=tuple(range(len(nodes))),
        populated={nid: tuple(zones) for nid, zones in enumerate(nodes)},
        has_cpus=dict.fromkeys(range(len(nodes)), False),
        distance=lambda a, b: 10 if a == b else distance,
        present={(nid, zone): pages for nid, zones in enumerate(nodes) for zone, pages in zones.items()},
    )


BIG = sized({0: 4000, 1: 3 * GIB, 2: 13 * GIB}, {2: 16 * GIB})


def test_zone_order_spares_low_memory() -> None:
    """ZONE_DMA is last: an allocation rather goes to another node than to low memory."""
    lists = build_all_zonelists(BIG, LINUX_3_0, "zone")
    assert list(lists[0].fallback) == [Zoneref(0, 2), Zoneref(1, 2), Zoneref(0, 1), Zoneref(0, 0)]
    assert list(lists[1].fallback) == [Zoneref(1, 2), Zoneref(0, 2), Zoneref(0, 1), Zoneref(0, 0)]
    assert list(lists[0].thisnode) == [Zoneref(0, 2), Zoneref(0, 1), Zoneref(0, 0)]
    assert {z.order for z in lists.values()} == {"zone"}
    nodes = build_all_zonelists(BIG, LINUX_3_0, "node")
    assert list(nodes[0].fallback) == [Zoneref(0, 2), Zoneref(0, 1), Zoneref(0, 0), Zoneref(1, 2)]
    assert [z.node_order for z in lists.values()] == [z.node_order for z in nodes.values()]


@pytest.mark.parametrize(
    ("topology", "order"),
    [
        (BIG, "zone"),
        # a node with low memory only: its kernel allocations would all leave it
        (sized({0: 4000, 1: 3 * GIB, 2: 13 * GIB}, {1: GIB // 2}), "node"),
        # so does a node without any memory
        (sized({0: 4000, 1: 3 * GIB, 2: 13 * GIB}, {}), "node"),
        # no low memory at all
        (sized({2: 8 * GIB}, {2: 8 * GIB}), "node"),
        # low memory is more than half, and just half
        (sized({1: 3 * GIB, 2: GIB}, {2: GIB}), "node"),
        (sized({1: 2 * GIB, 2: 2 * GIB}), "zone"),
        # more than 70 % of a node that is not a small one, exactly 70 %, and a small node
        (sized({1: 71, 2: 29}, {2: 100}), "node"),
        (sized({1: 70, 2: 30}, {2: 100}), "zone"),
        (sized({1: 40, 2: 5}, {2: 100}, {2: 100}), "zone"),
    ],
)
def test_default_order_of_3_0(topology: Topology, order: str) -> None:
    assert default_zonelist_order(topology) == order
    assert set_zonelist_order(topology, LINUX_3_0) == order
    assert set_zonelist_order(topology, LINUX_3_0, "node") == "node"
    assert set_zonelist_order(topology, LINUX_3_0, "zone") == "zone"
    assert (
        set_zonelist_order(topology, LINUX_6_1) == set_zonelist_order(topology, LINUX_6_12, "zone") == "node"
    )


def test_the_policy_zone_is_the_highest_that_is_not_movable() -> None:
    assert policy_zone(BIG, 3) == 2
    assert policy_zone(sized({0: 1, 1: 1}, {3: 1}), 3) == 1
    assert policy_zone(sized({}), 3) == 0


def test_3_0_reclaims_before_it_goes_far() -> None:
    near, far = sized({2: 1}, {2: 1}, distance=30), sized({2: 1}, {2: 1}, distance=31)
    assert turns_zone_reclaim_on(far, LINUX_3_0)
    assert not turns_zone_reclaim_on(near, LINUX_3_0)
    assert not turns_zone_reclaim_on(far, LINUX_6_1)
    # the memoryless node goes far for every allocation
    assert turns_zone_reclaim_on(sized({2: 1}, {}, distance=31), LINUX_3_0)
