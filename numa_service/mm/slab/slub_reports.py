"""What the kernel says when an object is freed that cannot be, or a cache goes that still has objects.

The words are those of a kernel that checks (``slub_debug=F``, hardened free lists), with plain addresses.
Left out are lines about the struct page and about who allocated, and dumps of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from numa_service.mm.slab.reports import SlabBugError, pointer, still_has_objects
from numa_service.mm.slab.slub_node import Slab


def _slab_bug(cache: str, text: str) -> str:
    return f"BUG {cache} (Not tainted): {text}"


def _not_freed(cache: str, address: int) -> str:
    return f"FIX {cache}: Object at 0x{pointer(address)} not freed"


def already_free(cache: str, address: int) -> SlabBugError:
    """An object is freed twice (free_consistency_checks)."""
    return SlabBugError(_slab_bug(cache, "Object already free"), _not_freed(cache, address))


def invalid_pointer(cache: str, address: int) -> SlabBugError:
    """No object begins at the address (free_consistency_checks)."""
    return SlabBugError(
        _slab_bug(cache, f"Invalid object pointer 0x{pointer(address)}"), _not_freed(cache, address)
    )


def wrong_cache(cache: str, owner: str) -> SlabBugError:
    """An object is freed to another cache than its own (cache_from_obj).

    The kernel warns and frees it to its own; here it stays allocated.
    """
    return SlabBugError(f"cache_from_obj: Wrong slab cache. {cache} but object is from {owner}")


def no_slab_page() -> SlabBugError:
    """The page of the address is not a slab's (virt_to_cache)."""
    return SlabBugError("virt_to_cache: Object is not a Slab page!")


def objects_remaining(cache: str, slabs: Iterable[tuple[Slab, list[int]]]) -> SlabBugError:
    """A cache is destroyed that has objects: slabs of the partial lists, and what is allocated in each.

    Full slabs are on no list, so the kernel does not name their objects (list_slab_objects,
    kmem_cache_destroy).
    """
    report = []
    for slab, objects in slabs:
        report.append(_slab_bug(cache, f"Objects remaining in {cache} on __kmem_cache_shutdown()"))
        report += [f"Object 0x{pointer(address)} @offset={address - slab.address}" for address in objects]
    return still_has_objects(cache, report)
