"""The section on vmalloc of ``make fidelity``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fidelity.compare import Field
from fidelity.rows import COLUMNS, row
from fidelity.slab_table import collected
from fidelity.vmalloc import BEHIND_HOLE, COMPUTED, OTHER_HOLE, Replay, sections

_TEXT = """
## Areas of kernel addresses

/proc/vmallocinfo after the boot and after each module that came or went. Areas are asked for again in the
order of the captured ones, and where they lie, guard pages, page pointers, pages by node and the text of the
file are computed; each section has to be the same text. Holes of areas that came and went unseen are filled:
the second column of addresses has those computed behind such holes, the third those of stacks that lie in
another hole than the search here finds.

"""


def vmalloc_captures(root: Path) -> list[Path]:
    """Captures of /proc/vmallocinfo."""
    return sorted(path.parent for path in root.glob("vmalloc/*/*/scenario.json"))


def vmalloc_section(root: Path, skipped: list[str], unreadable: list[str]) -> tuple[str, list[Field]]:
    """Text and fields."""
    lines: list[str] = []

    def of(capture: Path) -> Iterator[Field]:
        name = f"{capture.parent.name}/{capture.name}"
        counts = Replay(capture).run()
        fields = []
        for section in sections(capture):
            differs = [text for text in counts.different if text.startswith(f"{section.name} ")]
            fields.append(
                Field(
                    name,
                    "vmalloc",
                    "vmallocinfo",
                    section.name,
                    "as captured",
                    (differs or ["as captured"])[0],
                )
            )
        hows = (COMPUTED, BEHIND_HOLE, OTHER_HOLE)
        placed = [sum(n for (_, _, how), n in counts.placed.items() if how == this) for this in hows]
        numbers = " | ".join(map(str, placed))
        lines.append(row(f"{name} | {len(fields)} | {counts.sections} | {numbers}", fields))
        yield from fields

    everything: list[Field] = []
    for capture in vmalloc_captures(root):
        name = f"vmalloc/{capture.parent.name}/{capture.name}"
        everything += collected(name, lambda at=capture: of(at), skipped, unreadable)
    head = "| capture | sections | same text | addresses computed | behind holes | other hole | "
    columns = COLUMNS.replace("|---", "|---" * 6, 1)
    return (f"{_TEXT}{head}{columns}{''.join(lines)}" if everything else ""), everything
