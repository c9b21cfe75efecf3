"""What an allocator says of an object that cannot be freed, or of a cache that cannot go."""

from __future__ import annotations

from collections.abc import Iterable


def pointer(address: int) -> str:
    """An address as %p prints it without hashing: eight digits for one of a 32-bit kernel."""
    return f"{address:08x}" if address < 1 << 32 else f"{address:016x}"


class SlabBugError(ValueError):
    """An object cannot be freed, and nothing was changed; or a cache cannot go.

    `report` has the lines that the kernel prints.
    """

    def __init__(self, *report: str) -> None:
        self.report = report
        super().__init__("; ".join(report))


def still_has_objects(cache: str, lines: Iterable[str] = ()) -> SlabBugError:
    """A cache is destroyed that has objects (kmem_cache_destroy); `lines` name some of them."""
    return SlabBugError(*lines, f"kmem_cache_destroy {cache}: Slab cache still has objects")


def not_from_kmalloc(address: int) -> SlabBugError:
    """What is passed to kfree is neither an object of a slab nor pages of kmalloc (free_large_kmalloc)."""
    return SlabBugError(f"object pointer: {address:#x}")
