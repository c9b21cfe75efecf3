"""stat, hardware, buddyinfo, zoneinfo and vmstat of a machine that the command boots."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from numa_service.cli.main import app
from numa_service.machine.boot import start_kernel
from numa_service.machine.presets import load_preset
from numa_service.procfs import SHOW


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("preset", ["demo", "nps4", "uma"])
@pytest.mark.parametrize(
    ("command", "show"),
    [
        ("hardware", "numactl"),
        ("buddyinfo", "buddyinfo"),
        ("zoneinfo", "zoneinfo"),
        ("vmstat", "vmstat"),
    ],
)
def test_they_print_what_the_kernel_and_numactl_would(preset: str, command: str, show: str) -> None:
    assert run(command, preset) == SHOW[show](start_kernel(load_preset(preset)).snapshot())


def test_json_has_the_same_numbers() -> None:
    spec = load_preset("demo")
    snapshot = start_kernel(spec).snapshot()
    hardware = json.loads(run("hardware", "demo", "--json"))
    assert hardware["distances"] == [list(row) for row in spec.distances]
    assert [node["cpus"] for node in hardware["nodes"]] == [[0, 1], [2, 3], []]
    populated = [zone for node in snapshot.nodes for zone in node.zones if zone.populated]
    buddyinfo = json.loads(run("buddyinfo", "demo", "--json"))
    assert [(row["node"], row["zone"], tuple(row["free_blocks"])) for row in buddyinfo] == [
        (zone.nid, zone.name, zone.nr_free) for zone in populated
    ]
    zoneinfo = json.loads(run("zoneinfo", "demo", "--json"))
    found = {(row["node"], row["zone"]): row for row in zoneinfo}
    for zone in populated:
        row = found[zone.nid, zone.name]
        assert [row[name] for name in ("min", "low", "high", "managed", "present", "spanned", "free")] == [
            zone.wmark_min,
            zone.wmark_low,
            zone.wmark_high,
            zone.managed,
            zone.present,
            zone.spanned,
            zone.free,
        ]
        assert tuple(row["protection"]) == zone.protection
    vmstat = json.loads(run("vmstat", "demo", "--json"))
    assert vmstat["nr_free_pages"] == sum(zone.free for zone in populated)


def test_stat_counts_what_was_filled() -> None:
    nodes = json.loads(run("stat", "demo", "--fill", "1=1000", "--json"))
    assert nodes["1"]["numa_hit"] + nodes["1"]["numa_miss"] > 0
    assert nodes["2"]["numa_hit"] == 0
    lines = run("stat", "demo", "--fill", "1=1000").splitlines()
    assert lines[0].split() == ["node0", "node1", "node2"]
    assert lines[1].split() == ["numa_hit", *(str(nodes[nid]["numa_hit"]) for nid in "012")]


def test_what_makes_no_sense_is_refused() -> None:
    for arguments in (("stat",), ("stat", "demo", "--name", "x"), ("stat", "demo", "--watch", "1")):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, arguments
