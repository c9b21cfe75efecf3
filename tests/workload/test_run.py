"""Programs on real nodes: what they do, what they count, and that they are deterministic."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from driven import EXPONENTIAL, Driven, churn, kinds_of
from numa_client import (
    Access,
    Distribution,
    Mix,
    ObjectMix,
    Phase,
    Policy,
    Program,
    ProgramLimits,
    ProgramProgress,
    ProgramRegion,
    ProgramResult,
    VmallocMix,
)
from numa_client._program import LifetimeUnit

from numa_service.machine.tlb import WALK_NS
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest, LimitExceeded, NotFound, Precondition
from numa_service.node.unserved import AllocFailed
from numa_service.node.vm_areas import areas_of
from numa_service.workload.run import run_program, to_next_progress
from numa_service.workload.tally import LatencyHistogram

FIXED = Distribution("fixed", mean=1e-4)


def pages(**fields: object) -> Program:
    """A program of one phase with one mix; `fields` are those of any of the three."""
    mix = {name: fields.pop(name) for name in list(fields) if name in Mix.__slots__}
    phase = {name: fields.pop(name) for name in list(fields) if name in Phase.__slots__}
    phases = (Phase(**{"events": 10_000, "mixes": (Mix(**mix),)} | phase),)  # type: ignore[arg-type]
    return Program(phases=phases, **fields)  # type: ignore[arg-type]


def test_the_same_program_does_the_same_again() -> None:
    first, second = Driven(), Driven()
    results = [driven.run(churn()) for driven in (first, second)]
    assert first.digests() == second.digests()
    assert first.progress == second.progress
    assert results[0] == results[1]
    first.check()
    assert first.held() == 0


def test_another_seed_does_something_else() -> None:
    first, second = Driven(), Driven()
    assert first.run(churn()).virtual_ns != second.run(churn(seed=8)).virtual_ns
    assert first.digests() != second.digests()


def test_the_clock_changes_nothing_but_real_times() -> None:
    ticks = iter(range(10**9))
    first, second = Driven(), Driven()
    timed = second.run(churn(), clock=lambda: next(ticks))
    assert timed.virtual_ns == first.run(churn()).virtual_ns
    assert timed.real_ns > 0
    assert first.digests() == second.digests()


def test_events_are_shared_out_exactly_and_nothing_is_lost() -> None:
    driven = Driven()
    result = driven.run(churn())
    (phase,) = result.phases
    assert [kind.events for kind in kinds_of(phase)] == [10_000, 3333, 3333, 3333]
    assert [kind.pages for kind in kinds_of(phase)] == [10_000, 8 * 3333, 3333, 3333]
    assert result.freed_pages == result.allocated_pages == 10_000 + 8 * 3333
    heap, file = kinds_of(phase)[2:]
    assert heap.hit_pages + heap.fault_pages == 3333
    assert heap.hit_pages > 1000, "popular pages come again"
    assert file.fault_pages == file.major_fault_pages == 3333
    assert all(0 < kind.latency.p50_ns <= kind.latency.max_ns for kind in kinds_of(phase))
    assert driven.progress[-1].live_pages == 0
    for progress in driven.progress:
        assert progress.allocated_pages == progress.freed_pages + progress.live_pages


def test_blocks_live_as_long_as_they_are_told() -> None:
    driven = Driven()
    driven.run(pages(events=100_000, rate=1e6, batch=100, lifetime=EXPONENTIAL))
    later = [p.live_pages for p in driven.progress if 10e6 < p.virtual_ns < 100e6]
    # Little's law: 1e6 a second × 1 ms, sampled over 90 independent lifetimes
    assert 900 < sum(later) / len(later) < 1100


def test_lifetimes_in_memory_hold_a_share_of_it() -> None:
    driven = Driven()
    managed = sum(extent.managed for extent in driven.node.pgdat.extents)
    lifetime = Distribution("fixed", mean=0.25, unit="memory")
    driven.run(pages(events=0, memory=1.0, batch=256, lifetime=lifetime))
    held = [p.live_pages for p in driven.progress if p.allocated_pages > managed / 2 and p.fraction < 1]
    assert all(abs(pages - managed / 4) <= 512 for pages in held)
    assert driven.progress[-1].allocated_pages == managed


@pytest.mark.parametrize("batch", [64, 1000, 16384])
def test_a_phase_ends_where_it_says(batch: int) -> None:
    seconds = Driven().run(pages(events=0, seconds=0.01, batch=batch, lifetime=FIXED))
    assert 0.01e9 <= seconds.virtual_ns < 0.013e9
    rated = Driven().run(pages(events=0, seconds=0.01, rate=1e6, batch=batch, lifetime=FIXED))
    assert kinds_of(rated.phases[0])[0].events == pytest.approx(10_000, rel=0.01)
    counted = Driven().run(pages(events=12_345, batch=batch, lifetime=FIXED))
    assert kinds_of(counted.phases[0])[0].events == 12_345


def test_think_time_passes() -> None:
    quick = Driven(unloaded=True).run(pages())
    slow = Driven(unloaded=True).run(pages(think=Distribution("fixed", mean=1e-6)))
    assert slow.virtual_ns - quick.virtual_ns == 10_000 * 1000


def test_who_thinks_queues_less() -> None:
    """Requests without a pause between them are load, and loaded memory is slower."""
    quick = Driven().run(pages())
    slow = Driven().run(pages(think=Distribution("fixed", mean=1e-6)))
    assert slow.virtual_ns - quick.virtual_ns < 10_000 * 1000


def test_policies_say_where() -> None:
    program = pages(policy=Policy.interleave(0, 1, 2), events=3000)
    (kind,) = kinds_of(Driven().run(program).phases[0])
    assert kind.placement == {0: 1000, 1: 1000, 2: 1000}
    assert kind.remote_lookups


def test_each_node_in_turn() -> None:
    phase = Phase(
        "stream",
        events=2000,
        each_node=True,
        mixes=(Mix(lifetime=FIXED),),
        accesses=(Access("a", pattern="sequential"),),
    )
    driven = Driven()
    result = driven.run(Program(phases=(phase,), regions=(ProgramRegion("a", kind="anon", pages=500),)))
    assert [phase.name for phase in result.phases] == ["stream, node 0", "stream, node 1", "stream, node 2"]
    for nid, done in enumerate(result.phases):
        assert [kind.placement for kind in kinds_of(done)] == [{nid: 1000}, {nid: 1000}]
    assert driven.node.sessions[driven.session].regions == set()
    assert driven.held() == 0
    driven.check()


def test_failures_are_counted() -> None:
    driven = Driven()
    program = pages(order=10, events=500, policy=Policy.bind(1))
    (kind,) = kinds_of(driven.run(program).phases[0])
    assert kind.failures + (kind.pages >> 10) == 500
    assert 400 < kind.failures < 500
    assert driven.held() == 0


def test_or_end_the_program() -> None:
    driven = Driven()
    program = pages(order=10, events=500, policy=Policy.bind(1), stop_on_failure=True)
    with pytest.raises(AllocFailed):
        driven.run(program)
    assert driven.held() == 0
    driven.check()


def test_an_access_that_finds_no_memory_is_a_failure() -> None:
    driven = Driven("uma")  # no swap
    size = 2 * sum(extent.managed for extent in driven.node.pgdat.extents)
    phase = Phase(events=size, batch=16384, accesses=(Access("a", pattern="sequential", write=1.0),))
    program = Program(phases=(phase,), regions=(ProgramRegion("a", kind="anon", pages=size),))
    result = driven.run(program)
    (kind,) = kinds_of(result.phases[0])
    assert kind.events == size
    assert kind.hit_pages + kind.fault_pages + kind.failures == size
    assert kind.failures > size // 3
    assert result.accessed_pages == size - kind.failures


def test_what_is_kept_is_the_sessions() -> None:
    driven = Driven()
    result = driven.run(pages(events=5000, keep=True))
    assert result.kept_pages == driven.held() == 5000
    driven.node.apply(ops.EndSession(driven.session))
    assert driven.held() == 0


def test_a_phase_may_release_what_was_held() -> None:
    hold = Phase(events=3000, mixes=(Mix(),))
    driven = Driven()
    result = driven.run(Program(phases=(replace(hold, release=True), replace(hold, events=1000)), keep=True))
    assert (result.freed_pages, result.kept_pages) == (3000, 1000)


# limits


def limited(**limits: float) -> Program:
    return churn(limits=ProgramLimits(**limits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("program", "limit"),
    [
        (pages(events=10**6, limits=ProgramLimits(max_live_pages=50_000)), "max_live_pages"),
        (pages(events=0, seconds=1.0, lifetime=FIXED, limits=ProgramLimits(max_events=50_000)), "max_events"),
        (
            pages(events=10**6, lifetime=FIXED, limits=ProgramLimits(max_virtual_seconds=0.01)),
            "max_virtual_seconds",
        ),
        (
            pages(
                events=10**6,
                lifetime=FIXED,
                rate=1e-6,
                batch=1,
                limits=ProgramLimits(max_virtual_seconds=1e6),
            ),
            "max_virtual_seconds",
        ),
    ],
)
def test_a_program_is_cut_at_its_limits(program: Program, limit: str) -> None:
    driven = Driven()
    with pytest.raises(LimitExceeded, match=limit):
        driven.run(program)
    assert driven.progress
    assert driven.held() == 0
    driven.check()


def test_a_think_time_beyond_all_limits_is_cut_at_once() -> None:
    driven = Driven()
    forever = Distribution("fixed", mean=1e6)
    with pytest.raises(LimitExceeded, match="max_virtual_seconds"):
        driven.run(pages(think=forever, lifetime=forever, batch=16384))
    assert driven.held() == 0


@pytest.mark.parametrize("alpha", [1 + 1e-12, 1e6])
def test_lifetimes_beyond_all_measure_are_lifetimes(alpha: float) -> None:
    driven = Driven()
    for unit in get_args(LifetimeUnit):
        longest = Distribution("pareto", mean=1e6, alpha=alpha, unit=unit)
        result = driven.run(pages(lifetime=longest))
        assert result.freed_pages == 10_000
    assert driven.held() == 0


def test_real_time_is_limited() -> None:
    ticks = iter(range(0, 10**12, 10**8))  # 0.1 s every time that somebody looks
    driven = Driven()
    with pytest.raises(LimitExceeded, match="max_real_seconds: more than 5 s"):
        driven.run(
            pages(events=10**7, lifetime=FIXED, limits=ProgramLimits(max_real_seconds=5)),
            clock=lambda: next(ticks),
        )
    assert driven.held() == 0


def test_a_program_that_never_gets_anything_ends() -> None:
    driven = Driven()
    driven.run(pages(order=10, events=500, policy=Policy.bind(1), keep=True))
    hopeless = pages(
        order=10,
        events=0,
        seconds=1e-3,
        policy=Policy.bind(1),
        gfp="GFP_NOWAIT",
    )
    (kind,) = kinds_of(driven.run(hopeless).phases[0])
    assert kind.failures == kind.events > 0


def test_it_can_be_cut_and_frees_everything() -> None:
    driven = Driven()
    with pytest.raises(Precondition, match="enough"):
        driven.run(churn(), cut=Precondition("enough"), after=7)
    assert 7 <= len(driven.progress) < 40
    assert driven.held() == 0
    assert driven.node.sessions[driven.session].regions == set()
    driven.check()


def test_a_session_that_ends_takes_its_program_along() -> None:
    driven = Driven()
    steps = run_program(driven.node, driven.session, 0, churn())
    for _ in range(5):
        assert isinstance(driven.machine.call(0, to_next_progress(steps)), ProgramProgress)
    driven.node.apply(ops.EndSession(driven.session))
    with pytest.raises(NotFound):
        driven.machine.call(0, to_next_progress(steps))
    assert driven.held() == 0
    driven.check()


def test_percentiles_of_the_histogram() -> None:
    histogram = LatencyHistogram()
    for value in range(1, 1001):
        histogram.record(value * 7, 7)
    assert histogram.mean_ns == 500.5
    for percent in (50, 90, 99, 100):
        exact = percent * 10
        assert exact * 15 / 16 <= histogram.percentile_ns(percent) <= exact
    assert LatencyHistogram().percentile_ns(50) == 0


def objects(*kinds: ObjectMix, **fields: object) -> Program:
    """A program of one phase with objects of slab caches; `fields` are the program's."""
    # `fields` are any of a Program's, by name
    return Program(phases=(Phase(events=20_000, objects=kinds),), **fields)  # type: ignore[arg-type]


def test_objects_come_from_slabs_and_go_when_they_are_due() -> None:
    driven = Driven()
    near = ObjectMix("near", cache="dentry", weight=3, lifetime=EXPONENTIAL)
    far = ObjectMix("far", size=1500, node=1, lifetime=FIXED)
    held = []
    steps = run_program(driven.node, driven.session, 0, objects(near, far))
    while not isinstance(found := driven.machine.call(0, to_next_progress(steps)), ProgramResult):
        held.append(driven.node.kmem.held)
    here, there = found.phases[0].objects
    assert (here.events, here.pages, here.placement) == (15_000, 15_000, {0: 15_000})
    assert (there.events, there.pages, there.placement) == (5_000, 5_000, {1: 5_000})
    assert there.latency.mean_ns > here.latency.mean_ns
    assert 0 < max(held) < 20_000
    assert driven.node.kmem.held == 0
    assert "kmalloc-2k" in driven.machine.nodes[1].kmem.here
    driven.check()


def test_objects_are_deterministic_and_kept_if_asked_to() -> None:
    first, second = Driven(), Driven()
    kept = objects(ObjectMix(cache="filp"), ObjectMix(cache="dentry", lifetime=EXPONENTIAL), keep=True)
    assert first.run(kept) == second.run(kept)
    assert first.digests() == second.digests()
    assert first.node.kmem.held >= 10_000
    first.check()


def test_objects_without_memory_are_counted_or_end_the_program() -> None:
    much = ObjectMix(size=8192, gfp="__GFP_THISNODE|__GFP_NOWARN", node=0)
    driven = Driven()
    (result,) = driven.run(Program(phases=(Phase(events=40_000, objects=(much,)),))).phases[0].objects
    assert result.events == result.pages + result.failures == 40_000
    assert result.failures > 0
    with pytest.raises(AllocFailed):
        driven.run(Program(phases=(Phase(events=40_000, objects=(much,)),), stop_on_failure=True))
    assert driven.node.kmem.held == 0
    assert [problem for node in driven.machine.nodes.values() for problem in node.check()] == []


def chased(page_kb: int) -> Program:
    """A list over 32 MiB that is followed twice, translated by pages of a size."""
    region = ProgramRegion("heap", kind="anon", pages=8192, tlb_page_kb=page_kb)
    phases = [
        Phase(name=name, events=8192, accesses=(Access("heap", pattern="pointer-chase"),))
        for name in ("fill", "chase")
    ]
    return Program(tuple(phases), regions=(region,))


def test_the_page_size_of_a_region_is_time() -> None:
    times = {kb: Driven(unloaded=True).run(chased(kb)).phases[1].virtual_ns for kb in (4, 2048)}
    assert times[4] - times[2048] == (8192 - 16) * WALK_NS, (
        "every access walks; of 16 huge pages only the first accesses do"
    )


def test_a_page_size_that_no_tlb_has() -> None:
    with pytest.raises(InvalidRequest, match=r"regions\[0\].tlb_page_kb"):
        Driven().run(chased(64))


def areas(driven: Driven) -> list[str]:
    """Callers of the areas of sessions, of the node that keeps the kernel's addresses."""
    vmalloc = driven.machine.nodes[0].vmalloc
    assert vmalloc
    return [area.caller for area in areas_of(vmalloc)]


def test_areas_come_and_go_when_they_are_due() -> None:
    driven = Driven()
    near = VmallocMix(10_000, "near", weight=3, lifetime=EXPONENTIAL)
    far = VmallocMix(4096, "far", node=1, lifetime=FIXED)
    live, pages = [], []
    steps = run_program(
        driven.node, driven.session, 0, Program(phases=(Phase(events=400, batch=40, vmallocs=(near, far)),))
    )
    while not isinstance(found := driven.machine.call(0, to_next_progress(steps)), ProgramResult):
        live.append(len(areas(driven)))
        pages.append(found.live_pages)
        assert set(areas(driven)) <= {"run_program"}
    here, there = found.phases[0].vmallocs
    assert (here.events, here.pages, here.placement) == (300, 900, {0: 900})
    assert (there.events, there.pages, there.placement) == (100, 100, {1: 100})
    assert there.latency.mean_ns > here.latency.mean_ns / 3
    assert 0 < max(live) < 400
    assert max(pages) > max(live)
    assert (found.allocated_pages, found.freed_pages, found.kept_pages) == (1000, 1000, 0)
    assert areas(driven) == []
    driven.check()


def test_areas_are_deterministic_and_kept_if_asked_to() -> None:
    kept = Program(
        phases=(Phase(events=60, vmallocs=(VmallocMix(3 << 20), VmallocMix(1, lifetime=EXPONENTIAL))),),
        keep=True,
    )
    first, second = Driven(), Driven()
    result = first.run(kept)
    assert result == second.run(kept)
    assert first.digests() == second.digests()
    # 768 pages, and two for pointers to them
    assert result.kept_pages >= 30 * 770
    assert len(areas(first)) >= 30
    first.check()


def test_areas_without_memory_are_counted_or_end_the_program() -> None:
    much = Phase(events=20, vmallocs=(VmallocMix(64 << 20),))
    driven = Driven()
    (result,) = driven.run(Program(phases=(much,))).phases[0].vmallocs
    assert result.failures > 0
    assert result.pages == (20 - result.failures) * ((16384) + 32)
    with pytest.raises(AllocFailed):
        driven.run(Program(phases=(much,), stop_on_failure=True))
    with pytest.raises(LimitExceeded, match="max_live_pages"):
        driven.run(Program(phases=(much,), limits=ProgramLimits(max_live_pages=20_000)))
    assert areas(driven) == []
    assert [problem for node in driven.machine.nodes.values() for problem in node.check()] == []
