"""Boot logs: what kernels of several ages print, in the prefixes that people copy with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from groundtruth import GROUNDTRUTH

from numa_service.machine.boot import start_kernel
from numa_service.machine.formats.boot_log import read_boot_log
from numa_service.machine.formats.detect import read_source
from numa_service.machine.formats.draft import Draft
from numa_service.machine.formats.machine_toml import to_spec
from numa_service.machine.source import load
from numa_service.machine.spec import SpecError

SRAT = """\
Linux version 6.12.9 (x@y)
SRAT: PXM 0 -> APIC 0x00 -> Node 0
SRAT: PXM 1 -> APIC 0x20 -> Node 1
SRAT: PXM 0 -> APIC 0x02 -> Node 0
ACPI: SRAT: Node 0 PXM 0 [mem 0x00000000-0x7fffffff]
ACPI: SRAT: Node 0 PXM 0 [mem 0x100000000-0x17fffffff]
ACPI: SRAT: Node 1 PXM 1 [mem 0x180000000-0x27fffffff]
"""


def _read(text: str) -> Draft:
    draft = read_boot_log(text, "log", "log")
    draft.check()
    return draft


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "[    0.008204] ",
        "[    0.008204][    T0] ",
        "Nov 30 21:00:01 host kernel: [    0.008204] ",
        "> > [Mon Nov 30 21:00:01 2026] ",
        "2026-11-30T21:00:01.1234567Z <6>[    0.0] ",
    ],
)
def test_lines_are_found_behind_any_prefix(prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "copied.txt"
    path.write_text("".join(f"{prefix}{line}\n" for line in SRAT.splitlines()))
    draft = read_source(str(path))
    assert draft.profile == "linux-6.12.9"
    assert [(node.nid, node.cpus, node.bytes >> 20) for node in draft.nodes] == [
        (0, (0, 1), 4096),
        (1, (2,), 4096),
    ]


def test_memory_is_what_e820_and_srat_both_have_hot_pluggable_or_not() -> None:
    draft = _read(
        SRAT.replace("27fffffff]", "27fffffff] hotplug")
        + "BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usable\n"
        "BIOS-e820: [mem 0x0000000000100000-0x000000007ffdefff] usable\n"
        "BIOS-e820: [mem 0x000000007ffdf000-0x000000007fffffff] reserved\n"
        "BIOS-e820: [mem 0x0000000100000000-0x00000001ffffffff] usable\n"
    )
    assert [node.ranges for node in draft.nodes] == [
        ((0, 0xA0), (0x100, 0x7FFDF), (0x100000, 0x180000)),
        ((0x180000, 0x200000),),
    ]


def test_node_ranges_go_before_the_srat_and_movable_memory_is_kept() -> None:
    draft = _read(
        SRAT + "Movable zone start for each node\n  Node 1: 0x00000001c0000000\nEarly memory node ranges\n"
        "  node   0: [mem 0x0000000000001000-0x000000007fffffff]\n"
        "  node   1: [mem 0x0000000180000000-0x00000001ffffffff]\n"
        "Initmem setup node 0 [mem 0x0000000000001000-0x000000007fffffff]\n"
        "Initmem setup node 2 as memoryless\n"
    )
    assert [(node.nid, node.bytes >> 12, node.movable) for node in draft.nodes] == [
        (0, 0x7FFFF, 0),
        (1, 0x80000, 0x40000),
        (2, 0, 0),
    ]


def test_kernels_before_3_7_print_exclusive_ends_without_0x() -> None:
    draft = _read(
        "Linux version 2.6.32-754.el6\n"
        " BIOS-e820: 0000000000000000 - 00000000000a0000 (usable)\n"
        " BIOS-e820: 0000000000100000 - 0000000300000000 (usable)\n"
        "SRAT: PXM 0 -> APIC 0 -> Node 0\nSRAT: PXM 1 -> APIC 4 -> Node 1\n"
        "SRAT: Node 0 PXM 0 0-a0000\nSRAT: Node 0 PXM 0 100000-180000000\n"
        "SRAT: Node 1 PXM 1 180000000-300000000\n"
    )
    assert [node.bytes for node in draft.nodes] == [0x180000000 - 0x60000, 0x180000000]
    old = _read("early_node_map[2] active PFN ranges\n    0: 0x00001000 -> 0x00003000\n"
                "    1: 0x00100000 -> 0x00200000\nNODE_DATA(0) allocated\n")  # fmt: skip
    assert [node.ranges for node in old.nodes] == [((0x1000, 0x3000),), ((0x100000, 0x200000),)]


def test_cpus_by_the_lines_of_their_boot_or_by_number() -> None:
    booted = (
        ".... node  #0, CPUs:        #1\n.... node  #1, CPUs:    #2  #3\nsmp: Brought up 2 nodes, 4 CPUs\n"
    )
    assert [node.cpus for node in _read(SRAT + booted).nodes] == [(0, 1), (2, 3)]
    counted = "\n".join(line for line in SRAT.splitlines() if "APIC" not in line)
    draft = _read(f"{counted}\nsmp: Brought up 2 nodes, 6 CPUs\n")
    assert [node.cpus for node in draft.nodes] == [(0, 1, 2), (3, 4, 5)]
    assert any("whose the 6 CPUs are" in note for note in draft.notes)


@pytest.mark.parametrize(
    ("orders", "row"),
    [
        (["0 1 2", "1 2 0", "2 0 1"], (10, 20, 20)),
        (["0 1 2 3", "1 0 3 2", "2 3 0 1", "3 2 1 0"], (10, 16, 22, 22)),
        (["0 2 1", "1 0 2", "2 1 0"], (10, 22, 20)),
    ],
    ids=["all equal", "two distances", "a distance a place"],
)
def test_distances_are_such_as_give_the_fallback_orders(orders: list[str], row: tuple[int, ...]) -> None:
    lines = [f"Fallback order for Node {nid}: {order} \n" for nid, order in enumerate(orders)]
    text = f"Linux version 6.1.5\n{''.join(lines)}Memory: 1000000K/6291456K available\n"
    spec = to_spec(_read(text), "log")
    assert spec.distances[0] == row
    built = start_kernel(spec).zonelists
    assert [" ".join(map(str, built[nid].node_order)) for nid in sorted(built)] == orders


@pytest.mark.parametrize(
    "name", ["numa-4n-ring", "random-17", "memoryless-cpuless", "k612-cxl-tier-hmat", "fake-4"]
)
def test_the_logs_of_captured_kernels_have_their_nodes(name: str) -> None:
    root = GROUNDTRUTH / "topologies" / name
    captured = load(str(root))
    draft = _read((root / "dmesg.txt").read_text())
    spec = to_spec(draft, "log")
    assert [(node.nid, node.ram) for node in spec.nodes] == [(node.nid, node.ram) for node in captured.nodes]
    ours, theirs = start_kernel(spec).zonelists, start_kernel(captured).zonelists
    assert {nid: at.node_order for nid, at in ours.items()} == {
        nid: at.node_order for nid, at in theirs.items()
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("NODE_DATA(5000) allocated\n", "node 5000: there are at most 1024 nodes"),
        ("Fallback order for Node 0: 0 1 1\n", "Fallback order for Node 0: a node is in it twice"),
        ("BIOS-e820: [mem 0x0-0xffff] usable\n" * 5000, "more than 4096 ranges of memory"),
    ],
)
def test_errors(text: str, error: str) -> None:
    with pytest.raises(SpecError, match=error):
        read_boot_log(text, "log", "log")
