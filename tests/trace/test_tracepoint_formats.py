"""Emitted events as text: captured kernels print them so, and our own parser reads them."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest

from numa_service.mm import tracepoints as tp
from numa_service.trace.events import EventKind
from numa_service.trace.ftrace import TextParser
from numa_service.trace.tracepoint_formats import (
    NAMES,
    NR_FIELDS,
    ChromeTrace,
    Event,
    Printer,
    matching,
    show_gfp_flags,
    trace_header,
)

#: One event of each tracepoint, by kind.
VALUES = (
    (0x143BEC, 1, 0x400DC0, 0),
    (0x10382C, 1),
    (0x1027C9,),
    (0x1441AF, 0, 1, 1),
    (0x1411C1, 0, 0),
    (0x14C800, 0, 10, 0, 1, 1),
    (1, 2, 0),
    (3,),
    (1, 2, 0, 0x1140DCA & ~0x1000000),
    (0, 0xCC0),
    (1,),
    (2, 0, 32, 32, 0, 32, 2),
    (0, 32, 30, 1, 0, 0, 0, 2, 0, 1, 0, 12, 9),
    (0, 32, 0, 32, 0, 12, 10),
    (0x1000, 9),
    (10, 2, 0, 0, 0, 0, 2, 2),
    (0, 0xFFFF8880201A2560 - (1 << 64), 32, 32, 0x400CC0, -1, 1),
    (0, 0xFFFF8880201A2560 - (1 << 64), 32, 32, 0x400CC0, 1, 1),
    (0, 0xFFFF8880058CE000 - (1 << 64)),
    (0, 0xFFFF88803FF56900 - (1 << 64), 24, 24, 0xDC0, -1, 0),
    (0, 0xFFFF88803FF56900 - (1 << 64), 24, 24, 0xDC0, 1, 0),
    (0, 0xFFFF88803FE02300 - (1 << 64), 0),
)

#: The same events as 6.1 printed them (captured: all of kmem, wakeup and wake of vmscan), the page's address
#: and the code that called aside.
CAPTURED = """\
            init-1       [002] .....    30.377340: mm_page_alloc: page=P pfn=0x143bec order=1 migratetype=0 gfp_flags=GFP_KERNEL_ACCOUNT|__GFP_ZERO
             tar-978     [000] .....    30.381919: mm_page_free: page=P pfn=0x10382c order=1
             tar-981     [000] .....    30.395465: mm_page_free_batched: page=P pfn=0x1027c9 order=0
            init-982     [002] .....    30.394930: mm_page_alloc_zone_locked: page=P pfn=0x1441af order=0 migratetype=1 percpu_refill=1
     kworker/1:2-115     [001] .....    31.807387: mm_page_pcpu_drain: page=P pfn=0x1411c1 order=0 migratetype=0
            sync-980     [002] .....    30.443432: mm_page_alloc_extfrag: page=P pfn=0x14c800 alloc_order=0 fallback_order=10 pageblock_order=9 alloc_migratetype=0 fallback_migratetype=1 fragmenting=0 change_ownership=1
         kswapd1-70      [001] .....    10.318553: mm_vmscan_kswapd_wake: nid=1 order=0
         kswapd3-72      [003] .....    10.902537: mm_vmscan_kswapd_sleep: nid=3
              gp-148     [003] .....    17.638948: kmalloc: call_site=0x0 ptr=ffff8880201a2560 bytes_req=32 bytes_alloc=32 gfp_flags=GFP_KERNEL_ACCOUNT node=-1 accounted=true
              gp-148     [003] .....    17.641036: kfree: call_site=0x0 ptr=ffff8880058ce000
              gp-148     [003] .....    17.638825: kmem_cache_alloc: call_site=0x0 ptr=ffff88803ff56900 bytes_req=24 bytes_alloc=24 gfp_flags=GFP_KERNEL|__GFP_ZERO node=-1 accounted=false
              gp-148     [003] .....    17.638252: kmem_cache_free: call_site=0x0 ptr=ffff88803fe02300 name=filp
""".splitlines()  # noqa: E501


def event(kind: int, comm: str = "node0", pid: int = 7, cpu: int = 0, time_ns: int = 1_234_567_891) -> Event:
    cache = "filp" if kind == tp.KMEM_CACHE_FREE else ""
    return Event(0, kind, time_ns, cpu, pid, comm, 1, list(VALUES[kind]), cache)


EVENTS = [event(kind) for kind in range(len(NAMES))]


def test_every_tracepoint_is_here() -> None:
    assert len(NAMES) == tp.NR_TRACEPOINTS == len(VALUES)
    assert [len(values) for values in VALUES] == NR_FIELDS.tolist()
    assert [kind.name.lower() for kind in EventKind][:-1] == list(NAMES[:6])


@pytest.mark.parametrize("line", CAPTURED, ids=lambda line: line.split()[3].rstrip(":"))
def test_lines_are_those_of_a_kernel(line: str) -> None:
    """The columns of a line are those of a captured one, those of the task and the time too."""
    found = re.match(r" *(.+)-(\d+) +\[(\d+)\] \.{5} +(\d+)\.(\d+): (\w+): ", line)
    assert found
    comm, pid, cpu, seconds, us, name = found.groups()
    one = event(NAMES.index(name), comm, int(pid), int(cpu), int(seconds) * 10**9 + int(us) * 1000)
    assert re.sub(r"page=[0-9a-f]{16} ", "page=P ", Printer().trace_line(one)) == line


def test_kernels_differ_where_they_differ() -> None:
    old, new = Printer("linux-6.1"), Printer("linux-6.12")
    differ = [e.name for e in EVENTS if old.trace_line(e) != new.trace_line(e)]
    assert differ == ["mm_vmscan_lru_isolate", "mm_migrate_pages"]
    isolate, migrate = (event(kind) for kind in (tp.MM_VMSCAN_LRU_ISOLATE, tp.MM_MIGRATE_PAGES))
    assert "isolate_mode=0 classzone=2" in old.trace_line(isolate)
    assert ": classzone=2 order=0 nr_requested=32" in new.trace_line(isolate)
    assert "nr_thp_split=0 mode=MIGRATE_SYNC reason=memory_hotplug" in old.trace_line(migrate)
    assert "nr_thp_split=0 nr_split=0 mode=MIGRATE_SYNC" in new.trace_line(migrate)


def test_objects_on_a_node_had_tracepoints_of_their_own() -> None:
    new, old = (
        {
            e.name: Printer(profile).trace_line(e).split("gfp_flags=")[-1].partition(" ")[2]
            for e in EVENTS[16:]
        }
        for profile in ("linux-6.12", "linux-3.0")
    )
    assert (new["kmalloc"], old["kmalloc"]) == ("node=-1 accounted=true", "")
    assert (new["kmalloc_node"], old["kmalloc_node"]) == ("node=1 accounted=true", "node=1")
    freed = [Printer(profile).trace_line(EVENTS[-1]) for profile in ("linux-6.12", "linux-3.0")]
    assert [line.endswith(" name=filp") for line in freed] == [True, False]


@pytest.mark.parametrize("dialect", ["trace_line", "perf_line"])
def test_both_dialects_are_read_back(dialect: str) -> None:
    line = getattr(Printer(), dialect)
    text = trace_header(4) + "".join(f"{line(e)}\n" for e in EVENTS)
    parser = TextParser(io.BytesIO(text.encode()), "emitted")
    [read] = parser.chunks()
    assert parser.counts.skipped == {}
    assert parser.counts.unknown_gfp == {}
    assert parser.counts.events == dict.fromkeys(NAMES, 1)
    assert parser.header.nr_cpus == 4
    assert read.kind.tolist() == [min(kind, int(EventKind.OTHER)) for kind in range(len(NAMES))]
    assert read.pfn[:6].tolist() == [e.fields["pfn"] for e in EVENTS[:6]]
    assert read.order[:6].tolist() == [1, 1, 0, 0, 0, 0]
    assert read.gfp[0] == VALUES[0][2]
    assert set(read.pid.tolist()) == {7}
    assert set(read.time_ns.tolist()) == {1_234_567_000 if dialect == "trace_line" else 1_234_567_891}


def test_a_failed_allocation_has_no_page() -> None:
    failed = Event(0, tp.MM_PAGE_ALLOC, 0, 0, 7, "node0", -1, [0, 3, 0xCC0, 0])
    assert "page=0000000000000000 pfn=0x0 order=3" in Printer().trace_line(failed)


def test_gfp_flags_as_the_kernel_names_them() -> None:
    assert show_gfp_flags(0) == "none"
    assert show_gfp_flags(0xCC0) == "GFP_KERNEL"
    assert show_gfp_flags(0xA20) == "GFP_ATOMIC"
    assert show_gfp_flags(0xCC0 | 0x100 | 1 << 40) == "GFP_KERNEL|__GFP_ZERO|0x10000000000"


def test_globs() -> None:
    assert matching([]) == tuple(range(len(NAMES)))
    assert [NAMES[kind] for kind in matching(["vmscan:*kswapd*", "mm_page_free"])] == [
        "mm_page_free",
        "mm_vmscan_kswapd_wake",
        "mm_vmscan_kswapd_sleep",
        "mm_vmscan_wakeup_kswapd",
    ]
    with pytest.raises(ValueError, match="no event is called 'mm_compaction"):
        matching(["mm_page_*", "mm_compaction_*"])


def test_json_lines_have_the_fields_of_the_format_file() -> None:
    lines = [json.loads(Printer().json_line(e)) for e in EVENTS]
    assert [line["event"] for line in lines] == list(NAMES)
    assert lines[0]["gfp_flags"] == 0x400DC0
    assert (lines[5]["fallback_order"], lines[5]["node"], lines[5]["cpu"], lines[5]["zone"]) == (10, 0, 0, 1)


def test_chrome_trace_has_a_track_for_the_node_its_kswapd_and_each_cpu() -> None:
    wake, sleep = tp.MM_VMSCAN_KSWAPD_WAKE, tp.MM_VMSCAN_KSWAPD_SLEEP
    begin, end = tp.MM_VMSCAN_DIRECT_RECLAIM_BEGIN, tp.MM_VMSCAN_DIRECT_RECLAIM_END
    happened = [
        event(end, time_ns=500),  # this reclaim began before the trace
        event(tp.MM_PAGE_ALLOC, cpu=3, time_ns=1000),
        event(tp.MM_PAGE_ALLOC_EXTFRAG, time_ns=1500),
        event(wake, "kswapd0", time_ns=2000),
        event(begin, cpu=3, time_ns=2100),
        event(tp.MM_VMSCAN_LRU_SHRINK_INACTIVE, "kswapd0", time_ns=2500),
        event(end, cpu=3, time_ns=2900),
        event(wake, "kswapd0", time_ns=2950),  # woken again before it slept
        event(sleep, "kswapd0", time_ns=3000),
    ]
    chrome = ChromeTrace()
    entries = json.loads(chrome.BEGIN + "".join(map(chrome.piece, happened)) + chrome.END)["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in entries if e["name"] == "thread_name"}
    assert sorted(tracks.values()) == ["CPU 0", "CPU 3", "kswapd0", "node 0"]
    assert [e["args"]["name"] for e in entries if e["name"] == "process_name"] == ["node 0"]
    spans = [(e["name"], e["ph"], tracks[e["tid"]], e["ts"]) for e in entries if e["ph"] in "BE"]
    assert spans == [
        ("kswapd", "B", "kswapd0", 2.0),
        ("direct reclaim", "B", "CPU 3", 2.1),
        ("direct reclaim", "E", "CPU 3", 2.9),
        ("kswapd", "E", "kswapd0", 3.0),
    ]
    instants = {e["name"]: tracks[e["tid"]] for e in entries if e["ph"] == "i"}
    assert instants == {
        "mm_page_alloc": "CPU 3",
        "mm_page_alloc_extfrag": "node 0",
        "mm_vmscan_lru_shrink_inactive": "kswapd0",
    }
    assert [e["args"] for e in entries if e["ph"] == "C"] == [{"pages": 2}]
    assert np.all(np.diff([e["ts"] for e in entries if "ts" in e]) >= 0)
