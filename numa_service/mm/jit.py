"""The one decorator for every kernel of the model, and its disk cache.

Kernels never allocate arrays and run without Numba's runtime (``_nrt=False``): with it, every call
between kernels counts references and an order-0 allocation costs a hundred times more. They are inlined
into each other (``forceinline``): a node's arrays are some three hundred scalars, and passing those at a
call costs more than most kernels' work (184 ns an allocation without, 28 ns with).

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
from typing import TYPE_CHECKING, Any, SupportsInt, TypeVar, cast

import numba
import numpy as np
from llvmlite import binding as llvm
from numba.core import config
from numba.core.caching import UserProvidedCacheLocator

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
_MARK = "complete"

F = TypeVar("F", bound=Callable[..., Any])


def _cache_dir() -> Path:
    """The folder of this text of the kernels, for this Python, Numba and CPU."""
    base = Path(config.CACHE_DIR) if config.CACHE_DIR else Path.home() / ".cache" / "numa-service"
    key = hashlib.blake2b(digest_size=8)
    cpu = config.CPU_NAME or llvm.get_host_cpu_name()
    features = config.CPU_FEATURES or llvm.get_host_cpu_features().flatten()
    for part in (sys.implementation.cache_tag, numba.__version__, cpu, features):
        key.update(f"{part}\0".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        key.update(f"{source.name}\0".encode())
        key.update(source.read_bytes())
    return base / f"kernels-{key.hexdigest()}"


CACHE_DIR = _cache_dir()

_KERNELS: list[Any] = []


class CacheLocator(UserProvidedCacheLocator):  # type: ignore[misc]
    """Tells Numba to keep a kernel's code in :data:`CACHE_DIR`, wherever the source lies.

    Numba's own locator adds a folder named after the path of the source.
    """

    def get_cache_path(self) -> str:
        """The folder for index and code files."""
        return str(CACHE_DIR)


def kernel(function: F) -> F:
    """Compile a function of the hot loop: arrays in, integers out, no allocation, no exceptions."""
    previous = config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES
    config.CACHE_DIR = str(CACHE_DIR)
    config.CACHE_LOCATOR_CLASSES = f"{__name__}.{CacheLocator.__name__}"
    try:
        compiled = numba.njit(_nrt=False, forceinline=True, error_model="numpy", cache=True)(function)
    finally:
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = previous
    _KERNELS.append(compiled)
    return cast("F", compiled)


def kernels() -> tuple[Any, ...]:
    """Every kernel imported so far."""
    return tuple(_KERNELS)


def is_compiled() -> bool:
    """Whether the disk cache of this version of the kernels has been filled. Notes that it is used."""
    mark = CACHE_DIR / _MARK
    if not mark.exists():
        return False
    with contextlib.suppress(OSError):  # it may be somebody else's, in an image
        mark.touch()
    return True


def mark_compiled() -> None:
    """Note that every kernel has been compiled into the cache; those not used for longest go."""
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    (CACHE_DIR / _MARK).touch()
    with contextlib.suppress(FileNotFoundError):  # another process does the same
        for folder in sorted(CACHE_DIR.parent.glob("kernels-*"), key=_last_used)[:-CACHES_KEPT]:
            shutil.rmtree(folder, ignore_errors=True)


def _last_used(folder: Path) -> int:
    mark = folder / _MARK
    return (mark if mark.exists() else folder).stat().st_mtime_ns
