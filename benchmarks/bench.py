"""``make bench``: every benchmark in one table; rows go to benchmarks/results/latest.json.

With ``--plots``, the curves of docs/scaling.md are measured and drawn as well (make plots).
"""

from __future__ import annotations

import sys

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

_PARTS = (mm, memory, explain, tracepoints, serve, scrape, spill, programs, simulated, traces, startup)


def main() -> int:
    """Measure one part after the other, so that none disturbs another."""
    rows: list[Row] = []
    for number, part in enumerate(_PARTS, 1):
        print(f"[{number}/{len(_PARTS)}] {part.__name__}", file=sys.stderr, flush=True)
        rows += part.rows()
    show(rows)
    print(f"written to {save('latest', rows)}")
    if "--plots" in sys.argv[1:]:
        scaling.plot()
    return 0


if __name__ == "__main__":
    sys.exit(main())
