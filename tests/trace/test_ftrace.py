"""Trace text as columns: every event is found and none is invented, whatever the task is called."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numa_service.mm.gfp import parse_gfp
from numa_service.trace import ftrace
from numa_service.trace.events import (
    MAX_SKIPPED_EXAMPLES,
    EventCounts,
    EventKind,
    TraceError,
    TraceEvents,
    TraceHeader,
)

HEADER = b"# tracer: nop\n#\n# entries-in-buffer/entries-written: 90/100   #P:4\n#\n"

GFP_TEXTS = ["GFP_KERNEL", "GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO", "none", "__GFP_IO|__GFP_FS"]


@dataclass(frozen=True)
class Event:
    """The columns of one event as the kernel has it."""

    comm: bytes
    pid: int
    cpu: int
    time_ns: int
    kind: EventKind
    pfn: int
    order: int
    migratetype: int
    gfp: str

    def arguments(self) -> str:
        block = f"page={self.pfn:016x} pfn={self.pfn:#x}"
        match self.kind:
            case EventKind.MM_PAGE_ALLOC:
                return (
                    f"{block} order={self.order} migratetype={self.migratetype} gfp_flags={self.gfp}".rstrip()
                )
            case EventKind.MM_PAGE_FREE:
                return f"{block} order={self.order}"
            case EventKind.MM_PAGE_FREE_BATCHED:
                return f"{block} order=0"
            case EventKind.MM_PAGE_ALLOC_ZONE_LOCKED:
                return f"{block} order={self.order} migratetype={self.migratetype} percpu_refill=1"
            case EventKind.MM_PAGE_PCPU_DRAIN:
                return f"{block} order={self.order} migratetype={self.migratetype}"
            case EventKind.MM_PAGE_ALLOC_EXTFRAG:
                return (
                    f"{block} alloc_order={self.order} fallback_order=10 pageblock_order=9 "
                    f"alloc_migratetype={self.migratetype} fallback_migratetype=1 fragmenting=0 "
                    "change_ownership=1"
                )
            case EventKind.OTHER:
                return "nid=1 order=3"

    @property
    def name(self) -> str:
        return "mm_vmscan_kswapd_wake" if self.kind is EventKind.OTHER else self.kind.name.lower()

    def time(self, digits: int) -> str:
        return f"{self.time_ns // 10**9}.{self.time_ns % 10**9:09}"[: digits - 9 or None]

    def ftrace(self) -> bytes:
        head = f"-{self.pid:<7} [{self.cpu:03}] d..1. {self.time(6):>12}: {self.name}: "
        return self.comm.rjust(16) + head.encode() + self.arguments().encode() + b"\n"

    def perf(self) -> bytes:
        head = f" {self.pid:5} [{self.cpu:03}] {self.time(9):>15}: {'kmem:' + self.name:>30}: "
        return self.comm.rjust(16) + head.encode() + self.arguments().encode() + b"\n"

    def row(self) -> tuple[int, ...]:
        is_other = self.kind is EventKind.OTHER
        batched = self.kind is EventKind.MM_PAGE_FREE_BATCHED
        typed = not batched and self.kind is not EventKind.MM_PAGE_FREE and not is_other
        return (
            self.kind,
            self.time_ns,
            self.cpu,
            self.pid,
            0 if is_other else self.pfn,
            0 if is_other or batched else self.order,
            self.migratetype if typed else 0,
            parse_gfp(self.gfp) if self.kind is EventKind.MM_PAGE_ALLOC else 0,
        )


#: Any task name that prctl(PR_SET_NAME) takes, those that look like the rest of a line among them.
COMMS = st.one_of(
    st.binary(min_size=1, max_size=15).filter(lambda comm: not set(comm) & {0, 10}),
    st.text("[]0123456789:.- ()/#", min_size=1, max_size=15).map(str.encode),
)
EVENTS = st.builds(
    Event,
    comm=COMMS,
    pid=st.integers(0, 4_194_304),
    cpu=st.integers(0, 8191),
    time_ns=st.integers(0, 10**15).map(lambda us: us * 1000),
    kind=st.sampled_from(EventKind),
    pfn=st.integers(0, 2**52),
    order=st.integers(0, 10),
    migratetype=st.integers(0, 5),
    gfp=st.sampled_from(GFP_TEXTS),
)
#: At least one page event: without, it is not a kmem trace.
EVENT_LISTS = st.lists(EVENTS, min_size=1, max_size=60).filter(
    lambda events: any(event.kind is not EventKind.OTHER for event in events)
)


def parse(text: bytes) -> tuple[TraceEvents, EventCounts, TraceHeader]:
    parser = ftrace.TextParser(io.BytesIO(text), "t")
    return TraceEvents.concatenate(list(parser.chunks())), parser.counts, parser.header


def rows(events: TraceEvents) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in events.columns().values()), strict=True))


def line(arguments: str, name: str = "mm_page_alloc") -> bytes:
    return f"            init-1       [003] .....     9.175441: {name}: {arguments}\n".encode()


GOOD = line("page=00000000f7d379c1 pfn=0x63e24 order=1 migratetype=0 gfp_flags=GFP_KERNEL_ACCOUNT|__GFP_ZERO")


@settings(deadline=None)
@given(EVENT_LISTS, st.booleans(), st.sampled_from([b"", HEADER]))
def test_rendered_events_come_back(events: list[Event], perf: bool, header: bytes) -> None:
    text = header + b"".join(event.perf() if perf else event.ftrace() for event in events)
    got, counts, _ = parse(text)
    assert rows(got) == [event.row() for event in events]
    assert counts.total_skipped == 0
    assert counts.lines == text.count(b"\n")
    for name in {event.name for event in events}:
        assert counts.events[name] == sum(event.name == name for event in events)


@settings(max_examples=30, deadline=None)
@given(st.lists(EVENTS, min_size=40, max_size=120), st.integers(400, 2000), st.integers(1, 50))
def test_block_and_chunk_borders_do_not_show(events: list[Event], block: int, chunk: int) -> None:
    text = GOOD + b"".join(event.ftrace() + b"garbage\n" for event in events)
    whole, whole_counts, _ = parse(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ftrace, "BLOCK_BYTES", block)
        patch.setattr(ftrace, "CHUNK_EVENTS", chunk)
        patch.setattr(ftrace, "_SKIPPED_PER_SCAN", 3)
        parser = ftrace.TextParser(io.BytesIO(text), "t")
        chunks = list(parser.chunks())
    assert rows(TraceEvents.concatenate(chunks)) == rows(whole)
    assert all(0 < len(part) <= chunk for part in chunks)
    assert parser.counts == whole_counts
    assert parser.counts.skipped == {"not an event line": len(events)}
    assert [e.line_number for e in parser.counts.skipped_examples] == [
        3 + 2 * i for i in range(MAX_SKIPPED_EXAMPLES)
    ]


@settings(deadline=None)
@given(EVENT_LISTS, st.data())
def test_damaged_bytes_never_lose_count_of_lines(events: list[Event], data: st.DataObject) -> None:
    text = bytearray(GOOD + b"".join(event.ftrace() for event in events))
    for _ in range(data.draw(st.integers(1, 20))):
        text[data.draw(st.integers(len(GOOD), len(text) - 1))] = data.draw(st.integers(1, 255))
    got, counts, _ = parse(bytes(text))
    assert counts.lines == text.count(b"\n") + (not text.endswith(b"\n"))
    assert len(got) == counts.total_events
    comments = sum(not row.rstrip(b"\r") or row.startswith(b"#") for row in text.split(b"\n")[:-1])
    assert counts.total_events + counts.total_skipped + comments == counts.lines


@settings(deadline=None)
@given(EVENTS.filter(lambda event: event.kind is EventKind.MM_PAGE_ALLOC), st.data())
def test_a_cut_last_line_gives_no_event(event: Event, data: st.DataObject) -> None:
    text = event.ftrace()
    cut = text[: data.draw(st.integers(1, len(text) - 1))]
    got, counts, _ = parse(GOOD + cut)
    assert len(got) == 1
    assert counts.truncated_last_line
    assert counts.lines == 2
    assert counts.skipped == {"the last line has no end": 1}


def test_header_tells_lost_events() -> None:
    _, _, header = parse(HEADER + GOOD)
    assert header == TraceHeader("nop", 90, 100, 4)
    assert header.overwritten == 10
    assert parse(GOOD)[2] == TraceHeader()


def test_lost_lines_are_summed() -> None:
    _, counts, _ = parse(GOOD + b"CPU:2 [LOST 17 EVENTS]\n" + GOOD + b"CPU:0 [LOST 5 EVENTS]\n")
    assert counts.lost == 22
    assert counts.total_skipped == 0


def test_a_failed_allocation_has_pfn_0() -> None:
    arguments = "order=9 migratetype=1 gfp_flags=GFP_TRANSHUGE"
    text = line(f"page=0000000000000000 pfn=0x0 {arguments}")
    text += line(f"page=(nil) pfn=0xffffffffffffffff {arguments}")
    assert parse(text)[0].pfn.tolist() == [0, 0]


def test_a_decimal_pfn_as_before_linux_5_10() -> None:
    text = line("page=ffffea0001a2b3c0 pfn=428751 order=0", "mm_page_free")
    assert parse(text)[0].pfn.tolist() == [428751]


def test_other_layouts_of_the_head() -> None:
    rest = "mm_page_free: page=0 pfn=0x10 order=2\n"
    heads = [
        "kworker/u8:3-45   [001] d..1.    12.000005: ",  # leading spaces lost
        "         init-1     (      1) [001] .....    12.000005: ",  # record-tgid
        "           <...>-45      (-----) [001] d..1.    12.000005: ",
        "            init-45      [001]    12.000005: ",  # noirq-info
        "kworker/0:1-events_unbound    45 [001]    12.000005: kmem:",  # perf, name of a workqueue
        "perf 44/45 [001] 12.000005: kmem:",  # perf script -F +pid,+tid
        "            perf    45 [001]    12.000005:          1 kmem:",  # perf script -F +period
    ]
    got, counts, _ = parse("".join(head + rest for head in heads).encode() + b"\r\n")
    assert counts.total_skipped == 0
    assert got.cpu.tolist() == [1] * len(heads)
    assert got.time_ns.tolist() == [12_000_005_000] * len(heads)
    assert got.pid.tolist() == [45, 1, 45, 45, 45, 45, 45]
    assert got.pfn.tolist() == [16] * len(heads)


def test_lines_may_end_in_crlf() -> None:
    assert rows(parse(GOOD.replace(b"\n", b"\r\n"))[0]) == rows(parse(GOOD)[0])


def test_unknown_gfp_flags_are_counted_and_the_others_kept() -> None:
    block = "page=0 pfn=0x1 order=0 migratetype=0 gfp_flags="
    text = line(block + "GFP_KERNEL|__GFP_NO_OBJ_EXT|0x80000000") + line(block + "__GFP_NO_OBJ_EXT") * 2
    got, counts, _ = parse(text)
    assert got.gfp.tolist() == [parse_gfp("GFP_KERNEL"), 0, 0]
    assert counts.unknown_gfp == {"__GFP_NO_OBJ_EXT": 3, "0x80000000": 1}
    assert counts.gfp_texts == {"GFP_KERNEL|__GFP_NO_OBJ_EXT|0x80000000": 1, "__GFP_NO_OBJ_EXT": 2}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"cpus=4\n", "not an event line"),
        (b"\tffffffffbe23e32e __alloc_pages+0x22e (vmlinux)\n", "not an event line"),
        (line("page=0 pfn=0x1 order=0 migratetype=0"), "a field of the event is missing"),
        (line("page=0 pfn=0x1 order=0 migratetype=0 gfp_flags="), "a field of the event is missing"),
        (line("page=0 order=0", "mm_page_free"), "a field of the event is missing"),
        (line("pfn=0x1 order=0 pfn=0x2", "mm_page_free"), "a field of the event is given twice"),
        (line("pfn=0x1g order=0", "mm_page_free"), "a field of the event is no number"),
        (line("pfn=0x1 order=-1", "mm_page_free"), "a field of the event is no number"),
        (line("pfn= order=1", "mm_page_free"), "a field of the event is no number"),
        (line("pfn=0x1 order=256", "mm_page_free"), "a number is out of range"),
        (line("pfn=0x12345678123456781 order=0", "mm_page_free"), "a number is out of range"),
        (line("pfn=99999999999999999999 order=0", "mm_page_free"), "a number is out of range"),
        (GOOD.replace(b"[003]", b"[70000]"), "a number is out of range"),
        (GOOD.replace(b"9.175441", b"9.1754410001"), "a number is out of range"),
        (GOOD.replace(b"9.175441:", b"9175441:"), "timestamp is not in seconds (trace_clock that counts?)"),
        (b"            init-1       [003] .....     9.175441: schedule <-do_exit\n", "no event name"),
    ],
)
def test_a_bad_line_is_skipped_and_shown(bad: bytes, reason: str) -> None:
    got, counts, _ = parse(GOOD + bad + GOOD)
    assert rows(got) == rows(parse(GOOD)[0]) * 2
    assert counts.skipped == {reason: 1}
    (example,) = counts.skipped_examples
    assert (example.line_number, example.reason) == (2, reason)
    assert example.text == bad.decode().rstrip("\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "t: empty file"),
        (b"hello\nworld\n", "t: no mm_page_alloc events in 2 lines; is this the text of"),
        (HEADER, "t: no mm_page_alloc events in 4 lines; is this the text of"),
        (
            line("nid=0 order=0", "mm_vmscan_wakeup_kswapd"),
            r"events in 1 lines \(but mm_vmscan_wakeup_kswapd\)",
        ),
        (GOOD + b"\x00" * 9, f"t: byte {len(GOOD)} is 0: not text"),
        (GOOD[:-1], "t: no mm_page_alloc events in 1 lines"),
        (
            b"".join(line("x", f"event{i}") for i in range(5000)),
            "t: line 4091: more than 4096 different event",
        ),
    ],
)
def test_what_is_not_a_kmem_trace_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(TraceError, match=message) as raised:
        parse(text)
    assert "\n" not in str(raised.value)


def test_an_endless_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ftrace, "BLOCK_BYTES", 1000)
    with pytest.raises(TraceError, match=f"t: byte {len(GOOD)}: a line of more than 1000 bytes"):
        parse(GOOD + b"x" * 2000)


def test_what_begins_with_a_block_of_no_events_is_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ftrace, "BLOCK_BYTES", 1000)
    stream = io.BytesIO(b"lorem ipsum\n" * 1000)
    with pytest.raises(TraceError, match="no mm_page_alloc events in 83 lines"):
        list(ftrace.TextParser(stream, "t").chunks())
    assert stream.tell() == 1000


#: perf 6.1 script of a Linux 6.18, as it came.
PERF = b"""\
            perf  5537 [001]  1185.349462:             kmem:mm_page_alloc: page=0x10f956 pfn=0x10f956 \
order=0 migratetype=0 gfp_flags=GFP_HIGHUSER|__GFP_ACCOUNT
       perf-exec  5538 [000]  1185.349568:             kmem:mm_page_alloc: page=0x109911 pfn=0x109911 \
order=0 migratetype=0 gfp_flags=GFP_NOFS|__GFP_NOFAIL|__GFP_COMP|__GFP_HARDWALL
             cat  5542 [000]  1185.359809: kmem:mm_page_alloc_zone_locked: page=0x1229b6 pfn=0x1229b6 \
order=0 migratetype=1 percpu_refill=1
"""


def test_text_of_perf_script() -> None:
    got, counts, _ = parse(PERF)
    assert counts.events == {"mm_page_alloc": 2, "mm_page_alloc_zone_locked": 1}
    assert got.pfn.tolist() == [0x10F956, 0x109911, 0x1229B6]
    assert got.pid.tolist() == [5537, 5538, 5542]
    assert got.cpu.tolist() == [1, 0, 0]
    assert np.diff(got.time_ns).tolist() == [106_000, 10_241_000]
