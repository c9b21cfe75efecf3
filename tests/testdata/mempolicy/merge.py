"""Makes what calls.c wrote on several kernels one: `merge.py 6.1=FOLDER 6.12=FOLDER`.

A line is a call and its answer. Where the kernels' answers differ, the call has a line of its own, and each
kernel has one below it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

NAMES = ("counter", "cpuset", "errno", "extra", "mount", "move", "place", "shared", "weighted")


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


def main() -> None:
    """Merge the recordings of the folders that are named."""
    folders = dict(argument.split("=") for argument in sys.argv[1:])
    for name in NAMES:
        texts = [(Path(folder) / f"{name}.out").read_text() for folder in folders.values()]
        # whether a page was accessed since is the hardware's and the LRU lists' matter
        recordings = [
            [re.sub(r" active=\d+", "", line).rstrip() for line in text.splitlines()] for text in texts
        ]
        (Path(__file__).parent / f"{name}.txt").write_text(merge([*folders], recordings))


if __name__ == "__main__":
    main()
