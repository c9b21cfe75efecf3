"""``make bench PARTS=slab``: ns per object of SLUB, allocated and freed with all bookkeeping, beside C.

Bookkeeping is all that the model has: free lists in order, partial lists, counts of slabs and objects, who
has what, and the checks that an object which is freed is one of its cache, in use, and named once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

import mm
import numpy as np
from table import Row, save, show

from numa_service.machine.presets import load_preset
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.jit import kernel
from numa_service.mm.profile import DEFAULT_PROFILE
from numa_service.mm.slab.compiled.cpu import alloc_objects, check_objects, free_objects
from numa_service.mm.slab.compiled.data import slub_at
from numa_service.mm.slab.pages import NUMA_NO_NODE
from numa_service.mm.slab.slub_alloc import Slub
from numa_service.mm.slab.slub_node import OWN_HOME
from numa_service.mm.slab.start import SlabMachine, start_slub
from numa_service.node import ops
from numa_service.node.ask import Ask, Steps
from numa_service.node.kmem import kmem_cache_alloc, kmem_cache_free
from numa_service.node.node import Node
from numa_service.node.ops.op import Op

T = TypeVar("T")

_CACHE = "kmalloc-64"
#: Objects that are allocated and freed in random order; the same number as in yardstick.c.
_MANY = 32768


class _Pages:
    """Pages for slabs; those that went back are given out first."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._next = 1 << 20

    def alloc_pages(self, node: int, order: int, gfp: int) -> tuple[int, int]:
        """A page of the node: slabs of the cache are of one page."""
        if not self._free:
            self._next += 1
            self._free.append(self._next)
        return self._free.pop(), node

    def free_pages(self, pfn: int, order: int) -> None:
        """It goes back."""
        self._free.append(pfn)


def _slub() -> Slub:
    machine = SlabMachine(DEFAULT_PROFILE, "", {0: 0, 1: 0}, 2, {0: (0,)}, 1, 1 << 30)
    return start_slub(machine, _Pages())


@kernel
def _pairs(address: int, k: int, c: int, count: int, repeats: int) -> int:
    """Allocate objects, check them and free them, again and again, without Python in between."""
    s = slub_at(address)
    got = 0
    for _ in range(repeats):
        got = alloc_objects(s, k, c, NUMA_NO_NODE, 0, False, OWN_HOME, count)
        if check_objects(s, k, got) != 0:
            return -1
        free_objects(s, c, OWN_HOME, got)
    return got


def _best(run: Callable[[], object], rounds: int = 7) -> float:
    """ns of the quickest of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter_ns()
        run()
        best = min(best, time.perf_counter_ns() - start)
    return best


def _compiled(count: int, repeats: int) -> float:
    """ns an object, of batches of `count` on a CPU that has a slab."""
    slub = _slub()
    work, place = slub.caches[_CACHE], slub.machine.place
    slub.kmem_cache_free_bulk(_CACHE, 0, slub.kmem_cache_alloc_bulk(_CACHE, 0, GFP_KERNEL, 256))
    cpu = work.cpus[0]
    args = place.address, cpu.k, cpu.c, count
    if _pairs(*args, 1) != count:
        raise SystemExit(f"{count} objects cannot be allocated without new pages")
    return _best(lambda: _pairs(*args, repeats)) / repeats / count


def _random_free() -> float:
    """ns an object, of many that are freed in random order, with the slabs made and freed for them."""
    slub = _slub()
    order = np.random.default_rng(1).permutation(_MANY)

    def once() -> None:
        got = slub.kmem_cache_alloc_bulk(_CACHE, 0, GFP_KERNEL, _MANY)
        slub.kmem_cache_free_bulk(_CACHE, 0, np.array(got, dtype=np.uint64)[order].tolist())

    return _best(once, 5) / _MANY


def _requests(count: int) -> float:
    """ns an object, of requests of a node for a session, without gRPC: `count` objects each."""
    node = Node.boot(load_preset("demo"), 0)
    session = node.apply(ops.OpenSession("bench", 1 << 60, 0))
    cpu = node.pgdat.cpus[0]

    def once() -> None:
        objects = _alone(node, kmem_cache_alloc(node, session, _CACHE, GFP_KERNEL, count, cpu))
        _alone(node, kmem_cache_free(node, session, _CACHE, objects, cpu))

    once()
    repeats = max(1, 4096 // count)
    return _best(lambda: [once() for _ in range(repeats)]) / repeats / count


def _alone(node: Node, steps: Steps[T]) -> T:
    """Drive a request that asks no other node; its result."""
    try:
        effect = next(steps)
        while True:
            assert isinstance(effect, Ask)
            assert isinstance(effect.op, Op)
            assert effect.nid == node.nid
            effect = steps.send(node.apply(effect.op))
    except StopIteration as end:
        result: T = end.value
        return result


def rows() -> list[Row]:
    """Every row of the table."""
    against = "yardstick.c, -O2, no bookkeeping"
    theirs = mm.yardstick()
    pair, bulk, many = _compiled(1, 100_000), _compiled(64, 2000), _random_free()

    def row(name: str, value: float, goal: float | None = None) -> Row:
        return Row(
            name, value, "ns", against, theirs.get(name), goal=goal, goal_of_ratio=False, at_least=False
        )

    return [
        row("slab_pair", pair, 60.0),
        row("slab_bulk64", bulk, 20.0),
        row("slab_random_free", many),
        Row("slab_request1", _requests(1), "ns", "slab_pair", pair),
        Row("slab_request64", _requests(64), "ns", "slab_bulk64", bulk),
        Row("slab_request4096", _requests(4096), "ns", "slab_bulk64", bulk),
    ]


def main() -> int:
    """Print the table; rows go to benchmarks/results/slab.json."""
    measured = rows()
    show(measured)
    save("slab", measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
