"""The steps of a captured workload with SLAB: each command, and the lines of /proc/slabinfo that it changed.

A capture has a folder of steps or, in the archives, `WORKLOAD.steps` made from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_COMMAND = re.compile(r"== step (\d+) .*command: (.*)", re.ASCII)
_LINE = re.compile(
    r"(\S+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) : tunables +(\d+) +(\d+) +(\d+)"
    r" : slabdata +(\d+) +(\d+) +(\d+)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class SlabCounts:
    """What /proc/slabinfo prints of one cache, as far as it changes."""

    active_objects: int
    objects: int
    active_slabs: int
    slabs: int
    #: Objects in the arrays that the CPUs of a node share (sharedavail).
    shared: int


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a workload."""

    number: int
    command: str
    #: By cache; those whose line is the same as before are left out.
    counts: dict[str, SlabCounts]


def pack_steps(folder: Path) -> bytes:
    """The steps in a folder as they stand in an archive; empty if no step has slabinfo."""
    kept = []
    found = False
    for path in sorted(folder.glob("step*.txt")):
        for line in path.read_text(errors="replace").splitlines():
            if _COMMAND.match(line) or _LINE.match(line):
                kept.append(line)
                found = found or bool(_LINE.match(line))
    return "".join(f"{line}\n" for line in kept).encode() if found else b""


def slab_steps(capture: Path, workload: str) -> list[Step]:
    """The steps of a workload."""
    packed = capture / f"{workload}.steps"
    data = packed.read_bytes() if packed.exists() else pack_steps(capture / workload)
    steps: list[Step] = []
    for line in data.decode().splitlines():
        if command := _COMMAND.match(line):
            steps.append(Step(int(command[1]), command[2], {}))
        elif found := _LINE.match(line):
            active, objects = int(found[2]), int(found[3])
            slabs = (int(found[number]) for number in (10, 11, 12))
            steps[-1].counts[found[1]] = SlabCounts(active, objects, *slabs)
    return steps
