"""Views of pg_data_t, struct zone and struct page: every field with its present value, as in a debugger.

Field names are those of Linux 2.6.38 to 3.0. The state itself is arrays (``mm/pgdata.py``); a view is
computed from them when somebody asks for it. A field that the model does not need is None, and its
description says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Annotated, Any, get_type_hints

#: Pages that share one wait queue, and the table's bounds (mm/page_alloc.c, 3.0).
PAGES_PER_WAITQUEUE = 256
MIN_WAIT_TABLE = 4
MAX_WAIT_TABLE = 4096

#: Virtual address of the kernel's linear map of all memory: Documentation/x86/x86_64/mm.rst (without KASLR),
#: and CONFIG_VMSPLIT_3G on i386.
PAGE_OFFSET = {"x86_64": 0xFFFF888000000000, "i386": 0xC0000000}


def stands_for(view: Any) -> dict[str, str]:
    """Description of each field of `view`, a class below or an instance of one, by field name."""
    hints = get_type_hints(view if isinstance(view, type) else type(view), include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


@dataclass(frozen=True, slots=True)
class PgListData:
    """``struct pglist_data`` of one node. Numbers are pages unless said otherwise."""

    node_zones: Annotated[dict[str, int], "every zone type of the architecture: managed pages"]
    node_zonelists: Annotated[
        dict[str, tuple[str, ...]],
        "zones in the order in which they are tried: all nodes, and this node only (__GFP_THISNODE)",
    ]
    nr_zones: Annotated[int, "1 + index of the highest zone with pages"]
    node_mem_map: Annotated[
        dict[str, int | str],
        "struct page, an array a field: pfn of the first entry, entries, and bytes an entry takes; the "
        "kernel's memory model, the address of the node's first struct page, and sizeof(struct page)",
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
    node_size_lock: Annotated[
        dict[str, int],
        "pgdat_resize_lock: times that memory which came or went has taken it; since 5.15 it does not",
    ]


@dataclass(frozen=True, slots=True)
class Zone:
    """``struct zone``. Numbers are pages unless said otherwise."""

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
    min_slab_pages: Annotated[
        int,
        "zone reclaim shrinks slab above as many slab pages (vm.min_slab_ratio); no zone reclaim here",
    ]
    pageset: Annotated[dict[int, dict[str, int]], "a CPU's own free pages: count, high, batch, free_factor"]
    lock: Annotated[None, "no lock: one writer, the node's event loop"]
    all_unreclaimable: Annotated[bool, "kswapd gave up after MAX_RECLAIM_RETRIES runs without success"]
    span_seqlock: Annotated[
        dict[str, int],
        "zone_span_writelock: the sequence, two more for each change of the span; since 5.15 nobody takes it",
    ]
    free_area: Annotated[dict[str, tuple[int, ...]], "free blocks of each order, by migratetype"]
    pageblock_flags: Annotated[dict[str, int], "pageblocks by migratetype, one entry a 2 MiB of the zone"]
    compact_considered: Annotated[
        int,
        "compactions skipped since the last failure; 0: nothing is deferred here",
    ]
    compact_defer_shift: Annotated[
        int, "2^this many compactions are skipped after a failure; 0: nothing is deferred here"
    ]
    lru_lock: Annotated[None, "no lock: one writer, the node's event loop"]
    lru: Annotated[dict[str, int], "pages on each LRU list"]
    reclaim_stat: Annotated[
        dict[str, int],
        "recent cost of reclaiming anonymous and file pages (anon_cost, file_cost of lruvec)",
    ]
    pages_scanned: Annotated[
        int | None,
        "pages scanned since a page was last freed; None: as since 4.12, failures of the node's kswapd are "
        "counted instead",
    ]
    flags: Annotated[tuple[str, ...], "boosted_watermark, reclaim_active, below_high (6.12)"]
    vm_stat: Annotated[dict[str, int], "the zone's counters, and its NUMA events"]
    inactive_ratio: Annotated[int, "active : inactive anonymous pages, √(10 × GiB of the zone), at least 1"]
    wait_table: Annotated[
        dict[str, str],
        "queues with waiters by number: who waits for which of the zone's pages, and for what; since 4.9 the "
        "256 queues are of all zones",
    ]
    wait_table_hash_nr_entries: Annotated[
        int,
        "wait queues that 3.0 makes for the zone: one for every 256 pages, 4 to 4096",
    ]
    wait_table_bits: Annotated[int, "log2 of wait_table_hash_nr_entries"]
    zone_pgdat: Annotated[int, "node_id of the pg_data_t that the zone belongs to"]
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
    inuse: Annotated[int | None, "objects of a slab that are in use, or that a CPU has at hand"]
    objects: Annotated[int | None, "objects of a slab"]
    private: Annotated[int | None, "order of the block that a free page or block on a pageset heads"]
    mapping: Annotated[str | None, "who owns it: session or region as node.lineage.id"]
    slab: Annotated[str | None, "name of the kmem_cache whose slab the page is"]
    first_page: Annotated[int | None, "of a tail page of an allocated block: pfn of the head"]
    index: Annotated[
        int | None,
        "of a region's page: its offset in pages; of a page on a pageset: migratetype of its free list",
    ]
    freelist: Annotated[int | None, "address of the first free object of a slab; none are free: None"]
    lru: Annotated[
        tuple[str, str] | None,
        "neighbours on the list it is on, next and previous: a pfn, or its head",
    ]
    virtual: Annotated[
        int | None,
        "address in the kernel's linear map; of a HighMem page that of its kmap, None without one",
    ]
    debug_flags: Annotated[
        None,
        "CONFIG_WANT_PAGE_DEBUG_FLAGS, up to 3.18, which x86 never selects: bit 0 would be set while a free "
        "page is poisoned",
    ]
    shadow: Annotated[
        None,
        "CONFIG_KMEMCHECK, up to 4.14, off in these kernels: on, it is NULL but for tracked slab pages, and "
        "theirs is the page with a byte of status for each of their bytes",
    ]


@dataclass(frozen=True, slots=True)
class MemSection:
    """``struct mem_section``: a section of SPARSEMEM, the unit of memory maps."""

    section_nr: Annotated[int, "number of the section"]
    node: Annotated[int, "node that its memory map belongs to"]
    start_pfn: Annotated[int, "section_nr_to_pfn: first page"]
    pages: Annotated[int, "PAGES_PER_SECTION"]
    section_mem_map: Annotated[
        int,
        "address of the map less its first pfn's share: plus pfn × sizeof(struct page) it is a page's; the "
        "kernel keeps the flags in its low bits",
    ]
    flags: Annotated[
        tuple[str, ...], "of section_mem_map: present, has_mem_map; since 4.13 online, since 5.3 early"
    ]
    mem_map: Annotated[int, "pfn_to_page(start_pfn): address of the first struct page"]
    mem_map_pages: Annotated[int, "pages that the map takes"]


@dataclass(frozen=True, slots=True)
class HighMemory:
    """High memory of a 32-bit machine: what ``mm/highmem.c`` keeps."""

    totalhigh_pages: Annotated[int, "pages of HighMem, of this node"]
    nr_free_highpages: Annotated[int, "of these, free ones"]
    pkmap_base: Annotated[int, "PKMAP_BASE: address of the first entry of kmap's pool"]
    last_pkmap: Annotated[int, "LAST_PKMAP: entries of the pool"]
    last_pkmap_nr: Annotated[int, "entry at which the last search ended; at 0 unused entries are unmapped"]
    pkmap_count: Annotated[
        dict[str, int],
        "entries by count: 0 = usable, 1 = unused but mapped until a flush, more = in use",
    ]
    flushes: Annotated[int, "flush_all_zero_pkmaps that unmapped something, and flushed all TLBs"]
    page_address_htable: Annotated[
        dict[str, str], "mapped pages by address: pfn, bucket of the hash, users; those of 32 entries"
    ]
    kmap_slots: Annotated[
        dict[str, str],
        "pages, the last one last: kmap_local of a task (since 5.11), kmap_atomic of a CPU (3.0)",
    ]


#: Entries of the pool that a view shows.
SHOWN_PKMAPS = 32


def wait_table_hash_nr_entries(pages: int) -> int:
    """Wait queues of a zone that spans `pages` pages (function of that name in 3.0, no memory hotplug)."""
    wanted = max(1, pages // PAGES_PER_WAITQUEUE)
    return max(MIN_WAIT_TABLE, min(1 << (wanted - 1).bit_length(), MAX_WAIT_TABLE))


def wait_table_bits(entries: int) -> int:
    """log2 of `entries`, a power of two (wait_table_bits)."""
    return entries.bit_length() - 1


def inactive_ratio(managed: int) -> int:
    """Target ratio of active to inactive anonymous pages in a zone (calculate_zone_inactive_ratio)."""
    gigabytes = managed >> 18
    return isqrt(10 * gigabytes) if gigabytes else 1
