"""What SLAB says when an object is freed that cannot be (``mm/slab.c`` of 6.1 with checks)."""

from __future__ import annotations

from numa_service.mm.slab.reports import SlabBugError


def no_object(cache: str, address: int) -> SlabBugError:
    """No object begins at the address (cache_free_debugcheck)."""
    return SlabBugError(f"kernel BUG at mm/slab.c: no object of '{cache}' is at {address:x}")


def double_free(cache: str, address: int) -> SlabBugError:
    """An object is freed twice (slab_put_obj)."""
    return SlabBugError(f"slab: double free detected in cache '{cache}', objp {address:x}")
