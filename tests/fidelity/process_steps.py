"""Captured steps of processes: what a subject was told to do, and what the kernel said of it afterwards."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Area:
    """A VMA as a line of maps has it."""

    line: str
    start: int
    end: int
    allowed: str
    offset: int
    device: str
    inode: int
    name: str


def area(line: str) -> Area:
    """One line of maps."""
    match = re.fullmatch(r"(\w+)-(\w+) (\S{4}) (\w+) (\S+) (\d+) *(.*)", line)
    assert match, line
    return Area(
        line,
        int(match[1], 16),
        int(match[2], 16),
        match[3],
        int(match[4], 16),
        match[5],
        int(match[6]),
        match[7],
    )


@dataclass(slots=True)
class Seen:
    """What a step shows of one subject."""

    maps: list[str] = field(default_factory=list)
    #: By the line of maps, of VMAs that changed: lines of smaps by their label.
    smaps: dict[str, dict[str, str]] = field(default_factory=dict)
    numa_maps: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    status: dict[str, str] = field(default_factory=dict)
    died: bool = False


@dataclass(slots=True)
class Step:
    """One command, and what was seen after it."""

    number: int
    command: list[str]
    rc: int
    errno: int
    address: int
    subjects: dict[str, Seen]
    #: Lines of vmstat that changed.
    vmstat: dict[str, int]
    #: Lines of meminfo that changed, in kB.
    meminfo: dict[str, int]
    #: When it began, in ms since the script did.
    t_ms: int

    @property
    def name(self) -> str:
        return f"step {self.number}"


def steps(capture: Path) -> list[Step]:
    """All steps of a capture, in order."""
    return [_step(number, path) for number, path in enumerate(sorted((capture / "steps").glob("step*.txt")))]


def _step(number: int, path: Path) -> Step:
    head, *sections = re.split(r"^== ", path.read_text(), flags=re.M)[1:]
    command = head.split("command: ", 1)[1].split()
    step = Step(number, command, 0, 0, 0, {}, {}, {}, int(head.split("t_ms ", 1)[1].split()[0]))
    for text in sections:
        title, _, body = text.partition("\n")
        lines = body.splitlines()
        if match := re.match(r"p\d answered: rc (-?\d+) errno (\d+)(?: addr (\w+))?", title):
            step.rc, step.errno = int(match[1]), int(match[2])
            step.address = int(match[3] or "0", 16)
        elif match := re.match(r"(p\d) (maps|smaps|numa_maps|pages|status)", title):
            _subject(step.subjects.setdefault(match[1], Seen()), match[2], lines)
        elif match := re.match(r"(p\d) died", title):
            step.subjects.setdefault(match[1], Seen()).died = True
        elif title.startswith("vmstat"):
            step.vmstat = {line.split()[0]: int(line.split()[1]) for line in lines if line.count(" ") == 1}
        elif title.startswith("meminfo"):
            step.meminfo = {line.split(":")[0]: int(line.split()[1]) for line in lines if ":" in line}
    return step


def _subject(seen: Seen, what: str, lines: list[str]) -> None:
    if what in ("maps", "numa_maps", "pages"):
        setattr(seen, what, lines)
    elif what == "smaps":
        numbers: dict[str, str] = {}
        for line in lines:
            if re.match(r"[0-9a-f]+-", line):
                numbers = seen.smaps[line] = {}
            else:
                label, _, value = line.partition(":")
                numbers[label] = value
    else:
        for line in lines:
            label, _, value = line.partition(":")
            seen.status[label] = value.strip()
