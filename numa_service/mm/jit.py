"""Compilation of the model: the decorator of every compiled function (:func:`kernel`), and the disk cache.

"Kernel" without "Linux" means such a function. Kernels allocate no arrays and run without Numba's runtime
(``_nrt=False``): with it, every call between kernels would count references, and an order-0 allocation would
take a hundred times as long. Kernels get a node's arrays as one pointer (``mm/pgref.py``), so that a call
between them is cheap and LLVM decides what to inline. A few that run for every page are forced inline; to do
so with all would take three times as long to compile.

Numba checks only the file of a cached function, not the files of the functions that it calls, and it files
the code under the path of the source. Here the cache folder is named after everything that decides what is
compiled: the text of the folders that have kernels, Python, Numba and the CPU. Every checkout, wheel and
image with the same text shares one folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsInt, TypeVar, cast, overload

import numba
import numpy as np
from llvmlite import binding as llvm
from numba.core import config
from numba.core.caching import UserProvidedCacheLocator

import numa_service.mm.pgref  # noqa: F401  # tells Numba what a PgData is, before anything is compiled

if TYPE_CHECKING:

    def i64(value: SupportsInt) -> int:
        """Convert a link or a constant to int64, so that Numba compiles each kernel for one type only."""

    def flag(value: bool) -> bool:
        """Convert a constant truth value to bool_: Numba would compile a kernel anew for each constant."""

else:
    i64 = np.int64
    flag = np.bool_

#: -O2: -O3 takes a tenth more time to compile, and makes no row of ``benchmarks/mm.py`` quicker.
config.OPT = type(config.OPT)(2)
#: Cache folders (one for each version of the text) that are kept on a host; each takes 20 to 40 MB.
CACHES_KEPT = 8
#: Empty files in a cache folder that say: every kernel is there; every kernel that a node runs is there.
_MARK, _MARK_OF_NODES = "complete", "nodes"

F = TypeVar("F", bound=Callable[..., Any])


def cache_dir(kind: str, *packages: Path) -> Path:
    """Cache folder for the present text of `packages`, compiled by this Python and Numba for this CPU."""
    base = Path(config.CACHE_DIR) if config.CACHE_DIR else Path.home() / ".cache" / "numa-service"
    key = hashlib.blake2b(digest_size=8)
    cpu = config.CPU_NAME or llvm.get_host_cpu_name()
    features = config.CPU_FEATURES or llvm.get_host_cpu_features().flatten()
    for part in (sys.implementation.cache_tag, numba.__version__, cpu, features):
        key.update(f"{part}\0".encode())
    for package in packages:
        for source in sorted(package.glob("*.py")):
            key.update(f"{source.name}\0".encode())
            key.update(source.read_bytes())
    return base / f"{kind}-{key.hexdigest()}"


PACKAGE = Path(__file__).parent
#: The folders that have kernels: the model's, and that of slab objects.
KERNELS = (PACKAGE, PACKAGE / "slab" / "compiled")
CACHE_DIR = cache_dir("kernels", *KERNELS)

_KERNELS: list[Any] = []


class CacheLocator(UserProvidedCacheLocator):  # type: ignore[misc]
    """Tells Numba to keep a function's code right in its cache folder, wherever the source lies.

    Numba's own locator adds a folder named after the path of the source.
    """

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        super().__init__(function, file)
        self._cache_path = config.CACHE_DIR

    def ensure_cache_path(self) -> None:
        """Create the folder, unless it is marked complete: then it may belong to another user."""
        if not (Path(self._cache_path) / _MARK).exists():
            super().ensure_cache_path()


def compiled_into(folder: Path, function: F, **options: bool) -> F:
    """Have Numba compile `function` at its first call, without its runtime, and keep the code in `folder`."""
    previous = config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES
    config.CACHE_DIR = str(folder)
    config.CACHE_LOCATOR_CLASSES = f"{__name__}.{CacheLocator.__name__}"
    try:
        return cast("F", numba.njit(_nrt=False, error_model="numpy", cache=True, **options)(function))
    finally:
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = previous


@overload
def kernel(function: F) -> F: ...
@overload
def kernel(*, inline: bool) -> Callable[[F], F]: ...
def kernel(function: F | None = None, *, inline: bool = False) -> F | Callable[[F], F]:
    """Make a function a kernel: it takes arrays and numbers, returns a number, allocates and raises nothing.

    `inline` copies its code into every kernel that calls it, which compiles it once for each. It is for
    functions whose call would make a row of ``benchmarks/mm.py`` slower than it may be; a comment beside the
    decorator names that row.
    """
    # no_cfunc_wrapper: nothing calls a kernel from C, and those wrappers are a fifteenth of all code

    def compiled(function: F) -> F:
        compiled = compiled_into(CACHE_DIR, function, forceinline=inline, no_cfunc_wrapper=True)
        _KERNELS.append(compiled)
        return compiled

    return compiled if function is None else compiled(function)


def kernels() -> tuple[Any, ...]:
    """Every kernel imported so far."""
    return tuple(_KERNELS)


def compiled_share() -> float:
    """Share of the kernels imported so far that are in the disk cache, 0 to 1. Each has one index file."""
    return min(1.0, sum(1 for _ in CACHE_DIR.glob("*.nbi")) / max(1, len(_KERNELS)))


def is_compiled() -> bool:
    """Whether the disk cache has every kernel of this version. Notes that the cache was used just now."""
    mark = CACHE_DIR / _MARK
    if not mark.exists():
        return False
    with contextlib.suppress(OSError):  # in an image the mark may belong to another user
        mark.touch()
    return True


def is_compiled_for_nodes() -> bool:
    """Whether every kernel that a node runs is in the disk cache; those of trace replay may be missing."""
    return is_compiled() or (CACHE_DIR / _MARK_OF_NODES).exists()


def mark_compiled_for_nodes() -> None:
    """Note that every kernel that a node runs has been compiled into the cache."""
    (CACHE_DIR / _MARK_OF_NODES).touch()


def mark_compiled() -> None:
    """Note that every kernel has been compiled into the cache, and delete the least recently used caches."""
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    (CACHE_DIR / _MARK).touch()
    with contextlib.suppress(FileNotFoundError):  # another process may delete the same folders
        for kind in ("kernels", "traces"):
            for folder in sorted(CACHE_DIR.parent.glob(f"{kind}-*"), key=_last_used)[:-CACHES_KEPT]:
                shutil.rmtree(folder, ignore_errors=True)


def _last_used(folder: Path) -> int:
    mark = folder / _MARK
    return (mark if mark.exists() else folder).stat().st_mtime_ns
