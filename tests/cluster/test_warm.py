"""Every kernel is compiled before an actor starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from numa_service.cluster import kernels
from numa_service.cluster.errors import ClusterError
from numa_service.cluster.progress import silent
from numa_service.mm import jit

SCRIPT = """
from numa_service.mm import jit
from numa_service.node.warm import warm_kernels
assert not jit.is_compiled()
assert warm_kernels()
assert jit.is_compiled()
assert jit.is_compiled_for_nodes()
assert not warm_kernels()
"""


@pytest.mark.slow
def test_an_empty_cache_is_filled_with_every_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    # it raises when a kernel was left out
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "CACHE_DIR", tmp_path / jit.CACHE_DIR.name)
    return jit.CACHE_DIR


@pytest.mark.usefixtures("empty_cache")
def test_who_gives_up_waiting_leaves_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    # the compilers have to be seen between their start and the interrupt
    with pytest.raises(KeyboardInterrupt), kernels.compiling_here(silent):  # noqa: PT012
        compilers = [p for p in psutil.Process().children() if "warm_" in " ".join(p.cmdline())]
        assert len([process for process in compilers if "warm_kernels" in " ".join(process.cmdline())]) == 1
        assert len([process for process in compilers if "warm_beside" in " ".join(process.cmdline())]) == 1
        raise KeyboardInterrupt
    assert [process for process in compilers if process.is_running()] == []


def test_a_machine_does_not_wait_for_what_no_node_runs(empty_cache: Path) -> None:
    with kernels.compiling_here(silent, jit.is_compiled_for_nodes) as finish:
        compilers = [p for p in psutil.Process().children() if "warm_" in " ".join(p.cmdline())]
        empty_cache.mkdir(exist_ok=True)
        jit.mark_compiled_for_nodes()
        assert finish()
    assert not jit.is_compiled()
    try:
        assert all(compiler.is_running() for compiler in compilers)
        assert compilers
    finally:
        for compiler in compilers:
            compiler.kill()
            compiler.wait()


@pytest.mark.usefixtures("empty_cache")
def test_why_kernels_do_not_compile_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_CALLS", ("no_such_call",))
    with pytest.raises(ClusterError, match=r"^the kernels do not compile: ImportError: .*no_such_call"):
        kernels.compile_here()


def test_how_far_it_is_grows_with_the_cache(empty_cache: Path) -> None:
    assert jit.compiled_share() == 0.0
    empty_cache.mkdir()
    for number in range(len(jit.kernels()) // 2):
        (empty_cache / f"kernel{number}.nbi").touch()
    assert jit.compiled_share() == pytest.approx(0.5, abs=0.01)
