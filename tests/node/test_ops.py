"""Every op can be encoded, checked and printed, and states its payload."""

from __future__ import annotations

import typing
from dataclasses import fields
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numa_service.machine.source import load
from numa_service.node import ops
from numa_service.node.node import Node
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner

KINDS = sorted(ops.OPS.values(), key=lambda kind: kind.tag)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for all values that a field of this type may have in a log."""
    if hint is int:
        return st.integers(-(2**63), 2**64 - 1)
    args = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return (
            st.lists(values(args[0]), max_size=4).map(tuple)
            if args[-1] is ...
            else st.tuples(*map(values, args))
        )
    if args:
        return st.one_of(st.none(), *(values(arg) for arg in args if arg is not type(None)))
    if isinstance(hint, type) and issubclass(hint, tuple):
        return st.builds(hint, *(values(of) for of in typing.get_type_hints(hint).values()))
    return st.from_type(hint)


def ops_of(kind: type[Op[Any]]) -> st.SearchStrategy[Op[Any]]:
    hints = typing.get_type_hints(kind)
    # every op is a dataclass, but the base class Op is not, as mypy notes
    return st.builds(kind, *(values(hints[field.name]) for field in fields(kind)))  # type: ignore[arg-type]


def test_every_op_is_exported_and_has_a_tag_of_its_own() -> None:
    exported = {kind for kind in vars(ops).values() if isinstance(kind, type) and issubclass(kind, Op)} - {Op}
    assert exported == set(KINDS)
    assert len(KINDS) > 30
    assert all(kind.__doc__ and kind.__abstractmethods__ == frozenset() for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.tag)
def test_the_payload_is_all_that_is_packed(kind: type[Op[object]]) -> None:
    """The size of the log is bounded by payloads, so they must count every field of variable size."""
    op = object.__new__(kind)
    packed = [field.name for field in fields(kind) if field.type == "bytes"]  # type: ignore[arg-type]
    for place, name in enumerate(packed):
        object.__setattr__(op, name, bytes(10**place))
    assert op.payload == sum(10**place for place in range(len(packed)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.tag)
def test_what_is_logged_is_read_back(kind: type[Op[Any]]) -> None:
    @settings(max_examples=50)
    @given(ops_of(kind))
    def round_trip(op: Op[Any]) -> None:
        data = ops.encode(op)
        back = ops.decode(data)
        assert type(back) is kind
        assert back == op
        assert ops.encode(back) == data

    round_trip()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb([]),
        msgpack.packb(7),
        msgpack.packb(["no_such_op"]),
        msgpack.packb(["rest", 1]),
        msgpack.packb(["interleave", 1]),
        msgpack.packb(["interleave", 1, "2"]),
        msgpack.packb(["interleave", True, 2]),
        msgpack.packb(["free_owner", [0, 1]]),
        msgpack.packb(["release", [0, 1, 2], None, "", b""]),
        ops.encode(ops.Rest()) + b"\x00",
    ],
)
def test_what_is_no_op_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an op"):
        ops.decode(data)


def test_a_log_that_went_through_the_codec_leads_to_the_same_state() -> None:
    spec = load("demo")
    node = Node.boot(spec, 0)
    session = node.apply(ops.OpenSession("log", 10**9, 0))
    got = node.apply(ops.Alloc(Owner(0, 1, session), (2, 1), 0, 0, 100, 0, 2, 0, 3))
    node.apply(ops.Free(Owner(0, 1, session), 0, 0, got.pfns[:80]))
    node.apply(ops.WriteSysctl("vm.swappiness", "10"))
    log = [ops.decode(ops.encode(op)) for op in node.log]
    assert Node.replay(spec, 0, log).digest() == node.digest()
