"""numa-service latency: the model's numbers, and those of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from numa_service.cli import latency as command

app = typer.Typer(pretty_exceptions_enable=False)
command.register(app)
run = CliRunner().invoke


def test_every_pair_that_can_be_used() -> None:
    result = run(app, ["demo", "--json"])
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    pairs = [(p["path"]["from_nid"], p["path"]["to_nid"]) for p in shown["paths"]]
    assert pairs == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)], "node 2 has no CPU"
    assert shown["paths"][2] == {
        "path": {"from_nid": 0, "to_nid": 2},
        "read_ns": 250,
        "write_ns": 250,
        "memory_mb_per_s": 6000,
        "link_mb_per_s": 0,
        "memory_curve": "cxl",
        "link_curve": "socket",
    }
    assert shown["sweeps"] == []


def test_a_table() -> None:
    text = run(app, ["two-socket"]).stdout
    for cell in ("0 → 1", "142", "54,000", "25,500", "ddr4", "no limit"):
        assert cell in text


def test_a_sweep_beside_the_curve(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text(
        '[[node]]\ncpus = "0-1"\nmemory = "64MiB"\n[[node]]\nmemory = "64MiB"\n'
        "[latency]\nmemory_mb_per_s = [4000, 0]\nlink_mb_per_s = [[0, 0], [0, 0]]\n"
    )
    shown = json.loads(run(app, [str(tmp_path / "box.toml"), "--sweep", "--json"]).stdout)
    # to node 1 there is no limit, so no load either
    assert {(p["path"]["from_nid"], p["path"]["to_nid"]) for p in shown["sweeps"]} == {(0, 0)}
    assert shown["sweeps"][-1]["latency_ns"] > 250
    for point in shown["sweeps"]:
        assert point["latency_ns"] == pytest.approx(point["curve_ns"], rel=0.03)
    text = run(app, [str(tmp_path / "box.toml"), "--sweep"]).stdout
    assert "100.0%" in text
    assert "off by" in text


def test_all_without_a_sweep_is_a_mistake() -> None:
    assert run(app, ["demo", "--all"]).exit_code == 2
