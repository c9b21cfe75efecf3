"""Runs of kswapd: how they begin, proceed and end."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import MachineSpec
from numa_service.mm.internal import ALLOC_WMARK_MIN
from numa_service.mm.mmzone import DEF_PRIORITY, WMARK_HIGH, WMARK_MIN
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.pgdata import KSWAPD_ORDER, SC_RECLAIM_IDX, SC_TARGETS
from numa_service.mm.vmscan import ROUND_PAGES, kswapd_target
from numa_service.node import ops
from numa_service.node.mempolicy import Policy
from numa_service.node.node import Node
from numa_service.node.ops import reclaim
from numa_service.node.region import map_region
from numa_service.sim.simulation import Simulation

DMA32 = 1


@pytest.fixture
def spec() -> MachineSpec:
    """One node with DMA and DMA32."""
    text = '[[node]]\ncpus = "0"\nmemory = "64MiB"\n'
    return parse_machine(text, source="one", default_name="one")


def step_until(node: Node, did: ops.KswapdDid) -> ops.KswapdStepResult:
    step = node.apply(ops.KswapdStep())
    while step.did is not did:
        step = node.apply(ops.KswapdStep())
    return step


def test_a_boost_ends_with_the_run_that_it_began_with(spec: MachineSpec) -> None:
    node = Simulation(spec).nodes[0]
    boost = node.pgdat.pg.watermark_boost
    boost[:2] = (100, 512)
    node.pgdat.wakeup_kswapd(0, 1)
    step_until(node, ops.KswapdDid.BEGAN)
    assert node.kswapd.run
    assert node.kswapd.run.boosts == (100, 512)
    boost[1] += 512  # while it runs
    step_until(node, ops.KswapdDid.SLEPT)
    assert boost.tolist()[:2] == [0, 512]


def test_a_run_that_cannot_balance_the_node_ends_its_boosts_all_the_same(spec: MachineSpec) -> None:
    node = Simulation(spec).nodes[0]
    # the boost is larger than the zones, and there is nothing on the LRU lists to reclaim
    node.pgdat.pg.watermark_boost[:2] = 1 << 20
    assert node.pgdat.wakeup_kswapd(0, 1)
    last = step_until(node, ops.KswapdDid.SLEPT)
    assert (last.reclaimed, last.balanced, last.wanted_again) == (0, False, False)
    assert node.pgdat.pg.watermark_boost.tolist()[:2] == [0, 0]


def test_who_paces_it_may_die_at_any_step(spec: MachineSpec) -> None:
    """The run is state of the node: the next driver continues it, and the digest covers it."""
    node = Simulation(spec).nodes[0]
    node.pgdat.pg.watermark_boost[:2] = 1 << 20
    assert node.pgdat.wakeup_kswapd(0, 1)
    before = node.digest()
    assert node.apply(ops.KswapdStep()).runs_on
    assert node.digest() != before
    assert node.kswapd.running
    assert step_until(node, ops.KswapdDid.SLEPT).did is ops.KswapdDid.SLEPT
    assert not node.kswapd.running
    assert [op.tag for op in node.log] == ["kswapd_step"] * len(node.log)


def node_with(pages: int = 0, *, kind: int = LRU_KIND_FILE, profile: str = "linux-6.1") -> Node:
    """Return a node of 256 MiB with a region of so many pages."""
    text = f'profile = "{profile}"\nswap = "64MiB"\n[[node]]\ncpus = "0"\nmemory = "256MiB"\n'
    node = Simulation(parse_machine(text, source="one", default_name="one")).nodes[0]
    session = node.apply(ops.OpenSession("test", 10**15, 0))
    if pages:
        owner = node.owner(map_region(node, session, kind, pages, Policy()))
        indexes = np.arange(pages, dtype="<u4").tobytes()
        node.apply(ops.Alloc(owner, (DMA32,), 0, 0, pages, 1, DMA32, ALLOC_WMARK_MIN, 3, kind, indexes))
    return node


def wake(node: Node, short: int, order: int = 0) -> Node:
    """Wake a node's kswapd with DMA32 so many pages below its high watermark, and DMA below it for good."""
    node.pgdat.pg.watermark[:, WMARK_HIGH] = 1 << 20
    node.pgdat.pg.watermark[DMA32, WMARK_HIGH] = node.pgdat.free_pages(DMA32) + short
    assert node.pgdat.wakeup_kswapd(order, DMA32)
    return node


def scans(node: Node) -> list[ops.KswapdStepResult]:
    """Run kswapd until it sleeps; return the steps that scanned."""
    steps = []
    while (step := node.apply(ops.KswapdStep())).did is not ops.KswapdDid.SLEPT:
        steps.append(step)
    return [step for step in steps if step.did is ops.KswapdDid.SCANNED]


def test_priority_rises_at_the_end_of_a_pass_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reclaim, "STEP_PAGES", ROUND_PAGES)
    steps = scans(wake(node_with(40_000), 12_000))
    passes = [step.priority for step in steps if not step.in_pass]
    # each pass scans its whole share by priority, which is less than its target
    assert passes == list(range(DEF_PRIORITY, DEF_PRIORITY - len(passes), -1))
    for priority in passes:
        mine = [step for step in steps if step.priority == priority]
        assert [step.in_pass for step in mine] == [True] * (len(mine) - 1) + [False]
    assert len([step for step in steps if step.priority == 2]) > 50
    assert all(step.scanned <= ROUND_PAGES for step in steps)


def test_a_pass_that_scans_as_much_as_it_aims_at_keeps_the_priority() -> None:
    """Others allocate what kswapd frees, but passes reach their target, so the priority need not rise."""
    node = wake(node_with(50_000), 500)
    node.pgdat.pg.watermark[0, WMARK_HIGH] = node.pgdat.free_pages(0) + 1
    node.pgdat.pg.watermark[:, WMARK_MIN] = 0
    session = node.owner(next(iter(node.sessions)))
    passes, scanned = [], 0
    while (step := node.apply(ops.KswapdStep())).did is not ops.KswapdDid.SLEPT and len(passes) < 16:
        if step.did is ops.KswapdDid.SCANNED:
            scanned += step.scanned
            node.apply(ops.Alloc(session, (DMA32,), 0, 0, step.reclaimed, 1, DMA32, ALLOC_WMARK_MIN, 3))
            if not step.in_pass:
                passes.append((step.priority, scanned >= kswapd_target(node.pgdat.pg, DMA32)))
                scanned = 0
    assert {enough for _, enough in passes} == {False, True}
    for (priority, enough), (following, _) in pairwise(passes):
        assert following == priority - (not enough)


@pytest.mark.parametrize("profile", ["linux-3.0", "linux-6.1", "linux-6.12"])
@pytest.mark.parametrize("kind", [LRU_KIND_FILE, LRU_KIND_ANON])
def test_a_run_in_small_steps_is_the_run_in_large_ones(
    kind: int, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = wake(node_with(40_000, kind=kind, profile=profile), 12_000)
    in_large = scans(large)
    monkeypatch.setattr(reclaim, "STEP_PAGES", ROUND_PAGES)
    small = wake(node_with(40_000, kind=kind, profile=profile), 12_000)
    in_small = scans(small)
    assert len(in_small) > len(in_large)
    assert sum(step.scanned for step in in_small) == sum(step.scanned for step in in_large) > 0
    assert [s.priority for s in in_small if not s.in_pass] == [s.priority for s in in_large if not s.in_pass]
    assert small.pgdat.digest() == large.pgdat.digest()
    assert small.check() == []


def test_who_paces_it_may_die_in_the_middle_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next driver continues an unfinished pass, also after an allocation in between."""
    monkeypatch.setattr(reclaim, "STEP_PAGES", ROUND_PAGES)
    node = wake(node_with(40_000), 12_000)
    step = node.apply(ops.KswapdStep())
    while not step.in_pass:
        step = node.apply(ops.KswapdStep())
    priority, target = step.priority, node.pgdat.pg.scan_control[SC_TARGETS:SC_RECLAIM_IDX].tolist()
    assert node.apply(ops.Reclaim(DMA32, 8, 32)).reclaimed >= 32
    scanned = step.scanned
    while step.in_pass:
        step = run_one_step(node)
        assert step.priority == priority
        scanned += step.scanned
    assert scanned == sum(target)
    assert node.kswapd.run
    assert node.kswapd.run.priority == priority - 1


def run_one_step(node: Node) -> ops.KswapdStepResult:
    """Drive kswapd as a driver that knows only the node does."""
    assert node.kswapd_wanted
    return node.apply(ops.KswapdStep())


def test_3_0_begins_anew_at_the_lowest_priority_after_progress() -> None:
    steps = scans(wake(node_with(40_000, profile="linux-3.0"), 200))
    priorities = [step.priority for step in steps]
    # 9 and 19 pages do not count as progress, 39 more do
    assert priorities[:4] == [12, 11, 10, 12]
    assert [step.reclaimed for step in steps[:3]] == [9, 19, 39]
    assert set(priorities) == {12, 11, 10}


def test_3_0_looks_at_everything_before_it_gives_up() -> None:
    node = wake(node_with(profile="linux-3.0"), 1)
    assert [step.priority for step in scans(node)] == list(range(DEF_PRIORITY, -1, -1))
    # 6.x leaves priority 0 to direct reclaim
    assert [step.priority for step in scans(wake(node_with(), 1))] == list(range(DEF_PRIORITY, 0, -1))


def test_twice_the_order_that_is_wanted_is_enough() -> None:
    """After reclaiming twice the block's size, kswapd goes by order 0: the pages need not be contiguous."""
    node = node_with(40_000)
    region = node.owner(next(iter(node.regions)))
    pg = node.pgdat.pg
    mine = np.flatnonzero(pg.owner == node.slot_of(region))
    for _ in range(2):  # every second page is active: what is reclaimed between them makes no block
        node.pgdat.touch(node.slot_of(region), pg.pgoff[mine[::2]], False)
    pg.watermark[:] = 0
    session = node.owner(next(iter(node.sessions)))
    node.apply(ops.Alloc(session, (DMA32,), 0, 8, 1000, 1, DMA32, ALLOC_WMARK_MIN, 3))
    wake(node, -1000, order=8)
    assert node.pgdat.balanced(0, DMA32)
    steps = scans(node)
    assert 512 <= sum(step.reclaimed for step in steps) < 1024
    assert not node.pgdat.balanced(8, DMA32)
    assert not node.kswapd_wanted


def test_what_is_asked_while_it_runs_is_for_its_next_run(spec: MachineSpec) -> None:
    node = Simulation(spec).nodes[0]
    node.pgdat.pg.watermark_boost[1] = 100
    assert node.pgdat.wakeup_kswapd(3, 1)
    began = node.apply(ops.KswapdStep())
    assert (began.order, began.highest_zoneidx) == (3, 1)
    assert not node.pgdat.wakeup_kswapd(2, 1), "it is awake"
    assert node.pgdat.kswapd[KSWAPD_ORDER] == 2
    assert node.kswapd_order == 3


def test_its_process_loads_neither_kernels_nor_numpy() -> None:
    """Each node has a process for kswapd, of which Numba alone would take 75 MB."""
    script = "import sys, numa_service.cluster.kswapd; print({'numba', 'numpy', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
