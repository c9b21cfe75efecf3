"""Programs that are refused: the error names the field, and nothing has changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from driven import Driven, churn
from numa_client import (
    Access,
    Distribution,
    Mix,
    ObjectMix,
    Phase,
    Policy,
    Program,
    ProgramLimits,
    ProgramRegion,
    TaskMix,
    VmallocMix,
)

from numa_service.node.errors import InvalidRequest
from numa_service.workload import plan

BASE = churn()
PHASE = BASE.phases[0]
SPENT = Distribution("fixed", mean=1.0)


def phase(**fields: Any) -> Program:
    return replace(BASE, phases=(PHASE, replace(PHASE, **fields)))


def mix(**fields: Any) -> Program:
    return phase(mixes=(PHASE.mixes[0], Mix(**fields)))


def access(**fields: Any) -> Program:
    return phase(accesses=(Access(**{"region": "heap", "pattern": "uniform"} | fields),))


def objects(**fields: Any) -> Program:
    return phase(objects=(ObjectMix(**fields),))


def vmalloc(**fields: Any) -> Program:
    return phase(vmallocs=(VmallocMix(**{"size": 4096} | fields),))


def tasks(**fields: Any) -> Program:
    return phase(tasks=(TaskMix(**{"pages": 8} | fields),))


def region(**fields: Any) -> Program:
    return replace(
        BASE, regions=(*BASE.regions, ProgramRegion(**{"name": "r", "kind": "anon", "pages": 1} | fields))
    )


def limits(**fields: Any) -> Program:
    return replace(BASE, limits=ProgramLimits(**fields))


CASES: list[tuple[Program, str]] = [
    (replace(BASE, phases=()), "phases"),
    (replace(BASE, phases=(PHASE,) * (plan.MAX_PHASES + 1)), "phases"),
    (replace(BASE, seed=-1), "seed"),
    (replace(BASE, name="x" * 100), "name"),
    (phase(events=0), "phases[1].seconds"),
    (phase(seconds=-1.0), "phases[1].seconds"),
    (phase(seconds=float("nan")), "phases[1].seconds"),
    (phase(seconds=float("inf")), "phases[1].seconds"),
    (phase(rate=-1.0), "phases[1].rate"),
    (phase(rate=1e-300), "phases[1].rate"),
    (phase(batch=1 << 20), "phases[1].batch"),
    (phase(memory=1e9), "phases[1].memory"),
    (phase(mixes=(), accesses=()), "phases[1].mixes"),
    (phase(mixes=(Mix(),) * 40), "phases[1].mixes"),
    (phase(name="x" * 100), "phases[1].name"),
    (mix(order=11), "phases[1].mixes[1].order"),
    (mix(gfp="GFP_NONSENSE"), "phases[1].mixes[1].gfp"),
    (mix(gfp="__GFP_DMA|__GFP_HIGHMEM"), "phases[1].mixes[1].gfp"),
    (mix(policy=Policy.bind(9)), "phases[1].mixes[1].policy.nodes"),
    (mix(policy=Policy.bind(2), gfp="GFP_KERNEL|__GFP_THISNODE"), "phases[1].mixes[1].policy"),
    (mix(weight=-1.0), "phases[1].mixes[1].weight"),
    (mix(lifetime=Distribution("exponential")), "phases[1].mixes[1].lifetime.mean"),
    (mix(think=Distribution("forever")), "phases[1].mixes[1].think.kind"),
    (mix(think=replace(SPENT, unit="memory")), "phases[1].mixes[1].think.unit"),
    (phase(objects=(ObjectMix(size=8),) * 40), "phases[1].mixes"),
    (objects(), "phases[1].objects[0].cache"),
    (objects(cache="filp", size=8), "phases[1].objects[0].cache"),
    (objects(cache="no such"), "phases[1].objects[0].cache"),
    (objects(size=(4 << 20) + 1), "phases[1].objects[0].size"),
    (objects(size=-1), "phases[1].objects[0].size"),
    (objects(size=8, node=9), "phases[1].objects[0].node"),
    (objects(size=8, gfp="GFP_NONSENSE"), "phases[1].objects[0].gfp"),
    (objects(size=8, weight=-1.0), "phases[1].objects[0].weight"),
    (objects(size=8, lifetime=Distribution("exponential")), "phases[1].objects[0].lifetime.mean"),
    (objects(size=8, lifetime=replace(SPENT, unit="memory")), "phases[1].objects[0].lifetime.unit"),
    (objects(size=8, think=Distribution("forever")), "phases[1].objects[0].think.kind"),
    (phase(vmallocs=(VmallocMix(4096),) * 40), "phases[1].mixes"),
    (vmalloc(size=0), "phases[1].vmallocs[0].size"),
    (vmalloc(size=(256 << 20) + 1), "phases[1].vmallocs[0].size"),
    (vmalloc(node=9), "phases[1].vmallocs[0].node"),
    (vmalloc(name="x" * 100), "phases[1].vmallocs[0].name"),
    (vmalloc(weight=-1.0), "phases[1].vmallocs[0].weight"),
    (vmalloc(lifetime=Distribution("exponential")), "phases[1].vmallocs[0].lifetime.mean"),
    (vmalloc(lifetime=replace(SPENT, unit="memory")), "phases[1].vmallocs[0].lifetime.unit"),
    (vmalloc(think=Distribution("forever")), "phases[1].vmallocs[0].think.kind"),
    (tasks(pages=0), "phases[1].tasks[0].pages"),
    (tasks(pages=(1 << 16) + 1), "phases[1].tasks[0].pages"),
    (tasks(accesses=-1), "phases[1].tasks[0].accesses"),
    (tasks(children=65), "phases[1].tasks[0].children"),
    (tasks(child_accesses=1), "phases[1].tasks[0].child_accesses"),
    (tasks(policy=Policy.bind(9)), "phases[1].tasks[0].policy.nodes"),
    (tasks(pattern="zipf"), "phases[1].tasks[0].theta"),
    (tasks(pattern="stride", stride=9), "phases[1].tasks[0].stride"),
    (tasks(write=1.5), "phases[1].tasks[0].write"),
    (tasks(weight=-1.0), "phases[1].tasks[0].weight"),
    (tasks(name="x" * 100), "phases[1].tasks[0].name"),
    (tasks(name="a\nb"), "phases[1].tasks[0].name"),
    (tasks(lifetime=replace(SPENT, unit="memory")), "phases[1].tasks[0].lifetime.unit"),
    (tasks(think=Distribution("forever")), "phases[1].tasks[0].think.kind"),
    (access(region="nowhere"), "phases[1].accesses[0].region"),
    (access(write=1.5), "phases[1].accesses[0].write"),
    (access(pattern="zipf"), "phases[1].accesses[0].theta"),
    (access(pattern="hot-set"), "phases[1].accesses[0].hot_pages"),
    (access(pattern="stride"), "phases[1].accesses[0].stride"),
    (access(pattern="hot-set", hot_pages=0.1, hot_accesses=2), "phases[1].accesses[0].hot_accesses"),
    (region(name=""), "regions[2].name"),
    (region(name="heap"), "regions"),
    (region(pages=0), "regions[2].pages"),
    (region(memory=1.0), "regions[2].pages"),
    (region(pages=1 << 30), "regions[2].pages"),
    (region(policy=Policy.bind(9)), "regions[2].policy.nodes"),
    (limits(max_live_pages=1 << 40), "limits.max_live_pages"),
    (limits(max_events=1 << 60), "limits.max_events"),
    (limits(max_virtual_seconds=1e9), "limits.max_virtual_seconds"),
    (limits(max_real_seconds=1e9), "limits.max_real_seconds"),
    (limits(max_real_seconds=-1.0), "limits.max_real_seconds"),
    (limits(max_events=1000), "phases[0].events"),
    (
        replace(phase(seconds=10.0, events=0), limits=ProgramLimits(max_virtual_seconds=5)),
        "phases[1].seconds",
    ),
    (
        replace(BASE, phases=tuple(replace(PHASE, each_node=True) for _ in range(3)), regions=()),
        "phases[0].accesses[0].region",
    ),
]


@pytest.mark.parametrize(("program", "field"), CASES, ids=[field for _, field in CASES])
def test_refused(program: Program, field: str) -> None:
    driven = Driven()
    before = driven.digests()
    with pytest.raises(InvalidRequest) as refused:
        driven.run(program)
    assert refused.value.field == field
    assert driven.digests() == before
    assert not driven.progress


def test_phases_of_many_nodes_are_limited() -> None:
    driven = Driven("four-ring")
    many = Program(phases=(Phase(events=1, mixes=(Mix(),), each_node=True),) * plan.MAX_PHASES)
    assert len(plan.make_plan(many, driven.node).phases) == 4 * plan.MAX_PHASES <= plan.MAX_PLANNED_PHASES


def test_defaults() -> None:
    made = plan.make_plan(Program(phases=(Phase(events=1, mixes=(Mix(),)),)), Driven().node)
    assert made.limits == plan.DEFAULT_LIMITS
    assert made.phases[0].batch == made.memory_pages // 64
    large = plan.make_plan(Program(phases=(Phase(events=1, mixes=(Mix(),)),)), Driven("two-socket").node)
    assert large.phases[0].batch == plan.DEFAULT_BATCH
    assert made.phases[0].name == "phase 0"
