"""Tasks of workload programs: they begin, share, copy and exit, and nothing is left of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from driven import Driven
from numa_client import Distribution, Phase, Policy, Program, ProgramLimits, ProgramResult, TaskMix

from numa_service.machine.machinefile import parse_machine
from numa_service.machine.presets import load_preset
from numa_service.node import ops
from numa_service.node.errors import LimitExceeded, Precondition
from numa_service.sim.compare import run_variant
from numa_service.sim.variant import Variant
from numa_service.workload.run import run_program, to_next_progress

#: Two nodes without swap.
SMALL = """
[[node]]
cpus = "0-1"
memory = "80MiB"
[[node]]
cpus = "2-3"
memory = "80MiB"
[sysctl]
vm.oom_kill_allocating_task = 1
"""


def program(*tasks: TaskMix, events: int = 10, **fields: object) -> Program:
    return Program(phases=(Phase(events=events, batch=4, tasks=tasks),), **fields)  # type: ignore[arg-type]  # as given


def test_a_task_maps_touches_forks_and_exits() -> None:
    driven = Driven()
    pool = TaskMix(512, "pool", policy=Policy.bind(1), children=2, child_accesses=64)
    plain = TaskMix(64, "plain", write=0.0)
    steps = run_program(driven.node, driven.session, 0, program(pool, plain))
    seen: set[tuple[str, int]] = set()
    while not isinstance(found := driven.machine.call(0, to_next_progress(steps)), ProgramResult):
        seen |= {(task.comm, task.ppid) for task in driven.node.tasks.values()}
    assert {comm for comm, _ in seen} == {"pool", "plain"}
    of_pool, of_plain = found.phases[0].tasks
    assert (of_pool.events, of_pool.failures, of_plain.events) == (5, 0, 5)
    # what it maps and what its children copied is on the node of the policy; the rest is near the CPU
    assert of_pool.placement[1] == 5 * (512 + 2 * 64)
    assert of_plain.placement.keys() == {0}
    # a page that is only read is the page of zeros, and counts for nobody
    assert of_plain.pages == of_pool.placement[0] < 5 * 200
    assert of_pool.fault_pages > 5 * (512 + 2 * 64)
    assert of_pool.latency.mean_ns > of_plain.latency.mean_ns > 0
    assert found.kept_pages == 0
    assert not driven.node.tasks
    driven.check()


def test_lifetimes_end_tasks_while_others_begin() -> None:
    short = TaskMix(32, lifetime=Distribution("exponential", mean=1e-4), children=1)
    first, second = Driven(), Driven()
    steps = run_program(first.node, first.session, 0, program(short, events=60))
    alive = []
    while not isinstance(found := first.machine.call(0, to_next_progress(steps)), ProgramResult):
        alive.append(len(first.node.tasks))
    assert 2 < max(alive) < 60
    assert second.run(program(short, events=60)) == found
    assert first.digests() == second.digests()
    first.check()


def test_accesses_that_come_again_take_time_where_the_page_is() -> None:
    def mean(**fields: object) -> float:
        mix = TaskMix(64, accesses=6400, **fields)  # type: ignore[arg-type]  # as given
        (done,) = Driven(unloaded=True).run(program(mix, events=2)).phases[0].tasks
        assert done.hit_pages == 2 * (6400 - 64)
        return done.latency.mean_ns

    near, far = mean(), mean(policy=Policy.bind(1))
    idle = Driven().node.load
    assert far - near == pytest.approx(6400 * (idle.idle_ns(1, True) - idle.idle_ns(0, True)), rel=0.2)
    assert mean(pattern="uniform") > near


def test_tasks_without_memory_are_counted_and_leave_nothing() -> None:
    """The OOM killer kills the one that asks, and not those that have lived until then."""
    driven = Driven(parse_machine(SMALL, source="small", default_name="small"))
    before = driven.node.pgdat.snapshot().node_stat
    much = TaskMix(8192)
    (found,) = driven.run(program(much)).phases[0].tasks
    assert 0 < found.failures < 10
    assert not driven.node.tasks
    with pytest.raises(LimitExceeded):
        driven.run(program(much, stop_on_failure=True))
    with pytest.raises(LimitExceeded, match="max_live_pages"):
        driven.run(program(TaskMix(100), limits=ProgramLimits(max_live_pages=450)))
    assert not driven.node.tasks
    assert driven.node.pgdat.snapshot().node_stat["nr_anon_pages"] == before["nr_anon_pages"]
    assert [problem for node in driven.machine.nodes.values() for problem in node.check()] == []


def test_a_program_that_is_cut_ends_its_tasks_and_kept_ones_stay() -> None:
    driven = Driven()
    with pytest.raises(Precondition):
        driven.run(program(TaskMix(32)), cut=Precondition("cut"), after=1)
    assert not driven.node.tasks
    driven.run(program(TaskMix(32), keep=True))
    assert len(driven.node.tasks) == 10
    driven.node.apply(ops.EndSession(driven.session))
    assert not driven.node.tasks


def test_a_variant_is_compared_by_where_its_tasks_have_their_memory() -> None:
    variant = Variant("demo", load_preset("demo"))
    mix = program(TaskMix(256, accesses=2560), events=4)
    here = run_variant(variant, mix, 1, 0, lambda share: None)
    far = run_variant(replace(variant, policy=Policy.bind(1)), mix, 1, 0, lambda share: None)
    assert here.remote == 0 < far.remote
    assert here.runtime_ns < far.runtime_ns
