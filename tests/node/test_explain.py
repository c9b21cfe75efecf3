"""Explanations of requests of many kinds; their numbers agree with the zones'.

Regenerate the golden texts with REWRITE_GOLDEN=1 and read the diff.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node.asking import THISNODE, Asking, bind
from numa_client import DirectReclaim, Explanation, FreelistPass, WalkStep, WatermarkCheck

from numa_service.mm.buddy import first_free
from numa_service.mm.internal import (
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_NO_WATERMARKS,
    ALLOC_OOM,
    ALLOC_WMARK_LOW,
    ALLOC_WMARK_MIN,
)
from numa_service.mm.mmzone import MIGRATE_PCPTYPES, NR_ORDERS, WMARK_HIGH
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.zone_watermark import CHECK_LAST
from numa_service.node import ops
from numa_service.node.explanation_recorder import gfp_names
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.unserved import AllocFailed
from numa_service.node.zone_recorder import watermark_check
from numa_service.procfs import SHOW

GOLDEN = Path(__file__).resolve().parents[1] / "testdata" / "explain"


def local() -> Explanation:
    return Asking().ask(100)


def spill() -> Explanation:
    asking = Asking()
    asking.take(50_000)
    return asking.ask(5000)


def bind_fails() -> Explanation:
    return Asking().ask(60_000, policy=bind(0))


def thisnode() -> Explanation:
    asking = Asking()
    asking.take(49_500)
    asking.run()
    return asking.ask(300, gfp=THISNODE)


def atomic() -> Explanation:
    """GFP_KERNEL finds no page above min, and GFP_ATOMIC takes pages from below it."""
    asking = Asking()
    with pytest.raises(AllocFailed):
        asking.take(60_000, gfp=f"{THISNODE}|__GFP_NORETRY")
    asking.take(50_000, gfp=f"{THISNODE}|__GFP_NORETRY", partial=True)
    return asking.ask(200, gfp="GFP_ATOMIC|__GFP_THISNODE")


def fragmented() -> Explanation:
    """Half of all pages are free, but hardly two of them are adjacent."""
    asking = Asking()
    taken = asking.take(60_000, gfp=f"{THISNODE}|__GFP_NORETRY", partial=True)
    pfns = np.concatenate([np.frombuffer(p, "<u8") for _, p in taken.pages])
    asking.give_back(0, pfns[pfns % 2 == 1].tolist())
    asking.run()
    return asking.ask(10, order=9, gfp=THISNODE)


def reclaim() -> Explanation:
    asking = Asking()
    asking.read_file(60_000, bind(0))
    return asking.ask(4000, gfp=THISNODE)


def interleave() -> Explanation:
    return Asking().ask(90, policy=Policy(PolicyMode.INTERLEAVE, (0, 1, 2)))


def preferred_many() -> Explanation:
    asking = Asking()
    asking.take(50_000)
    return asking.ask(100, policy=Policy(PolicyMode.PREFERRED_MANY, (0,)))


def low_class() -> Explanation:
    return Asking("two-socket").ask(20, gfp="GFP_DMA32|__GFP_ZERO")


def away() -> Explanation:
    asking = Asking()
    asking.take(50_000)
    asking.sim.down.add(2)
    return asking.ask(100)


SCENARIOS = {
    f.__name__: f
    for f in (
        local,
        spill,
        bind_fails,
        thisnode,
        atomic,
        fragmented,
        reclaim,
        interleave,
        preferred_many,
        low_class,
        away,
    )
}


@pytest.fixture(scope="module", params=SCENARIOS)
def scenario(request: pytest.FixtureRequest) -> tuple[str, Explanation]:
    return request.param, SCENARIOS[request.param]()


def test_golden_text(scenario: tuple[str, Explanation]) -> None:
    name, explanation = scenario
    text = f"{explanation}\n"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_the_parts_add_up(scenario: tuple[str, Explanation]) -> None:
    _, explanation = scenario
    spent = sum(step.latency_ns for step in explanation.steps) + explanation.cost.zeroing_ns
    assert spent == explanation.cost.latency_ns
    served: dict[int, int] = {}
    for one in passes(explanation):
        for visit in one.nodes:
            for zone in visit.zones:
                served[visit.node] = served.get(visit.node, 0) + zone.served_blocks
                from_pageset = (zone.pageset_before_pages - zone.pageset_after_pages) >> explanation.order
                assert zone.served_blocks == zone.buddy_blocks + from_pageset
                assert (
                    zone.before.free_pages - zone.after.free_pages == zone.buddy_blocks << explanation.order
                )
                assert zone.before.ok or not zone.served_blocks
    assert {nid: n for nid, n in served.items() if n} == explanation.placement
    assert (sum(served.values()) == explanation.count) == (not explanation.failure)


def passes(explanation: Explanation) -> list[FreelistPass]:
    return [step for step in explanation.steps if isinstance(step, FreelistPass)]


# each scenario does what its name says


def test_local_is_one_zone() -> None:
    [one] = passes(local())
    [visit] = one.nodes
    assert [zone.left_because for zone in visit.zones] == ["complete"]
    assert not visit.remote


def test_spill_names_the_zones_that_were_too_low() -> None:
    explanation = spill()
    [one] = passes(explanation)
    here, there = one.nodes
    assert there.remote
    assert there.node == 2
    for zone in here.zones:
        assert zone.left_because == "below_mark"
        assert not zone.after.above_mark
        assert not zone.after.ok
    assert list(explanation.placement) == [2]


def test_bind_fails_tells_what_was_tried_and_gives_back() -> None:
    explanation = bind_fails()
    assert explanation.failure.startswith("page allocation failure: order 0")
    walk = explanation.steps[0]
    assert isinstance(walk, WalkStep)
    assert {nid for nid, _ in walk.outside_nodemask} == {1, 2}
    assert not walk.above_class
    assert [one.name for one in passes(explanation)] == [
        "fast path",
        "slow path",
        "after direct reclaim",
        "after draining pagesets",
        "after releasing reserves",
    ]


def test_atomic_goes_below_min() -> None:
    explanation = atomic()
    zone = next(z for one in passes(explanation) for v in one.nodes for z in v.zones if z.served_blocks)
    check = zone.before
    assert check.free_pages <= check.mark_pages, "GFP_KERNEL would have to stop here"
    assert check.high_part_pages == check.mark_pages // 2
    assert check.harder_part_pages == (check.mark_pages - check.high_part_pages) // 4
    assert not explanation.failure


def test_fragmented_has_pages_and_no_block() -> None:
    last = passes(fragmented())[-1].nodes[0].zones[0]
    assert last.left_because == "no_block"
    assert last.after.above_mark
    assert not last.after.ok
    assert last.after.largest_free_order < 9


def test_reclaim_is_told_pass_by_pass() -> None:
    explanation = reclaim()
    steps = [step for step in explanation.steps if isinstance(step, DirectReclaim)]
    assert sum(step.reclaimed_pages for step in steps) > 0
    priorities = [step.priority for step in steps]
    assert priorities[0] == 12
    assert sum(step.latency_ns for step in steps) >= explanation.cost.reclaim_ns > 0


def test_a_node_that_is_away_is_named() -> None:
    [one] = passes(away())
    assert [(visit.node, bool(visit.away)) for visit in one.nodes] == [(0, False), (2, True), (1, False)]


def test_a_node_without_the_class_is_left_out() -> None:
    walk = low_class().steps[0]
    assert isinstance(walk, WalkStep)
    assert {zone for _, zone in walk.above_class} == {"Normal"}
    assert not walk.outside_nodemask


# the numbers agree with the zones'


def test_numbers_are_those_of_zoneinfo() -> None:
    asking = Asking("two-socket")
    text = SHOW["zoneinfo"](asking.home.machine.snapshot())
    explanation = asking.ask(10)
    [one] = passes(explanation)
    for zone in one.nodes[0].zones:
        section = re.split(r"(?m)^Node", text.split(f"Node 0, zone {zone.zone:>8}\n", 1)[1])[0]
        numbers = {
            name: int(re.search(rf"^\s+{pattern}\s+(\d+)", section, re.MULTILINE)[1])  # type: ignore[index]
            for name, pattern in (("free", "pages free"), ("low", "low"))
        }
        protection = re.search(r"protection: \((.*)\)", section)
        assert protection
        assert (zone.before.free_pages, zone.before.mark_pages) == (numbers["free"], numbers["low"])
        classzone = asking.home.pgdat.zone_names.index(explanation.classzone)
        assert zone.before.lowmem_reserve_pages == int(protection[1].split(", ")[classzone])


def compared(pgdat: Pgdat, zone: int, order: int, classzone: int, flags: int) -> WatermarkCheck:
    """Return what the allocator would compare for a zone now."""
    pgdat.explain(True)
    pgdat.explain(False)
    pgdat.look(pgdat.cpus[0], order, classzone, flags)
    return watermark_check(pgdat.checks(zone)[CHECK_LAST], flags)


def holds(check: WatermarkCheck, order: int) -> bool:
    """Return the outcome that a reader infers from the numbers of a check."""
    return not check.mark_name or (check.above_mark and (order == 0 or check.largest_free_order >= order))


FLAGS = (
    ALLOC_WMARK_MIN,
    ALLOC_WMARK_LOW,
    WMARK_HIGH,
    ALLOC_WMARK_MIN | ALLOC_HIGH,
    ALLOC_WMARK_MIN | ALLOC_HARDER,
    ALLOC_WMARK_MIN | ALLOC_HIGH | ALLOC_HARDER,
    ALLOC_WMARK_MIN | ALLOC_OOM,
    ALLOC_NO_WATERMARKS,
)


@pytest.fixture(scope="module", params=["linux-6.1", "linux-6.12", "linux-3.0"])
def shared(request: pytest.FixtureRequest) -> Asking:
    """A node with free blocks of every order, and some single free pages."""
    asking = Asking("demo", request.param)
    taken = asking.take(60_000, gfp=f"{THISNODE}|__GFP_NORETRY", partial=True)
    pfns = np.concatenate([np.frombuffer(p, "<u8") for _, p in taken.pages])
    asking.give_back(0, pfns[20_000:23_000].tolist())
    asking.give_back(0, pfns[30_000:30_800:2].tolist())
    asking.home.apply(ops.DrainPagesets())
    return asking


@settings(max_examples=200, deadline=None)
@given(
    zone=st.integers(0, 1),
    order=st.integers(0, 10),
    flags=st.sampled_from(FLAGS),
    above=st.integers(-40, 40),
    boost=st.sampled_from((0, 0, 64, 512)),
    classzone=st.integers(1, 2),
)
def test_the_inequality_decides_as_the_allocator_does(
    shared: Asking, zone: int, order: int, flags: int, above: int, boost: int, classzone: int
) -> None:
    """With a mark near the free pages, a block is served if and only if the numbers of the check say so."""
    home, pg = shared.home, shared.home.pgdat.pg
    kept = pg.watermark[zone].copy()
    boost = 0 if home.pgdat.profile.name == "linux-3.0" else boost  # boosting came with 5.0
    try:
        pg.watermark[zone] = 0
        near = compared(home.pgdat, zone, order, classzone, flags)
        wanted = max(0, near.usable_pages - near.lowmem_reserve_pages - boost + above)
        pg.watermark[zone] = wanted * (2 if flags & ALLOC_HIGH else 1)
        pg.watermark_boost[zone] = boost
        check = compared(home.pgdat, zone, order, classzone, flags)
        large_enough = order == 0 or check.largest_free_order >= order
        assert check.ok == (not check.mark_name or (check.above_mark and large_enough))
        takeable = any(
            first_free(pg, zone, at, mt) >= 0
            for at in range(order, NR_ORDERS)
            for mt in range(MIGRATE_PCPTYPES)
        )
        owner = home.owner(shared.session)
        result = home.apply(ops.Alloc(owner, (zone,), 0, order, 1, 0, classzone, flags, 3, explain=True))
        assert result.account is not None
        [visit] = result.account.zones
        assert visit.before == check
        assert check.ok == holds(check, order)
        if result.pfns:
            assert check.ok
            assert visit.left_because == "complete"
        elif check.ok:
            assert not takeable, "the zone passes and has nothing but what is reserved for others"
            assert visit.left_because in ("reserved", "no_block")
        else:
            assert visit.left_because in ("below_mark", "no_block")
        if result.pfns:
            home.apply(ops.Free(owner, 0, order, result.pfns))
            home.apply(ops.DrainPagesets())
    finally:
        pg.watermark[zone] = kept
        pg.watermark_boost[zone] = 0


def test_parts_of_the_mark() -> None:
    check = WatermarkCheck("min", 1000, 100, 511, 800, 0, 400, 100, 50, 9, ok=True)
    assert (check.usable_pages, check.needed_pages) == (389, 350)
    assert check.above_mark
    assert not replace(check, free_pages=961).above_mark, "equal is not above"
    assert replace(check, free_pages=0, mark_name="").above_mark


# explaining changes no state


def test_same_state_with_and_without() -> None:
    digests = []
    for explain in (False, True):
        asking = Asking()
        for count, order, gfp, policy in (
            (100, 0, "GFP_KERNEL", Policy()),
            (60_000, 0, "GFP_KERNEL", Policy()),
            (5, 9, "GFP_HIGHUSER_MOVABLE", Policy()),
            (60_000, 0, "GFP_KERNEL", bind(0)),
            (900, 0, "GFP_ATOMIC", bind(0)),
            (30, 0, "GFP_USER", Policy(PolicyMode.INTERLEAVE, (0, 1, 2))),
        ):
            request = asking.request(count, order, gfp, policy, explain=explain)
            try:
                explanation = asking.sim.call(0, alloc_pages(asking.home, request)).explanation
            except AllocFailed as failed:
                explanation = failed.explanation
            assert (explanation is not None) == explain
            asking.run()
        assert asking.sim.check() == []
        # compare memory only: first replies of nodes differ, as they have the explanations in them
        digests.append({nid: node.pgdat.digest() for nid, node in asking.sim.nodes.items()})
        for nid, node in asking.sim.nodes.items():
            assert Node.replay(asking.sim.spec, nid, list(node.log)).digest() == node.digest()
    assert digests[0] == digests[1]


def test_nobody_pays_who_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `explain` no ZoneRecorder and no Recorder is made."""

    def looked(*_: object) -> None:
        raise AssertionError("something was recorded")

    monkeypatch.setattr("numa_service.node.ops.alloc.ZoneRecorder", looked)
    monkeypatch.setattr("numa_service.node.page_alloc.Recorder", looked)
    asking = Asking()
    assert asking.take(50_000).explanation is None
    with pytest.raises(AssertionError, match="something was recorded"):
        asking.ask(1)


@pytest.mark.parametrize(
    "gfp", ["GFP_KERNEL", "GFP_ATOMIC|__GFP_THISNODE", "GFP_HIGHUSER_MOVABLE|__GFP_ZERO", "none"]
)
def test_flags_are_printed_as_they_are_read(gfp: str) -> None:
    from numa_service.mm.gfp import parse_gfp

    assert gfp_names(parse_gfp(gfp)) == gfp


def test_explanations_bring_no_transport() -> None:
    """The types are those of the client, which renders explanations."""
    script = (
        "import sys, numa_service.node.page_alloc; print({'grpc', 'google', 'asyncio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_zones_that_take_turns_say_so() -> None:
    """Fair zone allocation, of 3.12 to 4.7: DMA has its turn when DMA32 has given its share."""
    explanation = Asking(profile="linux-4.4").ask(2000)
    text = str(explanation)
    assert "fast path, WMARK_LOW FAIR KSWAPD" in text
    assert "it has given its share, it is another zone's turn" in text
    (fast,) = [step for step in explanation.steps if isinstance(step, FreelistPass)]
    served = {zone.zone: zone.served_blocks for visit in fast.nodes for zone in visit.zones}
    assert served["DMA32"] > 10 * served["DMA"] > 0
    other = str(Asking(profile="linux-4.8").ask(2000))
    assert "FAIR" not in other
    assert "0:DMA " not in other.split("fast path", 1)[1]
