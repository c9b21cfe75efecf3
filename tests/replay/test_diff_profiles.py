"""numa-service diff-profiles: what changes between kernels, for a machine and for a trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from replay.traced import PFNS, Alloc, Free, render
from typer.testing import CliRunner

from numa_service.cli import diff_profiles as command

app = typer.Typer(pretty_exceptions_enable=False)
command.register(app)
run = CliRunner().invoke

MACHINE = """
name = "small"
[[node]]
cpus = "0-1"
memory = "128MiB"
[[node]]
cpus = "2"
memory = "64MiB"
"""


def values(stdout: str) -> dict[tuple[str, str], dict[str, str]]:
    report = json.loads(stdout)
    return {(row["group"], row["what"]): row["values"] for row in report["differences"]}


def test_a_machine_under_each_kernel() -> None:
    result = run(app, ["nps4", "--json", "--profiles", "linux-6.1,linux-3.0"])
    assert result.exit_code == 0
    differences = values(result.stdout)
    assert differences["zonelist", "node 7: nodes"]["linux-3.0"] == "7 4 5 6 0 1 2 3"
    assert differences["zonelist", "node 7: nodes"]["linux-6.1"] == "7 4 5 6 3 0 1 2"
    assert differences["pagesets", "orders kept"] == {"linux-6.1": "0-3 and THP", "linux-3.0": "0"}
    assert all(len(set(row.values())) == 2 for row in differences.values())


def test_a_table_and_all_rows() -> None:
    result = run(app, ["two-socket"])
    assert result.exit_code == 0
    assert "pageset high" in result.stdout
    few, every = (values(run(app, ["uma", "--json", *extra]).stdout) for extra in ((), ("--all",)))
    assert few.items() < every.items()


def test_a_trace_under_each_kernel(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(MACHINE)
    events = [Alloc(i % 3, PFNS[0] + i, 3) for i in range(0, 4000, 8)]
    events_after = [Free(0, event.pfn, 3) for event in events]
    (tmp_path / "trace").write_text(render([*events, *events_after]))
    arguments = [str(tmp_path / "trace"), "--machine", str(tmp_path / "small.toml")]
    result = run(app, [*arguments, "--json"])
    assert result.exit_code == 0
    differences = values(result.stdout)
    # 3.0 keeps no order 3 on pagesets: every block comes off the free lists and goes back
    assert differences["pagesets", "blocks refilled"]["linux-3.0"] == "500"
    assert differences["pagesets", "blocks drained"]["linux-3.0"] == "0"
    assert not any(group == "allocations" for group, _ in differences)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["uma", "--profiles", "linux-6.1"], "two or more"),
        (["uma", "--profiles", "linux-6.1,linux-9.9"], "no profile"),
        (["uma", "--machine", "uma"], "only for a trace"),
    ],
)
def test_usage(arguments: list[str], message: str) -> None:
    result = run(app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
