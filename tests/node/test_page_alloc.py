"""The allocation path across nodes, driven by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from node.by_hand import ByHand

from numa_service.machine.source import load
from numa_service.mm.gfp import GFP_ATOMIC, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, Gfp
from numa_service.mm.internal import (
    ALLOC_CPUSET,
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NON_BLOCK,
)
from numa_service.mm.mmzone import MIGRATE_HIGHATOMIC
from numa_service.mm.profile import LINUX_6_1, LINUX_6_12, Profile, profile_named
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest, NodeError, NotFound, Precondition
from numa_service.node.free_pages import free_pages
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import Allocation, alloc_pages
from numa_service.node.pfns import unpack_pfns
from numa_service.node.prepare import AllocRequest
from numa_service.node.unserved import AllocFailed
from numa_service.node.zonelist_alloc import gfp_to_alloc_flags

SPEC = load("demo")


@pytest.fixture
def shell() -> Iterator[ByHand]:
    shell = ByHand(SPEC)
    yield shell
    assert [problem for node in shell.nodes.values() for problem in node.check()] == []


@pytest.fixture
def session(shell: ByHand) -> int:
    return shell.nodes[0].apply(ops.OpenSession("test", 10**15, 0))


def ask(shell: ByHand, session: int, count: int = 1, **changes: object) -> Allocation:
    fields: dict[str, object] = {"gfp": GFP_KERNEL, "order": 0, "cpu": 0, "policy": Policy()} | changes
    request = AllocRequest(session, count=count, **fields)  # type: ignore[arg-type]
    return shell.call(0, alloc_pages(shell.nodes[0], request))


def placed(allocation: Allocation) -> dict[int, int]:
    counts: dict[int, int] = {}
    for nid, pfns in allocation.pages:
        counts[nid] = counts.get(nid, 0) + len(pfns) // 8
    return counts


def numastat(shell: ByHand, nid: int) -> dict[str, int]:
    return shell.nodes[nid].pgdat.snapshot().numastat


def free_of(shell: ByHand, nid: int) -> int:
    pgdat = shell.nodes[nid].pgdat
    return sum(pgdat.free_pages(extent.index) for extent in pgdat.extents)


def test_local_pages_ask_nobody_and_count_as_hits(shell: ByHand, session: int) -> None:
    got = ask(shell, session, 100)
    assert placed(got) == {0: 100}
    assert shell.asked == []
    assert got.cost.latency_ns > 100 * SPEC.latency.local_read_ns
    assert numastat(shell, 0) == {
        "numa_hit": 100,
        "numa_miss": 0,
        "numa_foreign": 0,
        "interleave_hit": 0,
        "local_node": 100,
        "other_node": 0,
    }


def test_a_spill_costs_one_lookup_per_remote_node(shell: ByHand, session: int) -> None:
    free = free_of(shell, 0)
    got = ask(shell, session, free)
    assert [nid for nid, _ in got.pages] == [0, 2]  # the CXL node is nearer than the other socket
    assert got.remote_lookups == 1
    assert shell.asked == [(2, "Alloc")]
    remote = placed(got)[2]
    assert numastat(shell, 0)["numa_foreign"] == remote
    assert numastat(shell, 2)["numa_miss"] == numastat(shell, 2)["other_node"] == remote
    assert numastat(shell, 0)["numa_hit"] == placed(got)[0]


def test_the_low_mark_is_respected_until_nothing_is_left_above_it(shell: ByHand, session: int) -> None:
    ask(shell, session, free_of(shell, 0))
    pgdat = shell.nodes[0].pgdat
    for zone in pgdat.snapshot().zones:
        if zone.managed:
            mark = zone.wmark_low + zone.protection[pgdat.zone_names.index("Normal")]
            assert mark - 63 <= zone.free <= mark


def test_a_remote_page_costs_more_than_a_local_one(shell: ByHand, session: int) -> None:
    near = ask(shell, session, 1000)
    far = ask(shell, session, 1000, policy=Policy(PolicyMode.BIND, (1,)))
    assert far.cost.access_ns > near.cost.access_ns
    assert far.cost.fallback_ns >= SPEC.latency.remote_lookup_ns


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(PolicyMode.BIND, (1,)), {1: 90}),
        (Policy(PolicyMode.PREFERRED, (2,)), {2: 90}),
        (Policy(PolicyMode.INTERLEAVE, (0, 1, 2)), {0: 30, 1: 30, 2: 30}),
        (Policy(PolicyMode.PREFERRED_MANY, (1, 2)), {2: 90}),
    ],
    ids=lambda value: str(value),
)
def test_policies(shell: ByHand, session: int, policy: Policy, expected: dict[int, int]) -> None:
    assert placed(ask(shell, session, 90, policy=policy)) == expected


def test_interleave_goes_on_where_the_last_request_stopped(shell: ByHand, session: int) -> None:
    policy = Policy(PolicyMode.INTERLEAVE, (0, 1, 2))
    assert placed(ask(shell, session, 2, policy=policy)) == {0: 1, 1: 1}
    assert placed(ask(shell, session, 2, policy=policy)) == {0: 1, 2: 1}


def test_thisnode_never_leaves(shell: ByHand, session: int) -> None:
    with pytest.raises(AllocFailed):
        ask(shell, session, free_of(shell, 0) + 1, gfp=GFP_KERNEL | Gfp.THISNODE)
    assert {nid for nid, _ in shell.asked} == set()


def test_a_failed_request_gives_everything_back(shell: ByHand, session: int) -> None:
    total = sum(free_of(shell, nid) for nid in shell.nodes)
    for _ in range(total // 65_536):
        ask(shell, session, 65_536)
    held = sum(node.held_pages() for node in shell.nodes.values())
    with pytest.raises(AllocFailed) as failure:
        ask(shell, session, 65_536)
    assert 0 < failure.value.got < failure.value.wanted == 65_536
    assert sum(node.held_pages() for node in shell.nodes.values()) == held


def test_partial_keeps_what_there_is(shell: ByHand, session: int) -> None:
    wanted = 65_536
    got = ask(shell, session, wanted, policy=Policy(PolicyMode.BIND, (0,)), partial=True)
    assert 0 < got.got < wanted
    assert shell.nodes[0].held_pages() == got.got


def test_atomic_requests_dig_deeper_than_others(shell: ByHand, session: int) -> None:
    bound = Policy(PolicyMode.BIND, (0,))
    ask(shell, session, 65_536, policy=bound, partial=True)
    below = ask(shell, session, 65_536, gfp=GFP_ATOMIC, policy=bound, partial=True)
    assert below.got > 100


def test_free_returns_pages_and_counts(shell: ByHand, session: int) -> None:
    before = free_of(shell, 0)
    got = ask(shell, session, 300, order=2)
    freed, cost = shell.call(0, free_pages(shell.nodes[0], session, 2, got.pages, 0))
    assert freed == 1200
    assert cost.latency_ns > 0
    pcp = int(shell.nodes[0].pgdat.pg.pcp_count.sum())
    assert free_of(shell, 0) + pcp == before


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"order": 11}, InvalidRequest, "order: 11"),
        ({"count": 0}, InvalidRequest, "count: 0"),
        ({"count": 65_537}, InvalidRequest, "count: 65537"),
        ({"cpu": 99}, InvalidRequest, "cpu: 99"),
        ({"gfp": int(Gfp.DMA | Gfp.HIGHMEM)}, InvalidRequest, "gfp_flags"),
        ({"session": 77}, NotFound, "session 77"),
    ],
    ids=lambda value: str(value),
)
def test_bad_requests_change_nothing(
    shell: ByHand, session: int, changes: dict[str, int], error: type[NodeError], text: str
) -> None:
    digest = shell.nodes[0].digest()
    count = changes.pop("count", 1)
    with pytest.raises(error, match=text):
        ask(shell, changes.pop("session", session), count, **changes)
    assert shell.nodes[0].digest() == digest


def test_bad_frees_change_nothing(shell: ByHand, session: int) -> None:
    node = shell.nodes[0]
    other = node.apply(ops.OpenSession("other", 10**15, 0))
    got = ask(shell, session, 4, order=1)
    pfns = unpack_pfns(got.pages[0][1])

    def free(who: int, order: int, pages: list[int]) -> None:
        packed = b"".join(pfn.to_bytes(8, "little") for pfn in pages)
        shell.call(0, free_pages(node, who, order, [(0, packed)], 0))

    digest = node.digest()
    for who, order, pages, error in (
        (session, 1, [int(pfns[0]), int(pfns[0])], Precondition),  # twice in one batch
        (session, 0, [int(pfns[0])], Precondition),  # another order
        (session, 1, [int(pfns[0]) + 1], NotFound),  # a tail page
        (other, 1, [int(pfns[0])], Precondition),  # somebody else's
        (session, 1, [2**40], NotFound),  # no such page
        (session, 1, [int(pfns[1]), 5], NotFound),  # the second was never given out
        (session, 11, [int(pfns[0])], InvalidRequest),
        (session, 1, [], InvalidRequest),
    ):
        with pytest.raises(error):
            free(who, order, pages)
        assert node.digest() == digest
    free(session, 1, [int(pfns[0])])
    with pytest.raises(NotFound):
        free(session, 1, [int(pfns[0])])


def test_movable_pages_may_use_the_movable_class_zone(shell: ByHand, session: int) -> None:
    assert placed(ask(shell, session, 10, gfp=GFP_HIGHUSER_MOVABLE)) == {0: 10}


LINUX_6_2, LINUX_6_3 = profile_named("linux-6.2"), profile_named("linux-6.3")


@pytest.mark.parametrize(
    ("gfp", "order", "profile", "flags"),
    [
        (GFP_ATOMIC, 0, LINUX_6_1, ALLOC_HIGH | ALLOC_HARDER | ALLOC_KSWAPD),
        (GFP_ATOMIC, 3, LINUX_6_1, ALLOC_HIGH | ALLOC_HARDER | ALLOC_KSWAPD),
        (GFP_ATOMIC, 0, LINUX_6_12, ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK | ALLOC_KSWAPD),
        (GFP_ATOMIC, 3, LINUX_6_12, ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK | ALLOC_KSWAPD | ALLOC_HIGHATOMIC),
        (int(Gfp.KSWAPD_RECLAIM), 0, LINUX_6_1, ALLOC_KSWAPD | ALLOC_CPUSET),
        (int(Gfp.KSWAPD_RECLAIM), 0, LINUX_6_12, ALLOC_NON_BLOCK | ALLOC_KSWAPD | ALLOC_CPUSET),
        (GFP_KERNEL, 0, LINUX_6_12, ALLOC_KSWAPD | ALLOC_CPUSET),
        (GFP_ATOMIC, 0, LINUX_6_2, ALLOC_HIGH | ALLOC_HARDER | ALLOC_KSWAPD),
        (GFP_ATOMIC, 3, LINUX_6_3, ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK | ALLOC_KSWAPD | ALLOC_HIGHATOMIC),
        (int(Gfp.KSWAPD_RECLAIM), 0, LINUX_6_3, ALLOC_NON_BLOCK | ALLOC_KSWAPD | ALLOC_CPUSET),
        (GFP_ATOMIC | int(Gfp.NOMEMALLOC), 0, LINUX_6_1, ALLOC_HIGH | ALLOC_KSWAPD),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_gfp_to_alloc_flags(gfp: int, order: int, profile: Profile, flags: int) -> None:
    assert gfp_to_alloc_flags(gfp, order, profile) == flags


def test_reserves_of_atomic_requests_are_released_before_anything_fails(shell: ByHand, session: int) -> None:
    bound = Policy(PolicyMode.BIND, (0,))
    blocks = shell.nodes[0].pgdat.pg.pb_migratetype
    while not (blocks == MIGRATE_HIGHATOMIC).any():
        # on the slow path, an atomic order-3 request reserves a high-atomic pageblock
        ask(shell, session, 128, policy=bound, partial=True)
        ask(shell, session, 2, gfp=GFP_ATOMIC, order=3, policy=bound)
    ask(shell, session, 65_536, policy=bound, partial=True)
    assert not (blocks == MIGRATE_HIGHATOMIC).any()


def test_the_log_is_bounded_in_bytes(shell: ByHand, session: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numa_service.node.node.LOG_BYTES_LIMIT", 8 * 2500)
    node = shell.nodes[0]
    for kept in (1, 2, 1, 2):
        [(_, pfns)] = ask(shell, session, 1000).pages
        node.apply(ops.Free(node.owner(session), 0, 0, pfns))
        assert sum(isinstance(op, ops.Free) for op in node.log) == kept
    assert node.log_dropped


def test_a_log_that_was_too_long_keeps_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numa_service.node.node.LOG_LIMIT", 10)
    monkeypatch.setattr("numa_service.node.node.LOG_TAIL", 3)
    node = Node.boot(SPEC, 0)
    for ns in range(10):
        node.apply(ops.Spend(0, ns))
    assert len(node.log) == 10
    assert node.log_dropped == 0
    for ns, kept in ((10, 3), (11, 4), (12, 5), (13, 6), (14, 3), (15, 4)):
        node.apply(ops.Spend(0, ns))
        assert list(node.log) == [ops.Spend(0, n) for n in range(ns - kept + 1, ns + 1)]
    assert node.log_dropped == 12
