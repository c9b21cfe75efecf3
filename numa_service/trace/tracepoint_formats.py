"""The tracepoints that the emulator emits: their names and fields, and their events as text or JSON.

Names and formats are those of 6.1 (``include/trace/events/{kmem,vmscan,migrate}.h``), and under the profile
of 6.12 those of that kernel. ``trace/ftrace.py`` reads the text back. ``mm/tracepoints.py`` records the
events, ``node/trace_ring.py`` collects them, and ``rpc/tracepoints.py`` streams them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from numa_service.mm import tracepoints as tp
from numa_service.mm.gfp import GFP_MASKS, Gfp
from numa_service.mm.mmzone import PAGEBLOCK_ORDER
from numa_service.mm.profile import DEFAULT_PROFILE, profile_named
from numa_service.mm.slab.reports import pointer

I64 = npt.NDArray[np.int64]

#: Fields of an object that is allocated; `call_site` is 0, as there is no code that calls.
_OBJECT = ("call_site", "ptr", "bytes_req", "bytes_alloc", "gfp_flags", "node", "accounted")

#: (system, name, fields) of every tracepoint; its index is the kind of its events. Fields are named as in the
#: kernel's format file of the tracepoint.
TRACEPOINTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("kmem", "mm_page_alloc", ("pfn", "order", "gfp_flags", "migratetype")),
    ("kmem", "mm_page_free", ("pfn", "order")),
    ("kmem", "mm_page_free_batched", ("pfn",)),
    ("kmem", "mm_page_alloc_zone_locked", ("pfn", "order", "migratetype", "percpu_refill")),
    ("kmem", "mm_page_pcpu_drain", ("pfn", "order", "migratetype")),
    (
        "kmem",
        "mm_page_alloc_extfrag",
        (
            "pfn",
            "alloc_order",
            "fallback_order",
            "alloc_migratetype",
            "fallback_migratetype",
            "change_ownership",
        ),
    ),
    ("vmscan", "mm_vmscan_kswapd_wake", ("nid", "zid", "order")),
    ("vmscan", "mm_vmscan_kswapd_sleep", ("nid",)),
    ("vmscan", "mm_vmscan_wakeup_kswapd", ("nid", "zid", "order", "gfp_flags")),
    ("vmscan", "mm_vmscan_direct_reclaim_begin", ("order", "gfp_flags")),
    ("vmscan", "mm_vmscan_direct_reclaim_end", ("nr_reclaimed",)),
    (
        "vmscan",
        "mm_vmscan_lru_isolate",
        ("highest_zoneidx", "order", "nr_requested", "nr_scanned", "nr_skipped", "nr_taken", "lru"),
    ),
    (
        "vmscan",
        "mm_vmscan_lru_shrink_inactive",
        (
            "nid",
            "nr_scanned",
            "nr_reclaimed",
            "nr_dirty",
            "nr_writeback",
            "nr_congested",
            "nr_immediate",
            "nr_activate0",
            "nr_activate1",
            "nr_ref_keep",
            "nr_unmap_fail",
            "priority",
            "reclaim_flags",
        ),
    ),
    (
        "vmscan",
        "mm_vmscan_lru_shrink_active",
        ("nid", "nr_taken", "nr_active", "nr_deactivated", "nr_referenced", "priority", "reclaim_flags"),
    ),
    ("vmscan", "mm_vmscan_write_folio", ("pfn", "reclaim_flags")),
    (
        "migrate",
        "mm_migrate_pages",
        (
            "succeeded",
            "failed",
            "thp_succeeded",
            "thp_failed",
            "thp_split",
            "large_folio_split",
            "mode",
            "reason",
        ),
    ),
    ("kmem", "kmalloc", _OBJECT),
    ("kmem", "kmalloc_node", _OBJECT),
    ("kmem", "kfree", ("call_site", "ptr")),
    ("kmem", "kmem_cache_alloc", _OBJECT),
    ("kmem", "kmem_cache_alloc_node", _OBJECT),
    ("kmem", "kmem_cache_free", ("call_site", "ptr", "name")),
)
NAMES = tuple(name for _, name, _ in TRACEPOINTS)
NR_FIELDS = np.array([len(fields) for _, _, fields in TRACEPOINTS])

# values of reclaim_flags, lru, mode and reason
RECLAIM_WB_ANON = 0x0001
RECLAIM_WB_FILE = 0x0002
RECLAIM_WB_ASYNC = 0x0008
LRU_NAMES = ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")
MIGRATE_SYNC = 2
MIGRATE_MODES = ("MIGRATE_ASYNC", "MIGRATE_SYNC_LIGHT", "MIGRATE_SYNC")
MR_MEMORY_FAILURE = 1
MR_MEMORY_HOTPLUG = 2
MR_CONTIG_RANGE = 6
MIGRATE_REASONS = (
    "compaction",
    "memory_failure",
    "memory_hotplug",
    "syscall_or_cpuset",
    "mempolicy_mbind",
    "numa_misplaced",
    "contig_range",
    "longterm_pin",
    "demotion",
)

#: Names of the fields of mm_vmscan_lru_shrink_inactive in its text, in order.
_SHRINK_INACTIVE = (
    "nr_scanned",
    "nr_reclaimed",
    "nr_dirty",
    "nr_writeback",
    "nr_congested",
    "nr_immediate",
    "nr_activate_anon",
    "nr_activate_file",
    "nr_ref_keep",
    "nr_unmap_fail",
    "priority",
)

_ULONG_MAX = (1 << 64) - 1
#: vmemmap_base of x86-64 without randomization, and bytes of a struct page.
_VMEMMAP = 0xFFFF_EA00_0000_0000
_STRUCT_PAGE = 64


@dataclass(frozen=True, slots=True)
class EmittedEvents:
    """Events of one node as columns, in the order in which they happened."""

    nid: int
    #: Index in :data:`TRACEPOINTS`.
    kind: npt.NDArray[np.uint8]
    #: Virtual ns since the node booted; never goes back.
    time_ns: I64
    cpu: I64
    pid: I64
    #: Index in `comms`, the names of tasks; the value `name` of kmem_cache_free is one, too.
    comm: I64
    #: Zone index; -1 for events that concern no zone.
    zone: I64
    #: Order; -1 for events that have none.
    order: I64
    #: Fields of all events, one event after the other; an event has as many as its tracepoint.
    values: I64
    comms: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def first_value(self) -> I64:
        """Index in `values` of each event's first field."""
        return np.concatenate([[0], np.cumsum(NR_FIELDS[self.kind])[:-1]]) if len(self) else NO_VALUES

    def __iter__(self) -> Iterator[Event]:
        values = self.values.tolist()
        columns = (
            self.kind.tolist(),
            self.time_ns.tolist(),
            self.cpu.tolist(),
            self.pid.tolist(),
            self.comm.tolist(),
            self.zone.tolist(),
            self.first_value.tolist(),
        )
        lengths = NR_FIELDS.tolist()
        for kind, time_ns, cpu, pid, comm, zone, at in zip(*columns, strict=True):
            mine = values[at : at + lengths[kind]]
            cache = self.comms[mine[-1]] if kind == tp.KMEM_CACHE_FREE else ""
            yield Event(self.nid, kind, time_ns, cpu, pid, self.comms[comm], zone, mine, cache)


NO_VALUES: I64 = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of an EmittedEvents."""

    nid: int
    kind: int
    time_ns: int
    cpu: int
    pid: int
    comm: str
    zone: int
    values: list[int]
    #: Name of the slab cache, of kmem_cache_free.
    cache: str = ""

    @property
    def name(self) -> str:
        """Name of its tracepoint."""
        return NAMES[self.kind]

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields by name: numbers, but for the name of a slab cache. An address has 64 bits."""
        fields: dict[str, Any] = dict(zip(TRACEPOINTS[self.kind][2], self.values, strict=True))
        if "ptr" in fields:
            fields["ptr"] &= _ULONG_MAX
        return fields | ({"name": self.cache} if self.cache else {})


def matching(globs: Iterable[str]) -> tuple[int, ...]:
    """Kinds of the tracepoints whose name, or system:name, matches one of the patterns.

    Without patterns these are all kinds. ValueError if a pattern matches no tracepoint.
    """
    wanted: set[int] = set()
    patterns = tuple(globs)
    for glob in patterns:
        found = {
            kind
            for kind, (system, name, _) in enumerate(TRACEPOINTS)
            if fnmatchcase(name, glob) or fnmatchcase(f"{system}:{name}", glob)
        }
        if not found:
            raise ValueError(f"no event is called {glob!r}: there are {', '.join(NAMES)}")
        wanted |= found
    return tuple(sorted(wanted)) if patterns else tuple(range(len(TRACEPOINTS)))


# text


@lru_cache(maxsize=1024)
def show_gfp_flags(gfp: int) -> str:
    """The text of gfp flags as ``__print_flags`` makes it.

    Composite flags come first, those with most bits before others, then single bits, then unknown bits.
    """
    if not gfp:
        return "none"
    words = []
    for name, mask in sorted(GFP_MASKS.items(), key=lambda item: -int(item[1]).bit_count()):
        if gfp & int(mask) == int(mask):
            words.append(name)
            gfp &= ~int(mask)
    for flag in Gfp:
        if gfp & flag:
            words.append(f"__GFP_{flag.name}")
            gfp &= ~int(flag)
    if gfp:
        words.append(f"{gfp:#x}")
    return "|".join(words)


@lru_cache(maxsize=16)
def show_reclaim_flags(flags: int) -> str:
    """The text of reclaim flags, as the kernel's macro of this name prints them."""
    named = (
        (RECLAIM_WB_ANON, "RECLAIM_WB_ANON"),
        (RECLAIM_WB_FILE, "RECLAIM_WB_FILE"),
        (RECLAIM_WB_ASYNC, "RECLAIM_WB_ASYNC"),
    )
    return "|".join(name for bit, name in named if flags & bit) or "RECLAIM_WB_NONE"


class Printer:
    """Prints events in the formats of one kernel."""

    def __init__(self, profile: str = DEFAULT_PROFILE) -> None:
        """`profile` is the name of the emulated kernel's profile."""
        self._kernel = profile_named(profile)
        self._fields: tuple[Callable[..., str], ...] = (
            self._alloc,
            lambda page, pfn, order: f"page={page(pfn)} pfn={pfn:#x} order={order}",
            lambda page, pfn: f"page={page(pfn)} pfn={pfn:#x} order=0",
            lambda page, pfn, order, mt, refill: (
                f"page={page(pfn)} pfn={pfn:#x} order={order} migratetype={mt} percpu_refill={refill}"
            ),
            lambda page, pfn, order, mt: f"page={page(pfn)} pfn={pfn:#x} order={order} migratetype={mt}",
            self._extfrag,
            lambda page, nid, zid, order: f"nid={nid} order={order}",
            lambda page, nid: f"nid={nid}",
            lambda page, nid, zid, order, gfp: f"nid={nid} order={order} gfp_flags={show_gfp_flags(gfp)}",
            lambda page, order, gfp: f"order={order} gfp_flags={show_gfp_flags(gfp)}",
            lambda page, reclaimed: f"nr_reclaimed={reclaimed}",
            self._isolate,
            self._shrink_inactive,
            self._shrink_active,
            lambda page, pfn, flags: f"page={page(pfn)} pfn={pfn:#x} flags={show_reclaim_flags(flags)}",
            self._migrate,
            self._object,
            self._object_of_node,
            lambda page, site, ptr: f"call_site={site:#x} ptr={pointer(ptr & _ULONG_MAX)}",
            self._object,
            self._object_of_node,
            lambda page, site, ptr, name: f"call_site={site:#x} ptr={pointer(ptr & _ULONG_MAX)}",
        )

    def _text(self, page: Callable[[int], str], event: Event) -> str:
        named = f" name={event.cache}" if event.cache and self._kernel.traces_slab_name else ""
        return self._fields[event.kind](page, *event.values) + named

    def trace_line(self, event: Event) -> str:
        """An event as a line of ``trace_pipe``, without its newline; the time is in µs, as the kernel's."""
        us = event.time_ns // 1000
        return (
            f"{event.comm[:15]:>16}-{event.pid:<7} [{event.cpu:03}] ..... {us // 1_000_000:>5}."
            f"{us % 1_000_000:06}: {event.name}: {self._text(_struct_page, event)}"
        )

    def perf_line(self, event: Event) -> str:
        """An event as a line of ``perf script --ns``, without its newline."""
        system, name, _ = TRACEPOINTS[event.kind]
        return (
            f"{event.comm[:15]:>16} {event.pid:>7} [{event.cpu:03}] {event.time_ns // 10**9:>5}."
            f"{event.time_ns % 10**9:09}: {system}:{name}: {self._text(hex, event)}"
        )

    def json_line(self, event: Event) -> str:
        """An event as a JSON object on one line, without its newline; fields are numbers."""
        return json.dumps(
            {
                "time_ns": event.time_ns,
                "node": event.nid,
                "cpu": event.cpu,
                "pid": event.pid,
                "comm": event.comm,
                "zone": event.zone if event.zone >= 0 else None,
                "event": event.name,
                **event.fields,
            }
        )

    @staticmethod
    def _alloc(page: Callable[[int], str], pfn: int, order: int, gfp: int, mt: int) -> str:
        flags = show_gfp_flags(gfp)
        return f"page={page(pfn)} pfn={pfn:#x} order={order} migratetype={mt} gfp_flags={flags}"

    @staticmethod
    def _extfrag(
        page: Callable[[int], str], pfn: int, order: int, fallback: int, mt: int, fallback_mt: int, owned: int
    ) -> str:
        return (
            f"page={page(pfn)} pfn={pfn:#x} alloc_order={order} fallback_order={fallback} "
            f"pageblock_order={PAGEBLOCK_ORDER} alloc_migratetype={mt} fallback_migratetype={fallback_mt} "
            f"fragmenting={int(fallback < PAGEBLOCK_ORDER)} change_ownership={owned}"
        )

    def _object(
        self, _: Any, site: int, ptr: int, asked: int, took: int, gfp: int, node: int, accounted: int
    ) -> str:
        text = (
            f"call_site={site:#x} ptr={pointer(ptr & _ULONG_MAX)} bytes_req={asked} bytes_alloc={took} "
            f"gfp_flags={show_gfp_flags(gfp)}"
        )
        if self._kernel.traces_kmem_node:
            return text
        return f"{text} node={node} accounted={'true' if accounted else 'false'}"

    def _object_of_node(
        self, page: Any, site: int, ptr: int, asked: int, took: int, gfp: int, node: int, accounted: int
    ) -> str:
        text = self._object(page, site, ptr, asked, took, gfp, node, accounted)
        return f"{text} node={node}" if self._kernel.traces_kmem_node else text

    def _isolate(
        self, _: Any, zone: int, order: int, requested: int, scanned: int, skipped: int, taken: int, lru: int
    ) -> str:
        mode = "isolate_mode=0 " if self._kernel.traces_isolate_mode else ""
        return (
            f"{mode}classzone={zone} order={order} nr_requested={requested} nr_scanned={scanned} "
            f"nr_skipped={skipped} nr_taken={taken} lru={LRU_NAMES[lru]}"
        )

    @staticmethod
    def _shrink_inactive(_: Any, nid: int, *values: int) -> str:
        counts = " ".join(
            f"{name}={value}" for name, value in zip(_SHRINK_INACTIVE, values[:-1], strict=True)
        )
        return f"nid={nid} {counts} flags={show_reclaim_flags(values[-1])}"

    @staticmethod
    def _shrink_active(
        _: Any, nid: int, taken: int, active: int, off: int, referenced: int, priority: int, flags: int
    ) -> str:
        return (
            f"nid={nid} nr_taken={taken} nr_active={active} nr_deactivated={off} nr_referenced={referenced} "
            f"priority={priority} flags={show_reclaim_flags(flags)}"
        )

    def _migrate(
        self,
        _: Any,
        succeeded: int,
        failed: int,
        thp_succeeded: int,
        thp_failed: int,
        thp_split: int,
        split: int,
        mode: int,
        reason: int,
    ) -> str:
        more = f"nr_split={split} " if self._kernel.traces_nr_split else ""
        return (
            f"nr_succeeded={succeeded} nr_failed={failed} nr_thp_succeeded={thp_succeeded} "
            f"nr_thp_failed={thp_failed} nr_thp_split={thp_split} {more}mode={MIGRATE_MODES[mode]} "
            f"reason={MIGRATE_REASONS[reason]}"
        )


def _struct_page(pfn: int) -> str:
    """The address of a page's struct page, as %p prints it; 0 for pfn 0."""
    return f"{_VMEMMAP + pfn * _STRUCT_PAGE if pfn else 0:016x}"


def trace_header(nr_cpus: int) -> str:
    """The comment lines at the top of ``trace``. The counts in it are 0: they are not known beforehand."""
    return (
        "# tracer: nop\n#\n"
        f"# entries-in-buffer/entries-written: 0/0   #P:{nr_cpus}\n#\n"
        "#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n"
        "#              | |         |   |||||     |         |\n"
    )


def lost_line(cpu: int, events: int) -> str:
    """The line that the kernel prints where `events` events of a CPU are missing."""
    return f"CPU:{cpu} [LOST {events} EVENTS]"


# Chrome trace JSON, which Perfetto opens

#: Thread ids of the tracks that are not those of a CPU.
_KSWAPD_TID = 1_000_000
_NODE_TID = 1_000_001
#: Page events between two samples of the counter "pages held".
_COUNTER_EVERY = 64


class ChromeTrace:
    """Makes the entries of ``traceEvents``: a process a node, with tracks for it, its kswapd and its CPUs."""

    #: A file is BEGIN, the pieces of all events, and END; Perfetto also opens a file without the end.
    BEGIN = '{"displayTimeUnit": "ns", "traceEvents": [\n'
    END = "\n]}\n"

    def __init__(self) -> None:
        self._any = False
        self._tracks: set[tuple[int, int]] = set()
        self._open: set[tuple[int, int]] = set()
        self._held: dict[int, int] = {}
        self._counted: dict[int, int] = {}

    def entries(self, event: Event) -> Iterator[dict[str, Any]]:
        """The entries of an event: names of new tracks, the event itself, and at times its node's counter."""
        track, name = self._track(event)
        if (event.nid, track) not in self._tracks:
            if not any(nid == event.nid for nid, _ in self._tracks):
                yield _named("process_name", event.nid, 0, f"node {event.nid}")
            self._tracks.add((event.nid, track))
            yield _named("thread_name", event.nid, track, name)
        base = {"pid": event.nid, "tid": track, "ts": event.time_ns / 1000}
        args = event.fields | {"comm": event.comm, "task": event.pid, "zone": event.zone}
        span = _SPANS.get(event.kind)
        if span is None:
            yield base | {
                "name": event.name,
                "cat": TRACEPOINTS[event.kind][0],
                "ph": "i",
                "s": "t",
                "args": args,
            }
        else:
            name, begins = span
            if begins != ((event.nid, track) in self._open):
                # an end without a beginning began before the trace; two beginnings are one span
                self._open ^= {(event.nid, track)}
                yield base | {"name": name, "cat": "vmscan", "ph": "B" if begins else "E", "args": args}
        yield from self._counter(event)

    def _track(self, event: Event) -> tuple[int, str]:
        if event.comm.startswith("kswapd"):
            return _KSWAPD_TID, event.comm
        if event.kind in _OF_THE_NODE:
            return _NODE_TID, f"node {event.nid}"
        return event.cpu, f"CPU {event.cpu}"

    def _counter(self, event: Event) -> Iterator[dict[str, Any]]:
        """The sample of "pages held" if one is due: pages allocated less freed since the trace began."""
        if event.kind not in (tp.MM_PAGE_ALLOC, tp.MM_PAGE_FREE) or not event.values[0]:
            return
        pages = 1 << event.values[1]
        nid = event.nid
        self._held[nid] = self._held.get(nid, 0) + (pages if event.kind == tp.MM_PAGE_ALLOC else -pages)
        self._counted[nid] = self._counted.get(nid, -1) + 1
        if self._counted[nid] % _COUNTER_EVERY == 0:
            yield {
                "name": "pages held",
                "ph": "C",
                "pid": nid,
                "ts": event.time_ns / 1000,
                "args": {"pages": self._held[nid]},
            }

    def piece(self, event: Event) -> str:
        """The text of an event in the file, behind :data:`BEGIN` and the pieces of earlier events."""
        text = ""
        for entry in self.entries(event):
            text += (",\n" if self._any else "") + json.dumps(entry)
            self._any = True
        return text


_SPANS = {
    tp.MM_VMSCAN_KSWAPD_WAKE: ("kswapd", True),
    tp.MM_VMSCAN_KSWAPD_SLEEP: ("kswapd", False),
    tp.MM_VMSCAN_DIRECT_RECLAIM_BEGIN: ("direct reclaim", True),
    tp.MM_VMSCAN_DIRECT_RECLAIM_END: ("direct reclaim", False),
}
_OF_THE_NODE = frozenset({tp.MM_PAGE_ALLOC_EXTFRAG, tp.MM_VMSCAN_WAKEUP_KSWAPD, tp.MM_MIGRATE_PAGES})


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
