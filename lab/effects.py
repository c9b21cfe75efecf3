"""The order in which events of a trace took effect, which is not that in which they were reported."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lab.compiled import compiled
from numa_service.trace.events import EventKind, TraceEvents

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

#: CPU numbers that a trace can have.
_CPU_NUMBERS = 1 << 16
#: Batched frees that are searched for the page of a free; the kernel batches 32 pages at most
#: (SWAP_CLUSTER_MAX).
_QUEUED = 64

_ALLOC = int(EventKind.MM_PAGE_ALLOC)
_FREE = int(EventKind.MM_PAGE_FREE)
_BATCHED = int(EventKind.MM_PAGE_FREE_BATCHED)
_LOCKED = int(EventKind.MM_PAGE_ALLOC_ZONE_LOCKED)
_DRAIN = int(EventKind.MM_PAGE_PCPU_DRAIN)
_OTHER = int(EventKind.OTHER)


class EffectScratch(NamedTuple):
    """By CPU number: the CPU's next event (the trace is read backwards), and a queue of batched frees."""

    kind: U8
    pid: npt.NDArray[np.uint32]
    at: I64
    first: I64
    last: I64


@compiled
def _effects(
    kind: U8,
    cpu: npt.NDArray[np.uint16],
    pid: npt.NDArray[np.uint32],
    pfn: npt.NDArray[np.uint64],
    effect: I64,
    queue: I64,
    after: EffectScratch,
) -> None:
    """Fill `effect`, going backwards through the events; see :func:`effects`."""
    for i in range(len(kind) - 1, -1, -1):
        c, what = cpu[i], kind[i]
        effect[i] = i
        same = after.pid[c] == pid[i]
        if what == _ALLOC:
            after.at[c] = i
        elif what == _LOCKED:
            if after.kind[c] == _ALLOC and same:
                if pfn[after.at[c]] != pfn[i]:
                    continue  # of the same refill, but not the block that was asked for
                effect[after.at[c]] = i
            elif after.kind[c] == _LOCKED and after.at[c] >= 0 and same:
                # a refill is made for its first block; this one was made for an allocation without an event
                effect[after.at[c]] = after.at[c]
                after.at[c] = -1
        elif what == _DRAIN:
            after.at[c] = i
        elif what == _BATCHED or what == _FREE:
            if after.kind[c] == _DRAIN and same:
                effect[i] = after.at[c]
            if what == _BATCHED:
                queue[i] = -1
                if after.last[c] >= 0:
                    queue[after.last[c]] = i
                else:
                    after.first[c] = i
                after.last[c] = i
            else:
                before, found = -1, after.first[c]
                steps = 0
                while found >= 0 and pfn[found] != pfn[i] and steps < _QUEUED:
                    before, found = found, queue[found]
                    steps += 1
                if found >= 0 and pfn[found] == pfn[i]:
                    effect[i] = effect[found]
                    if before >= 0:
                        queue[before] = queue[found]
                    else:
                        after.first[c] = queue[found]
                    if after.last[c] == found:
                        after.last[c] = before
        else:
            if what == _OTHER:
                after.kind[c] = what
            continue
        after.kind[c] = what
        after.pid[c] = pid[i]


def effects(chunk: TraceEvents) -> I64:
    """Position in the chunk at which each event changed a free list or a pageset.

    An allocation is reported when it is done, after the events of its refill. A free is reported when it
    begins; it takes effect with its ``mm_page_free_batched`` if there is one, or with the drain that it
    causes.
    """
    effect = np.empty(len(chunk), dtype=np.int64)
    queue = np.empty(len(chunk), dtype=np.int64)
    scratch = EffectScratch(
        np.full(_CPU_NUMBERS, _OTHER, dtype=np.uint8),
        np.zeros(_CPU_NUMBERS, dtype=np.uint32),
        *(np.full(_CPU_NUMBERS, -1, dtype=np.int64) for _ in range(3)),
    )
    _effects(chunk.kind, chunk.cpu, chunk.pid, chunk.pfn, effect, queue, scratch)
    return effect
