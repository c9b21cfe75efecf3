"""``make bench``: every benchmark in one table; rows go to benchmarks/results/latest.json.

With ``--plots``, the curves of docs/scaling.md are measured and drawn as well (make plots).
"""

from __future__ import annotations

import gc
import sys
import time

import explain
import memory
import mm
import programs
import scaling
import scrape
import serve
import simulated
import spill
import startup
import tracepoints
import traces
from table import Row, save, show

from numa_service.cli.compile import compile_first

_PARTS = (mm, memory, explain, tracepoints, serve, scrape, spill, programs, simulated, traces, startup)


def main() -> int:
    """Measure one part after the other, so that none disturbs another."""
    rows: list[Row] = []
    began = time.monotonic()
    compile_first()
    for number, part in enumerate(_PARTS, 1):
        print(f"[{number}/{len(_PARTS)}] {part.__name__}", file=sys.stderr, flush=True)
        gc.collect()
        gc.freeze()  # walking all that was imported so far stops a client for a tenth of a second
        part_began = time.monotonic()
        rows += part.rows()
        ended = time.monotonic()
        print(f"    {ended - part_began:.0f} s, {ended - began:.0f} s in all", file=sys.stderr, flush=True)
    show(rows)
    print(f"written to {save('latest', rows)}")
    if "--plots" in sys.argv[1:]:
        scaling.plot()
    return 0


if __name__ == "__main__":
    sys.exit(main())
