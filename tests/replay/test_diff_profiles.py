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


def test_any_two_versions_with_the_rules_that_differ() -> None:
    result = run(app, ["uma", "--json", "--profiles", "4.18.0-305.el8.x86_64,linux-5.17"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["profiles"] == ["linux-4.18-el8", "linux-5.17"]
    rules = {rule["rule"]: rule for rule in report["rules"]}
    load = rules["node_load"]
    assert load["values"] == {"linux-4.18-el8": "set to the nodes left", "linux-5.17": "plus the nodes left"}
    assert load["changes"] == [
        {
            "since": "5.16",
            "stable": [],
            "value": "plus the nodes left",
            "source": "build_zonelists: 54d032ced983 mm/page_alloc: "
            "use accumulated load when building node fallback list",
            "witness": "source only",
            "read_without_and_with": ["5.15.135", "5.17"],
        }
    ]
    assert [change["since"] for change in rules["lowmem_reserve_rules"]["changes"]] == ["5.8", "5.11"]
    assert rules["lowmem_reserve_rules"]["changes"][1]["stable"] == ["5.10.50"]
    assert not rules["class of a reserve"]["modelled"]
    assert "zone_order" not in rules  # the same in both
    told = run(app, ["uma", "--profiles", "linux-3.10-el7,linux-3.10"]).stdout
    assert "el7 report of an OOM kill" not in told
    assert "Read in 3.10.0-1160.el7" in told


def test_the_release_in_which_an_answer_changed() -> None:
    result = run(app, ["nps4", "--json", "--all", "--profiles", "linux-5.18,linux-5.15"])
    changed = {
        (row["group"], row["what"]): row["changed_in"] for row in json.loads(result.stdout)["differences"]
    }
    assert changed["zonelist", "node 7: nodes"] == ["5.16"]
    assert changed["sysctl", "vm.swappiness"] == []
    both = run(app, ["nps4", "--json", "--all", "--profiles", "linux-5.15,linux-5.19"])
    changed = {
        (row["group"], row["what"]): row["changed_in"] for row in json.loads(both.stdout)["differences"]
    }
    assert {"5.16"} <= set(changed["zonelist", "node 7: nodes"]) <= {"5.16", "5.19"}
    assert "changed in" in run(app, ["uma", "--all"]).stdout


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
        (["uma", "--profiles", "linux-6.1,linux-9.9"], "unknown profile"),
        (["uma", "--machine", "uma"], "only for a trace"),
    ],
)
def test_usage(arguments: list[str], message: str) -> None:
    result = run(app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
