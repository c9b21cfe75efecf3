"""``make bench``: every benchmark in one table; rows go to benchmarks/results/latest.json.

``make bench PARTS="serve spill"`` measures these parts only, and writes no file. The host is measured around
each part: rows that it was too busy for are marked as not to be trusted, with the reason, and count neither
for their goal nor against it. Exit code 1 if a goal is missed, 2 if none is but rows are not to be trusted.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from dataclasses import replace

import calls
import explain
import host
import memory
import mm
import programs
import scaling
import scrape
import serve
import simulated
import slab
import spill
import startup
import tasks
import tracepoints
import traces
from table import Row, result, save, show

from numa_service.cli.compile import compile_first

_PARTS = (
    mm,
    slab,
    tasks,
    memory,
    explain,
    tracepoints,
    serve,
    scrape,
    spill,
    programs,
    calls,
    simulated,
    traces,
    startup,
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure, each thing beside something else.")
    names = [part.__name__ for part in _PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these of: {', '.join(names)}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--plots", action="store_true", help="draw the curves of docs/scaling.md, too")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(names):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(names)}")
    return arguments


def main() -> int:
    """Measure one part after the other, so that none disturbs another."""
    arguments = _arguments()
    parts = [part for part in _PARTS if part.__name__ in (arguments.parts or [part.__name__])]
    rows: list[Row] = []
    began = time.monotonic()
    compile_first()
    before = host.measure()
    for number, part in enumerate(parts, 1):
        print(f"[{number}/{len(parts)}] {part.__name__}", file=sys.stderr, flush=True)
        gc.collect()
        # exempt the modules imported so far: a collection that walks them stops a client for a tenth of a
        # second
        gc.freeze()
        part_began = time.monotonic()
        found = part.rows()
        after = host.measure()
        cpus = getattr(part, "CPUS", 1)
        rows += [replace(row, doubt=host.doubt(row.unit, cpus, before, after)) for row in found]
        before = after
        ended = time.monotonic()
        print(f"    {ended - part_began:.0f} s, {ended - began:.0f} s in all", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(result(rows), indent=1, ensure_ascii=False))
    else:
        show(rows)
    if not arguments.parts:
        print(f"written to {save('latest', rows)}", file=sys.stderr)
    if arguments.plots:
        scaling.plot()
    if any(row.met is False for row in rows):
        return 1
    return 2 if any(row.doubt for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
