"""The time to start: a machine, beside as many bare Ray actors; a node with kernels compiled or cached."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import psutil
from table import Row

from numa_service.cluster import lifecycle, local
from numa_service.cluster.actor_names import kswapd_name, node_name
from numa_service.cluster.connect import attach, detach
from numa_service.machine.machinefile import parse_machine

T = TypeVar("T")

#: CPUs that are needed at once: several processes start at a time.
CPUS = 2
_NODES = 8
_ROUNDS = 3
_MACHINE = 'name = "eight"\n' + "".join(
    f'[[node]]\ncpus = [{nid}]\nmemory = "256MiB"\n' for nid in range(_NODES)
)
_START = """
import json, sys, time
began = time.perf_counter()
from numa_service.machine.presets import load_preset
from numa_service.node.node import Node
from numa_service.cluster.kernels import compile_here
imported = time.perf_counter()
compiled = compile_here()
warm = time.perf_counter()
spec = load_preset("demo")
Node.boot(spec, 0)
print(json.dumps([imported - began, warm - imported, time.perf_counter() - warm, compiled]))
"""


@dataclass(frozen=True, slots=True)
class _Start:
    """How long a start took."""

    seconds: float
    #: CPU time of all processes of the cluster and of this one.
    cpu_seconds: float


def _modules_of_a_machine() -> list[list[str]]:
    """The modules that a node's process has imported when its machine is up, and those of its kswapd's."""
    import ray

    def imported(_: object) -> list[str]:
        import sys

        return [name for name, module in sys.modules.items() if getattr(module, "__spec__", None)]

    actors = [ray.get_actor(name("eight", 0)) for name in (node_name, kswapd_name)]
    return [ray.get(actor.__ray_call__.remote(imported)) for actor in actors]


def _bare_actors(modules: list[list[str]]) -> list[Any]:
    """Start as many actors as a machine has, which only import `modules`, and wait for an answer of each."""
    import ray

    class Bare:  # a local class, which Ray sends to the workers: they cannot import this file
        """An actor that only imports modules."""

        def __init__(self, modules: list[str]) -> None:
            import importlib

            for module in modules:
                with contextlib.suppress(ImportError):  # a module put this name into sys.modules itself
                    importlib.import_module(module)

        async def pid(self) -> int:
            return os.getpid()

    bare = ray.remote(Bare).options(num_cpus=0)
    actors = [bare.remote(names) for names in modules for _ in range(_NODES)]
    ray.get([actor.pid.remote() for actor in actors])
    return actors


def _machine() -> None:
    """Boot a machine, and wait until it is up and every kswapd has answered."""
    import ray

    lifecycle.up(parse_machine(_MACHINE, "eight", "eight"), "eight")
    kswapds = [ray.get_actor(kswapd_name("eight", nid)) for nid in range(_NODES)]
    ray.get([kswapd.pid.remote() for kswapd in kswapds])


def _cpu_seconds() -> dict[int, float]:
    """pid → CPU seconds, for the processes of the cluster and this one."""
    found = {}
    cluster = local.find()
    for process in [*(cluster.processes() if cluster else ()), psutil.Process()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def _timed(what: Callable[[], T]) -> tuple[_Start, T]:
    before, began = _cpu_seconds(), time.perf_counter()
    result = what()
    took = time.perf_counter() - began
    cpu = sum(seconds - before.get(pid, 0.0) for pid, seconds in _cpu_seconds().items())
    return _Start(took, cpu), result


def _settle() -> None:
    """Wait until Ray has started new idle workers in place of those that became actors."""
    time.sleep(3)


def _tell(what: str, starts: list[_Start]) -> None:
    each = ", ".join(f"{start.seconds:.1f} s ({start.cpu_seconds:.1f} s of CPU)" for start in starts)
    print(f"{what}: {each}", file=sys.stderr, flush=True)


def machine_up() -> tuple[list[_Start], list[_Start]]:
    """Start a machine of 8 nodes, and 16 bare actors with the same imports, in turns on one Ray."""
    import ray

    state = tempfile.mkdtemp(prefix="numa-b-", dir="/tmp")
    os.environ["NUMA_SERVICE_STATE_DIR"] = state
    up: list[_Start] = []
    bare: list[_Start] = []
    try:
        attach(local.start().address)
        _machine()  # not timed: it may compile
        modules = _modules_of_a_machine()
        lifecycle._remove("eight")
        for _ in range(_ROUNDS):
            _settle()
            took, actors = _timed(lambda: _bare_actors(modules))
            bare.append(took)
            for actor in actors:
                ray.kill(actor)
            del actors
            _settle()
            up.append(_timed(_machine)[0])
            lifecycle._remove("eight")
        _tell(f"machine of {_NODES} nodes up", up)
        _tell(f"{2 * _NODES} bare actors, with {' and '.join(str(len(m)) for m in modules)} modules", bare)
    finally:
        detach()
        local.stop()
        shutil.rmtree(state, ignore_errors=True)
    return up, bare


def kernels() -> tuple[list[float], list[float]]:
    """Seconds of import, compilation and boot with an empty cache, and with a full one."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}
        found = []
        for compiled in (True, False):
            command = [sys.executable, "-c", _START]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            *seconds, was_compiled = json.loads(done.stdout)
            assert was_compiled == compiled
            found.append(seconds)
            imports, warm, boot = seconds
            print(
                f"{'empty' if compiled else 'full'} cache: imports {imports:.1f} s, kernels {warm:.1f} s, "
                f"boot {boot:.2f} s",
                file=sys.stderr,
            )
        size = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file())
        print(f"the cache has {size >> 20} MiB", file=sys.stderr)
    return found[0], found[1]


def rows() -> list[Row]:
    """Every row of this part."""
    cold, warm = kernels()
    up, bare = machine_up()
    against = "16 bare Ray actors, same imports"
    seconds = [median(start.seconds for start in starts) for starts in (up, bare)]
    cpu = [median(start.cpu_seconds for start in starts) for starts in (up, bare)]
    return [
        Row("start_compiling", sum(cold), "s", "start with the kernels in the cache", sum(warm)),
        Row("machine_8_nodes_up", seconds[0], "s", against, seconds[1], 1.5, at_least=False),
        Row("machine_8_nodes_up_cpu", cpu[0], "CPU s", against, cpu[1]),
    ]


if __name__ == "__main__":
    from table import show

    show(rows())
