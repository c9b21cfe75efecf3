"""pg_data_t, struct zone and struct page as one would see them in a debugger: every field, its value now.

Names are the kernel's of 2.6.38 … 3.0. The state itself is arrays (``mm/pgdata.py``); these are views of it,
made when somebody looks. A field without a job in this model is None, and what it stands for says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Annotated, Any, get_type_hints

#: Pages that share one wait queue, and the table's bounds (mm/page_alloc.c, 3.0).
PAGES_PER_WAITQUEUE = 256
MIN_WAIT_TABLE = 4
MAX_WAIT_TABLE = 4096

#: Where the kernel maps all memory: Documentation/x86/x86_64/mm.rst, and CONFIG_VMSPLIT_3G of i386.
PAGE_OFFSET = {"x86_64": 0xFFFF888000000000, "i386": 0xC0000000}


def stands_for(view: Any) -> dict[str, str]:
    """What each field of a view is, by name."""
    hints = get_type_hints(view if isinstance(view, type) else type(view), include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


@dataclass(frozen=True, slots=True)
class PgListData:
    """``struct pglist_data`` of one node. Pages unless said otherwise."""

    node_zones: Annotated[dict[str, int], "every zone type of the architecture: managed pages"]
    node_zonelists: Annotated[
        dict[str, tuple[str, ...]],
        "zones in the order in which they are tried: all nodes, and this node only (__GFP_THISNODE)",
    ]
    nr_zones: Annotated[int, "1 + index of the highest zone with pages"]
    node_mem_map: Annotated[
        dict[str, int],
        "struct page, an array a field: pfn of the first entry, entries, and bytes an entry takes",
    ]
    bdata: Annotated[
        dict[str, int],
        "the boot allocator has retired: pages that it kept for good, and pages that it gave to the "
        "buddy system",
    ]
    node_start_pfn: Annotated[int, "first page of the lowest zone with pages"]
    node_present_pages: Annotated[int, "RAM, holes left out"]
    node_spanned_pages: Annotated[int, "first to last page, holes included"]
    node_id: Annotated[int, "the node's number"]
    kswapd_wait: Annotated[str, "where kswapd waits: asleep there, or on its way"]
    kswapd: Annotated[
        dict[str, int],
        "the Kswapd actor of the node: times it ran, pages it reclaimed, runs without success",
    ]
    kswapd_max_order: Annotated[int, "largest order that kswapd was woken for (kswapd_order since 4.6)"]
    classzone_idx: Annotated[int, "highest zone that kswapd was woken for (kswapd_highest_zoneidx since 5.8)"]
    node_size_lock: Annotated[None, "no lock: one writer, the node's event loop; spans change by ops only"]


@dataclass(frozen=True, slots=True)
class Zone:
    """``struct zone``. Pages unless said otherwise."""

    watermark: Annotated[dict[str, int], "min, low, high (promo since 6.1), and the boost added to each"]
    percpu_drift_mark: Annotated[
        int,
        "below this many free pages the counters' drift matters: high + CPUs × threshold, or 0 if "
        "that is less than low - min; kswapd then adds up every CPU's part",
    ]
    lowmem_reserve: Annotated[dict[str, int], "kept back from requests of each class zone"]
    node: Annotated[int, "node that the zone belongs to"]
    min_unmapped_pages: Annotated[
        int,
        "zone reclaim starts above as many unmapped file pages (vm.min_unmapped_ratio); no zone reclaim here",
    ]
    min_slab_pages: Annotated[int, "zone reclaim shrinks slab above as many (vm.min_slab_ratio); likewise"]
    pageset: Annotated[dict[int, dict[str, int]], "a CPU's own free pages: count, high, batch, free_factor"]
    lock: Annotated[None, "no lock: one writer, the node's event loop"]
    all_unreclaimable: Annotated[bool, "kswapd gave up: as many runs without success as MAX_RECLAIM_RETRIES"]
    span_seqlock: Annotated[None, "no lock: start and span are read and changed on the node's event loop"]
    free_area: Annotated[dict[str, tuple[int, ...]], "free blocks of each order, by migratetype"]
    pageblock_flags: Annotated[dict[str, int], "pageblocks by migratetype, one entry a 2 MiB of the zone"]
    compact_considered: Annotated[
        int,
        "compactions skipped since the last failure; 0: nothing is deferred here",
    ]
    compact_defer_shift: Annotated[int, "2^this many are skipped after a failure; 0: likewise"]
    lru_lock: Annotated[None, "no lock: one writer, the node's event loop"]
    lru: Annotated[dict[str, int], "pages on each LRU list"]
    reclaim_stat: Annotated[
        dict[str, int],
        "what reclaim of each side cost lately (anon_cost, file_cost of lruvec)",
    ]
    pages_scanned: Annotated[
        int | None,
        "since a page was last freed; None: the node's kswapd failures are counted instead, as since 4.12",
    ]
    flags: Annotated[tuple[str, ...], "boosted_watermark, reclaim_active, below_high (6.12)"]
    vm_stat: Annotated[dict[str, int], "the zone's counters, and its NUMA events"]
    inactive_ratio: Annotated[int, "active : inactive anonymous pages, √(10 × GiB of the zone), at least 1"]
    wait_table: Annotated[
        None,
        "no page is waited for: I/O takes virtual time only; a kernel has its size below",
    ]
    wait_table_hash_nr_entries: Annotated[
        int,
        "queues that 3.0 makes for the zone: one in 256 pages, 4 to 4096",
    ]
    wait_table_bits: Annotated[int, "log2 of that"]
    zone_pgdat: Annotated[int, "back to the pg_data_t: its node_id"]
    zone_start_pfn: Annotated[int, "first page"]
    spanned_pages: Annotated[int, "first to last page, holes included"]
    present_pages: Annotated[int, "RAM, holes left out"]
    name: Annotated[str, "kernel spelling"]


@dataclass(frozen=True, slots=True)
class Page:
    """``struct page``."""

    flags: Annotated[tuple[str, ...], "by the kernel's names, with node and zone as page->flags has them"]
    _count: Annotated[int, "references: 0 when free or on a pageset (_refcount since 4.6)"]
    _mapcount: Annotated[int, "page table entries - 1; the kernel keeps PageBuddy here as well"]
    inuse: Annotated[None, "objects in use in a slab; no slab allocator yet"]
    objects: Annotated[None, "objects of a slab; likewise"]
    private: Annotated[int | None, "order of the block that a free page or block on a pageset heads"]
    mapping: Annotated[str | None, "who owns it: session or region as node.incarnation.id"]
    slab: Annotated[None, "kmem_cache of a slab page; no slab allocator yet"]
    first_page: Annotated[int | None, "of a tail page of an allocated block: pfn of the head"]
    index: Annotated[
        int | None,
        "of a region's page: its offset in pages; of a page on a pageset: migratetype of its free list",
    ]
    freelist: Annotated[None, "first free object of a slab; no slab allocator yet"]
    lru: Annotated[
        tuple[str, str] | None,
        "neighbours on the list it is on, next and previous: a pfn, or its head",
    ]
    virtual: Annotated[int | None, "address in the kernel's linear map; None in HighMem"]
    debug_flags: Annotated[None, "CONFIG_WANT_PAGE_DEBUG_FLAGS: not built"]
    shadow: Annotated[None, "CONFIG_KMEMCHECK: not built"]


def wait_table_hash_nr_entries(pages: int) -> int:
    """Wait queues of a zone that spans so many pages (3.0 without memory hotplug)."""
    wanted = max(1, pages // PAGES_PER_WAITQUEUE)
    return max(MIN_WAIT_TABLE, min(1 << (wanted - 1).bit_length(), MAX_WAIT_TABLE))


def wait_table_bits(entries: int) -> int:
    """log2 of a power of two."""
    return entries.bit_length() - 1


def inactive_ratio(managed: int) -> int:
    """Active anonymous pages for one inactive one (calculate_zone_inactive_ratio)."""
    gigabytes = managed >> 18
    return isqrt(10 * gigabytes) if gigabytes else 1
