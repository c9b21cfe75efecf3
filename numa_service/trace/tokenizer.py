"""The tokenizer of trace text: compiled functions that turn lines into columns in one pass.

They know two forms of lines, those of the kernel (``trace_print_context`` in ``kernel/trace/trace_output.c``)
and of perf (``perf_sample__fprintf_start`` in ``tools/perf/builtin-script.c``), told apart line by line::

             tar-978     [000] ...1.    30.381919: mm_page_free: page=00000000671fb572 pfn=0x10382c order=1
            perf  5537 [001]  1185.349462: kmem:mm_page_free: page=0x10f956 pfn=0x10f956 order=0

Both print the task's name right-aligned in 16 columns. The name may have any character, so that the pid is
first looked for behind column 16. The functions allocate nothing and work on bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from numa_service.trace.compiled import compiled


class InternTable(NamedTuple):
    """A hash table of distinct byte strings, numbered in the order first seen."""

    #: Open addressing: number of the string + 1, 0 for a free slot; twice as many slots as strings.
    slots: npt.NDArray[np.int32]
    #: String i is text[starts[i]:starts[i + 1]].
    starts: npt.NDArray[np.int64]
    text: npt.NDArray[np.uint8]
    #: size[0] is the number of strings.
    size: npt.NDArray[np.int64]
    #: Number of events by string.
    counts: npt.NDArray[np.int64]

    @classmethod
    def with_capacity(cls, strings: int, text_bytes: int) -> InternTable:
        """An empty table for ``strings`` strings, a power of two, of ``text_bytes`` bytes together."""
        return cls(
            np.zeros(2 * strings, np.int32),
            np.zeros(strings + 1, np.int64),
            np.zeros(text_bytes, np.uint8),
            np.zeros(1, np.int64),
            np.zeros(strings, np.int64),
        )

    def strings(self, first: int = 0) -> list[bytes]:
        """The strings from number ``first`` on."""
        return [
            self.text[self.starts[i] : self.starts[i + 1]].tobytes() for i in range(first, int(self.size[0]))
        ]


class Columns(NamedTuple):
    """The columns that :func:`scan` fills: those of ``TraceEvents``, with the gfp text by its number."""

    kind: npt.NDArray[np.uint8]
    time_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.uint16]
    pid: npt.NDArray[np.uint32]
    pfn: npt.NDArray[np.uint64]
    order: npt.NDArray[np.uint8]
    migratetype: npt.NDArray[np.uint8]
    gfp_text: npt.NDArray[np.uint32]


#: Reasons why a line gave no event. The functions below return the index, _OK (0) for an event.
REASONS = (
    "",
    "not an event line",
    "timestamp is not in seconds (trace_clock that counts?)",
    "no event name",
    "a field of the event is missing",
    "a field of the event is given twice",
    "a field of the event is no number",
    "a number is out of range",
)
_OK = 0
_NO_EVENT = 1
_BAD_CLOCK = 2
_NO_NAME = 3
_MISSING = 4
_TWICE = 5
_NOT_A_NUMBER = 6
_RANGE = 7

#: Reasons why :func:`scan` stopped: it has reached the end, or a table is full.
DONE = 0
EVENTS_FULL = 1
SKIPPED_FULL = 2
NAMES_FULL = 3
GFP_FULL = 4

# indexes of the array in which scan() keeps its position and its counts
STATE_POS = 0
STATE_EVENTS = 1
STATE_LINES = 2
STATE_SKIPPED = 3
STATE_LOST = 4
STATE_LEN = 5

_SPACE, _TAB, _CR, _NL, _HASH, _MINUS, _DOT, _SLASH, _COLON, _EQUAL = 32, 9, 13, 10, 35, 45, 46, 47, 58, 61
_OPEN, _CLOSE, _LBRACKET, _RBRACKET = 40, 41, 91, 93

#: Position of the byte after the 16 columns of the task's name.
_COMM_WIDTH = 16
#: Longest column of context flags (6.12 prints 5); the bound keeps the time for a line from being quadratic.
_MAX_FLAGS = 16

_MAX_SECONDS = 9_000_000_000
_MAX_CPU = 0xFFFF
_MAX_PID = 0xFFFF_FFFF
_MAX_U8 = 0xFF


def _key(name: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(name.encode(), np.uint8)


_PFN = _key("pfn")
_ORDER = _key("order")
_MIGRATETYPE = _key("migratetype")
_GFP_FLAGS = _key("gfp_flags")
_ALLOC_ORDER = _key("alloc_order")
_ALLOC_MIGRATETYPE = _key("alloc_migratetype")
_CPU_COLON = _key("CPU:")
_LOST = _key("[LOST ")

_HAS_PFN, _HAS_ORDER, _HAS_MIGRATETYPE, _HAS_GFP = 1, 2, 4, 8

#: Fields that each page event must have, by kind (``EventKind`` order).
_REQUIRED = np.array(
    [
        _HAS_PFN | _HAS_ORDER | _HAS_MIGRATETYPE | _HAS_GFP,
        _HAS_PFN | _HAS_ORDER,
        _HAS_PFN,
        _HAS_PFN | _HAS_ORDER | _HAS_MIGRATETYPE,
        _HAS_PFN | _HAS_ORDER | _HAS_MIGRATETYPE,
        _HAS_PFN | _HAS_ORDER | _HAS_MIGRATETYPE,
    ],
    np.int64,
)
_ALLOC_KIND = 0
_EXTFRAG_KIND = 5
_OTHER_KIND = 6


@compiled
def _is_digit(byte: int) -> bool:
    return 48 <= byte <= 57


@compiled
def _skip_spaces(buf: npt.NDArray[np.uint8], pos: int, end: int) -> int:
    while pos < end and (buf[pos] == _SPACE or buf[pos] == _TAB):
        pos += 1
    return pos


@compiled
def _skip_digits(buf: npt.NDArray[np.uint8], pos: int, end: int) -> int:
    while pos < end and _is_digit(buf[pos]):
        pos += 1
    return pos


@compiled
def _decimal(buf: npt.NDArray[np.uint8], begin: int, end: int) -> int:
    """The value of decimal digits; 10^18, beyond every limit here, if it has more than 18 of them."""
    value = 0
    for pos in range(begin, end):
        if value > 10**17:
            return 10**18
        value = value * 10 + (int(buf[pos]) - 48)
    return value


@compiled
def _equals(buf: npt.NDArray[np.uint8], begin: int, end: int, key: npt.NDArray[np.uint8]) -> bool:
    if end - begin != len(key):
        return False
    for i in range(len(key)):  # noqa: SIM110 - compiled: a generator expression is not
        if buf[begin + i] != key[i]:
            return False
    return True


@compiled
def _intern(table: InternTable, buf: npt.NDArray[np.uint8], begin: int, end: int) -> int:
    """The number of ``buf[begin:end]`` in the table, which is added if it is new; -1 if there is no room."""
    mask = len(table.slots) - 1
    code = np.uint64(0xCBF29CE484222325)
    for pos in range(begin, end):
        code = (code ^ np.uint64(buf[pos])) * np.uint64(0x100000001B3)
    slot = int(code >> np.uint64(32)) & mask
    while table.slots[slot] != 0:
        index = int(table.slots[slot]) - 1
        at = table.starts[index]
        if table.starts[index + 1] - at == end - begin:
            same = True
            for i in range(end - begin):
                if table.text[at + i] != buf[begin + i]:
                    same = False
                    break
            if same:
                return index
        slot = (slot + 1) & mask
    index = int(table.size[0])
    at = table.starts[index]
    if index >= len(table.counts) or at + (end - begin) > len(table.text):
        return -1
    for i in range(end - begin):
        table.text[at + i] = buf[begin + i]
    table.starts[index + 1] = at + (end - begin)
    table.slots[slot] = index + 1
    table.size[0] = index + 1
    return index


def intern(table: InternTable, text: bytes) -> int:
    """The number of a string in the table, for Python; -1 if there is no room."""
    return _intern(table, np.frombuffer(text, np.uint8), 0, len(text))


# Fields of the head of a line, by index in the array that _head() fills.
_HEAD_PID, _HEAD_CPU, _HEAD_TIME, _HEAD_NAME, _HEAD_NAME_END, HEAD_LEN = 0, 1, 2, 3, 4, 5


@compiled
def _head_from_pid(
    buf: npt.NDArray[np.uint8], pos: int, end: int, line_end: int, head: npt.NDArray[np.int64]
) -> int:
    """Parse PID [CPU] flags TIMESTAMP: NAME: into ``head``; returns a reason.

    The pid begins at ``pos``. ``end`` bounds the search for the CPU's bracket, ``line_end`` what follows.
    """
    stop = _skip_digits(buf, pos, end)
    if stop < end and buf[stop] == _SLASH:  # perf: pid/tid
        pos = stop + 1
        stop = _skip_digits(buf, pos, end)
    if stop == pos:
        return _NO_EVENT
    pid = _decimal(buf, pos, stop)
    pos = _skip_spaces(buf, stop, end)
    if pos < end and buf[pos] == _OPEN:  # (  TGID), of the record-tgid option
        while pos < end and buf[pos] != _CLOSE:
            pos += 1
        pos = _skip_spaces(buf, pos + 1, end)
    if pos >= end or buf[pos] != _LBRACKET:
        return _NO_EVENT
    stop = _skip_digits(buf, pos + 1, line_end)
    if stop == pos + 1 or stop >= line_end or buf[stop] != _RBRACKET:
        return _NO_EVENT
    cpu = _decimal(buf, pos + 1, stop)
    pos = _skip_spaces(buf, stop + 1, line_end)
    if pos < line_end and not _is_digit(buf[pos]):  # irqs-off, need-resched, …: the irq-info option
        flags_end = min(line_end, pos + _MAX_FLAGS)
        while pos < flags_end and buf[pos] != _SPACE:
            pos += 1
        pos = _skip_spaces(buf, pos, line_end)
    stop = _skip_digits(buf, pos, line_end)
    if stop == pos or stop >= line_end:
        return _NO_EVENT
    if buf[stop] != _DOT:
        return _BAD_CLOCK if buf[stop] == _COLON else _NO_EVENT
    seconds = _decimal(buf, pos, stop)
    pos = stop + 1
    stop = _skip_digits(buf, pos, line_end)
    if stop == pos or stop >= line_end or buf[stop] != _COLON:
        return _NO_EVENT
    if pid > _MAX_PID or cpu > _MAX_CPU or seconds > _MAX_SECONDS or stop - pos > 9:
        return _RANGE
    fraction = _decimal(buf, pos, stop)
    for _ in range(9 - (stop - pos)):
        fraction *= 10
    head[_HEAD_PID] = pid
    head[_HEAD_CPU] = cpu
    head[_HEAD_TIME] = seconds * 1_000_000_000 + fraction
    pos = _skip_spaces(buf, stop + 1, line_end)
    stop = _skip_digits(buf, pos, line_end)
    if stop > pos and stop < line_end and buf[stop] == _SPACE:  # perf's sample period
        pos = _skip_spaces(buf, stop, line_end)
    # NAME: or system:NAME: of an event, NAME( of a system call.
    name = pos
    while pos < line_end and buf[pos] != _SPACE and buf[pos] != _OPEN:
        if buf[pos] == _COLON:
            if pos + 1 == line_end or buf[pos + 1] == _SPACE:
                break
            name = pos + 1
        pos += 1
    if pos >= line_end or pos == name or buf[pos] == _SPACE:
        return _NO_NAME
    head[_HEAD_NAME] = name
    head[_HEAD_NAME_END] = pos
    return _OK


@compiled
def _head(buf: npt.NDArray[np.uint8], begin: int, end: int, head: npt.NDArray[np.int64]) -> int:
    """Parse a line up to the event's name into ``head``; returns a reason."""
    comm_end = begin + _COMM_WIDTH
    if comm_end + 1 < end:
        pos = comm_end + 1 if buf[comm_end] == _MINUS else _skip_spaces(buf, comm_end, end)
        if pos > comm_end:
            reason = _head_from_pid(buf, pos, end, end, head)
            if reason != _NO_EVENT:
                return reason
    # the line has lost its leading spaces: take the first [CPU] with a pid before it and a time behind it
    for bracket in range(begin + 1, end):
        if buf[bracket] != _LBRACKET:
            continue
        pos = bracket
        while pos > begin and buf[pos - 1] == _SPACE:
            pos -= 1
        if pos > begin and buf[pos - 1] == _CLOSE:
            while pos > begin and buf[pos - 1] != _OPEN and bracket - pos < 32:
                pos -= 1
            pos -= 1
            while pos > begin and buf[pos - 1] == _SPACE:
                pos -= 1
        while pos > begin and _is_digit(buf[pos - 1]):
            pos -= 1
        if pos > begin and (buf[pos - 1] == _MINUS or buf[pos - 1] == _SPACE or buf[pos - 1] == _SLASH):
            reason = _head_from_pid(buf, pos, bracket + 1, end, head)
            if reason != _NO_EVENT:
                return reason
    return _NO_EVENT


@compiled
def _pfn(buf: npt.NDArray[np.uint8], begin: int, end: int, out: npt.NDArray[np.uint64], at: int) -> int:
    """Parse a pfn into ``out[at]``; returns a reason.

    It is hexadecimal with 0x, or decimal before 5.10. The -1 of a failed allocation becomes 0.
    """
    value = np.uint64(0)
    if end - begin > 2 and buf[begin] == 48 and (buf[begin + 1] | 32) == 120:
        if end - begin > 18:
            return _RANGE
        for pos in range(begin + 2, end):
            byte = int(buf[pos])
            lower = byte | 32
            if _is_digit(byte):
                digit = byte - 48
            elif 97 <= lower <= 102:
                digit = lower - 87
            else:
                return _NOT_A_NUMBER
            value = (value << np.uint64(4)) | np.uint64(digit)
        if value == np.uint64(0xFFFFFFFFFFFFFFFF):
            value = np.uint64(0)
    else:
        if begin == end or _skip_digits(buf, begin, end) != end:
            return _NOT_A_NUMBER
        decimal = _decimal(buf, begin, end)
        if decimal >= 10**18:
            return _RANGE
        value = np.uint64(decimal)
    out[at] = value
    return _OK


@compiled
def _small(buf: npt.NDArray[np.uint8], begin: int, end: int, out: npt.NDArray[np.uint8], at: int) -> int:
    """Parse a decimal number of at most 255 into ``out[at]``; returns a reason."""
    if begin == end or _skip_digits(buf, begin, end) != end:
        return _NOT_A_NUMBER
    value = _decimal(buf, begin, end)
    if value > _MAX_U8:
        return _RANGE
    out[at] = value
    return _OK


@compiled
def _fields(
    buf: npt.NDArray[np.uint8],
    pos: int,
    end: int,
    kind: int,
    out: Columns,
    at: int,
    gfp_span: npt.NDArray[np.int64],
) -> int:
    """Parse the key=value words of a page event into element ``at`` of its columns; returns a reason.

    ``gfp_span`` becomes the [begin, end) of the gfp text in ``buf``.
    """
    seen = 0
    while True:
        pos = _skip_spaces(buf, pos, end)
        if pos >= end:
            break
        key = pos
        while pos < end and buf[pos] != _EQUAL and buf[pos] != _SPACE:
            pos += 1
        if pos >= end or buf[pos] == _SPACE:
            continue
        key_end = pos
        value = pos + 1
        pos = value
        while pos < end and buf[pos] != _SPACE:
            pos += 1
        got = 0
        reason = _OK
        if kind == _EXTFRAG_KIND and _equals(buf, key, key_end, _ALLOC_ORDER):
            got = _HAS_ORDER
            reason = _small(buf, value, pos, out.order, at)
        elif kind == _EXTFRAG_KIND and _equals(buf, key, key_end, _ALLOC_MIGRATETYPE):
            got = _HAS_MIGRATETYPE
            reason = _small(buf, value, pos, out.migratetype, at)
        elif _equals(buf, key, key_end, _PFN):
            got = _HAS_PFN
            reason = _pfn(buf, value, pos, out.pfn, at)
        elif _equals(buf, key, key_end, _ORDER):
            got = _HAS_ORDER
            reason = _small(buf, value, pos, out.order, at)
        elif _equals(buf, key, key_end, _MIGRATETYPE):
            got = _HAS_MIGRATETYPE
            reason = _small(buf, value, pos, out.migratetype, at)
        elif kind == _ALLOC_KIND and _equals(buf, key, key_end, _GFP_FLAGS) and pos > value:
            got = _HAS_GFP
            gfp_span[0] = value
            gfp_span[1] = pos
        if reason != _OK:
            return reason
        if seen & got:
            return _TWICE
        seen |= got
    return _OK if seen & _REQUIRED[kind] == _REQUIRED[kind] else _MISSING


@compiled
def _lost_events(buf: npt.NDArray[np.uint8], begin: int, end: int) -> int:
    """The number m in a line ``CPU:n [LOST m EVENTS]`` (``print_trace_line``); 0 for any other line."""
    if end - begin < 12 or not _equals(buf, begin, begin + 4, _CPU_COLON):
        return 0
    pos = _skip_spaces(buf, _skip_digits(buf, begin + 4, end), end)
    if end - pos < 7 or not _equals(buf, pos, pos + 6, _LOST):
        return 0
    return _decimal(buf, pos + 6, _skip_digits(buf, pos + 6, end))


@compiled
def scan(
    buf: npt.NDArray[np.uint8],
    end: int,
    out: Columns,
    names: InternTable,
    gfps: InternTable,
    skipped: npt.NDArray[np.int64],
    scratch: npt.NDArray[np.int64],
    state: npt.NDArray[np.int64],
) -> int:
    """Tokenize the whole lines of ``buf[state[STATE_POS]:end]``; returns why it stopped (DONE, …).

    ``names`` begins with the page events in the order of EventKind, ``gfps`` with the empty text. ``scratch``
    has room for ``HEAD_LEN + 2`` integers. A row of ``skipped`` is offset, end, line (counted from the first
    of this scan) and reason. The line at which a table was full is not counted: the next scan begins with it.
    """
    gfp_span = scratch[HEAD_LEN:]
    pos = state[STATE_POS]
    at = state[STATE_EVENTS]
    code = DONE
    while pos < end:
        if at >= len(out.kind):
            code = EVENTS_FULL
            break
        stop = pos
        while buf[stop] != _NL:
            stop += 1
        following = stop + 1
        if stop > pos and buf[stop - 1] == _CR:
            stop -= 1
        if stop == pos or buf[pos] == _HASH:
            state[STATE_LINES] += 1
            pos = following
            continue
        reason = _head(buf, pos, stop, scratch)
        if reason == _OK:
            name = _intern(names, buf, scratch[_HEAD_NAME], scratch[_HEAD_NAME_END])
            if name < 0:
                code = NAMES_FULL
                break
            kind = min(name, _OTHER_KIND)
            out.pfn[at] = 0
            out.order[at] = 0
            out.migratetype[at] = 0
            gfp = 0
            if kind != _OTHER_KIND:
                reason = _fields(buf, scratch[_HEAD_NAME_END] + 1, stop, kind, out, at, gfp_span)
                if reason == _OK and kind == _ALLOC_KIND:
                    gfp = _intern(gfps, buf, gfp_span[0], gfp_span[1])
                    if gfp < 0:
                        code = GFP_FULL
                        break
            if reason == _OK:
                out.kind[at] = kind
                out.pid[at] = scratch[_HEAD_PID]
                out.cpu[at] = scratch[_HEAD_CPU]
                out.time_ns[at] = scratch[_HEAD_TIME]
                out.gfp_text[at] = gfp
                names.counts[name] += 1
                gfps.counts[gfp] += 1
                at += 1
        if reason != _OK:
            lost = _lost_events(buf, pos, stop)
            if lost > 0:
                state[STATE_LOST] += lost
            else:
                n = state[STATE_SKIPPED]
                if n >= len(skipped):
                    code = SKIPPED_FULL
                    break
                skipped[n, 0] = pos
                skipped[n, 1] = stop
                skipped[n, 2] = state[STATE_LINES]
                skipped[n, 3] = reason
                state[STATE_SKIPPED] = n + 1
        state[STATE_LINES] += 1
        pos = following
    state[STATE_POS] = pos
    state[STATE_EVENTS] = at
    return code
