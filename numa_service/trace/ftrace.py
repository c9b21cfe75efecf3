"""Parser for the text of ``/sys/kernel/tracing/trace`` or of ``perf script``, which streams it into columns.

Whatever the length of the trace, memory is bounded by one block of text and the columns of its events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from numa_service.mm.gfp import parse_gfp
from numa_service.trace import tokenizer
from numa_service.trace.events import (
    EXAMPLE_BYTES,
    MAX_SKIPPED_EXAMPLES,
    PAGE_EVENT_NAMES,
    EventCounts,
    KswapdChange,
    KswapdLog,
    TraceError,
    TraceEvents,
    TraceHeader,
)

#: Bytes of text that are held at once; no line may be longer.
BLOCK_BYTES = 8 << 20
#: Most events of one chunk; a block of real lines (90-170 bytes) has fewer.
CHUNK_EVENTS = 1 << 17
#: Most different event names, and most different texts of gfp_flags; real traces have tens.
_MAX_DISTINCT = 4096
#: Most bytes of all event names together, and of all texts of gfp_flags.
_DISTINCT_BYTES = 1 << 19
_SKIPPED_PER_SCAN = 1 << 16

_ENTRIES = re.compile(rb"# entries-in-buffer/entries-written: (\d{1,18})/(\d{1,18})(?:\s+#P:(\d{1,9}))?")
_TRACER = re.compile(rb"# tracer: (\S+)")
_KSWAPD = re.compile(rb" (\d{1,9})\.(\d{6,9}): +(?:vmscan:)?mm_vmscan_kswapd_(wake|sleep): nid=(\d{1,4})\b")
#: Bytes before the time in which the task's pid is searched for.
_TASK_BYTES = 256
_TASK = re.compile(rb"(?:-| )(\d{1,10}) +(?:\(.*?\) +)?\[\d+\]")
_LAST_LINE = "the last line has no end"


class ByteStream(Protocol):
    """A stream of bytes that the parser reads from."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill part of ``buffer`` and return the number of bytes; 0 at the end."""


def parse_header(text: bytes) -> TraceHeader:
    """The comment lines at the top of a trace. Text of perf has none, so that every field is None."""
    tracer = entries_in_buffer = entries_written = nr_cpus = None
    for line in text.split(b"\n"):
        if line.strip() and not line.startswith(b"#"):
            break
        if found := _TRACER.match(line):
            tracer = found[1].decode("utf-8", "backslashreplace")
        elif found := _ENTRIES.match(line):
            entries_in_buffer, entries_written = int(found[1]), int(found[2])
            nr_cpus = int(found[3]) if found[3] else None
    return TraceHeader(tracer, entries_in_buffer, entries_written, nr_cpus)


def resolve_gfp(text: str) -> tuple[int, tuple[str, ...]]:
    """(gfp bits, words that ``parse_gfp`` does not know) of the text of gfp_flags."""
    bits = 0
    unknown = []
    for word in text.split("|"):
        try:
            # parse_gfp takes a blank for GFP_KERNEL; in a trace, where no kernel prints it, it is unknown
            bits |= parse_gfp(word if word.strip() else "(blank)")
        except ValueError:
            unknown.append(word)
    return bits, tuple(unknown)


def kswapd_changes(text: bytes | bytearray, end: int) -> Iterator[KswapdChange]:
    """The kswapd events in ``text[:end]``, which are whole lines."""
    for found in _KSWAPD.finditer(text, 0, end):
        seconds, fraction, what, nid = found.groups()
        begin = max(0, found.start() - _TASK_BYTES)
        line = text[text.rfind(b"\n", begin, found.start()) + 1 or begin : found.start()]
        task = _TASK.search(line)
        time_ns = int(seconds) * 10**9 + int(fraction.ljust(9, b"0"))
        yield KswapdChange(time_ns, int(nid), what == b"wake", int(task[1]) if task else 0)


class TextParser:
    """Reads one stream of text; ``header`` is known at once, ``counts`` and ``kswapd`` grow by the chunk."""

    def __init__(self, stream: ByteStream, where: str) -> None:
        """Read the first block of ``stream``; ``where`` names it in errors.

        TraceError if it is empty, or is not text.
        """
        self._stream = stream
        self._where = where
        self._text = bytearray(BLOCK_BYTES)
        self._buf: npt.NDArray[np.uint8] = np.frombuffer(self._text, np.uint8)
        self._filled = 0
        self._offset = 0
        self._names = tokenizer.InternTable.with_capacity(_MAX_DISTINCT, _DISTINCT_BYTES)
        self._gfps = tokenizer.InternTable.with_capacity(_MAX_DISTINCT, _DISTINCT_BYTES)
        for name in PAGE_EVENT_NAMES:
            tokenizer.intern(self._names, name.encode())
        tokenizer.intern(self._gfps, b"")
        self._gfp_bits = np.zeros(1, np.uint32)
        self._gfp_unknown: list[tuple[str, ...]] = [()]
        events = TraceEvents.empty(CHUNK_EVENTS)
        self._columns = tokenizer.Columns(
            *(events.columns() | {"gfp": np.zeros(CHUNK_EVENTS, np.uint32)}).values()
        )
        self._skipped = np.zeros((_SKIPPED_PER_SCAN, 4), np.int64)
        self._scratch = np.zeros(tokenizer.HEAD_LEN + 2, np.int64)
        self._state = np.zeros(tokenizer.STATE_LEN, np.int64)
        self.counts = EventCounts()
        #: When kswapds ran, in the chunks so far.
        self.kswapd = KswapdLog()
        self._fill()
        if not self._filled:
            raise TraceError(f"{where}: empty file")
        self.header = parse_header(bytes(self._text[: min(self._filled, 1 << 16)]))

    def chunks(self) -> Iterator[TraceEvents]:
        """The events in file order, up to ``CHUNK_EVENTS`` at a time; to be iterated once.

        TraceError if something in the stream is not text, and at its end if it had no page event.
        """
        while self._filled:
            end = self._text.rfind(b"\n", 0, self._filled) + 1
            if end == 0:
                if self._filled == BLOCK_BYTES:
                    raise TraceError(
                        f"{self._where}: byte {self._offset}: a line of more than {BLOCK_BYTES} bytes"
                    )
                self._truncated_line()
                break
            first = self._offset == 0
            woke = self._kswapd_events()
            yield from self._scan(end)
            if self._kswapd_events() != woke:
                for change in kswapd_changes(self._text, end):
                    self.kswapd.add(change)
            if first and not self.counts.total_events and self._filled == BLOCK_BYTES:
                break
            self._text[: self._filled - end] = self._text[end : self._filled]
            self._filled -= end
            self._offset += end
            self._fill()
        if not any(self.counts.events.get(name) for name in PAGE_EVENT_NAMES):
            seen = ", ".join(list(self.counts.events)[:3])
            raise TraceError(
                f"{self._where}: no mm_page_alloc events in {self.counts.lines} lines"
                f"{f' (but {seen})' if seen else ''}; is this the text of /sys/kernel/tracing/trace?"
            )

    def _kswapd_events(self) -> int:
        return sum(self.counts.events.get(f"mm_vmscan_kswapd_{what}", 0) for what in ("wake", "sleep"))

    def _fill(self) -> None:
        begin = self._filled
        with memoryview(self._text) as view:
            while self._filled < BLOCK_BYTES and (got := self._stream.readinto(view[self._filled :])):
                self._filled += got
        zero = self._text.find(b"\0", begin, self._filled)
        if zero >= 0:
            raise TraceError(f"{self._where}: byte {self._offset + zero} is 0: not text, or a damaged file")

    def _truncated_line(self) -> None:
        # its event might look whole and be wrong, as "pfn=0x12" of "pfn=0x12345"
        self.counts.truncated_last_line = True
        self.counts.lines += 1
        self.counts.skip(_LAST_LINE)
        self.counts.example(
            self.counts.lines, _LAST_LINE, bytes(self._text[: min(self._filled, EXAMPLE_BYTES)])
        )
        self._filled = 0

    def _scan(self, end: int) -> Iterator[TraceEvents]:
        state = self._state
        state[tokenizer.STATE_POS] = 0
        code = -1
        while code != tokenizer.DONE:
            state[tokenizer.STATE_POS + 1 :] = 0
            code = tokenizer.scan(
                self._buf,
                end,
                self._columns,
                self._names,
                self._gfps,
                self._skipped,
                self._scratch,
                state,
            )
            self._account()
            if code in (tokenizer.NAMES_FULL, tokenizer.GFP_FULL):
                what = "event names" if code == tokenizer.NAMES_FULL else "gfp_flags"
                raise TraceError(
                    f"{self._where}: line {self.counts.lines + 1}: more than {_MAX_DISTINCT} different {what}"
                    "; is this the text of /sys/kernel/tracing/trace?"
                )
            if events := int(state[tokenizer.STATE_EVENTS]):
                yield self._events(events)

    def _events(self, length: int) -> TraceEvents:
        c = self._columns
        return TraceEvents(
            kind=c.kind[:length].copy(),
            time_ns=c.time_ns[:length].copy(),
            cpu=c.cpu[:length].copy(),
            pid=c.pid[:length].copy(),
            pfn=c.pfn[:length].copy(),
            order=c.order[:length].copy(),
            migratetype=c.migratetype[:length].copy(),
            gfp=self._gfp_bits[c.gfp_text[:length]],
        )

    def _account(self) -> None:
        """Add the results of the last scan to ``counts``."""
        counts, state = self.counts, self._state
        new = self._gfps.strings(len(self._gfp_unknown))
        for text in new:
            bits, unknown = resolve_gfp(text.decode("utf-8", "backslashreplace"))
            self._gfp_bits = np.append(self._gfp_bits, np.uint32(bits))
            self._gfp_unknown.append(unknown)
        counts.events = _nonzero(self._names, 0)
        counts.gfp_texts = _nonzero(self._gfps, 1)
        counts.unknown_gfp = {}
        for words, allocations in zip(self._gfp_unknown, self._gfps.counts.tolist(), strict=False):
            for word in words:
                counts.unknown_gfp[word] = counts.unknown_gfp.get(word, 0) + allocations
        counts.lost += int(state[tokenizer.STATE_LOST])
        skipped = self._skipped[: state[tokenizer.STATE_SKIPPED]]
        for begin, end, line, reason in skipped[:MAX_SKIPPED_EXAMPLES].tolist():
            counts.example(
                counts.lines + line + 1,
                tokenizer.REASONS[reason],
                bytes(self._text[begin : min(end, begin + EXAMPLE_BYTES)]),
            )
        for reason, lines in enumerate(np.bincount(skipped[:, 3]).tolist()):
            if lines:
                counts.skip(tokenizer.REASONS[reason], lines)
        counts.lines += int(state[tokenizer.STATE_LINES])


def _nonzero(table: tokenizer.InternTable, first: int) -> dict[str, int]:
    names = [text.decode("utf-8", "backslashreplace") for text in table.strings(first)]
    return {name: n for name, n in zip(names, table.counts[first:].tolist(), strict=False) if n}
