"""``make fidelity``: the comparison with every capture as a table; exit code 1 on an unexplained difference.

usage: table.py [--write FILE] [TOPOLOGIES]
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fidelity.compare import Field, compare
from groundtruth import topologies

_HEADER = """# Fidelity: computed against captured

Made by `make fidelity`. Each captured kernel's machine is booted here from its zone spans, present and
managed pages, CPUs, distances and sysctls; the numbers below are then **computed** and compared with what
the kernel printed, at boot and after each change of sysctls.

"explained" are fields of boot snapshots that differ by no more than the share of the pages that the kernel
freed (init memory, initrd) after it had computed them. Pageset `high` of 6.12 is tuned at run time and
is not compared.

| capture | fields | equal | explained | different |
|---|---|---|---|---|
"""


def _row(name: str, fields: list[Field]) -> str:
    equal = sum(field.equal for field in fields)
    explained = sum(field.explained and not field.equal for field in fields)
    return f"| {name} | {len(fields)} | {equal} | {explained} | {len(fields) - equal - explained} |\n"


def main() -> int:
    """Print the table, and the differences that nothing explains."""
    args = sys.argv[1:]
    write = Path(args[args.index("--write") + 1]) if "--write" in args else None
    rest = [a for i, a in enumerate(args) if a != "--write" and (i == 0 or args[i - 1] != "--write")]
    captures = sorted(Path(rest[0]).iterdir()) if rest else topologies()
    if not captures:
        print("no captures: set NUMA_GROUNDTRUTH or name a folder of them", file=sys.stderr)
        return 1
    everything: list[Field] = []
    text = _HEADER
    for number, capture in enumerate(captures, 1):
        print(f"\r{number}/{len(captures)} {capture.name:<40}", end="", file=sys.stderr)
        fields = list(compare(capture))
        everything += fields
        text += _row(capture.name, fields)
    print(file=sys.stderr)
    text += _row("**all**", everything)
    text += "\n| kind | fields | equal | explained | different |\n|---|---|---|---|---|\n"
    for kind in Counter(field.kind for field in everything):
        text += _row(kind, [field for field in everything if field.kind == kind])
    print(text)
    if write:
        write.write_text(text)
    different = [field for field in everything if not field.explained]
    for field in different:
        print(f"DIFFERENT {field}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
