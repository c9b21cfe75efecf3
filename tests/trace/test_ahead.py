"""Reading ahead gives the same chunks and the same errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from numa_service.trace.ahead import CHUNKS_AHEAD, read_ahead
from numa_service.trace.events import TraceError, TraceEvents


def numbered(count: int, seen: list[int] | None = None) -> Iterator[TraceEvents]:
    for i in range(count):
        chunk = TraceEvents.empty(1)
        chunk.pfn[0] = i
        if seen is not None:
            seen.append(i)
        yield chunk


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "trace-reader"]


def test_all_chunks_come_in_order() -> None:
    assert [int(chunk.pfn[0]) for chunk in read_ahead(numbered(100))] == list(range(100))
    assert readers() == []


def test_an_error_comes_where_it_was_raised() -> None:
    def failing() -> Iterator[TraceEvents]:
        yield from numbered(3)
        raise TraceError("byte 7")

    chunks = read_ahead(failing())
    assert [int(next(chunks).pfn[0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(TraceError, match="byte 7"):
        next(chunks)
    assert readers() == []


def test_closing_ends_the_reader_and_little_was_read_for_nothing() -> None:
    seen: list[int] = []
    chunks = read_ahead(numbered(1000, seen))
    next(chunks)
    chunks.close()
    assert readers() == []
    assert len(seen) <= 1 + CHUNKS_AHEAD + 1
