"""What the kernel says when an object is freed that cannot be, or a cache goes that still has objects.

The words are those of a kernel that checks (``slub_debug=F``, hardened free lists), with plain addresses.
Left out are lines about the struct page and about who allocated, and dumps of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from numa_service.mm.slab.reports import SlabBugError, pointer
from numa_service.mm.slab.slub_node import Slab
from numa_service.mm.slab.slub_work_rules import SlubWorkRules


def slab_bug(cache: str, text: str) -> str:
    """The line with which a report begins (slab_bug)."""
    return f"BUG {cache} (Not tainted): {text}"


def slab_fix(cache: str, text: str) -> str:
    """The line that says what is done about it (slab_fix)."""
    return f"FIX {cache}: {text}"


def not_freed(cache: str, address: int) -> str:
    """An object stays allocated (free_debug_processing)."""
    return slab_fix(cache, f"Object at 0x{pointer(address)} not freed")


def already_free(cache: str, address: int) -> SlabBugError:
    """An object is freed twice (free_consistency_checks)."""
    return SlabBugError(slab_bug(cache, "Object already free"), not_freed(cache, address))


def invalid_pointer(cache: str, address: int) -> SlabBugError:
    """No object begins at the address (free_consistency_checks)."""
    return SlabBugError(
        slab_bug(cache, f"Invalid object pointer 0x{pointer(address)}"), not_freed(cache, address)
    )


def wrong_cache(cache: str, owner: str) -> SlabBugError:
    """An object is freed to another cache than its own (cache_from_obj).

    The kernel warns and frees it to its own; here it stays allocated.
    """
    return SlabBugError(f"cache_from_obj: Wrong slab cache. {cache} but object is from {owner}")


def no_slab_page() -> SlabBugError:
    """The page of the address is not a slab's (virt_to_cache)."""
    return SlabBugError("virt_to_cache: Object is not a Slab page!")


def objects_remaining(
    cache: str, slabs: Iterable[tuple[Slab, list[int]]], rules: SlubWorkRules
) -> SlabBugError:
    """A cache is destroyed that has objects: slabs of the partial lists, and what is allocated in each.

    Full slabs are on no list, so the kernel does not name their objects (list_slab_objects,
    kmem_cache_destroy).
    """
    report = []
    for slab, objects in slabs:
        report.append(slab_bug(cache, rules.objects_remaining.format(cache=cache)))
        found = f"{rules.report_prefix}Object"
        report += [f"{found} 0x{pointer(address)} @offset={address - slab.address}" for address in objects]
    return SlabBugError(*report, rules.still_has_objects.format(cache=cache))
