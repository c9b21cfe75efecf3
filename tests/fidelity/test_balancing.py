"""Captured runs of NUMA balancing: as many hints, faults and migrations, and the same pages stay."""

from __future__ import annotations

from itertools import pairwise

import pytest
from fidelity.balancing import Scenario, balancing_captures, captured, compare_balancing
from groundtruth import GROUNDTRUTH

BALANCING = GROUNDTRUTH / "balancing"
#: By capture: what was compared.
COUNTS = {
    "2n2c-k61/shared": 7,
    "2n2c-k61/threads": 21,
    "2n2c-k61/wrong-node": 10,
    "2n2c-k61/wrong-node-thp": 16,
    "2n2c-k612/threads": 18,
    "2n2c-k612/wrong-node": 16,
}


@pytest.mark.parametrize("name", COUNTS)
def test_hints_faults_and_migrations_are_as_captured(name: str) -> None:
    fields = compare_balancing(BALANCING / name)
    assert [field for field in fields if not field.explained] == []
    assert len(fields) == COUNTS[name]


@pytest.mark.parametrize("name", ["2n2c-k61/wrong-node", "2n2c-k61/wrong-node-thp", "2n2c-k612/wrong-node"])
def test_the_same_pages_stay(name: str) -> None:
    last, _ = captured(BALANCING / name)
    assert Scenario(BALANCING / name).run().nodes == last.nodes


def test_pages_that_cannot_be_isolated_fault_at_every_scan() -> None:
    """26 pages were in a CPU's batch: 6.12 asks for them again and again."""
    run = Scenario(BALANCING / "2n2c-k612/wrong-node")
    end = run.run()
    faults = [seen.counters["numa_hint_faults"] for seen in [*run.seen[1:], end]]
    assert [after - before for before, after in pairwise(faults)] == [26, 26]


def test_all_captures_are_compared() -> None:
    found = {str(path.relative_to(BALANCING)) for path in balancing_captures(GROUNDTRUTH)}
    assert found == set(COUNTS)
