"""Kernels have no reference counting, and each is compiled once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mm.nodes import NORMAL, one_zone
from skips import NOT_ROOT

from numa_service.mm import jit
from numa_service.mm.mmzone import MIGRATE_PCPTYPES, NR_ORDERS, WMARK_LOW
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE, NUMA_HOW_HIT
from numa_service.mm.vmscan import kswapd_target

#: Compiled code of one signature each; the name ends in .<number>.nbc
_PYTHON = f"py{sys.version_info.major}{sys.version_info.minor}"


def compiled() -> list[Path]:
    return sorted(jit.CACHE_DIR.rglob(f"*.{_PYTHON}.*.nbc"))


@pytest.fixture(scope="module")
def _warm() -> None:
    """Use the allocator, pagesets and reclaim once, so that their kernels are in the cache."""
    node = one_zone(swap=100)
    empty = np.zeros(0, dtype=np.uint32)
    for order in range(NR_ORDERS):
        for mt in range(MIGRATE_PCPTYPES):
            got = node.alloc([NORMAL], 0, order, 2, mt, NORMAL, WMARK_LOW, NUMA_HOW_HIT, 1, 0, empty)
            node.free(0, order, 1, got[:1])
    for owner, kind in ((2, LRU_KIND_ANON), (3, LRU_KIND_FILE)):
        # as they come off the wire: not writable
        indexes = np.frombuffer(np.arange(200, dtype=np.uint32).tobytes(), dtype=np.uint32)
        node.alloc([NORMAL], 0, 0, 200, 1, NORMAL, WMARK_LOW, NUMA_HOW_HIT, owner, kind, indexes, True)
        node.touch(owner, indexes, True)
        node.release(owner, indexes[:50], None)
    for priority in (1, 0):
        node.shrink(NORMAL, priority, 1000)
    node.wakeup_kswapd(0, NORMAL)
    kswapd_target(node.pg, NORMAL)
    node.free_owner(1)
    node.free_owner(2)
    node.drain()
    node.snapshot()


@pytest.mark.usefixtures("_warm")
def test_no_kernel_counts_references() -> None:
    assert len(compiled()) >= 50
    assert [path.name for path in compiled() if b"NRT_" in path.read_bytes()] == []


def test_reference_counting_would_be_seen(tmp_path: Path) -> None:
    """Control: the same search does find reference counting in code that Numba compiles by default."""
    source = tmp_path / "counted.py"
    source.write_text(
        "import numba, numpy as np\n"
        "from typing import NamedTuple\n"
        "class State(NamedTuple):\n    a: np.ndarray\n    b: np.ndarray\n"
        "@numba.njit(cache=True)\n"
        "def inner(s, i):\n    s.a[i] += 1\n    return s.b[i]\n"
        "@numba.njit(cache=True)\n"
        "def outer(s, n):\n    t = 0\n    for i in range(n):\n        t += inner(s, i)\n    return t\n"
        "outer(State(np.zeros(4), np.zeros(4)), 4)\n"
    )
    subprocess.run(
        [sys.executable, str(source)],
        check=True,
        timeout=120,
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")},
    )
    cached = list((tmp_path / "cache").rglob("*.nbc"))
    assert any(b"NRT_" in path.read_bytes() for path in cached)


@pytest.mark.slow
def test_every_kernel_is_compiled_once(tmp_path: Path) -> None:
    """A kernel that is compiled for several types costs compile time for each.

    Constants therefore pass through i64() and flag(), as Numba would specialize on them. The test has a cache
    of its own, since benchmarks that call kernels from kernels leave other specializations in the usual one.
    Both processes that compile kernels have to call each with the same types.
    """
    subprocess.run(
        [sys.executable, "-m", "numa_service.cli.compile"],
        check=True,
        timeout=280,
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
    )
    signatures = Counter(path.name.rsplit(".", 2)[0] for path in tmp_path.rglob("*.nbc"))
    assert len(signatures) >= 50
    assert {name: count for name, count in signatures.items() if count > 1} == {}


_USE = """
import sys, numba
numba.__version__ = sys.argv[1] or numba.__version__
from numa_service.mm import jit, vmscan
from numa_service.trace.compiled import CACHE_DIR
assert vmscan._isqrt(81) == 9
print(jit.CACHE_DIR, CACHE_DIR, sum(vmscan._isqrt.stats.cache_hits.values()))
"""


def _use(package: Path, cache: Path, numba: str = "", cpu: str = "") -> tuple[str, str, int]:
    """Cache folders of kernels and of trace readers, and how often a small kernel came from the cache."""
    env = os.environ | {
        "NUMBA_CACHE_DIR": str(cache),
        "NUMBA_CPU_NAME": cpu,
        "PYTHONPATH": str(package.parent),
    }
    command = [sys.executable, "-P", "-c", _USE, numba]
    done = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, check=True, timeout=120)
    kernels, traces, hits = done.stdout.split()
    return kernels, traces, int(hits)


def test_who_has_the_same_text_shares_a_cache_and_nobody_else(tmp_path: Path) -> None:
    here = Path(jit.__file__).parents[1]
    cache, there = tmp_path / "cache", tmp_path / "elsewhere" / "numa_service"
    shutil.copytree(here, there, ignore=shutil.ignore_patterns("__pycache__"))  # with times of now
    kernels, traces, hits = _use(here, cache)
    assert hits == 0
    files = sorted(path.relative_to(cache) for path in cache.rglob("*.nb?"))
    assert len(files) == 2
    assert _use(there, cache) == (kernels, traces, 1)
    assert sorted(path.relative_to(cache) for path in cache.rglob("*.nb?")) == files
    assert _use(there, cache, cpu="generic")[:2] != (kernels, traces)
    others = [_use(there, cache, cpu="generic"), _use(there, cache, numba="0.0.1")]
    with (there / "trace" / "tokenizer.py").open("a") as text:
        text.write("#\n")
    reread = _use(there, cache)
    assert (reread[0], reread[2]) == (kernels, 1)
    assert reread[1] != traces
    with (there / "mm" / "lists.py").open("a") as text:  # what a kernel calls, not the kernel
        text.write("#\n")
    others.append(_use(there, cache))
    assert len({kernels, *(other[0] for other in others)}) == 4
    assert len({traces, reread[1], *(other[1] for other in others)}) == 5
    assert [other[2] for other in others[1:]] == [0, 0]


@pytest.mark.skipif(os.geteuid() != 0, reason=NOT_ROOT)
def test_a_full_cache_of_somebody_elses_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete cache may be read-only, as in an image that runs under any user id."""
    cache, source = tmp_path / "kernels-0", tmp_path / "source.py"
    cache.mkdir()
    source.touch()
    for folder in (cache, tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    monkeypatch.setattr(jit.config, "CACHE_DIR", str(cache))

    def locator_of_nobody() -> object:
        os.seteuid(65534)
        try:
            return jit.CacheLocator.from_function(locator_of_nobody, str(source))
        finally:
            os.seteuid(0)

    assert locator_of_nobody() is None
    (cache / "complete").touch()
    found = locator_of_nobody()
    assert isinstance(found, jit.CacheLocator)
    assert found.get_cache_path() == str(cache)


def test_kernels_are_registered_and_cached_by_source_text() -> None:
    names = {kernel.py_func.__name__ for kernel in jit.kernels()}
    assert {"alloc_pages_bulk", "free_pages_bulk", "shrink_node", "list_add"} <= names
    assert jit.CACHE_DIR.name.startswith("kernels-")


def test_each_inlined_kernel_names_the_benchmark_row_that_pays_for_it() -> None:
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    of_pages = re.findall(r'^    "(order\w+)": \(', (benchmarks / "mm.py").read_text(), re.MULTILINE)
    of_objects = re.findall(r'row\("(slab_\w+)"', (benchmarks / "slab.py").read_text())
    rows = {f"mm_{name}" for name in of_pages} | set(of_objects)
    marks = [
        re.fullmatch(r"@kernel\(inline=True\)(?:  # (\w+))?", line)
        for folder in jit.KERNELS
        for source in sorted(folder.glob("*.py"))
        for line in source.read_text().splitlines()
        if line.startswith("@kernel(")
    ]
    assert (len(of_pages), len(of_objects)) == (6, 3)
    assert {mark and mark[1] for mark in marks} <= rows
    inlined = [kernel for kernel in jit.kernels() if kernel.targetoptions["forceinline"]]
    assert 0 < len(inlined) == len(marks) < len(jit.kernels()) / 3


def test_caches_that_are_not_used_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = [tmp_path / f"kernels-{n}" for n in range(jit.CACHES_KEPT + 2)]
    (tmp_path / "benchmarks").mkdir()
    for age, cache in enumerate(caches):
        monkeypatch.setattr(jit, "CACHE_DIR", cache)
        assert not jit.is_compiled()
        cache.mkdir()
        (cache / "complete").touch()
        os.utime(cache / "complete", (age, age))
    monkeypatch.setattr(jit, "CACHE_DIR", caches[0])
    assert jit.is_compiled()  # it is the one used last now
    monkeypatch.setattr(jit, "CACHE_DIR", caches[-1])
    jit.mark_compiled()
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "benchmarks", caches[0], *caches[3:]])
