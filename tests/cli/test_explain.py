"""numa-service explain: text, JSON, --fill, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import typer
from groundtruth import GROUNDTRUTH
from typer.testing import CliRunner

from numa_service.cli import explain as command

app = typer.Typer(pretty_exceptions_enable=False)
command.register(app)
run = CliRunner().invoke


def test_text_reads_like_the_path() -> None:
    result = run(app, ["demo", "--count", "100"])
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "GFP_KERNEL, 100 pages, CPU 0 on node 0"
    assert lines[2].startswith("zonelist of node 0, 100 pages: 0:DMA32 0:DMA ")
    assert lines[3].startswith("fast path, WMARK_LOW")
    assert lines[4].startswith("  0:DMA32    free ")
    assert lines[4].endswith(": 100 blocks")
    assert "got 100 on node 0" in lines


def test_json_is_the_tree() -> None:
    result = run(app, ["demo", "--order", "3", "--count", "2", "--policy", "bind:2", "--json"])
    assert result.exit_code == 0, result.stderr
    tree = json.loads(result.stdout)
    assert (tree["order"], tree["count"], tree["placement"]) == (3, 2, {"2": 2})
    assert tree["policy"] == {"mode": "bind", "nodes": [2], "home_node": None, "flag": None}
    walk, fast = tree["steps"]
    assert (walk["step"], fast["step"]) == ("walk", "freelist_pass")
    [zone] = fast["nodes"][0]["zones"]
    assert zone["served_blocks"] == 2
    assert zone["before"]["free_pages"] - zone["after"]["free_pages"] == 8 * zone["buddy_blocks"]


def test_a_filled_node_spills() -> None:
    result = run(app, ["demo", "--count", "50", "--fill", "0=100%"])
    assert result.exit_code == 0
    assert "node 0 gave" in result.stderr
    assert "got 50 on node 2" in result.stdout
    assert "pages short" in result.stdout


def test_a_node_full_of_page_cache_reclaims() -> None:
    arguments = ["demo", "--count", "4000", "--fill", "0=60000:file", "--gfp", "GFP_KERNEL|__GFP_THISNODE"]
    result = run(app, arguments)
    assert result.exit_code == 0
    assert "direct reclaim on node 0, priority 12: scanned " in result.stdout
    assert "this-node list of node 0" in result.stdout


def test_a_sysctl_moves_the_mark() -> None:
    marks = []
    for more in ([], ["--sysctl", "vm.min_free_kbytes=90000"]):
        tree = json.loads(run(app, ["demo", "--json", *more]).stdout)
        marks.append(tree["steps"][1]["nodes"][0]["zones"][0]["before"]["mark_pages"])
    assert marks[0] < marks[1]


def test_a_sysctl_without_effect_says_so() -> None:
    result = run(app, ["demo", "--sysctl", "vm.zone_reclaim_mode=7", "--sysctl", "vm.swappiness=9"])
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "note: vm.zone_reclaim_mode = 7 is kept and shown, and changes nothing else here: "
        "node reclaim is not modelled"
    ]


def test_a_capture_starts_as_fragmented_as_it_was(tmp_path: Path) -> None:
    root = tmp_path / "captured"
    shutil.copytree(GROUNDTRUTH / "topologies" / "numa-2n-big", root)
    lines = (root / "buddyinfo.txt").read_text().splitlines()
    heads = [line[: line.index(",") + len(", zone   Normal")] for line in lines]
    (root / "buddyinfo.txt").write_text("".join(f"{head} 500 90 20 5{' 0' * 7}\n" for head in heads))
    asked = [str(root), "--order", "4", "--gfp", "GFP_KERNEL"]
    result = run(app, asked)
    assert result.exit_code == 0, result.stderr
    assert "page allocation failure: order 4" in result.stdout
    assert "got 1" not in result.stdout
    assert "memory starts as full as the source says" in result.stderr
    fresh = run(app, [*asked, "--empty"])
    assert "got 1 on node 0" in fresh.stdout
    assert "memory starts" not in fresh.stderr


def test_what_is_wrong_is_said() -> None:
    for arguments, code, text in (
        ([], 2, "SOURCE"),
        (["demo", "--name", "demo"], 2, "SOURCE"),
        (["--name", "demo", "--fill", "0=1"], 2, "only with SOURCE"),
        (["demo", "--fill", "0"], 2, "NODE=PAGES"),
        (["demo", "--fill", "0=" + "9" * 5000], 2, "NODE=PAGES"),
        (["demo", "--fill", "9=10%"], 2, "no node 9"),
        (["demo", "--fill", "0=101%"], 2, "has 65438 pages"),
        (["demo", "--cpu", "99"], 1, "no CPU 99"),
        (["demo", "--gfp", "GFP_NOSUCH"], 1, "unknown gfp flag"),
        (["demo", "--order", "11"], 1, "order: 11"),
        (["demo", "--policy", "bind:7"], 1, "there is no node 7"),
        (["demo", "--policy", "nearest"], 1, "unknown policy"),
    ):
        result = run(app, arguments)
        assert result.exit_code == code, arguments
        assert text in " ".join(result.stderr.replace("│", "").split()), arguments


def test_a_request_that_fails_is_an_answer() -> None:
    result = run(app, ["demo", "--count", "60000", "--policy", "bind:0"])
    assert result.exit_code == 0
    assert "page allocation failure: order 0" in result.stdout
