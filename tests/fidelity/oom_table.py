"""The section on the OOM killer of ``make fidelity``."""

from __future__ import annotations

from pathlib import Path

from fidelity.compare import Field
from fidelity.oom import captures, compare_oom
from fidelity.rows import COLUMNS, causes, kinds, row
from fidelity.slab_table import collected

_TEXT = """
## OOM kills

Processes with several `oom_score_adj` use up a machine, a node by a memory policy or a cpuset, or the limit
of a memory group, and the kernel kills one after the other. Of each report the figures of tasks and nodes
are taken over. Who is killed and why memory was short are computed, and the table of tasks is printed again;
so is `/proc/PID/oom_score` of each process at each step, from what its `status` says. In which step memory
runs out is not compared. A test compares the rest of each report: the first and last lines to the letter,
Mem-Info but for its numbers.

"""


def oom_section(root: Path, skipped: list[str], unreadable: list[str]) -> tuple[str, list[Field]]:
    """Text and fields."""
    everything: list[Field] = []
    lines = ""
    for capture, (text, scores) in captures(root).items():
        name = f"oom/{capture}"
        compared = (name, text, scores)
        fields = collected(name, lambda of=compared: compare_oom(*of), skipped, unreadable)
        everything += fields
        lines += row(name, fields)
    if not everything:
        return "", []
    return f"{_TEXT}| capture | {COLUMNS}{lines}{kinds(everything)}{causes(everything)}", everything
