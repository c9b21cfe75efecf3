"""kswapd's runs: what they begin with and what they leave behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import MachineSpec
from numa_service.node import ops
from numa_service.node.node import Node
from numa_service.sim.simulation import Simulation


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
    # nothing is on an LRU list, and no zone has as much
    node.pgdat.pg.watermark_boost[:2] = 1 << 20
    assert node.pgdat.wakeup_kswapd(0, 1)
    last = step_until(node, ops.KswapdDid.SLEPT)
    assert (last.reclaimed, last.balanced, last.wanted_again) == (0, False, False)
    assert node.pgdat.pg.watermark_boost.tolist()[:2] == [0, 0]


def test_who_paces_it_may_die_at_any_step(spec: MachineSpec) -> None:
    """The run is the node's: whoever comes next goes on with it, and its state is in the digest."""
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


def test_its_process_loads_neither_kernels_nor_numpy() -> None:
    """A machine has one process for each: Numba alone would be 75 MB of it."""
    script = "import sys, numa_service.cluster.kswapd; print({'numba', 'numpy', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
