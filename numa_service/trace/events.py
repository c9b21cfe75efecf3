"""Page events of a kernel trace, laid out by column (``include/trace/events/kmem.h``)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt


class TraceError(ValueError):
    """A trace that cannot be read: one line naming the file, where in it, and why."""


class EventKind(IntEnum):
    """Tracepoints whose fields are kept; everything else (vmscan, compaction, …) is OTHER.

    MM_PAGE_FREE_BATCHED comes in addition to an MM_PAGE_FREE of the same page: it frees nothing by itself.
    """

    MM_PAGE_ALLOC = 0
    MM_PAGE_FREE = 1
    MM_PAGE_FREE_BATCHED = 2
    MM_PAGE_ALLOC_ZONE_LOCKED = 3
    MM_PAGE_PCPU_DRAIN = 4
    MM_PAGE_ALLOC_EXTFRAG = 5
    OTHER = 6


#: Name of the tracepoint by kind, in kind order, without OTHER.
PAGE_EVENT_NAMES = tuple(kind.name.lower() for kind in EventKind if kind is not EventKind.OTHER)


@dataclass(frozen=True, slots=True)
class TraceEvents:
    """Events in file order, one array element each; a field that the event has not is 0.

    File order is the kernel's merge of per-CPU buffers by their clocks: ``time_ns`` may step back.
    """

    #: :class:`EventKind`.
    kind: npt.NDArray[np.uint8]
    #: Trace clock in ns; the text usually has a resolution of 1 µs.
    time_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.uint16]
    #: Thread id of the task that ran on the CPU (the kernel's ``pid``).
    pid: npt.NDArray[np.uint32]
    #: First page of the block; 0 is an allocation that failed.
    pfn: npt.NDArray[np.uint64]
    #: Order of the block (``alloc_order`` of an extfrag event).
    order: npt.NDArray[np.uint8]
    #: Pageblock type as the traced kernel numbers them (``alloc_migratetype`` of an extfrag event).
    migratetype: npt.NDArray[np.uint8]
    #: :class:`numa_service.mm.gfp.Gfp` bits of an MM_PAGE_ALLOC, without the flags that are not known here.
    gfp: npt.NDArray[np.uint32]

    DTYPES: ClassVar[dict[str, np.dtype[Any]]] = {
        "kind": np.dtype("<u1"),
        "time_ns": np.dtype("<i8"),
        "cpu": np.dtype("<u2"),
        "pid": np.dtype("<u4"),
        "pfn": np.dtype("<u8"),
        "order": np.dtype("<u1"),
        "migratetype": np.dtype("<u1"),
        "gfp": np.dtype("<u4"),
    }

    def __post_init__(self) -> None:
        for name, dtype in self.DTYPES.items():
            column = getattr(self, name)
            if column.shape != self.kind.shape or column.dtype != dtype:
                raise ValueError(
                    f"column {name} is {column.dtype}{column.shape}, not {dtype}{self.kind.shape}"
                )

    def __len__(self) -> int:
        return len(self.kind)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, in the order of the fields."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def part(self, begin: int, end: int) -> TraceEvents:
        """Events ``begin`` to ``end`` (exclusive), sharing memory with these."""
        return TraceEvents(**{name: column[begin:end] for name, column in self.columns().items()})

    @classmethod
    def empty(cls, length: int) -> TraceEvents:
        """``length`` zeroed events, to be filled in."""
        return cls(**{name: np.zeros(length, dtype) for name, dtype in cls.DTYPES.items()})

    @classmethod
    def concatenate(cls, chunks: list[TraceEvents]) -> TraceEvents:
        """All chunks as one; costs 29 bytes of memory an event."""
        if not chunks:
            return cls.empty(0)
        return cls(**{name: np.concatenate([getattr(c, name) for c in chunks]) for name in cls.DTYPES})


@dataclass(frozen=True, slots=True)
class KswapdChange:
    """A kswapd of the traced kernel that began to run, or went to sleep."""

    time_ns: int
    nid: int
    awake: bool
    #: Its thread id.
    pid: int = 0


class KswapdLog:
    """Every such change of a trace, in its order; 32 bytes each, as a long trace has many."""

    #: Numbers of a change.
    WIDTH = 4

    def __init__(self, rows: Iterable[int] = ()) -> None:
        """`rows`: time, nid, whether awake and pid of each change, one after the other; ValueError."""
        self._rows = array("q", rows)
        if len(self._rows) % self.WIDTH:
            raise ValueError("a kswapd change is cut off")

    def add(self, change: KswapdChange) -> None:
        """One more."""
        self._rows.extend((change.time_ns, change.nid, change.awake, change.pid))

    def rows(self, begin: int, end: int) -> list[int]:
        """Changes [begin, end), as numbers."""
        return self._rows[begin * self.WIDTH : end * self.WIDTH].tolist()

    def extend(self, rows: Iterable[int]) -> None:
        """Some more, as numbers; ValueError as above."""
        self._rows.extend(KswapdLog(rows)._rows)

    def __len__(self) -> int:
        return len(self._rows) // self.WIDTH

    def __iter__(self) -> Iterator[KswapdChange]:
        for i in range(0, len(self._rows), self.WIDTH):
            time_ns, nid, awake, pid = self._rows[i : i + self.WIDTH]
            yield KswapdChange(time_ns, nid, bool(awake), pid)


@dataclass(frozen=True, slots=True)
class TraceHeader:
    """What the comment lines at the top of the trace say; None where they do not."""

    #: Current tracer, "nop" when only events were traced.
    tracer: str | None = None
    #: Entries that the ring buffers held when they were read.
    entries_in_buffer: int | None = None
    #: Entries ever written to them.
    entries_written: int | None = None
    #: Online CPUs (``#P:``).
    nr_cpus: int | None = None

    @property
    def overwritten(self) -> int:
        """Events lost before the first line, because the ring buffer was too small for the run."""
        if self.entries_in_buffer is None or self.entries_written is None:
            return 0
        return max(0, self.entries_written - self.entries_in_buffer)


@dataclass(frozen=True, slots=True)
class SkippedLine:
    """A line that is not a comment and gave no event."""

    line_number: int
    reason: str
    #: Its beginning, undecodable bytes escaped.
    text: str


#: Skipped lines kept as examples; all are counted.
MAX_SKIPPED_EXAMPLES = 5
#: Bytes of them that are kept.
EXAMPLE_BYTES = 240


@dataclass(slots=True)
class EventCounts:
    """What was in the trace; grows while the trace is read, complete when the last chunk has been yielded."""

    lines: int = 0
    #: Events by tracepoint name, also those that became OTHER: the page events first, then as first seen.
    events: dict[str, int] = field(default_factory=dict)
    #: mm_page_alloc events by the text of their gfp_flags, in the order first seen.
    gfp_texts: dict[str, int] = field(default_factory=dict)
    #: Flag names and bits that ``mm.gfp.parse_gfp`` does not know: allocations that have them.
    unknown_gfp: dict[str, int] = field(default_factory=dict)
    #: Lines without an event, by reason.
    skipped: dict[str, int] = field(default_factory=dict)
    skipped_examples: list[SkippedLine] = field(default_factory=list)
    #: Events that ``CPU:n [LOST m EVENTS]`` lines say are missing at that place.
    lost: int = 0
    #: The last line had no end: its event, if any, was not taken.
    truncated_last_line: bool = False

    @property
    def total_events(self) -> int:
        """Events of all names."""
        return sum(self.events.values())

    @property
    def total_skipped(self) -> int:
        """Lines skipped for any reason."""
        return sum(self.skipped.values())

    def skip(self, reason: str, lines: int = 1) -> None:
        """Count lines without an event."""
        self.skipped[reason] = self.skipped.get(reason, 0) + lines

    def example(self, line_number: int, reason: str, line: bytes) -> None:
        """Keep a skipped line if it is one of the first."""
        if len(self.skipped_examples) < MAX_SKIPPED_EXAMPLES:
            text = line[:EXAMPLE_BYTES].decode("utf-8", "backslashreplace")
            self.skipped_examples.append(SkippedLine(line_number, reason, text))
