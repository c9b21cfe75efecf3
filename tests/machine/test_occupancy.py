"""What of a machine was free, as captures, numactl and numastat say it: the machine starts so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from groundtruth import topologies
from typer.testing import CliRunner

from numa_service.cli import boot as command
from numa_service.machine.captured_occupancy import read_pagetypeinfo, share_free
from numa_service.machine.source import load
from numa_service.machine.spec import SpecError

NUMACTL = """available: 2 nodes (0-1)
node 0 cpus: 0 1
node 0 size: 900 MB
node 0 free: 100 MB
node 1 cpus: 2 3
node 1 size: 1000 MB
node 1 free: 1000 MB
node distances:
node   0   1
  0:  10  20
  1:  20  10
"""
app = typer.Typer(pretty_exceptions_enable=False)
command.register(app)
run = CliRunner().invoke


def buddyinfo(*arguments: str) -> dict[str, list[int]]:
    result = run(app, ["boot", *arguments, "--show", "buddyinfo"])
    assert result.exit_code == 0, result.output
    rows = re.findall(r"^(Node \d+, zone +\w+)((?: +\d+)+)", result.stdout, re.MULTILINE)
    return {" ".join(name.split()): list(map(int, counts.split())) for name, counts in rows}


def test_a_capture_boots_with_its_free_blocks() -> None:
    """Every zone has the captured blocks of each order, to the block."""
    (root,) = (root for root in topologies() if root.name == "numa-2n")
    captured = {
        " ".join(line.split()[:4]): list(map(int, line.split()[4:]))
        for line in (root / "buddyinfo.txt").read_text().splitlines()
    }
    assert buddyinfo(str(root)) == captured
    assert buddyinfo(str(root), "--empty") != captured


def test_numactl_says_what_was_free_by_node(tmp_path: Path) -> None:
    path = tmp_path / "box.txt"
    path.write_text(NUMACTL)
    spec = load(str(path))
    assert "free memory is told by node only" in spec.notes[-1]
    free = {nid: sum(zone.free for zone in spec.occupancy if zone.nid == nid) for nid in spec.nids}
    assert free == {0: 100 << 8, 1: 1000 << 8}
    shown = buddyinfo(str(path))
    assert sum(count << order for order, count in enumerate(shown["Node 0, zone DMA32"])) <= 100 << 8


def test_numastat_says_who_held_what(tmp_path: Path) -> None:
    path = tmp_path / "box.txt"
    path.write_text(
        "\nPer-node system memory usage (in MBs):\n"
        "                          Node 0          Node 1           Total\n"
        "                 --------------- --------------- ---------------\n"
        "MemTotal                  900.00         1000.00         1900.00\n"
        "MemFree                   100.00          990.00         1090.00\n"
        "Active(anon)              600.00            1.00          601.00\n"
        "Inactive(anon)             50.00            0.00           50.00\n"
        "Inactive(file)             40.50            2.00           42.50\n"
    )
    held: dict[str, int] = {}
    for zone in load(str(path)).occupancy:
        for who, pages in zone.held:
            held[f"{zone.nid} {who}"] = held.get(f"{zone.nid} {who}", 0) + pages
    assert held == {
        "0 anonymous memory": 650 << 8,
        "0 page cache": 10368,
        "1 anonymous memory": 1 << 8,
        "1 page cache": 2 << 8,
    }


def test_the_highest_zone_is_used_first() -> None:
    managed = {(0, "DMA"): 100, (0, "DMA32"): 1000, (0, "Normal"): 5000, (1, "Normal"): 7}
    zones = share_free({0: 900, 1: 9}, managed, {0: (("page cache", 5100),)})
    assert [(zone.zone, zone.free, zone.held) for zone in zones] == [
        ("Normal", 0, (("page cache", 5000),)),
        ("DMA32", 800, (("page cache", 100),)),
        ("DMA", 100, ()),
        ("Normal", 7, ()),
    ]


def test_a_count_may_be_cut_off_and_a_zone_not_too_full() -> None:
    line = "Node    0, zone   Normal, type      Movable >100000 1 0 0 0 0 0 0 0 0 0\n"
    (zone,) = read_pagetypeinfo(line, {(0, "Normal"): 100_002})
    assert (zone.free, zone.listed) == (100_002, 100_002)
    with pytest.raises(SpecError, match="node 0 zone Normal: 100002 pages free"):
        read_pagetypeinfo(line, {(0, "Normal"): 100_001})
