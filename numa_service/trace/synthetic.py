"""Synthetic traces of any length, to test bounds on memory and to measure speed: captures are too short.

Tasks allocate blocks in runs and free them in the same runs later, in turn with other tasks. Pages, CPUs and
gfp flags depend on the seed only. A trace is made a chunk at a time, in constant memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, Gfp
from numa_service.mm.mmzone import PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.trace.events import EventKind, TraceEvents
from numa_service.trace.ftrace import CHUNK_EVENTS

#: Blocks that one task allocates, and later frees, in a row: captured traces of four workloads have 8 to 200
#: events between two changes of the CPU.
RUN = 32
#: Share of all blocks that is allocated at any time, after the beginning of the trace.
_LIVE = 0.75
#: Mean time between two events, in µs: captured kernels under load have 1 to 3, and their clock shows µs.
_EVENT_US = 2
_BEGIN_NS = 10**9

#: (order, number of blocks) in each of a cycle of pageblocks: mostly order 0, some slab pages, a huge page.
_PAGEBLOCKS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((0, 512),),
    ((0, 512),),
    ((0, 512),),
    ((0, 512),),
    ((0, 480), (3, 4)),
    ((0, 384), (1, 32), (2, 16)),
    ((PAGEBLOCK_ORDER, 1),),
)
_KERNEL_SHARE = 8
_TEXTS = {
    int(GFP_HIGHUSER_MOVABLE | Gfp.COMP | Gfp.ZERO): b"GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO",
    int(GFP_KERNEL): b"GFP_KERNEL",
}
_MOVABLE, _KERNEL = _TEXTS


class SyntheticTrace:
    """A synthetic trace: allocations and frees of tasks, one on each run's CPU."""

    def __init__(self, cpus: Sequence[int], start_pfn: int, pages: int, seed: int = 1) -> None:
        """`pages` from `start_pfn` on are allocated and freed, three quarters of them live at a time.

        ValueError unless they are at least seven whole pageblocks.
        """
        count = pages // PAGEBLOCK_NR_PAGES
        if start_pfn % PAGEBLOCK_NR_PAGES or count < len(_PAGEBLOCKS) or not cpus:
            raise ValueError(
                f"{pages} pages from {start_pfn}: at least {len(_PAGEBLOCKS)} whole pageblocks and a CPU"
            )
        self._seed = seed
        rng = np.random.default_rng(seed)
        layouts = [np.array([n for n, count in of for _ in range(count)], np.uint8) for of in _PAGEBLOCKS]
        sizes = [np.left_shift(1, of.astype(np.int64)) for of in layouts]
        firsts = [np.cumsum(of) - of for of in sizes]
        kinds = (np.arange(count) % len(layouts)).tolist()
        order = np.concatenate([layouts[kind] for kind in kinds])
        pfn = np.concatenate(
            [start_pfn + i * PAGEBLOCK_NR_PAGES + firsts[kind] for i, kind in enumerate(kinds)]
        )
        runs = len(order) // RUN
        # the blocks of a run are adjacent; runs are in random order
        shuffled = rng.permutation(runs)[:, None] * RUN + np.arange(RUN)
        self._order = order[shuffled]
        self._pfn = pfn[shuffled].astype(np.uint64)
        self._gfp = np.where(shuffled[:, :1] % _KERNEL_SHARE, _MOVABLE, _KERNEL).astype(np.uint32)
        self._cpus = np.array(cpus, dtype=np.uint16)[rng.integers(0, len(cpus), runs)]
        self._live = int(runs * _LIVE)

    def chunks(self, events: int) -> Iterator[TraceEvents]:
        """The first `events` events of the trace, in chunks."""
        begin = done = 0
        while done < events:
            chunk = self._chunk(begin, begin + CHUNK_EVENTS // (2 * RUN), done)
            chunk = chunk.part(0, min(len(chunk), events - done))
            yield chunk
            done += len(chunk)
            begin += CHUNK_EVENTS // (2 * RUN)

    def _chunk(self, begin: int, end: int, done: int) -> TraceEvents:
        """The events of the runs [begin, end), each of which is allocated, and freed `_live` runs later.

        `done` events are before them, which sets the clock.
        """
        taken = np.arange(begin, end)
        # allocations of a run alternate with frees of an earlier one, as soon as there is one
        runs = np.stack([taken, taken - self._live], axis=1).reshape(-1)
        freed = np.tile(np.array([False, True]), len(taken))[runs >= 0]
        rows = (runs[runs >= 0]) % len(self._pfn)
        pfn, order = self._pfn[rows].reshape(-1), self._order[rows].reshape(-1)
        cpu = np.repeat(self._cpus[rows], RUN)
        free = np.repeat(freed, RUN)
        waits = np.random.default_rng((self._seed, begin)).integers(0, 2 * _EVENT_US + 1, len(pfn))
        gfp = np.where(free, np.uint32(0), np.repeat(self._gfp[rows, 0], RUN))
        return TraceEvents(
            kind=np.where(free, EventKind.MM_PAGE_FREE, EventKind.MM_PAGE_ALLOC).astype(np.uint8),
            time_ns=_BEGIN_NS + (done * _EVENT_US + np.cumsum(waits) - waits) * 1000,
            cpu=cpu,
            pid=cpu.astype(np.uint32) + np.uint32(1000),
            pfn=pfn,
            order=order,
            migratetype=(gfp == _MOVABLE).astype(np.uint8),
            gfp=gfp,
        )


def trace_text(chunk: TraceEvents) -> bytes:
    """The events as text of ``/sys/kernel/tracing/trace``; KeyError for gfp flags of other traces."""
    columns: list[list[int]] = [
        c.tolist()
        for c in (chunk.kind, chunk.pid, chunk.cpu, chunk.time_ns, chunk.pfn, chunk.order, chunk.migratetype)
    ]
    gfps: npt.NDArray[np.uint32] = chunk.gfp
    lines = []
    for kind, pid, cpu, ns, pfn, order, mt, gfp in zip(*columns, gfps.tolist(), strict=True):
        head = b"          task-%-7d [%03d] ..... %5d.%06d: " % (pid, cpu, ns // 10**9, ns % 10**9 // 1000)
        page = b"page=%016x pfn=%#x order=%d" % (pfn * 64, pfn, order)
        if kind == EventKind.MM_PAGE_FREE:
            lines.append(head + b"mm_page_free: " + page)
        else:
            more = b" migratetype=%d gfp_flags=%s" % (mt, _TEXTS[gfp])
            lines.append(head + b"mm_page_alloc: " + page + more)
    return b"\n".join([*lines, b""])


__all__ = ["RUN", "SyntheticTrace", "trace_text"]
