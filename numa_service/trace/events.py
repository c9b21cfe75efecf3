"""The page events of a kernel trace as columns (``include/trace/events/kmem.h``), and what else it says."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt


class TraceError(ValueError):
    """A trace cannot be read; one line names the file, the place in it, and the reason."""


class EventKind(IntEnum):
    """Tracepoints whose fields are kept; all others (vmscan, compaction, …) are OTHER.

    An MM_PAGE_FREE_BATCHED is traced beside an MM_PAGE_FREE of the same page, and frees nothing by itself.
    """

    MM_PAGE_ALLOC = 0
    MM_PAGE_FREE = 1
    MM_PAGE_FREE_BATCHED = 2
    MM_PAGE_ALLOC_ZONE_LOCKED = 3
    MM_PAGE_PCPU_DRAIN = 4
    MM_PAGE_ALLOC_EXTFRAG = 5
    OTHER = 6


#: Names of the tracepoints in the order of EventKind, without OTHER.
PAGE_EVENT_NAMES = tuple(kind.name.lower() for kind in EventKind if kind is not EventKind.OTHER)


@dataclass(frozen=True, slots=True)
class TraceEvents:
    """Events in file order, one array element each; a field that an event does not have is 0.

    The kernel merges its per-CPU buffers by their clocks, so that ``time_ns`` may step back.
    """

    #: :class:`EventKind`.
    kind: npt.NDArray[np.uint8]
    #: Trace clock in ns; the text usually has a resolution of 1 µs.
    time_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.uint16]
    #: Thread id of the task that ran on the CPU (the kernel's ``pid``).
    pid: npt.NDArray[np.uint32]
    #: First page frame of the block; 0 is an allocation that failed.
    pfn: npt.NDArray[np.uint64]
    #: Order of the block (``alloc_order`` of an extfrag event).
    order: npt.NDArray[np.uint8]
    #: Migratetype as the traced kernel numbers them (``alloc_migratetype`` of an extfrag event).
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
        """All chunks as one, which takes 29 bytes of memory an event."""
        if not chunks:
            return cls.empty(0)
        return cls(**{name: np.concatenate([getattr(c, name) for c in chunks]) for name in cls.DTYPES})


@dataclass(frozen=True, slots=True)
class KswapdChange:
    """A kswapd of the traced kernel woke up or went to sleep."""

    time_ns: int
    nid: int
    awake: bool
    #: Thread id of the kswapd; 0 if the line does not show it.
    pid: int = 0


class KswapdLog:
    """The kswapd changes of a trace, in file order, packed into 32 bytes each: a long trace has many."""

    #: Numbers of a change.
    WIDTH = 4

    def __init__(self, rows: Iterable[int] = ()) -> None:
        """`rows`: time_ns, nid, awake and pid of each change, one after the other; ValueError if cut off."""
        self._rows = array("q", rows)
        if len(self._rows) % self.WIDTH:
            raise ValueError("a kswapd change is cut off")

    def add(self, change: KswapdChange) -> None:
        """Append a change."""
        self._rows.extend((change.time_ns, change.nid, change.awake, change.pid))

    def rows(self, begin: int, end: int) -> list[int]:
        """The changes [begin, end) as numbers, in the form that the constructor takes."""
        return self._rows[begin * self.WIDTH : end * self.WIDTH].tolist()

    def extend(self, rows: Iterable[int]) -> None:
        """Append changes given as numbers; ValueError as of the constructor."""
        self._rows.extend(KswapdLog(rows)._rows)

    def __len__(self) -> int:
        return len(self._rows) // self.WIDTH

    def __iter__(self) -> Iterator[KswapdChange]:
        for i in range(0, len(self._rows), self.WIDTH):
            time_ns, nid, awake, pid = self._rows[i : i + self.WIDTH]
            yield KswapdChange(time_ns, nid, bool(awake), pid)


@dataclass(frozen=True, slots=True)
class TraceHeader:
    """The comment lines at the top of a trace; None for what they do not say."""

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
    """A line that is no comment and no event."""

    line_number: int
    reason: str
    #: The beginning of the line, with undecodable bytes escaped.
    text: str


#: Skipped lines kept as examples; all are counted.
MAX_SKIPPED_EXAMPLES = 5
#: Most bytes of an example that are kept.
EXAMPLE_BYTES = 240


@dataclass(slots=True)
class EventCounts:
    """Counts of what a trace has. They grow while it is read, and are complete after the last chunk."""

    lines: int = 0
    #: Events by tracepoint name, those of kind OTHER too: page events first, then in the order first seen.
    events: dict[str, int] = field(default_factory=dict)
    #: mm_page_alloc events by the text of their gfp_flags, in the order first seen.
    gfp_texts: dict[str, int] = field(default_factory=dict)
    #: Numbers of allocations by each flag name or bit that ``mm.gfp.parse_gfp`` does not know.
    unknown_gfp: dict[str, int] = field(default_factory=dict)
    #: Lines without an event, by reason.
    skipped: dict[str, int] = field(default_factory=dict)
    skipped_examples: list[SkippedLine] = field(default_factory=list)
    #: Events that ``CPU:n [LOST m EVENTS]`` lines say are missing at that place.
    lost: int = 0
    #: Whether the last line had no end; its event, if any, was left out.
    truncated_last_line: bool = False

    @property
    def total_events(self) -> int:
        """Number of events of all names."""
        return sum(self.events.values())

    @property
    def total_skipped(self) -> int:
        """Number of lines skipped for any reason."""
        return sum(self.skipped.values())

    def skip(self, reason: str, lines: int = 1) -> None:
        """Count lines that were skipped for this reason."""
        self.skipped[reason] = self.skipped.get(reason, 0) + lines

    def example(self, line_number: int, reason: str, line: bytes) -> None:
        """Keep a skipped line as an example, if it is one of the first."""
        if len(self.skipped_examples) < MAX_SKIPPED_EXAMPLES:
            text = line[:EXAMPLE_BYTES].decode("utf-8", "backslashreplace")
            self.skipped_examples.append(SkippedLine(line_number, reason, text))
