"""What a workload program does with slab objects, as the events of a trace: for ``compare-slab``."""

from __future__ import annotations

from collections.abc import Callable

from numa_client import Program, ProgramProgress

from numa_service.machine.spec import MachineSpec
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest
from numa_service.sim.simulation import Simulation
from numa_service.trace.slab_events import MAX_EVENTS, SlabEvent
from numa_service.workload.plan import ObjectPlan
from numa_service.workload.run import run_program, to_next_progress


def program_slab_events(
    spec: MachineSpec, program: Program, cpu: int, progress: Callable[[float], None] | None = None
) -> list[SlabEvent]:
    """Run a program on a CPU of a machine that has just booted; return what became of its objects.

    Times are the program's virtual ns. `progress` gets the share of the program that is done. InvalidRequest
    for a field of the program that is wrong, for one without objects, and for one with too many; errors of
    :func:`run_program`.
    """
    sim = Simulation(spec)
    nid = next((nid for nid, cpus in spec.own_cpus.items() if cpu in cpus), None)
    if nid is None:
        raise InvalidRequest("cpu", f"{cpu} is not a CPU of {spec.name}")
    node = sim.nodes[nid]
    events: list[SlabEvent] = []

    def told(of: ObjectPlan | None, objects: list[int], now_ns: int) -> None:
        if len(events) + len(objects) > MAX_EVENTS:
            raise InvalidRequest("program", f"more than {MAX_EVENTS:,} objects allocated or freed")
        if of is None:
            events.extend(SlabEvent(False, now_ns, cpu, address) for address in objects)
            return
        cache = "" if of.size else of.cache
        size = of.size or node.kmem.cache(of.cache).object_size
        events.extend(SlabEvent(True, now_ns, cpu, at, cache, size, of.gfp, of.nid) for at in objects)

    session = node.apply(ops.OpenSession("compare-slab", ops.FOREVER_NS, 0))
    steps = run_program(node, session, cpu, program, objects=told)
    while isinstance(found := sim.call(nid, to_next_progress(steps)), ProgramProgress):
        if progress:
            progress(found.fraction)
    if not events:
        raise InvalidRequest("program", f"{program.name} has no objects of slab caches")
    return events
