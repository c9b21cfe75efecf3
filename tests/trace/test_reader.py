"""Traces opened by their paths, among them the captures of real kernels."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from groundtruth import GROUNDTRUTH

from numa_service.mm.gfp import parse_gfp
from numa_service.trace.columnar import write_ntrace
from numa_service.trace.events import EventKind, KswapdChange, TraceError, TraceEvents
from numa_service.trace.reader import open_trace, read_kswapd

TEXT = b"".join(
    b"            init-1       [%03d] .....     9.%06d: mm_page_free: page=f7d379c1 pfn=%#x order=%d\n"
    % (i % 4, i, 1 + i * 7, i % 11)
    for i in range(500)
)

TRACES = sorted((GROUNDTRUTH / "traces").glob("*/*"))


def read(path: Path) -> TraceEvents:
    with open_trace(path) as trace:
        return TraceEvents.concatenate(list(trace))


def assert_same(got: TraceEvents, wanted: TraceEvents) -> None:
    for name, column in wanted.columns().items():
        np.testing.assert_array_equal(got.columns()[name], column, err_msg=name)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "trace"
    path.write_bytes(TEXT)
    return path


def test_the_form_is_told_by_content(plain: Path, tmp_path: Path) -> None:
    wanted = read(plain)
    assert len(wanted) == 500
    members = tmp_path / "t.trace.gz"
    members.write_bytes(gzip.compress(TEXT[:20_001], mtime=0) + gzip.compress(TEXT[20_001:], mtime=0))
    columnar = tmp_path / "columns"
    with open_trace(plain) as trace:
        write_ntrace(columnar, trace.header, trace, trace.counts)
        counts = trace.counts
    for path in (members, columnar, tmp_path):
        assert_same(read(path), wanted)
    with open_trace(columnar) as again:
        list(again)
        assert again.counts == counts


def test_progress_ends_at_the_total(plain: Path) -> None:
    calls: list[tuple[int, int]] = []
    with open_trace(plain, lambda done, total: calls.append((done, total))) as trace:
        list(trace)
    assert calls == sorted(calls)
    assert calls[-1] == (len(TEXT), len(TEXT))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (gzip.compress(b"", mtime=0), "empty file"),
        (gzip.compress(TEXT, mtime=0)[:-300], r"truncated gzip file: it ends at byte \d+"),
        (gzip.compress(TEXT, mtime=0)[:5], "truncated gzip file: it ends at byte 5"),
        (gzip.compress(TEXT, mtime=0)[:-8] + b"\0" * 8, "damaged gzip file before byte .*CRC check failed"),
        (gzip.compress(TEXT, mtime=0) + b"tail", "damaged gzip file"),
        (gzip.compress(bytes(range(256)) * 9, mtime=0), "byte 0 is 0: not text"),
        (gzip.compress(TEXT, mtime=0)[:12] + b"\xff" * 99, "damaged gzip file"),
        (bytes(reversed(range(256))), "byte 255 is 0: not text"),
        (b"PERFILE2" + bytes(90), "a perf.data file; give the text of perf script"),
        (b"\x17\x08\x44tracing6\0", "a trace-cmd file; give the text of trace-cmd report"),
        (b"\x93NTRACE\r\n", "byte 9: truncated"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=f"^{re.escape(str(path))}: .*{reason}") as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_paths_without_a_trace(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="absent: No such file or directory"):
        read(tmp_path / "absent")
    with pytest.raises(TraceError, match=r"no t\.trace\.gz, t\.trace or t\.ntrace in this directory"):
        read(tmp_path)


def test_there_are_captures_to_compare_with() -> None:
    assert len(TRACES) >= 4


@pytest.mark.parametrize("capture", TRACES, ids=lambda path: "-".join(path.parts[-2:]))
def test_a_capture_counts_as_an_independent_reader_counted(capture: Path, tmp_path: Path) -> None:
    check = json.loads((capture / "check.json").read_text())
    with open_trace(capture) as trace:
        events = TraceEvents.concatenate(list(trace))
        counts, header = trace.counts, trace.header
    assert counts.events == check["events"]
    assert len(events) == sum(check["events"].values())
    assert counts.total_skipped == counts.lost == header.overwritten == 0
    assert not counts.unknown_gfp
    assert f"{header.entries_in_buffer}/{header.entries_written}   #P:{header.nr_cpus}" in check["header"]
    assert round((int(events.time_ns[-1]) - int(events.time_ns[0])) / 1e9, 3) == check["seconds"]
    assert {str(k): n for k, n in Counter(events.cpu.tolist()).items()} == check["per_cpu"]
    allocs = events.kind == EventKind.MM_PAGE_ALLOC
    assert {str(k): n for k, n in Counter(events.order[allocs].tolist()).items()} == check["alloc_orders"]
    types = Counter(events.migratetype[allocs].tolist())
    assert {str(k): n for k, n in types.items()} == check["alloc_migratetypes"]
    assert int((events.pfn[allocs] == 0).sum()) == check["failed_allocs"]
    assert sorted(counts.gfp_texts.values(), reverse=True)[:12] == [n for _, n in check["top_gfp"]]
    assert all(counts.gfp_texts[text] == n for text, n in check["top_gfp"])
    by_bits = Counter(events.gfp[allocs].tolist())
    assert by_bits == sum((Counter({parse_gfp(t): n}) for t, n in counts.gfp_texts.items()), Counter())
    columnar = tmp_path / "t.ntrace"
    write_ntrace(columnar, header, [events], counts)
    assert_same(read(columnar), events)
    text = capture / "t.trace.gz"  # packed captures have only a columnar file
    assert not text.is_file() or columnar.stat().st_size < text.stat().st_size


LINE = re.compile(r"\s*.+-(\d+)\s+\[(\d+)\]\s+\S+\s+(\d+)\.(\d{6}): (\w+): (.*)")
#: Begins of captured traces as the kernel printed them.
TEXTS = sorted(GROUNDTRUTH.glob("traces/*/*/start.trace")) + sorted(GROUNDTRUTH.glob("traces/*/*/t.trace.gz"))


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: "-".join(path.parts[-3:]))
def test_columns_are_what_a_regular_expression_finds(text: Path) -> None:
    """The changes are found in the text, or in the columnar file of a trace that has no text."""
    wanted = []
    opener = gzip.open if text.suffix == ".gz" else open
    with opener(text, "rt") as lines:
        for line in islice(lines, 30_000):
            found = LINE.match(line)
            if found is None:
                assert line.startswith("#")
                continue
            pid, cpu, seconds, micros, name, arguments = found.groups()
            args = dict(word.split("=", 1) for word in arguments.split())
            kind = EventKind.__members__.get(name.upper(), EventKind.OTHER)
            if kind is EventKind.OTHER:
                args = {}
            order = args.get("alloc_order", args.get("order", 0))
            migratetype = args.get("alloc_migratetype", args.get("migratetype", 0))
            gfp = parse_gfp(args["gfp_flags"]) if kind is EventKind.MM_PAGE_ALLOC else 0
            time_ns = int(seconds) * 10**9 + int(micros) * 1000
            pfn = int(args.get("pfn", "0"), 16)
            wanted.append((kind, time_ns, int(cpu), int(pid), pfn, int(order), int(migratetype), gfp))
    assert len(wanted) > 19_000
    for source in (text, text.parent):
        with open_trace(source) as trace:
            chunk = next(iter(trace))
        got = list(zip(*(c[: len(wanted)].tolist() for c in chunk.columns().values()), strict=True))
        assert got == wanted


def test_the_trace_of_a_directory_is_a_file_of_it(plain: Path, tmp_path: Path) -> None:
    capture = tmp_path / "capture"
    capture.mkdir()
    (capture / "t.trace").symlink_to(plain)
    with pytest.raises(TraceError, match="a link that leaves"):
        open_trace(capture)
    (capture / "t.trace").unlink()
    plain.rename(capture / "real")
    (capture / "t.trace").symlink_to("real")
    assert len(read(capture)) == 500
    (capture / "t.trace").unlink()
    os.mkfifo(capture / "t.trace")
    with pytest.raises(TraceError, match=r"no t\.trace\.gz"):
        open_trace(capture)


def test_times_of_kswapd_are_numbers_of_a_kernel(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    line = b"     kswapd0-84 [000] ..... %s.123456: mm_vmscan_kswapd_wake: nid=%s order=0\n"
    path.write_bytes(line % (b"9" * 5000, b"0") + line % (b"7", b"9" * 5000) + line % (b"8", b"1") + TEXT)
    assert read_kswapd(path) == (KswapdChange(8_123_456_000, 1, True, 84),)
    # the pid is searched for right before the time only, since a line may have megabytes
    path.write_bytes(b"-1 (" * 1_000_000 + b" 8.123456: mm_vmscan_kswapd_wake: nid=1 order=0\n" + TEXT)
    assert read_kswapd(path) == (KswapdChange(8_123_456_000, 1, True, 0),)
