"""One scenario in three shells (by hand, simulated, on Ray); the first two have the same transcript.

Regenerate the golden file with REWRITE_GOLDEN=1 and read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from node.by_hand import ByHand
from node.fill_spill_recover import GOLDEN, Shell, machine, play

from numa_service.node.node import Node
from numa_service.sim.network import Faults
from numa_service.sim.simulation import Simulation

TESTDATA = Path(__file__).resolve().parents[1] / "testdata"


@pytest.mark.parametrize("make", [ByHand, Simulation], ids=["by-hand", "simulated"])
def test_fill_spill_recover(make: type[ByHand] | type[Simulation]) -> None:
    shell: Shell = make(machine())
    text = play(shell)
    golden = TESTDATA / GOLDEN
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    assert [problem for node in shell.nodes.values() for problem in node.check()] == []


def test_the_golden_transcript_tells_the_whole_story() -> None:
    text = (TESTDATA / GOLDEN).read_text()
    assert "node2 alloc" in text
    assert "numa_foreign" in text
    assert "kswapd begins" in text
    assert "kswapd balanced" in text
    assert "direct_reclaim" not in text


def test_the_order_of_ops_does_not_depend_on_network_delays() -> None:
    assert play(Simulation(machine(), seed=7, faults=Faults(jitter=1.0))) == (TESTDATA / GOLDEN).read_text()


def test_every_log_replays_to_the_same_digest() -> None:
    sim = Simulation(machine())
    play(sim)
    for nid, node in sim.nodes.items():
        assert node.log_dropped == 0
        assert Node.replay(machine(), nid, list(node.log)).digest() == node.digest()
