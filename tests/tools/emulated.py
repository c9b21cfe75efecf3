"""A machine booted for a tool to look at, and the tool run on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache

from numa_service.cli.fill import Fill, fill
from numa_service.cli.mirror import File
from numa_service.machine.presets import load_preset
from numa_service.machine.snapshot import assemble
from numa_service.machine.spec import MachineSpec
from numa_service.mm.hugetlb.hstate import PMD_KB
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.node.hugetlb import keeper_of, set_max_huge_pages
from numa_service.procfs import tree
from numa_service.sim.simulation import Simulation

#: Huge pages of the machine.
HUGE_PAGES = 5
PRESETS = ("two-socket", "cxl-tier", "eight-node", "uma")


@dataclass(frozen=True)
class Emulated:
    """A machine with pages in use, of every kind."""

    spec: MachineSpec
    snapshot: MachineSnapshot
    files: tuple[File, ...]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command that sees the machine, by the program that `exec` becomes."""
        return run_on(self.files, *command)

    def started(self, *command: str) -> subprocess.Popen[str]:
        """The same, still running."""
        return started_on(self.files, *command)


def run_on(files: tuple[File, ...], *command: str) -> subprocess.CompletedProcess[str]:
    """A command that sees these files in /proc and /sys."""
    with started_on(files, *command) as process:
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def started_on(files: tuple[File, ...], *command: str) -> subprocess.Popen[str]:
    """The same, still running."""
    with tempfile.TemporaryFile("w+") as handed:
        json.dump(files, handed)
        handed.flush()
        os.lseek(handed.fileno(), 0, os.SEEK_SET)
        return subprocess.Popen(
            [sys.executable, "-m", "numa_service.cli.namespace", str(handed.fileno()), "-", *command],
            pass_fds=[handed.fileno(), *(file.content for file in files if file.content >= 0)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"LC_ALL": "C"},
        )


@cache
def namespaces_are_allowed() -> bool:
    return run_on((), "true").returncode == 0


@cache
def emulated(preset: str) -> Emulated:
    """The preset with pages of every kind taken, on the first node and the last."""
    spec = load_preset(preset)
    simulation = Simulation(spec)
    last = spec.nodes[-1].nid
    for wanted in ("0=20001:anon", "0=1003", f"{last}=3001:file", f"{last}=99"):
        fill(simulation, Fill.parse(wanted, spec))
    keeper = simulation.hosts[keeper_of(simulation.nodes[0])]
    simulation.call(keeper.node.nid, set_max_huge_pages(keeper.inbox, PMD_KB, HUGE_PAGES))
    snapshot = assemble(spec, [node.machine.node_part(nid) for nid, node in simulation.nodes.items()])
    files = (File(path, entry.mode, entry.target, text) for path, entry, text in tree.walk(snapshot))
    return Emulated(spec, snapshot, tuple(files))
