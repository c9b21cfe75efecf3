"""The columnar file gives back every bit, or an error that says where it is damaged."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numa_service.trace import columnar
from numa_service.trace.events import (
    EventCounts,
    KswapdChange,
    KswapdLog,
    SkippedLine,
    TraceError,
    TraceEvents,
    TraceHeader,
)
from numa_service.trace.reader import read_kswapd

HEADER = TraceHeader("nop", 90, 100, 4)
COUNTS = EventCounts(
    lines=9,
    events={"mm_page_free": 5, "mm_page_alloc": 2},
    unknown_gfp={"__GFP_NEW": 1},
    skipped={"not an event line": 1},
    skipped_examples=[SkippedLine(3, "not an event line", "cpus=4")],
    lost=3,
    truncated_last_line=True,
)


def random_events(length: int, seed: int) -> TraceEvents:
    """Columns over the full range of their types."""
    rng = np.random.default_rng(seed)
    return TraceEvents(
        **{
            name: rng.integers(0, 256, length * dtype.itemsize, np.uint8).view(dtype)
            for name, dtype in TraceEvents.DTYPES.items()
        }
    )


def write(path: Path, chunks: list[TraceEvents], compress: bool = True) -> bytes:
    assert columnar.write_ntrace(path, HEADER, chunks, COUNTS, compress=compress) == sum(map(len, chunks))
    return path.read_bytes()


def read(data: bytes) -> tuple[list[TraceEvents], columnar.NtraceParser]:
    parser = columnar.NtraceParser(io.BytesIO(data), "t.ntrace")
    return list(parser.chunks()), parser


def assert_same(got: TraceEvents, wanted: TraceEvents) -> None:
    for name, column in wanted.columns().items():
        assert got.columns()[name].dtype == column.dtype
        assert got.columns()[name].tobytes() == column.tobytes(), name


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("sample") / "t.ntrace", [random_events(20, 1), random_events(7, 2)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=5), st.integers(0, 2**32), st.booleans())
def test_round_trip_is_bit_identical(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seed: int, compress: bool
) -> None:
    chunks = [random_events(length, seed + i) for i, length in enumerate(lengths)]
    path = tmp_path_factory.mktemp("round") / "t.ntrace"
    data = write(path, chunks, compress)
    got, parser = read(data)
    assert parser.header == HEADER
    assert parser.counts == COUNTS
    assert_same(TraceEvents.concatenate(got), TraceEvents.concatenate(chunks))
    again = path.with_name("again.ntrace")
    assert write(again, got, compress) == data
    assert sorted(p.name for p in path.parent.iterdir()) == ["again.ntrace", "t.ntrace"]


def test_long_chunks_become_frames_of_bounded_length(tmp_path: Path) -> None:
    events = random_events(2 * columnar.FRAME_EVENTS + 5, 3)
    got, _ = read(write(tmp_path / "t.ntrace", [events], compress=False))
    assert [len(part) for part in got] == [columnar.FRAME_EVENTS, columnar.FRAME_EVENTS, 5]
    assert_same(TraceEvents.concatenate(got), events)


def test_every_truncation_is_noticed(sample: bytes) -> None:
    for length in range(len(sample)):
        with pytest.raises(
            TraceError, match=rf"^t\.ntrace: byte {length}: truncated: \d+ bytes more expected$"
        ):
            read(sample[:length])


@settings(deadline=None)
@given(st.data())
def test_every_changed_byte_is_noticed(sample: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(sample) - 1))
    damaged = bytearray(sample)
    damaged[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TraceError, match=r"^t\.ntrace: byte \d+: ") as raised:
        read(bytes(damaged))
    assert "\n" not in str(raised.value)


def test_data_after_the_end_is_noticed(sample: bytes) -> None:
    with pytest.raises(TraceError, match=f"byte {len(sample)}: data after the end frame"):
        read(sample + b"x")


def frame(payload: object) -> bytes:
    data = msgpack.packb(payload)
    length = struct.pack("<I", len(data))
    return length + struct.pack("<I", zlib.crc32(data, zlib.crc32(length))) + data


def header_frame(**changes: object) -> bytes:
    trace = {"tracer": None, "entries_in_buffer": None, "entries_written": None, "nr_cpus": None}
    return frame({"frame": "header", "version": 1, "trace": trace} | changes)


EMPTY = dict.fromkeys(TraceEvents.DTYPES, b"")


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (header_frame(version=3), "version 3; this program reads up to 2"),
        (header_frame(trace={"color": 1}), "malformed header frame"),
        (frame([1]), "not a frame of header"),
        (frame({"frame": "end"}), "not a frame of header"),
        (header_frame() + header_frame(), "not a frame of events or kswapd or end"),
        (header_frame() + frame({"frame": "events"}), "malformed events frame"),
        (
            header_frame() + frame({"frame": "events", "events": -1, "codec": "none", "columns": EMPTY}),
            "-1 events in a frame",
        ),
        (
            header_frame() + frame({"frame": "events", "events": 0, "codec": "lzma", "columns": EMPTY}),
            "codec 'lzma'",
        ),
        (
            header_frame() + frame({"frame": "events", "events": 1, "codec": "none", "columns": EMPTY}),
            "column kind has not 1 bytes",
        ),
        (
            header_frame()
            + frame(
                {
                    "frame": "events",
                    "events": 1,
                    "codec": "zlib",
                    "columns": EMPTY | {"kind": zlib.compress(bytes(1 << 20))},
                }
            ),
            "column kind has not 1 bytes",
        ),
        (
            header_frame() + frame({"frame": "end", "events": 1, "counts": {"skipped_examples": []}}),
            "0 events read, 1 written",
        ),
        (header_frame() + frame({"frame": "end", "events": 0, "counts": 7}), "malformed end frame"),
        (header_frame() + frame({"frame": "kswapd", "changes": [1, 2, 3]}), "malformed kswapd frame"),
        (header_frame() + frame({"frame": "kswapd", "changes": ["a"] * 4}), "malformed kswapd frame"),
        (header_frame() + frame({"frame": "kswapd", "changes": [1 << 63] * 4}), "malformed kswapd frame"),
        (header_frame() + struct.pack("<II", 1 << 30, 0), "frame of 1073741824 bytes"),
    ],
)
def test_a_frame_with_a_right_checksum_and_wrong_content_is_refused(frames: bytes, reason: str) -> None:
    with pytest.raises(TraceError, match=rf"^t\.ntrace: byte \d+: .*{reason}"):
        read(columnar.MAGIC + frames)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.ntrace"
    old = write(path, [random_events(5, 1)])

    def failing():  # type: ignore[no-untyped-def]
        yield random_events(5, 2)
        raise TraceError("source broke")

    with pytest.raises(TraceError, match="source broke"):
        columnar.write_ntrace(path, HEADER, failing(), COUNTS)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_kswapd_changes_are_kept_and_found_without_the_events(tmp_path: Path) -> None:
    log = KswapdLog()
    changes = [KswapdChange(10**15 + i, i % 3, i % 2 == 0, 90 + i % 3) for i in range(70_000)]
    for change in changes:
        log.add(change)
    path = tmp_path / "t.ntrace"
    columnar.write_ntrace(path, HEADER, [random_events(200_000, 1)], COUNTS, log)
    parser = columnar.NtraceParser(io.BytesIO(path.read_bytes()), "t.ntrace")
    assert len(parser.kswapd) == 0
    assert sum(map(len, parser.chunks())) == 200_000
    assert list(parser.kswapd) == changes
    assert list(read_kswapd(path)) == changes


def test_a_file_of_the_first_version_is_read(sample: bytes) -> None:
    """A file of version 1 has no kswapd frames, and is otherwise the same."""
    (length,) = struct.unpack_from("<I", sample, len(columnar.MAGIC))
    assert b"\xa7version\x02" in sample[: len(columnar.MAGIC) + 8 + length]
    later = sample[len(columnar.MAGIC) + 8 + length :]
    events, parser = read(columnar.MAGIC + header_frame() + later)
    assert sum(map(len, events)) == 27
    assert parser.counts == COUNTS
    assert len(parser.kswapd) == 0
