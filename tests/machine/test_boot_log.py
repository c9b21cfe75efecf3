"""The boot log against those of captured kernels: every line on zones, nodes and zonelists, in order.

These kinds of lines are all equal. Others are not compared, because nothing here computes them: firmware
(ACPI, the SRAT as its tables list it), addresses of boot allocations (NODE_DATA, per-CPU areas: they depend
on what firmware and initrd took), sizes of the kernel image and what is freed of it ("Memory:").
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from groundtruth import topologies

from numa_service.machine.boot import start_kernel
from numa_service.machine.booted import BootedMachine
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.presets import load_preset
from numa_service.machine.source import load

COMPUTED = re.compile(
    r"Zone ranges:|  (?:DMA|DMA32|Normal|HighMem|Device) +(?:\[mem|empty)"
    r"|Movable zone start|  Node \d+: 0x|Early memory node ranges|  node +\d+: \[mem"
    r"|Initmem setup node|Initializing node|mminit::memmap_init|On node \d+, zone"
    r"|Fallback order|mminit::zonelist|Built |Policy zone"
)


def computed_lines(lines: list[str]) -> list[str]:
    return [line for line in lines if COMPUTED.match(line)]


def log(machine: BootedMachine) -> list[str]:
    return [text for _, text in machine.dmesg]


@pytest.mark.parametrize("root", topologies(), ids=lambda root: root.name)
def test_computed_lines_are_the_captured_ones(root: Path) -> None:
    text = (root / "dmesg.txt").read_text()
    captured = computed_lines([re.sub(r"^\[ *\d+\.\d+\] ?", "", line) for line in text.splitlines()])
    assert len(captured) >= 15
    spec = load(str(root))
    assert computed_lines(log(start_kernel(spec, [spec.nodes[0].nid]))) == captured


def test_3_0_speaks_of_pfns() -> None:
    """The ranges and numbers are those of a 4 GiB machine of that time, from its published boot log."""
    text = (
        'name = "old"\nprofile = "linux-3.0"\n[[node]]\ncpus = "0-3"\n'
        'ranges = [["0x10000", "0x9e000"], ["0x100000", "0xcfe90000"], ["0x100000000", "0x130000000"]]\n'
    )
    lines = log(start_kernel(parse_machine(text, "old", "old"), []))
    first = lines.index("Zone PFN ranges:")
    assert [line for line in lines[first:] if not line.startswith("mminit")][:18] == [
        "Zone PFN ranges:",
        "  DMA      0x00000010 -> 0x00001000",
        "  DMA32    0x00001000 -> 0x00100000",
        "  Normal   0x00100000 -> 0x00130000",
        "Movable zone start PFN for each node",
        "early_node_map[3] active PFN ranges",
        "    0: 0x00000010 -> 0x0000009e",
        "    0: 0x00000100 -> 0x000cfe90",
        "    0: 0x00100000 -> 0x00130000",
        "On node 0 totalpages: 1048094",
        "  DMA zone: 56 pages used for memmap",
        # that machine had allocated 5 pages of ZONE_DMA before, which left 3921
        "  DMA zone: 0 pages reserved",
        "  DMA zone: 3926 pages, LIFO batch:0",
        "  DMA32 zone: 14280 pages used for memmap",
        "  DMA32 zone: 833224 pages, LIFO batch:31",
        "  Normal zone: 2688 pages used for memmap",
        "  Normal zone: 193920 pages, LIFO batch:31",
        "setup_percpu: nr_cpu_ids:4 nr_node_ids:1",
    ]
    assert "Initmem setup node 0 0000000000010000-0000000130000000" in lines
    assert "Built 1 zonelists in Node order, mobility grouping on.  Total pages: 1031070" in lines


def test_3_0_names_the_order_and_prints_no_fallback_order() -> None:
    lines = log(start_kernel(load_preset("nps4").with_profile("linux-3.0"), []))
    assert not [line for line in lines if line.startswith("Fallback order")]
    built = [line for line in lines if line.startswith("Built ")]
    assert len(built) == 1
    assert built[0].startswith("Built 8 zonelists in Node order, mobility grouping on.  Total pages: ")
    nodes = "".join(f'[[node]]\ncpus = [{cpu}]\nmemory = "16GiB"\n' for cpu in (0, 1))
    big = parse_machine(f'profile = "linux-3.0"\n{nodes}', "big", "big")
    assert any("zonelists in Zone order" in line for line in log(start_kernel(big, [])))


def test_i386_has_no_numa() -> None:
    lines = log(start_kernel(load_preset("i386-highmem"), []))
    assert not [line for line in lines if re.match(r"Fallback|Policy|mminit::zonelist thisnode", line)]
    old = log(start_kernel(load_preset("i386-highmem").with_profile("linux-3.0"), []))
    assert any("Built 1 zonelists in Zone order" in line for line in old)


def test_the_command_line_is_the_second_line() -> None:
    spec = replace(load_preset("uma"), cmdline="quiet kernelcore=1G")
    assert log(start_kernel(spec, []))[1] == "Command line: quiet kernelcore=1G"
