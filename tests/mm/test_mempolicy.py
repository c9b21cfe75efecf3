"""Memory policies: what recordings do not reach, against the kernel's loops one step at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from numa_service.mm.mempolicy.choice import (
    Choice,
    CpusetTask,
    PolicyZone,
    cpuset_node_allowed,
    policy_nodemask,
)
from numa_service.mm.mempolicy.interleave import (
    FIRST_TURN,
    Turn,
    interleave_nid,
    interleave_nodes,
    next_node,
)
from numa_service.mm.mempolicy.moves import migration_pairs
from numa_service.mm.mempolicy.nodemask import (
    mask_of,
    next_node_in,
    nids_of,
    node_remap,
    nodelist,
    nodelist_parse,
    nodes_fold,
    nodes_onto,
)
from numa_service.mm.mempolicy.policy import CallError, Mempolicy, Mode, mpol_equal
from numa_service.mm.mempolicy.text import mpol_parse_str, mpol_to_str, parse_weight
from numa_service.mm.profile import LINUX_3_0, LINUX_6_12

masks = st.integers(1, 0xFF)
turns = st.builds(Turn, st.one_of(st.integers(0, 7), st.just(1023)), st.integers(0, 5))
weights = st.dictionaries(st.integers(0, 7), st.integers(0, 5))


def one_by_one(
    policy: Mempolicy, turn: Turn, weights: Mapping[int, int], count: int
) -> tuple[list[int], Turn]:
    """As the kernel does: one page at a time."""
    nodes = []
    for _ in range(count):
        prev, weight = turn
        if policy.mode is Mode.INTERLEAVE:
            turn = Turn(next_node_in(prev, policy.nodes), weight)
        else:
            if not weight or not policy.nodes >> prev & 1:
                prev = next_node_in(prev, policy.nodes)
                weight = weights.get(prev) or 1
            turn = Turn(prev, weight - 1)
        nodes.append(turn.prev)
    return nodes, turn


@given(
    masks, turns, weights, st.integers(0, 40), st.sampled_from([Mode.INTERLEAVE, Mode.WEIGHTED_INTERLEAVE])
)
def test_many_turns_at_once_are_as_many_in_a_row(
    mask: int, turn: Turn, weights: dict[int, int], count: int, mode: Mode
) -> None:
    policy = Mempolicy(mode, mask)
    nodes, after = interleave_nodes(policy, turn, weights, count)
    assert (nodes.tolist(), after) == one_by_one(policy, turn, weights, count)
    if after.weight == 0 or policy.nodes >> after.prev & 1:
        assert next_node(policy, after) == one_by_one(policy, after, weights, 1)[0][0]


@given(masks, weights, st.lists(st.integers(0, 1 << 40), max_size=20))
def test_places_are_dealt_out_in_rounds(mask: int, weights: dict[int, int], places: list[int]) -> None:
    policy = Mempolicy(Mode.WEIGHTED_INTERLEAVE, mask)
    round_ = [nid for nid in nids_of(mask) for _ in range(weights.get(nid) or 1)]
    got = interleave_nid(policy, np.array(places, dtype=np.uint64), weights, 64).tolist()
    assert got == [round_[place % len(round_)] for place in places]


@given(st.integers(0, (1 << 64) - 1))
def test_lists_of_nodes_are_read_as_they_are_printed(mask: int) -> None:
    assert nodelist_parse(nodelist(mask)) == mask
    assert mask_of(nids_of(mask)) == mask


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("0-7:2/4", 0b00110011),
        ("0-3,5", 0b101111),
        ("", 0),
        ("1023", 1 << 1023),
        ("1024", None),
        ("3-1", None),
        ("0-99999999999999", None),
        ("0-7:3/2", None),
        ("0-7:1", None),
        ("-1", None),
        ("a", None),
        ("٣", None),
    ],
)
def test_lists_of_nodes(text: str, mask: int | None) -> None:
    assert nodelist_parse(text) == mask


def test_sets_of_nodes_are_mapped_to_others() -> None:
    assert nodes_fold(0b1101_0010, 3) == 0b011
    assert nodes_onto(0b101, 0b11010) == 0b10010
    assert nodes_onto(0b1000, 0b11) == 0
    assert [node_remap(nid, 0b1110, 0b0101) for nid in range(4)] == [0, 0, 2, 0]


@pytest.mark.parametrize(
    ("old", "new", "pairs"),
    [
        # [2,3,4] -> [3,4,5] moves everything, the last first
        (0b011100, 0b111000, [(4, 5), (3, 4), (2, 3)]),
        # [0-7] -> [3,4,5] moves only 0,1,2,6,7
        (0xFF, 0b111000, [(0, 3), (1, 4), (2, 5), (6, 3), (7, 4)]),
        (0b11, 0b11, []),
        (0b01, 0b10, [(0, 1)]),
        (0, 0b10, []),
    ],
)
def test_nodes_are_emptied_before_they_are_filled(old: int, new: int, pairs: list[tuple[int, int]]) -> None:
    assert sorted(migration_pairs(old, new)) == sorted(pairs)
    left = old
    for source, _ in migration_pairs(old, new):
        left &= ~(1 << source)
    assert left == old & ~mask_of(source for source, _ in pairs)


#: Zones DMA, DMA32, Normal, Movable; node 2 has nothing but Movable.
ZONE = PolicyZone(policy_zone=2, zone_movable=3, n_high_memory=0b011)


def test_bind_binds_the_highest_zones_only() -> None:
    bind = Mempolicy(Mode.BIND, 0b10)
    assert policy_nodemask(bind, 0, 2, 0b111, ZONE) == Choice(0, 0b10)
    assert policy_nodemask(bind, 0, 1, 0b111, ZONE) == Choice(0), "DMA32 is below the policy zone"
    assert policy_nodemask(bind, 0, 2, 0b101, ZONE) == Choice(0), "the cpuset allows none of its nodes"
    movable = Mempolicy(Mode.BIND, 0b100)
    assert policy_nodemask(movable, 0, 2, 0b111, ZONE) == Choice(0), "its node has ZONE_MOVABLE only"
    assert policy_nodemask(movable, 0, 3, 0b111, ZONE) == Choice(0, 0b100)


def test_a_home_node_is_where_bind_and_preferred_many_begin() -> None:
    assert policy_nodemask(Mempolicy(Mode.BIND, 0b11, home_node=1), 0, 2, 7, ZONE) == Choice(1, 0b11)
    many = Mempolicy(Mode.PREFERRED_MANY, 0b11, home_node=1)
    assert policy_nodemask(many, 0, 2, 7, ZONE) == Choice(1, 0b11, wished=True)
    assert policy_nodemask(Mempolicy(Mode.PREFERRED, 0b10), 0, 2, 7, ZONE) == Choice(1)
    assert policy_nodemask(Mempolicy(Mode.LOCAL), 2, 2, 7, ZONE) == Choice(2)
    assert policy_nodemask(None, 2, 2, 7, ZONE) == Choice(2)


def test_cpusets_are_hard_for_user_memory_and_soft_for_the_kernels() -> None:
    task = CpusetTask(mems_allowed=0b001, hardwall_mems=0b011)
    assert [cpuset_node_allowed(nid, GFP_HIGHUSER_MOVABLE, task) for nid in range(3)] == [True, False, False]
    assert [cpuset_node_allowed(nid, GFP_KERNEL, task) for nid in range(3)] == [True, True, False]
    for free in (task._replace(in_interrupt=True), task._replace(oom_victim=True)):
        assert cpuset_node_allowed(2, GFP_HIGHUSER_MOVABLE, free)
    exiting = task._replace(exiting=True)
    assert cpuset_node_allowed(2, GFP_KERNEL, exiting)
    assert not cpuset_node_allowed(2, GFP_HIGHUSER_MOVABLE, exiting)


def test_policies_are_equal_whenever_they_were_bound() -> None:
    one = Mempolicy(Mode.BIND, 0b11, cpuset_mems_allowed=0b11)
    assert mpol_equal(one, one._replace(cpuset_mems_allowed=0b111))
    assert not mpol_equal(one, one._replace(home_node=1))
    assert not mpol_equal(one, None)
    assert mpol_equal(None, None)


@given(st.text(max_size=40))
def test_any_text_is_an_option_or_refused(text: str) -> None:
    try:
        policy = mpol_parse_str(LINUX_6_12, text, 0b111)
    except CallError:
        return
    assert mpol_parse_str(LINUX_6_12, mpol_to_str(policy), 0b111) == policy


def test_old_kernels_know_fewer_modes() -> None:
    for text in ("local", "prefer (many):0", "weighted interleave:0"):
        with pytest.raises(CallError, match="EINVAL"):
            mpol_parse_str(LINUX_3_0, text, 0b111)
    assert mpol_to_str(mpol_parse_str(LINUX_3_0, "bind=static:0-1", 0b111)) == "bind=static:0-1"


@pytest.mark.parametrize(
    ("text", "weight"), [("3\n", 3), ("", 0), ("0", 0), ("0x10", 16), ("010", 8), ("+7", 7)]
)
def test_weights_are_read(text: str, weight: int) -> None:
    assert parse_weight(text) == weight
    nodes, _ = interleave_nodes(Mempolicy(Mode.WEIGHTED_INTERLEAVE, 0b11), FIRST_TURN, {0: weight}, 20)
    assert nodes.tolist().index(1) == max(weight, 1)


@pytest.mark.parametrize("text", ["256", "-1", "x", "08", " 3", "3 ", "3\n\n", "1" * 5000])
def test_wrong_weights_are_refused(text: str) -> None:
    with pytest.raises(CallError, match="EINVAL"):
        parse_weight(text)
