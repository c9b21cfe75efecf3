"""What an op says of itself."""

from __future__ import annotations

from dataclasses import fields

import pytest

from numa_service.node import ops

KINDS = [
    kind
    for kind in vars(ops).values()
    if isinstance(kind, type) and issubclass(kind, ops.Op) and kind is not ops.Op
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_payload_is_all_that_is_packed(kind: type[ops.Op[object]]) -> None:
    """The log is bounded by it: what an op carries and does not count is a log without a bound."""
    op = object.__new__(kind)
    # every op is a dataclass; Op, which they have in common, is not
    packed = [field.name for field in fields(kind) if field.type == "bytes"]  # type: ignore[arg-type]
    for place, name in enumerate(packed):
        object.__setattr__(op, name, bytes(10**place))
    assert op.payload == sum(10**place for place in range(len(packed)))


def test_a_remap_counts_all_of_its_page_numbers() -> None:
    op = ops.Remap(ops.Owner(0, 1, 1), bytes(4), 0, bytes(8), 1, bytes(8))
    assert op.payload == 20
