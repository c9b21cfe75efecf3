"""The one decorator for every kernel of the model, and its disk cache.

Kernels never allocate arrays and run without Numba's runtime (``_nrt=False``): with it, every call
between kernels counts references and an order-0 allocation costs a hundred times more. A node's arrays are
one pointer to them (``mm/pgref.py``), so a call between kernels is cheap and LLVM decides what to inline.
A few on the path of every page are inlined by order (:func:`kernel`); all of them would take three times
as long to compile.

Numba checks only the file of a cached function, not those of the functions it calls, and files a cache under
the path of the source. Here a cache folder is named after all that decides what is compiled: the text of the
whole package, Python, Numba and the CPU. Every checkout, wheel and image of the same text shares it.
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
        """A link or a constant as the one integer type of the kernels, so that each is compiled once."""

    def flag(value: bool) -> bool:
        """The same for a constant truth value: Numba compiles a kernel anew for each constant."""

else:
    i64 = np.int64
    flag = np.bool_

#: Caches of versions and checkouts that stay on a host; each takes 20 to 40 MB.
CACHES_KEPT = 8
#: Marks in a cache's folder: every kernel is there; all that a node runs is.
_MARK, _MARK_OF_NODES = "complete", "nodes"

F = TypeVar("F", bound=Callable[..., Any])


def cache_dir(kind: str, *packages: Path) -> Path:
    """The folder of this text of these packages, compiled by this Python and Numba for this CPU."""
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
CACHE_DIR = cache_dir("kernels", PACKAGE)

_KERNELS: list[Any] = []


class CacheLocator(UserProvidedCacheLocator):  # type: ignore[misc]
    """Tells Numba to keep a function's code right in its cache folder, wherever the source lies.

    Numba's own locator adds a folder named after the path of the source.
    """

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        super().__init__(function, file)
        self._cache_path = config.CACHE_DIR

    def ensure_cache_path(self) -> None:
        """Make the folder, unless nothing is to be written there any more: it may be another user's."""
        if not (Path(self._cache_path) / _MARK).exists():
            super().ensure_cache_path()


def compiled_into(folder: Path, function: F, **options: bool) -> F:
    """A function that Numba compiles when it is first called, without its runtime; its code is kept."""
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
    """Compile a function of the hot loop: arrays in, integers out, no allocation, no exceptions.

    `inline` puts it into each kernel that calls it, to be compiled anew in every one of them: for those whose
    call would cost a row of ``benchmarks/mm.py`` more than it may. That row stands beside the decorator.
    Nothing takes a kernel's address, and code for C to call it by is a fifteenth of what there is to compile.
    """

    def compiled(function: F) -> F:
        compiled = compiled_into(CACHE_DIR, function, forceinline=inline, no_cfunc_wrapper=True)
        _KERNELS.append(compiled)
        return compiled

    return compiled if function is None else compiled(function)


def kernels() -> tuple[Any, ...]:
    """Every kernel imported so far."""
    return tuple(_KERNELS)


def compiled_share() -> float:
    """How many of the kernels imported so far are in the disk cache: 0 to 1. Each has one index file."""
    return min(1.0, sum(1 for _ in CACHE_DIR.glob("*.nbi")) / max(1, len(_KERNELS)))


def is_compiled() -> bool:
    """Whether the disk cache of this version of the kernels has been filled. Notes that it is used."""
    mark = CACHE_DIR / _MARK
    if not mark.exists():
        return False
    with contextlib.suppress(OSError):  # it may be somebody else's, in an image
        mark.touch()
    return True


def is_compiled_for_nodes() -> bool:
    """Whether all that a node runs is in the disk cache; what replays traces may still be compiled."""
    return is_compiled() or (CACHE_DIR / _MARK_OF_NODES).exists()


def mark_compiled_for_nodes() -> None:
    """Note that all that a node runs has been compiled into the cache."""
    (CACHE_DIR / _MARK_OF_NODES).touch()


def mark_compiled() -> None:
    """Note that every kernel has been compiled into the cache; those not used for longest go."""
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    (CACHE_DIR / _MARK).touch()
    with contextlib.suppress(FileNotFoundError):  # another process does the same
        for kind in ("kernels", "traces"):
            for folder in sorted(CACHE_DIR.parent.glob(f"{kind}-*"), key=_last_used)[:-CACHES_KEPT]:
                shutil.rmtree(folder, ignore_errors=True)


def _last_used(folder: Path) -> int:
    mark = folder / _MARK
    return (mark if mark.exists() else folder).stat().st_mtime_ns
