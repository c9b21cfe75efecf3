"""Synthetic traces have as many events as asked for, are legal, and have the same text and columns."""

from __future__ import annotations

import io

import numpy as np
import pytest

from numa_service.trace.events import EventKind, TraceEvents
from numa_service.trace.ftrace import TextParser
from numa_service.trace.synthetic import SyntheticTrace, trace_text

EVENTS = 300_000


@pytest.fixture(scope="module")
def made() -> TraceEvents:
    return TraceEvents.concatenate(list(SyntheticTrace((0, 3, 5), 1 << 20, 1 << 16).chunks(EVENTS)))


def test_what_is_allocated_is_free_and_what_is_freed_is_allocated(made: TraceEvents) -> None:
    assert len(made) == EVENTS
    live: dict[int, int] = {}
    pages = np.zeros(1 << 16, dtype=np.bool_)
    for kind, pfn, order in zip(made.kind.tolist(), made.pfn.tolist(), made.order.tolist(), strict=True):
        block = slice(pfn - (1 << 20), pfn - (1 << 20) + (1 << order))
        assert pfn % (1 << order) == 0
        if kind == EventKind.MM_PAGE_ALLOC:
            assert not pages[block].any()
            live[pfn] = order
        else:
            assert live.pop(pfn) == order
        pages[block] = kind == EventKind.MM_PAGE_ALLOC
    assert set(made.cpu.tolist()) == {0, 3, 5}
    assert {0, 1, 2, 3, 9} == set(made.order.tolist())
    assert 0.6 < pages.mean() < 0.9


def test_the_seed_decides(made: TraceEvents) -> None:
    for seed, same in ((1, True), (2, False)):
        again = SyntheticTrace((0, 3, 5), 1 << 20, 1 << 16, seed)
        first = next(again.chunks(1000))
        assert (first.pfn.tobytes() == made.pfn[:1000].tobytes()) == same


def test_its_text_parses_back(made: TraceEvents) -> None:
    part = made.part(100_000, 103_000)
    got = TraceEvents.concatenate(list(TextParser(io.BytesIO(trace_text(part)), "text").chunks()))
    for name, column in part.columns().items():
        np.testing.assert_array_equal(got.columns()[name], column, err_msg=name)


def test_too_few_pages_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 7 whole pageblocks"):
        SyntheticTrace((0,), 0, 512)
