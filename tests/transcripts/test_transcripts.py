"""Every scenario prints what its file says; ``--rewrite`` writes what it prints now into the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from transcripts.script import Script, cases

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    script, text = Script(), path.read_text()
    printed = "".join(case.text(script.run(case.commands)) for case in cases(text))
    if request.config.getoption("--rewrite"):
        path.write_text(printed)
    assert printed == text or request.config.getoption("--rewrite")
    assert script.sim.check() == []
    for nid, node in script.sim.nodes.items():
        assert node.log_dropped == 0
        replayed = type(node).replay(script.sim.spec, nid, list(node.log), node.lineage)
        assert replayed.digest() == node.digest()


def test_there_are_scenarios_for_a_kernel_engineer() -> None:
    assert len(SCENARIOS) >= 15
    assert all(path.read_text().startswith("# ") for path in SCENARIOS)
