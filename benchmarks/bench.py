"""``make bench``: every benchmark in one table; rows go to benchmarks/results/latest.json."""

from __future__ import annotations

import sys

import explain
import memory
import mm
import programs
import scrape
import serve
import simulated
import spill
import tracepoints
from table import Row, save, show

_PARTS = (mm, memory, explain, tracepoints, serve, scrape, spill, programs, simulated)


def main() -> int:
    """Measure one part after the other, so that none disturbs another."""
    rows: list[Row] = []
    for number, part in enumerate(_PARTS, 1):
        print(f"[{number}/{len(_PARTS)}] {part.__name__}", file=sys.stderr, flush=True)
        rows += part.rows()
    show(rows)
    print(f"written to {save('latest', rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
