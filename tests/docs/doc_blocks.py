"""What a page of the documentation consists of, for its tests: fenced blocks and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "lab/README.md",
]

_FENCE = re.compile(r"^```(\S*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    #: Of its first line of text, from 1.
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that a first line ``# name.ending`` says this is."""
        found = re.match(r"# ([\w/-]+\.[a-z]+)$", self.text.split("\n", 1)[0])
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def page(name: str) -> str:
    """Text of a page, by its path from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str) -> list[Block]:
    """Fenced blocks of a page, in order."""
    found: list[Block] = []
    language, start, lines = "", 0, []
    for number, line in enumerate(page(name).splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence and not start:
            language, start, lines = fence[1], number + 1, []
        elif line == "```":
            found.append(Block(name, start, language, "\n".join(lines) + "\n"))
            start = 0
        elif start:
            lines.append(line)
    assert not start, f"{name}:{start}: a block without an end"
    return found


def rows(name: str, heading: str) -> list[list[str]]:
    """Cells of the table rows below a heading, up to the next one; without the header row."""
    text = page(name).split(f"\n{heading}\n", 1)[1]
    section = re.split(r"^#", text, maxsplit=1, flags=re.M)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines[2:]
    ]


def code(cell: str) -> list[str]:
    """Everything between backticks."""
    return re.findall(r"`([^`]+)`", cell)
