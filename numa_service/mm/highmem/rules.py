"""What differs in high memory between kernels, and where i386 with PAE maps it."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.profile import Profile

#: First address of the pool of kmap, and its entries: a page table with PAE has 512.
PKMAP_BASE = 0xFF00_0000
LAST_PKMAP = 512
#: Of each CPU in linux-3.0 (KM_TYPE_NR), and of each task since 5.11 (KM_MAX_IDX).
KM_TYPE_NR = 20
KM_MAX_IDX = 16
#: Buckets of page_address_htable, as a power of two.
PA_HASH_ORDER = 7


@dataclass(frozen=True, slots=True)
class HighmemRules:
    """Rules of one kernel."""

    #: What hash_32() multiplies by: a prime near the golden ratio until 4.6, then one of Knuth's.
    golden_ratio: int
    #: Slots for short mappings: of each task, else of each CPU.
    slots_of_tasks: bool
    #: Slots in the fixmap for each CPU, and how many of them may be in use.
    slots: int
    usable_slots: int
    #: A request queue has a limit above which pages bounce (blk_queue_bounce_limit with a mask); since 5.13
    #: it says no more than that it takes no high memory.
    bounces_by_mask: bool
    #: Slab allocators take __GFP_HIGHMEM off a request, and warn; before 4.8 they stop the kernel.
    fixes_slab_gfp: bool


def highmem_rules(profile: Profile) -> HighmemRules:
    """The rules of a profile's kernel."""
    series = profile.series
    of_tasks = series >= (5, 11)
    slots = KM_MAX_IDX if of_tasks else KM_TYPE_NR
    return HighmemRules(
        golden_ratio=0x61C8_8647 if series >= (4, 7) else 0x9E37_0001,
        slots_of_tasks=of_tasks,
        slots=slots,
        # kmap_local_idx_push counts first, and then wants less than KM_MAX_IDX
        usable_slots=slots - 1 if of_tasks else slots,
        bounces_by_mask=series < (5, 13),
        fixes_slab_gfp=series >= (4, 8),
    )
