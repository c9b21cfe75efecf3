"""Every op that arrives is checked: extreme fields are refused by name, or served, and the reply encodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from numa_client._gen.numa.v1 import zonelist_service_pb2 as pb2

from numa_service.cli.attack import outcome
from numa_service.machine.presets import load_preset
from numa_service.mm.internal import ALLOC_WMARK_MIN
from numa_service.mm.invariants import check_pgdat
from numa_service.mm.mmzone import DEF_PRIORITY
from numa_service.node import ops
from numa_service.node.ask import Ask, check_asked
from numa_service.node.errors import InvalidRequest, NodeError
from numa_service.node.load import Report
from numa_service.node.node import Node
from numa_service.node.ops.op import TAGGED, encode
from numa_service.node.owners import Owner
from numa_service.node.requests import CloseSession
from numa_service.rpc.questions import WIRE, op_of
from numa_service.sim.attack.plan import draw
from numa_service.sim.simulation import Simulation

SPEC = load_preset("demo")
OWNER = {"node": 0, "lineage": 1, "id": 7}
SERVICE = pb2.DESCRIPTOR.services_by_name["ZonelistService"]
#: Of the simulator's plans: in these, tasks have page tables and pages on several nodes.
SEEDS_WITH_TASKS = (3, 6)
#: Methods that change nothing, and so have no op.
READS = {"CheckOwners"}

#: A plain request of every method, for node 1 of the demo machine.
PLAIN: dict[str, Message] = {
    "Lookup": pb2.LookupRequest(
        owner=OWNER, count=4, zones=[1], highest_zoneidx=1, alloc_flags=ALLOC_WMARK_MIN, numa_how=1
    ),
    "Release": pb2.ReleaseRequest(owner=OWNER, pfns=bytes(8)),
    "ReleaseOwner": pb2.ReleaseOwnerRequest(owner=OWNER),
    "Touch": pb2.TouchRequest(owner=OWNER, indexes=bytes(4)),
    "WakeKswapd": pb2.WakeKswapdRequest(highest_zoneidx=2),
    "Reclaim": pb2.ReclaimRequest(highest_zoneidx=2, priority=DEF_PRIORITY, nr_to_reclaim_pages=32),
    "Drain": pb2.DrainRequest(zones=[2]),
    "Remap": pb2.RemapRequest(owner=OWNER, indexes=bytes(4), from_node=0, to_node=2),
    "CountForeign": pb2.CountForeignRequest(zone=2, count=3),
    "Kmem": pb2.KmemRequest(owner={"node": 0, "lineage": 1}, call="get_partial", cache="filp", lineage=1),
    "VmArea": pb2.VmAreaRequest(op=encode(ops.FindVmArea(Owner(0, 1, 7), 0, False))),
    "Hugetlb": pb2.HugetlbRequest(call="shrink", huge_page_kb=2048, count=3),
    "Run": pb2.RunRequest(request=encode(CloseSession(1))),
}


def serve(node: Node, question: Message) -> bytes:
    """Carry out a question as the service does; returns the serialised reply."""
    op = op_of(question)
    check_asked(node, op)
    return WIRE[type(op)].response(node.apply(op)).SerializeToString()


def test_every_method_has_an_op_with_a_check() -> None:
    methods = {method.name for method in SERVICE.methods} - READS
    assert methods == {wire.method for wire in WIRE.values()} == set(PLAIN)
    assert set(WIRE) == {kind for kind in TAGGED.values() if kind.asked}
    for method in methods:
        assert SERVICE.methods_by_name[method].input_type.name == type(PLAIN[method]).DESCRIPTOR.name


@pytest.mark.parametrize("method", sorted(PLAIN))
def test_a_plain_request_passes_its_check(method: str) -> None:
    op = op_of(PLAIN[method])
    check_asked(Node.boot(SPEC, 1), op)


def extremes(field: FieldDescriptor) -> list[Any]:
    kinds = {
        FieldDescriptor.CPPTYPE_UINT32: [0, 1, 3, 6, 255, 2**31, 2**32 - 1],
        FieldDescriptor.CPPTYPE_INT64: [0, 1, -1, -(2**31), 2**31, 2**62, -(2**63), 2**63 - 1],
        FieldDescriptor.CPPTYPE_UINT64: [0, 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1],
        FieldDescriptor.CPPTYPE_BOOL: [True],
        FieldDescriptor.CPPTYPE_STRING: [b"", bytes(3), bytes(4), bytes(8), b"\xff" * 4, b"\xff" * 8],
    }
    if field.type == FieldDescriptor.TYPE_STRING:
        return ["", "free", "filp", "take", "put", "surplus", "reserve", "x" * 100_000]
    return kinds[field.cpp_type]


def variants(message: Message) -> list[tuple[str, Message]]:
    """Copies of a message with each field, also of nested messages, in turn at each of its extremes."""
    found: list[tuple[str, Message]] = []
    for field in message.DESCRIPTOR.fields:
        if field.name == "request_id":
            continue

        def changed(field: FieldDescriptor = field) -> Message:
            copy = type(message)()
            copy.CopyFrom(message)
            copy.ClearField(field.name)
            return copy

        if field.message_type:
            parts = (
                [getattr(message, field.name)]
                if not field.is_repeated
                else list(getattr(message, field.name))
            )
            for name, part in [v for p in parts[:1] for v in variants(p)]:
                copy = changed()
                target = getattr(copy, field.name)
                (target.add() if field.is_repeated else target).CopyFrom(part)
                found.append((f"{field.name}.{name}", copy))
        elif field.is_repeated:
            for values in ([], [6], [2**32 - 1], [2, 2], [0, 1, 2, 3, 4], [2] * 100_000):
                copy = changed()
                getattr(copy, field.name).extend(values)
                found.append((f"{field.name}={values[:5]}", copy))
        else:
            for value in extremes(field):
                copy = changed()
                setattr(copy, field.name, value)
                found.append((f"{field.name}={value}", copy))
    return found


@pytest.mark.parametrize("method", sorted(PLAIN))
def test_extreme_fields_are_refused_or_served(method: str) -> None:
    node = Node.boot(SPEC, 1)
    refused = set()
    for name, question in variants(PLAIN[method]):
        before = node.digest()
        try:
            serve(node, question)
        except InvalidRequest as error:
            refused.add(error.field.split(".")[0])
            assert node.digest() == before, name
        except NodeError:
            assert node.digest() == before, name
    assert not check_pgdat(node.pgdat)
    assert refused, "nothing was refused: is there a check at all?"


def test_a_drain_of_a_zone_that_is_not_there_names_the_field() -> None:
    node = Node.boot(SPEC, 1)
    with pytest.raises(InvalidRequest, match="zones: 6 is not in"):
        serve(node, pb2.DrainRequest(zones=[6]))


def test_unknown_bits_of_alloc_flags_are_refused() -> None:
    question = pb2.LookupRequest()
    question.CopyFrom(PLAIN["Lookup"])
    question.alloc_flags |= 1 << 20
    with pytest.raises(InvalidRequest, match="alloc_flags: 0x10000"):
        serve(Node.boot(SPEC, 1), question)


IMPOSSIBLE = [Report(0, 2**63, 1), Report(0, 10**9, 2**63), Report(0, 1 << 40, 1 << 58)]


@pytest.mark.parametrize("report", IMPOSSIBLE)
def test_a_report_that_no_node_can_make_is_refused(report: Report) -> None:
    op = ops.Touch(Owner(0, 1, 7), b"", False, report)
    with pytest.raises(InvalidRequest, match=r"report\.(window_ns|moved_bytes)"):
        check_asked(Node.boot(SPEC, 1), op)


def report(node: Node, nid: int, ns: int, percent: int) -> None:
    """A report of node `nid` that it has moved `percent` of what it could have moved since its boot."""
    moved = min(1 << 62, node.load.most_bytes(nid, ns) * percent // 100)
    told = pb2.TrafficReport(node=nid, window_ns=ns, moved_bytes=moved)
    serve(node, pb2.TouchRequest(owner=OWNER, report=told))


REPORTS = st.lists(
    st.tuples(st.sampled_from([0, 2]), st.integers(0, 1 << 62), st.integers(90, 100)),
    min_size=20,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(REPORTS, st.booleans())
def test_whatever_is_reported_replies_encode(reports: list[tuple[int, int, int]], rising: bool) -> None:
    node = Node.boot(SPEC, 1)
    for nid, ns, percent in sorted(reports, key=lambda r: r[1]) if rising else reports:
        report(node, nid, ns, percent)
    reply = pb2.LookupResponse.FromString(serve(node, PLAIN["Lookup"]))
    assert len(reply.pfns) == 4 * 8
    # 2^24 pages are the most of one request, and each moves twice: what they wait fits int64
    assert reply.wait_ns << 25 < 1 << 63


def test_much_in_no_time_is_as_much_as_the_time_can_hold() -> None:
    """Totals that are possible, with a growth that is not."""
    node = Node.boot(SPEC, 1)
    report(node, 0, 1 << 50, 0)
    for n in range(1, 60):
        report(node, 0, (1 << 50) + n * 200_001, 100)
    assert node.load.memory.wait_ns <= node.load.memory.most_ns


def test_an_empty_release_is_of_region_pages() -> None:
    owner = Owner(0, 1, 7)
    for op in (ops.Release(owner, None, b""), ops.Free(owner, 1, 3, b"")):
        question = WIRE[type(op)].request(op, "r")
        assert op_of(type(question).FromString(question.SerializeToString())) == op


def test_an_op_that_none_may_ask_for_is_refused() -> None:
    node = Node.boot(SPEC, 1)
    own = [op for op in ops.OPS.values() if not op.asked]
    assert len(own) > 20
    for kind in own:
        with pytest.raises(TypeError, match="not a question between nodes"):
            check_asked(node, object.__new__(kind))


def test_what_simulated_nodes_ask_each_other_passes_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator hands ops over as they are; over gRPC each has to come out as it went in."""
    asked: dict[str, int] = Counter()
    deliver = Simulation._deliver

    def passed(sim: Simulation, asker: int, ask: Ask[Any], reply: Any) -> None:
        op = ask.op
        question = WIRE[type(op)].request(op, ask.request_id)
        got = op_of(type(question).FromString(question.SerializeToString()))
        if isinstance(op, ops.Free):  # what the asker makes of an answer does not travel
            op = replace(op, undoes=False)
        assert got == op
        asked[op.tag] += 1
        deliver(sim, asker, ask, reply)

    monkeypatch.setattr(Simulation, "_deliver", passed)
    for seed in SEEDS_WITH_TASKS:
        assert outcome(draw(seed)) == ""
    assert {"free", "release", "move_away"} <= set(asked)
