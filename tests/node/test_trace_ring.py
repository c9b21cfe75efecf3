"""The events that a node emits agree with what it did."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from node.asking import THISNODE, Asking, bind

from numa_service.machine.source import load
from numa_service.mm import tracepoints as tp
from numa_service.mm.gfp import parse_gfp
from numa_service.mm.page_alloc import LRU_KIND_ANON
from numa_service.node import ops
from numa_service.node.errors import Busy, InvalidRequest
from numa_service.node.free_pages import free_pages
from numa_service.node.kmem import kmalloc, kmem_cache_alloc, kmem_cache_free
from numa_service.node.memory_hotplug import memory_blocks
from numa_service.node.node import Node
from numa_service.node.region import map_region, touch_region, unmap_region
from numa_service.node.trace_ring import MAX_TAKE, EventFilter, Listener
from numa_service.node.unserved import AllocFailed
from numa_service.sim.simulation import Simulation
from numa_service.trace.slab_events import read_slab_events
from numa_service.trace.tracepoint_formats import EmittedEvents, Event, Printer

RING = 1 << 19


def parts(listener: Listener) -> Iterator[EmittedEvents]:
    while listener.waiting:
        yield listener.take()


def events(listener: Listener) -> list[Event]:
    return [event for part in parts(listener) for event in part]


def counts(listener: Listener) -> Counter[str]:
    return Counter(event.name for event in events(listener))


def listen(node: Node) -> Listener:
    return node.tracepoints.listen(ring_events=RING)


def test_each_page_that_is_taken_and_given_back_is_told() -> None:
    asking = Asking()
    listener = listen(asking.home)
    before = asking.home.pgdat.snapshot().vm_event
    taken = asking.take(200, order=1)
    given = [int(pfn) for _, pfns in taken.pages for pfn in np.frombuffer(pfns, "<u8")]
    asking.sim.call(0, free_pages(asking.home, asking.session, 1, taken.pages, 0))
    told = events(listener)
    allocated = [e.fields for e in told if e.kind == tp.MM_PAGE_ALLOC]
    assert [fields["pfn"] for fields in allocated] == given
    assert {(f["order"], f["gfp_flags"], f["migratetype"]) for f in allocated} == {
        (1, parse_gfp("GFP_KERNEL"), 0)
    }
    assert [e.fields["pfn"] for e in told if e.kind == tp.MM_PAGE_FREE] == given
    after = asking.home.pgdat.snapshot().vm_event
    assert after["pgfree"] - before["pgfree"] == 400
    # blocks that left the free lists were allocated, are on the pageset, or went back
    locked = [e.fields["pfn"] for e in told if e.kind == tp.MM_PAGE_ALLOC_ZONE_LOCKED]
    assert set(given) <= set(locked)
    assert len(set(locked)) == len(locked)
    drained = sum(e.kind == tp.MM_PAGE_PCPU_DRAIN for e in told)
    assert 2 * (len(locked) - drained) == asking.home.pgdat.pg.pcp_count.sum()
    assert {(e.comm, e.pid, e.cpu) for e in told} == {("node0", asking.session, 0)}
    assert all(e.zone >= 0 for e in told)


def test_a_refill_comes_before_the_page_that_it_was_for() -> None:
    asking = Asking()
    listener = listen(asking.home)
    asking.take(1)
    names = [event.name for event in events(listener)]
    assert names[-1] == "mm_page_alloc"
    assert Counter(names[:-1]) == {"mm_page_alloc_extfrag": 1, "mm_page_alloc_zone_locked": len(names) - 2}
    assert names[0] == "mm_page_alloc_extfrag"


def test_listening_changes_nothing() -> None:
    def run(listening: bool) -> list[str]:
        asking = Asking()
        listeners = [listen(node) for node in asking.sim.nodes.values()] if listening else []
        asking.read_file(60_000, bind(0))
        asking.take(4000, gfp=THISNODE)
        asking.run()
        for listener in listeners:
            assert listener.waiting or listener.dropped == 0
        return [node.digest() for node in asking.sim.nodes.values()]

    assert run(False) == run(True)


def test_reclaim_is_told_as_it_counts_itself() -> None:
    asking = Asking()
    listener = listen(asking.home)
    asking.read_file(60_000, bind(0))
    asking.take(4000, gfp=THISNODE)
    asking.run()
    told = events(listener)
    assert listener.dropped == 0
    event = asking.home.pgdat.snapshot().vm_event
    shrunk = [e.fields for e in told if e.kind == tp.MM_VMSCAN_LRU_SHRINK_INACTIVE]
    assert (
        sum(fields["nr_scanned"] for fields in shrunk) == event["pgscan_kswapd"] + event["pgscan_direct"] > 0
    )
    assert (
        sum(fields["nr_reclaimed"] for fields in shrunk) == event["pgsteal_kswapd"] + event["pgsteal_direct"]
    )
    for comm, counter in (("kswapd0", "pgscan_kswapd"), ("node0", "pgscan_direct")):
        by = [e for e in told if e.kind == tp.MM_VMSCAN_LRU_SHRINK_INACTIVE and e.comm == comm]
        assert sum(e.fields["nr_scanned"] for e in by) == event[counter] > 0
    isolated = [e.fields for e in told if e.kind == tp.MM_VMSCAN_LRU_ISOLATE]
    active = [e.fields for e in told if e.kind == tp.MM_VMSCAN_LRU_SHRINK_ACTIVE]
    assert len(isolated) == len(shrunk) + len(active)
    assert sum(fields["nr_taken"] for fields in isolated) == sum(
        fields["nr_scanned"] for fields in shrunk
    ) + sum(fields["nr_taken"] for fields in active)
    # reclaimed pages are freed as a list, and emit mm_page_free_batched
    batched = [e.fields["pfn"] for e in told if e.kind == tp.MM_PAGE_FREE_BATCHED]
    assert len(batched) == sum(fields["nr_reclaimed"] for fields in shrunk)
    names = [e.name for e in told if "kswapd" in e.name]
    assert names[0] == "mm_vmscan_wakeup_kswapd"
    assert names.count("mm_vmscan_kswapd_wake") >= names.count("mm_vmscan_kswapd_sleep") > 0
    woken = next(e for e in told if e.kind == tp.MM_VMSCAN_WAKEUP_KSWAPD)
    assert woken.fields["gfp_flags"] & parse_gfp("GFP_KERNEL") == parse_gfp("GFP_KERNEL")
    assert all(a.time_ns <= b.time_ns for a, b in pairwise(told))


def test_direct_reclaim_and_writing_to_swap() -> None:
    asking = Asking()
    home = asking.home
    region = map_region(home, asking.session, LRU_KIND_ANON, 60_000, bind(0))
    listener = listen(home)
    asking.sim.call(0, touch_region(home, asking.session, region, 0, 60_000, True, 0))
    told = events(listener)
    event = home.pgdat.snapshot().vm_event
    written = [e for e in told if e.kind == tp.MM_VMSCAN_WRITE_FOLIO]
    assert len(written) == event["pswpout"] > 0
    assert "flags=RECLAIM_WB_ANON|RECLAIM_WB_ASYNC" in Printer().trace_line(written[0])
    begun = [e for e in told if e.kind == tp.MM_VMSCAN_DIRECT_RECLAIM_BEGIN]
    ended = [e.fields["nr_reclaimed"] for e in told if e.kind == tp.MM_VMSCAN_DIRECT_RECLAIM_END]
    assert len(begun) == len(ended) > 0
    assert sum(ended) == event["pgsteal_direct"]
    direct = [e for e in told if e.kind == tp.MM_VMSCAN_LRU_SHRINK_INACTIVE and e.comm == "node0"]
    assert sum(e.fields["nr_scanned"] for e in direct) == event["pgscan_direct"]


def test_a_failed_allocation_is_told_once_without_a_page() -> None:
    asking = Asking()
    listener = asking.home.tracepoints.listen(EventFilter(kinds=(tp.MM_PAGE_ALLOC,)), ring_events=RING)
    with pytest.raises(AllocFailed):
        asking.take(60_000, gfp=f"{THISNODE}|__GFP_NORETRY")
    told = events(listener)
    assert [e.fields["pfn"] == 0 for e in told] == [False] * (len(told) - 1) + [True]
    assert told[-1].zone == -1
    assert told[-1].fields["gfp_flags"] == parse_gfp(f"{THISNODE}|__GFP_NORETRY")


def test_pages_of_another_node_are_told_there_under_their_owners_name() -> None:
    asking = Asking()
    there = listen(asking.sim.nodes[2])
    taken = asking.take(10, policy=bind(2), gfp="GFP_KERNEL|__GFP_ZERO")
    asking.sim.call(0, free_pages(asking.home, asking.session, 0, taken.pages, 0))
    told = [e for e in events(there) if e.kind in (tp.MM_PAGE_ALLOC, tp.MM_PAGE_FREE)]
    assert Counter(e.name for e in told) == {"mm_page_alloc": 10, "mm_page_free": 10}
    assert {(e.nid, e.comm, e.pid, e.cpu) for e in told} == {(2, "node0", asking.session, 0)}
    assert told[0].fields["gfp_flags"] == parse_gfp("GFP_KERNEL|__GFP_ZERO")


def test_unmapped_pages_are_freed_by_lists() -> None:
    asking = Asking()
    home = asking.home
    region = map_region(home, asking.session, LRU_KIND_ANON, 100, bind(0))
    asking.sim.call(0, touch_region(home, asking.session, region, 0, 100, True, 0))
    listener = listen(home)
    asking.sim.call(0, unmap_region(home, asking.session, region))
    told = [e for e in events(listener) if e.kind != tp.MM_PAGE_PCPU_DRAIN]
    assert [e.name for e in told] == ["mm_page_free", "mm_page_free_batched"] * 100
    assert [e.fields["pfn"] for e in told[::2]] == [e.fields["pfn"] for e in told[1::2]]


def test_moved_pages_are_counted_with_their_reason() -> None:
    asking = Asking()
    asking.read_file(100_000, bind(2))
    node = asking.sim.nodes[2]
    listener = node.tracepoints.listen(EventFilter(kinds=(tp.MM_MIGRATE_PAGES,)), ring_events=RING)
    before = node.pgdat.snapshot().vm_event["pgmigrate_success"]
    for block in memory_blocks(node):
        with contextlib.suppress(InvalidRequest, Busy):
            asking.sim.change_memory_block(block, "offline")
    moved = node.pgdat.snapshot().vm_event["pgmigrate_success"] - before
    told = events(listener)
    assert sum(event.fields["succeeded"] for event in told) == moved > 0
    assert {Printer().trace_line(event).split(" mode=")[1] for event in told} == {
        "MIGRATE_SYNC reason=memory_hotplug"
    }


def test_filters() -> None:
    asking = Asking()
    node = asking.home
    dma32 = node.pgdat.zone_names.index("DMA32")
    every = listen(node)
    some = node.tracepoints.listen(EventFilter((tp.MM_PAGE_ALLOC,), (dma32,), (3,)))
    asking.take(5, order=3)
    asking.take(5, order=0)
    asking.take(5, order=3, gfp="GFP_DMA|GFP_KERNEL")
    wanted = [
        e for e in events(every) if e.kind == tp.MM_PAGE_ALLOC and e.zone == dma32 and e.fields["order"] == 3
    ]
    assert events(some) == wanted
    assert len(wanted) == 5


def test_a_slow_listener_misses_events_and_is_told_how_many() -> None:
    asking = Asking()
    node = asking.home
    slow = node.tracepoints.listen(ring_events=1 << 12)
    quick = node.tracepoints.listen()
    seen = 0
    for _ in range(40):
        taken = asking.take(200)
        asking.sim.call(0, free_pages(node, asking.session, 0, taken.pages, 0))
        seen += len(events(quick))
    late = events(slow)
    assert quick.dropped == 0
    assert len(late) == 1 << 12
    assert slow.dropped == seen - len(late) > 0
    assert slow.waiting == 0


def test_what_is_overwritten_while_it_is_read_is_counted_too() -> None:
    asking = Asking()
    listener = asking.home.tracepoints.listen(ring_events=1 << 12)
    asking.take(3000)
    first = len(listener.take())
    assert first == MAX_TAKE
    written = listener.waiting + first
    taken = asking.take(3000)
    assert len(taken.pages)
    rest = len(events(listener))
    assert first + rest + listener.dropped > written
    assert rest == 1 << 12


def test_nothing_is_recorded_once_nobody_listens() -> None:
    asking = Asking()
    node = asking.home
    one, other = node.tracepoints.listen(), node.tracepoints.listen()
    one.close()
    one.close()
    asking.take(10)
    assert counts(other)["mm_page_alloc"] == 10
    other.close()
    assert node.tracepoints.tracer is None
    assert node.pgdat.pg.trace.size == 0
    written = node.pgdat.pg.trace_ctl.copy()
    asking.take(10)
    assert (node.pgdat.pg.trace_ctl == written).all()
    again = listen(node)
    asking.take(10)
    assert counts(again)["mm_page_alloc"] == 10


def test_the_same_ops_give_the_same_events() -> None:
    def told() -> list[bytes]:
        asking = Asking()
        listener = listen(asking.home)
        asking.read_file(60_000, bind(0))
        asking.home.apply(ops.VmstatTick())
        columns = ("kind", "time_ns", "cpu", "pid", "comm", "zone", "order", "values")
        return [getattr(part, name).tobytes() for part in parts(listener) for name in columns]

    first = told()
    assert len(first) > 100
    assert first == told()


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-3.0"])
def test_objects_of_slab_caches_are_told(profile: str) -> None:
    machine = Simulation(load("two-socket").with_profile(profile))
    node = machine.nodes[0]
    session = node.apply(ops.OpenSession("driver", ops.FOREVER_NS, 0))
    gfp = parse_gfp("GFP_KERNEL_ACCOUNT")
    machine.call(0, kmalloc(node, session, 60, gfp, 1, 0))
    listener = listen(node)
    got = machine.call(0, kmalloc(node, session, 50, gfp, 3, 0))
    far = machine.call(0, kmem_cache_alloc(node, session, "kmalloc-96", gfp, 2, 0, nid=1))
    machine.call(0, kmem_cache_free(node, session, "kmalloc-96", far, 0))
    machine.call(0, kmem_cache_free(node, session, "", got, 0))
    told = [event for event in events(listener) if event.kind >= tp.KMALLOC]
    merged = profile == "linux-6.1"
    of_node = "kmem_cache_alloc" if merged else "kmem_cache_alloc_node"
    names = ["kmalloc"] * 3 + [of_node] * 2 + ["kmem_cache_free"] * 2 + ["kfree"] * 3
    assert [event.name for event in told] == names
    assert [event.fields["ptr"] for event in told[:5]] == [*got, *far]
    assert {event.fields["ptr"] for event in told[5:]} == {*got, *far}
    (size,) = {event.fields["bytes_alloc"] for event in told[:3]}
    assert told[0].fields | {"ptr": 0} == {
        "call_site": 0,
        "ptr": 0,
        "bytes_req": 50,
        "bytes_alloc": size,
        "gfp_flags": gfp,
        "node": -1,
        "accounted": 1,
    }
    assert size == 64
    assert [told[3].fields[name] for name in ("bytes_req", "bytes_alloc", "node")] == [96, 96, 1]
    assert {event.fields["name"] for event in told if event.name == "kmem_cache_free"} == {"kmalloc-96"}
    assert {event.comm for event in told} == {"node0"}
    assert {event.pid for event in told} == {session}
    line = Printer(profile).trace_line(told[5])
    assert line.endswith(" name=kmalloc-96") == merged
    listener.close()


def test_an_emitted_trace_of_objects_is_read_back(tmp_path: Path) -> None:
    machine = Simulation(load("two-socket"))
    node = machine.nodes[0]
    session = node.apply(ops.OpenSession("driver", ops.FOREVER_NS, 0))
    listener = listen(node)
    got = machine.call(0, kmem_cache_alloc(node, session, "filp", 0xCC0, 5, 0))
    machine.call(0, kmem_cache_free(node, session, "filp", got, 0))
    trace = tmp_path / "emitted.trace"
    trace.write_text("".join(f"{Printer().trace_line(event)}\n" for event in events(listener)))
    read = read_slab_events(trace)
    assert [(event.alloc, event.cache) for event in read] == [(True, "filp")] * 5 + [(False, "filp")] * 5
    assert [event.address for event in read if event.alloc] == got
