"""What it takes to start: a machine beside as many bare Ray actors, and the kernels compiled or cached."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from table import Row

from numa_service.cluster import local, machine
from numa_service.cluster.connect import attach, detach
from numa_service.cluster.names import kswapd_name
from numa_service.machine.machinefile import parse_machine

_NODES = 8
_ROUNDS = 3
_MACHINE = 'name = "eight"\n' + "".join(
    f'[[node]]\ncpus = [{nid}]\nmemory = "256MiB"\n' for nid in range(_NODES)
)
#: What the processes of a machine import: a node, and its kswapd.
_NODE_MODULES = (
    "numa_service.cluster.numa_node",
    "numa_service.metrics.collector",
    "numa_service.rpc.server",
)
_KSWAPD_MODULES = ("numa_service.cluster.kswapd",)

_START = """
import json, sys, time
began = time.perf_counter()
from numa_service.machine.presets import load_preset
from numa_service.node.node import Node
from numa_service.node.warm import warm_kernels
imported = time.perf_counter()
compiled = warm_kernels()
warm = time.perf_counter()
spec = load_preset("demo")
Node.boot(spec, 0)
print(json.dumps([imported - began, warm - imported, time.perf_counter() - warm, compiled]))
"""


def _bare_actors() -> None:
    """As many as a machine has, until each has answered."""
    import ray

    class Bare:  # here, so that Ray carries it to the workers: they do not find this file
        """Does nothing but import."""

        def __init__(self, modules: tuple[str, ...]) -> None:
            for module in modules:
                importlib.import_module(module)

        async def pid(self) -> int:
            return os.getpid()

    actors = [
        ray.remote(Bare).options(num_cpus=0).remote(modules)
        for modules in (_NODE_MODULES, _KSWAPD_MODULES)
        for _ in range(_NODES)
    ]
    ray.get([actor.pid.remote() for actor in actors])
    for actor in actors:
        ray.kill(actor)


def _machine() -> None:
    """Until it is up, and every kswapd has answered, too."""
    import ray

    machine.up(parse_machine(_MACHINE, "eight", "eight"), "eight")
    kswapds = [ray.get_actor(kswapd_name("eight", nid)) for nid in range(_NODES)]
    ray.get([kswapd.pid.remote() for kswapd in kswapds])


def _seconds(what: Callable[[], None]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _settle() -> None:
    """Until Ray has started the idle workers that it starts in place of those that it gave away."""
    time.sleep(3)


def machine_up() -> tuple[float, float]:
    """Seconds of a machine of 8 nodes, and of 16 bare actors, in turns on one Ray; medians."""
    state = tempfile.mkdtemp(prefix="numa-b-", dir="/tmp")
    os.environ["NUMA_SERVICE_STATE_DIR"] = state
    up, bare = [], []
    try:
        attach(local.start().address)
        for _ in range(_ROUNDS):
            _settle()
            bare.append(_seconds(_bare_actors))
            _settle()
            up.append(_seconds(_machine))
            machine._remove("eight")
        print(f"machine of {_NODES} nodes up: {up} s; bare actors: {bare} s", file=sys.stderr)
    finally:
        detach()
        local.stop()
        shutil.rmtree(state, ignore_errors=True)
    return median(up), median(bare)


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
    return [
        Row("start_compiling", sum(cold), "s", "start with the kernels in the cache", sum(warm)),
        Row("machine_8_nodes_up", up, "s", "16 bare Ray actors, same imports", bare, 1.5, at_least=False),
    ]


if __name__ == "__main__":
    from table import show

    show(rows())
