"""The cost of tracepoints: without and with a listener, beside kernels without the code for tracepoints.

The same loop runs over the same arrays with each kind of kernels in turns, in several processes; the least
CPU time of each counts. The kernels without tracepoints are the sources of ``numa_service/mm`` from which
every ``if pg.trace_ctl[TRACE_ON]`` was removed, as a package of their own; the kernels with tracepoints are
an unchanged copy, so that both are compiled alike. Both are compiled once for each version of the sources,
which takes two to six minutes in all and is said on stderr.
"""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from table import Row, compiling

import numa_service.mm
from numa_service.machine.boot import start_kernel
from numa_service.machine.machinefile import parse_machine
from numa_service.mm import jit
from numa_service.mm.pgdat import Pgdat

_MACHINE = """
name = "bench"
[[node]]
cpus = "0-3"
memory = "8GiB"
"""
#: name → blocks a batch, repeats: order-0 pairs that stay within a pageset, and pairs that refill and drain.
_ROWS = {"hot": (32, 3000), "32k": (32768, 3)}
_ROUNDS = 101
#: The place of code in memory, which differs between processes, changes times by 4 %.
_PROCESSES = 7
_RING_EVENTS = 1 << 16

#: In a module of each package: kernels that call kernels must lie in a file to be cached.
_LOOP = '''
from {package}.jit import kernel
from {package}.page_alloc import alloc_pages_bulk, free_pages_bulk
from {package}.pgdata import I64, U32, PgData


@kernel
def pairs(pg, zones, count, repeats, none, out) -> int:
    """Allocate a batch and free it, again and again, without Python in between."""
    got = 0
    for _ in range(repeats):
        got = alloc_pages_bulk(pg, zones, 0, 0, count, 0, 2, 0x801, 3, 1, 0, none, False, out)
        free_pages_bulk(pg, 0, 0, 1, out)
    return got
'''


class _WithoutTracepoints(ast.NodeTransformer):
    """Removes every `if pg.trace_ctl[TRACE_ON]`, with its body."""

    dropped = 0

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        if ast.unparse(node.test) != "pg.trace_ctl[TRACE_ON]":
            return node
        self.dropped += 1
        return None


def never_built_in(folder: Path, name: str, strip: bool) -> Any:
    """Module with the loop, over a copy of the kernels; as they are, or without tracepoints."""
    package, without = folder / name, _WithoutTracepoints()
    package.mkdir(parents=True, exist_ok=True)
    if not (package / "loop.py").exists():
        for source in sorted(Path(numa_service.mm.__file__).parent.glob("*.py")):
            text = source.read_text().replace("numa_service.mm", name)
            (package / source.name).write_text(ast.unparse(without.visit(ast.parse(text))) if strip else text)
        if strip and without.dropped < 10:
            raise SystemExit(f"only {without.dropped} tracepoints found to cut out")
        (package / "loop.py").write_text(_LOOP.format(package=name))
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(f"{name}.loop")


def _runs(pgdat: Pgdat, modules: dict[str, Any]) -> dict[str, Callable[[int, int], float]]:
    zones, none = np.array([2, 1, 0], dtype=np.int64), np.zeros(0, dtype=np.uint32)
    ring, off = np.zeros((_RING_EVENTS, pgdat.pg.trace.shape[1]), dtype=np.int64), pgdat.pg.trace

    def run(module: Any, traced: bool) -> Callable[[int, int], float]:
        fields = pgdat.pg._replace(trace=ring if traced else off)
        pg = module.PgData(*fields)

        def once(count: int, repeats: int) -> float:
            out = np.zeros(count, dtype=np.int64)
            pg.trace_ctl[0] = traced
            start = time.thread_time_ns()
            module.pairs(pg, zones, count, repeats, none, out)
            took = time.thread_time_ns() - start
            pg.trace_ctl[0] = 0
            return took / repeats / count

        return once

    built_in, without = modules["built_in"], modules["without"]
    return {"off": run(built_in, False), "on": run(built_in, True), "without": run(without, False)}


def _measured() -> dict[str, float]:
    """The least times in this process, in ns per pair."""
    pgdat = start_kernel(parse_machine(_MACHINE, "bench", "bench")).pgdats[0]
    folder = jit.CACHE_DIR / "benchmarks"
    modules = {
        "built_in": never_built_in(folder, "mm_built_in", strip=False),
        "without": never_built_in(folder, "mm_without", strip=True),
    }
    runs = _runs(pgdat, modules)
    for module in modules.values():
        # a copy has a cache of its own, with its own mark that everything is compiled
        cache = importlib.import_module(f"{module.__package__}.jit")
        with compiling(f"the kernels again, as {module.__package__}", cache.is_compiled()):
            run = runs["off" if module is modules["built_in"] else "without"]
            run(1, 1)
        cache.mark_compiled()
    best: dict[str, float] = {}
    for name, (count, repeats) in _ROWS.items():
        # in turns of its own: a listener's events evict other data from the CPU's caches
        for listening in ("off", "on"):
            pair = (listening, "without")
            for turn in range(_ROUNDS):
                for which in pair if turn % 2 else reversed(pair):
                    key = f"{which}_{listening}_{name}"
                    took = runs[which](count, repeats)
                    if turn:  # the first round compiles and warms up
                        best[key] = min(best.get(key, took), took)
    return best


def rows() -> list[Row]:
    """Every row of this part."""
    command = [sys.executable, __file__, "--once"]
    each = [
        json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        for _ in range(_PROCESSES)
    ]
    best = {key: min(one[key] for one in each) for key in each[0]}
    return [
        Row(
            f"tracepoints_{listening}_{name}",
            best[f"{listening}_{listening}_{name}"],
            "ns",
            "the same kernels without tracepoints",
            best[f"without_{listening}_{name}"],
            goal,
            at_least=False,
        )
        for name in _ROWS
        for listening, goal in (("off", 1.02), ("on", 3))
    ]


if __name__ == "__main__":
    if sys.argv[1:] == ["--once"]:
        print(json.dumps(_measured()))
    else:
        from table import show

        show(rows())
