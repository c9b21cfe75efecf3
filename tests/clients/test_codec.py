"""Requests made of arguments and results made of responses, without a server."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numa_client import (
    Blocks,
    InvalidRequest,
    MachineInfo,
    NodeInfo,
    NumaError,
    Policy,
    PolicyFlag,
    PolicyMode,
    SessionInfo,
)
from numa_client import _codec as codec
from numa_client._gen.numa.v1 import explanation_pb2, memory_service_pb2, types_pb2

SESSION = SessionInfo(session=9, lease_seconds=30, node=0, lineage=1, token=bytes(range(16)))


def packed(*pfns: int) -> bytes:
    return np.array(pfns, "<u8").tobytes()


def machine(*cpus: tuple[int, ...]) -> MachineInfo:
    nodes = tuple(
        NodeInfo(nid, on, 100, f"host:{nid}", "", 1, tuple(range(len(cpus)))) for nid, on in enumerate(cpus)
    )
    return MachineInfo("m", "linux-6.1", nodes, ((10, 20), (21, 10)))


def test_allocation_reads_pfns_in_visiting_order_without_a_copy() -> None:
    response = memory_service_pb2.AllocPagesResponse(
        pages=[
            types_pb2.NodePages(node=2, pfns=packed(8, 16)),
            types_pb2.NodePages(node=0, pfns=packed(1 << 40)),
        ],
        cost=types_pb2.Cost(latency_ns=7, fallback_ns=3),
        remote_lookups=1,
        direct_reclaimed_pages=5,
    )
    got = codec.allocation(response, order=3)
    assert list(got.pages) == [2, 0]
    assert got.pages[2].tolist() == [8, 16]
    assert got.pages[0].tolist() == [1 << 40]
    assert got.pages[2].base is not None
    assert got.pages[2].dtype == np.uint64
    assert (got.count, got.nr_pages, got.pages_by_node) == (3, 24, {2: 16, 0: 8})
    assert (got.latency_ns, got.cost.fallback_ns, got.remote_lookups) == (7, 3, 1)
    assert got.direct_reclaimed_pages == 5


def test_a_node_visited_twice_is_one_entry() -> None:
    messages = [types_pb2.NodePages(node=node, pfns=packed(pfn)) for node, pfn in ((0, 5), (1, 6), (0, 7))]
    pages = codec.pages_by_node(messages)
    assert {nid: pfns.tolist() for nid, pfns in pages.items()} == {0: [5, 7], 1: [6]}


def test_blocks_survive_the_round_trip_of_a_free() -> None:
    blocks = Blocks(1, {1: np.array([2, 4], np.uint64), 0: np.array([6], np.uint64)})
    request = codec.free_request(SESSION, "id", blocks, cpu=3)
    assert (request.session, request.session_token) == (SESSION.session, SESSION.token)
    assert (request.request_id, request.order, request.cpu) == ("id", 1, 3)
    assert [(p.node, p.pfns) for p in request.pages] == [(1, packed(2, 4)), (0, packed(6))]


@pytest.mark.parametrize("count", range(6))
def test_split_keeps_every_block_once_and_the_order(count: int) -> None:
    blocks = Blocks(0, {1: np.array([1, 2], np.uint64), 0: np.array([3, 4], np.uint64)})
    head, tail = blocks.split(count)
    flat = [[(nid, int(p)) for nid, pfns in b.pages.items() for p in pfns] for b in (blocks, head, tail)]
    assert flat[1] + flat[2] == flat[0]
    assert head.count == min(count, 4)


def test_on_selects_nodes() -> None:
    blocks = Blocks(0, {1: np.array([1], np.uint64), 0: np.array([3], np.uint64)})
    assert list(blocks.on(1).pages) == [1]
    assert blocks.on(7).count == 0


def test_policy_messages() -> None:
    assert codec.policy_message(None) is None
    message = codec.policy_message(Policy.preferred_many(3, 1))
    assert message == types_pb2.Policy(mode=types_pb2.POLICY_MODE_PREFERRED_MANY, nodes=[3, 1])
    assert {codec.POLICY_MODES[mode] for mode in PolicyMode} == set(types_pb2.PolicyMode.values())
    assert {0, *codec.POLICY_FLAGS.values()} == set(types_pb2.PolicyFlag.values())


@pytest.mark.parametrize(
    "policy",
    [
        Policy.default(),
        Policy.bind(0, 2),
        Policy.preferred(1),
        Policy.interleave(0, 1),
        Policy.preferred_many(3),
        Policy.local(),
        Policy.weighted_interleave(0, 1),
        Policy.bind(0, 1, home_node=1),
        Policy.preferred_many(2, home_node=0),
        Policy(PolicyMode.BIND, (0, 5), flag=PolicyFlag.RELATIVE),
        Policy(PolicyMode.PREFERRED_MANY, (1,), 0, PolicyFlag.STATIC),
    ],
)
def test_policy_spelling_round_trip(policy: Policy) -> None:
    assert Policy.parse(str(policy)) == policy
    message = codec.policy_message(policy)
    assert message is not None
    assert codec.policy(message) == policy


def test_policy_ranges() -> None:
    assert Policy.parse("interleave:0-2,5") == Policy.interleave(0, 1, 2, 5)
    assert Policy.parse("bind:3,0-4,3") == Policy.bind(3, 0, 1, 2, 4)
    assert len(Policy.parse("bind:0-1023").nodes) == 1024


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bind:0-1024", "0-1024: there is no node above 1023"),
        ("bind:1024", "there is no node above 1023"),
        ("preferred:9000-0", "there is no node above 1023"),
        ("interleave:0-9999999", "there is no node above 1023"),
        ("bind:0-" + "9" * 5000, "is not a node or a range"),
        ("bind:" + "0-1023," * 4000 + "0", "28006 characters, at most 8192"),
        ("bind:٣", "is not a node or a range"),
        ("bind:3-1", "3-1 runs backwards"),
        ("x" * 9000, "9000 characters"),
    ],
)
def test_ranges_are_checked_before_they_are_expanded(text: str, message: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match=message) as caught:
            Policy.parse(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.field == "policy"
    assert len(caught.value.message) < 200
    assert peak < 1 << 20  # a list of what was asked for takes 400 MB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("near", "unknown policy 'near'"),
        ("local:0", "local takes no nodes"),
        ("bind=fixed:0", "'fixed' is neither static nor relative"),
        ("bind=:0", "'' is neither static nor relative"),
        ("bind:0@", "give one home node"),
        ("bind:0@0,1", "give one home node"),
        ("bind:0@x", "'x' is not a node or a range"),
        ("bind", "give nodes"),
        ("bind:0,x", "'x' is not a node or a range"),
        ("bind:0-", "'0-' is not a node or a range"),
        ("default:1", "takes no nodes"),
    ],
)
def test_bad_policies_say_why(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        Policy.parse(text)
    assert caught.value.field == "policy"


def test_home_is_the_node_of_the_cpu() -> None:
    info = machine((0, 2), (1, 3))
    assert codec.home(info, 3, None) == (info.nodes[1], 3)
    assert codec.home(info, None, 1) == (info.nodes[1], 1)
    assert codec.home(info, None, None) == (info.nodes[0], 0)
    assert info.distance(1, 0) == 21


def test_home_leaves_a_node_without_cpus_to_the_service() -> None:
    info = machine((0,), ())
    assert codec.home(info, None, 1) == (info.nodes[1], 0)


@pytest.mark.parametrize(
    ("cpu", "node", "field", "message"),
    [
        (9, None, "cpu", "no CPU 9 in machine 'm': it has 4"),
        (None, 5, "node", "no node 5 in machine 'm': it has 0, 1"),
        (1, 0, "cpu", "CPU 1 is on node 1, not on node 0"),
    ],
)
def test_home_refuses(cpu: int | None, node: int | None, field: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        codec.home(machine((0, 2), (1, 3)), cpu, node)
    assert caught.value.field == field


@pytest.mark.parametrize(("field", "value"), [("order", -1), ("count", 1 << 32)])
def test_numbers_that_protobuf_cannot_carry_name_the_field(field: str, value: int) -> None:
    arguments = {"order": 0, "count": 1, "cpu": 0} | {field: value}
    with pytest.raises(InvalidRequest, match=f"{field} {value} is out of range") as caught:
        codec.alloc_request(SESSION, "id", gfp="", policy=None, partial=False, **arguments)
    assert caught.value.field == field


def test_request_ids_never_repeat() -> None:
    one, other = codec.RequestIds(), codec.RequestIds()
    ids = [next(one), next(one), next(other), next(other)]
    assert len(set(ids)) == 4


def test_a_step_of_a_newer_service_is_an_error_with_a_code() -> None:
    explanation = explanation_pb2.Explanation(steps=[explanation_pb2.Step()])
    with pytest.raises(NumaError, match="the service is newer") as unknown:
        codec.explained(memory_service_pb2.AllocPagesResponse(explanation=explanation), order=0)
    assert unknown.value.code.name == "UNIMPLEMENTED"
