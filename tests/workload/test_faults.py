"""Programs while other nodes go away and come back, in the simulator."""

from __future__ import annotations

from driven import kinds_of
from numa_client import Access, Distribution, Mix, Phase, Policy, Program, ProgramRegion, ProgramResult

from numa_service.machine.presets import load_preset
from numa_service.node import ops
from numa_service.node.region import close_session
from numa_service.sim.simulation import Simulation
from numa_service.workload.run import run_program, to_next_progress

EVERYWHERE = Policy.interleave(0, 1, 2)
PROGRAM = Program(
    phases=(
        Phase(
            events=20_000,
            batch=500,
            mixes=(
                Mix(policy=EVERYWHERE, lifetime=Distribution("exponential", mean=2e-4)),
                Mix(policy=EVERYWHERE, order=2),
            ),
            accesses=(Access("r", pattern="uniform", write=0.3),),
        ),
    ),
    regions=(ProgramRegion("r", kind="anon", pages=3000, policy=EVERYWHERE),),
)


def test_a_node_that_is_away_is_done_without_and_nothing_is_lost() -> None:
    sim = Simulation(load_preset("demo"))
    home = sim.nodes[0]
    session = home.apply(ops.OpenSession("test", ops.FOREVER_NS, 0))
    steps = run_program(home, session, 0, PROGRAM)
    batches, found = 0, None
    while not isinstance(found, ProgramResult):
        if batches == 5:
            sim.down.add(2)
        if batches == 20:
            sim.down.discard(2)
        found = sim.call(0, to_next_progress(steps))
        batches += 1
    (phase,) = found.phases
    assert [kind.failures for kind in kinds_of(phase)] == [0, 0, 0], "the others have room"
    assert all(kind.placement[2] > 0 for kind in kinds_of(phase))
    assert found.allocated_pages == found.freed_pages + found.unfreed_pages
    assert found.unfreed_pages > 0, "some were due while their node was away"
    sim.advance(2_000_000_000)  # what the node owes answers to is asked again: the end of the region, too
    held = sum(node.held_pages() for node in sim.nodes.values())
    assert held == found.unfreed_pages
    sim.call(0, close_session(home, session))
    assert sum(node.held_pages() for node in sim.nodes.values()) == 0
    sim.run()
    assert sim.check() == []


def test_the_simulation_gives_the_same_twice() -> None:
    def run() -> tuple[list[str], int]:
        sim = Simulation(load_preset("demo"), seed=5)
        session = sim.nodes[0].apply(ops.OpenSession("test", ops.FOREVER_NS, 0))
        steps = run_program(sim.nodes[0], session, 0, PROGRAM)
        found = None
        while not isinstance(found, ProgramResult):
            found = sim.call(0, to_next_progress(steps))
        return [node.digest() for node in sim.nodes.values()], found.virtual_ns

    assert run() == run()
