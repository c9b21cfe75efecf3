"""Compiles the model's Numba kernels before anything needs them, on this host or on each host of a cluster.

They are compiled in processes of their own, because a Ctrl-C can leave Numba in a broken state. There are two
processes if there are CPUs for them. More would gain nothing: the kernel of an allocation alone is nearly
half of the work.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO

from numa_service.cluster.errors import ClusterError, reason
from numa_service.cluster.progress import Progress, silent
from numa_service.mm import jit

#: Longest time for all kernels. They take some 40 s of CPU; a busy host may need much longer.
COMPILE_SECONDS = 600.0
_LOOK_SECONDS = 0.25
_CALLS = ("warm_kernels", "warm_beside")


def compile_here(progress: Progress = silent) -> bool:
    """Fill this host's cache of kernels; False if it was full already. ClusterError if that fails."""
    with compiling_here(progress) as finish:
        return finish()


@contextmanager
def compiling_here(
    progress: Progress, enough: Callable[[], bool] = jit.is_compiled
) -> Iterator[Callable[[], bool]]:
    """Fill this host's cache in the background while the body does something else.

    The body gets a function that waits until `enough()` is true. It returns whether there was anything to
    compile, or raises ClusterError. The remaining kernels are compiled after that, with nobody waiting. If
    the body ends before `enough()` is true, the compiling processes are ended too.
    """
    if enough():
        yield lambda: False
        return
    calls = _CALLS[: len(os.sched_getaffinity(0))]
    with tempfile.TemporaryFile("w+") as errors, ThreadPoolExecutor(1) as watcher:
        compilers = [_start(call, errors) for call in calls]
        try:
            done = watcher.submit(_watch, compilers, errors, progress, enough)
            yield done.result
        finally:
            for compiler in [] if enough() else compilers:
                compiler.kill()
                compiler.wait()


def compile_on_hosts(progress: Progress) -> None:
    """Compile the kernels once on every host of the cluster that this process is attached to."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    hosts = [host for host in ray.nodes() if host["Alive"] and host["Resources"].get("CPU")]
    compile_there = ray.remote(num_cpus=0, max_retries=0)(compile_here)
    progress(f"compiling the kernels on {len(hosts)} hosts: once, half a minute")
    waiting = [
        compile_there.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(host["NodeID"], soft=False)
        ).remote()
        for host in hosts
    ]
    deadline = time.monotonic() + COMPILE_SECONDS
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            raise ClusterError(f"compiling the kernels took more than {COMPILE_SECONDS:.0f} s")
        try:
            ray.get(done)
        except Exception as error:
            raise ClusterError(f"the kernels do not compile: {reason(error)}") from None


def _start(call: str, errors: IO[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"from numa_service.node.warm import {call}; {call}()"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    )


def _watch(
    compilers: list[subprocess.Popen[bytes]],
    errors: IO[str],
    progress: Progress,
    enough: Callable[[], bool],
) -> bool:
    from numa_service.node import warm  # imports every kernel: compiled_share() must know how many there are

    assert warm
    text = "compiling the kernels: once, half a minute"
    deadline = time.monotonic() + COMPILE_SECONDS
    while not enough():
        progress(text, 0.99 * jit.compiled_share())
        if time.monotonic() > deadline:
            raise ClusterError(f"compiling the kernels took more than {COMPILE_SECONDS:.0f} s")
        time.sleep(_LOOK_SECONDS)
        if any(compiler.poll() for compiler in compilers):
            errors.seek(0)
            said = errors.read().strip() or "killed"
            raise ClusterError(f"the kernels do not compile: {said.splitlines()[-1]}")
    progress(text, 1.0)
    return True
