"""``make fidelity``: the comparison with every capture as a table; exit code 1 on an unexplained difference.

usage: table.py [--write FILE] [DIR]

DIR has topologies/, workloads/ and traces/, any of them may be missing; or it is a folder of topologies.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fidelity.compare import Field, compare
from fidelity.traces import replay_trace, trace_fields, trace_rows
from fidelity.workloads import compare_workload
from groundtruth import GROUNDTRUTH

_HEADER = """# Fidelity: computed against captured

Made by `make fidelity`. Each captured kernel's machine is booted here from its zone spans, present and
managed pages, CPUs, distances and sysctls; the numbers below are then **computed** and compared with what
the kernel printed, at boot and after each change of sysctls. Steps of captured workloads start from the
captured free blocks and pagesets, and run under the same CPU and policy. Traces are replayed from the
captured occupancy.

"explained" are fields within a tolerance that is listed with its presumed cause; "different" are outside
one, and there must be none. The tolerances of workload steps and traces were widened until these captures
fitted, and most of their causes are inferred, not proven; static fields after a sysctl have no tolerance.
Pageset `high` of 6.12 is tuned at run time and is not compared. Of the workloads, steps
in which the kernel reclaimed, compacted or killed are not compared.

| capture | fields | equal | explained | different |
|---|---|---|---|---|
"""


def _row(name: str, fields: list[Field]) -> str:
    equal = sum(field.equal for field in fields)
    explained = sum(field.explained and not field.equal for field in fields)
    return f"| {name} | {len(fields)} | {equal} | {explained} | {len(fields) - equal - explained} |\n"


def _causes(everything: list[Field]) -> str:
    text = (
        "\n| cause of what is explained | kind | fields | largest difference | of |\n|---|---|---|---|---|\n"
    )
    explained = [field for field in everything if field.explained and not field.equal]
    for cause, kind in Counter((field.cause, field.kind) for field in explained):
        fields = [field for field in explained if (field.cause, field.kind) == (cause, kind)]
        largest = max(fields, key=lambda field: abs(_number(field.captured) - _number(field.computed)))
        off = _number(largest.computed) - _number(largest.captured)
        text += f"| {cause} | {kind} | {len(fields)} | {off:+} | {largest.captured} |\n"
    return text


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def _captures(folder: Path, depth: str) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"{depth}/zoneinfo.txt"))


def main() -> int:
    """Print the table, and the differences that nothing explains."""
    args = sys.argv[1:]
    write = Path(args[args.index("--write") + 1]) if "--write" in args else None
    rest = [a for i, a in enumerate(args) if a != "--write" and (i == 0 or args[i - 1] != "--write")]
    root = Path(rest[0]).resolve() if rest else GROUNDTRUTH
    parts = {"topologies", "workloads", "traces"}
    whole = any((root / part).is_dir() for part in parts)
    topologies = _captures(root / "topologies" if whole else root, "*")
    workloads = _captures(root / "workloads", "*/*") if whole else []
    traces = sorted({p.parent for p in (root / "traces").glob("*/*/t.trace*")}) if whole else []
    total = len(topologies) + len(workloads) + len(traces)
    if not total:
        print("no captures: set NUMA_GROUNDTRUTH or name a folder of them", file=sys.stderr)
        return 1
    everything: list[Field] = []
    text = _HEADER
    traced = ""
    for number, capture in enumerate([*topologies, *workloads, *traces], 1):
        name = capture.name if capture in topologies else f"{capture.parent.name}/{capture.name}"
        print(f"\r{number}/{total} {name:<50}", end="", file=sys.stderr)
        if capture in traces:
            result = replay_trace(capture)
            fields = list(trace_fields(result)) if result else []
            traced += trace_rows(result) if result else ""
        else:
            fields = list(compare(capture) if capture in topologies else compare_workload(capture))
        if not fields:
            continue
        everything += fields
        text += _row(name, fields)
    print(file=sys.stderr)
    text += _row("**all**", everything)
    text += "\n| kind | fields | equal | explained | different |\n|---|---|---|---|---|\n"
    for kind in Counter(field.kind for field in everything):
        text += _row(kind, [field for field in everything if field.kind == kind])
    text += _causes(everything)
    if traced:
        text += (
            "\nReplayed traces. Pages; off: in percent of managed, the orders as sum of |difference in free "
            "pages|; goals 1 % and 2 %. At the last event: free here and, by its own events, in the traced "
            "kernel. Settled: the capture was made later, and meanwhile the kernel drained pagesets; ours "
            "are drained to the captured counts before the two are compared.\n\n"
            "| trace | zone | managed | free here | free traced | off % | settled here | captured | off % | "
            "orders off % | goals met |\n"
            f"|---|---|---|---|---|---|---|---|---|---|---|\n{traced}"
        )
    print(text)
    if write:
        write.write_text(text)
    different = [field for field in everything if not field.explained]
    for field in different:
        print(f"DIFFERENT {field}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
