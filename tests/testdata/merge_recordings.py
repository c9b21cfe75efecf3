"""Makes what a recorder wrote on several kernels one: `merge_recordings.py mmap 6.1=FOLDER 6.12=FOLDER`.

A line is a call and its answer. Where the kernels' answers differ, the call has a line of its own, and each
kernel has one below it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

NAMES = {
    "mempolicy": ("counter", "cpuset", "errno", "extra", "mount", "move", "place", "shared", "weighted"),
    "mmap": ("errno", "hugetlb", "poison", "pools"),
}


def merge(names: list[str], recordings: list[list[str]]) -> str:
    """Recordings of the same script, one a kernel, as one text."""
    lines = []
    for same in zip(*recordings, strict=True):
        calls = {line.partition(" =>")[0].rstrip() for line in same}
        assert len(calls) == 1, same
        if len({*same}) == 1:
            lines.append(same[0])
            continue
        lines.append(calls.pop())
        lines += [f"  {name:5}=>{line.partition(' =>')[2]}" for name, line in zip(names, same, strict=True)]
    return "\n".join(lines) + "\n"


def shortened(text: str) -> list[str]:
    """The lines of a recording without what says nothing."""
    lines = list[str]()
    before = ""
    for line in text.splitlines():
        # whether a page was accessed since is the hardware's and the LRU lists' matter
        line = re.sub(r" active=\d+", "", line)
        line = re.sub(r"  +", " ", line).rstrip()
        if line.startswith("begin =>"):
            # the program is as it was at the last beginning
            line, before = "begin => same" if line == before else line, line
        lines.append(line)
    return lines


def main() -> None:
    """Merge the recordings of the folders that are named."""
    kind, *rest = sys.argv[1:]
    folders = dict(argument.split("=") for argument in rest)
    for name in NAMES[kind]:
        texts = [(Path(folder) / f"{name}.out").read_text() for folder in folders.values()]
        merged = merge([*folders], [shortened(text) for text in texts])
        (Path(__file__).parent / kind / f"{name}.txt").write_text(merged)


if __name__ == "__main__":
    main()
