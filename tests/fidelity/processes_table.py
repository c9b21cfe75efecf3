"""The section on processes of ``make fidelity``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fidelity.compare import Field
from fidelity.processes import Replay
from fidelity.processes_resident import NOT_COMPARED, ResidentReplay
from fidelity.rows import COLUMNS, row
from fidelity.slab_table import collected

_TEXT = """
## Address spaces of processes

Scripts of memory operations: mmap, munmap, mprotect, mremap, madvise, mlock, brk, growth of the stack,
mbind, fork, reads and writes. The same is done here, and after each step the addresses, every line of
/proc/PID/maps, VmFlags of the VMAs that changed, the sizes in status, pages of page tables, Committed_AS
and the errors are computed; in `basic`, `policy` and `thp`, too, smaps and numa_maps of what the script
maps, which pages of it are mapped how often, and the number of faults; in `thp` all thp_* events of vmstat,
in `sparse` the anonymous pages of the machine. Taken over are the program as it was
loaded, devices and inodes of files, and how numa_maps writes policies; which pages mbind moves in `thp` the
comparison itself says. Not compared are resident sets of
the program's own parts, `active=`, LazyFree, in `policy` the nodes, and in `4n1c-k61/basic` a file that was
still being read.

"""


def process_captures(root: Path) -> list[Path]:
    """Captures of scripts."""
    return sorted(path.parent for path in root.glob("processes/*/*/scenario.json"))


def process_section(root: Path, skipped: list[str], unreadable: list[str]) -> tuple[str, list[Field]]:
    """Text and fields."""
    lines: list[str] = []

    def of(capture: Path) -> Iterator[Field]:
        name = f"processes/{capture.parent.name}/{capture.name}"
        replay = Replay(capture)
        compared = replay.run()
        if capture.name not in NOT_COMPARED:
            compared += ResidentReplay(capture).run()
        # what stands where it stood after an earlier step counts once
        fields = [
            Field(name, one.step, one.what, one.subject, one.captured, one.computed) for one in compared
        ]
        lines.append(row(f"{name} | {len(replay.steps)}", fields))
        yield from fields

    everything: list[Field] = []
    for capture in process_captures(root):
        name = f"processes/{capture.parent.name}/{capture.name}"
        everything += collected(name, lambda at=capture: of(at), skipped, unreadable)
    columns = COLUMNS.replace("|---", "|---|---", 1)
    text = f"{_TEXT}| capture | steps | {columns}{''.join(lines)}" if everything else ""
    return text, everything
