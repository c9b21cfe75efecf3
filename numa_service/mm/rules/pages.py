"""Rules of allocation and reclaim (``mm/page_alloc.c``, ``mm/vmscan.c``)."""

from __future__ import annotations

from numa_service.mm.rules.axis import CAPTURES, Axis, Change, always
from numa_service.mm.variants import (
    BLOCKS_AGREE,
    BLOCKS_CLAIM,
    BLOCKS_STEAL,
    BLOCKS_TAKE,
    DIRTY_LEFT,
    DIRTY_WRITTEN,
    PASS_AIMS,
    PASS_WHOLE,
    WMARK_FREE_RESERVE,
    WMARK_NON_BLOCK,
    WMARK_PER_ORDER,
    WMARK_RESERVED,
)

ALLOCATION = (
    Axis(
        "migratetype_names",
        "migratetypes, as pagetypeinfo names them",
        (
            always(
                ("Unmovable", "Movable", "Reclaimable", "Reserve", None, "Isolate"),
                "migratetype_names[]",
                "report of a 4.3 kernel and older: blocks of (R)",
            ),
            Change(
                (4, 4),
                ("Unmovable", "Movable", "Reclaimable", "HighAtomic", None, "Isolate"),
                "0aaa29a56e4f mm, page_alloc: reserve pageblocks for high-order atomic allocations on demand",
                CAPTURES,
                ("4.3", "4.4.155"),
            ),
        ),
    ),
    Axis(
        "block_rules",
        "fallback to other types, and how pageblocks change theirs",
        (
            always(BLOCKS_TAKE, "__rmqueue_fallback"),
            Change(
                (4, 4),
                BLOCKS_STEAL,
                "steal_suitable_fallback: 974a786e63c9 mm, page_alloc: remove MIGRATE_RESERVE",
                CAPTURES,
                ("4.3", "4.4.155"),
            ),
            Change(
                (6, 10),
                BLOCKS_AGREE,
                "account_freepages: e0932b6c1f94 mm: page_alloc: consolidate free page accounting",
                read=("6.8.1", "6.12.0"),
            ),
            Change(
                (6, 15),
                BLOCKS_CLAIM,
                "__rmqueue_claim, __rmqueue_steal: "
                "c2f6ea38fc1b mm: page_alloc: don't steal single pages from biggest buddy",
                CAPTURES,
                ("6.14", "6.12.117"),
                stable=((6, 12, 29), (6, 14, 7)),
            ),
        ),
        note="Up to 4.3 it is that of 3.0, from 4.4 to 6.9 that of 6.1: steps between were left out.",
        words=(
            "split the largest block",
            "steal the largest or smallest",
            "claim that block, or split it",
            "claim any block, or split the smallest",
        ),
    ),
    Axis(
        "watermark_rules",
        "what a watermark check subtracts",
        (
            always(WMARK_PER_ORDER, "__zone_watermark_ok"),
            Change(
                (4, 4),
                WMARK_RESERVED,
                "__zone_watermark_ok: "
                "97a16fc82a7c mm, page_alloc: only enforce watermarks for order-0 allocations",
                CAPTURES,
                ("4.3", "4.4.155"),
            ),
            Change(
                (6, 3),
                WMARK_NON_BLOCK,
                "gfp_to_alloc_flags: 1ebbb21811b7 mm/page_alloc: "
                "explicitly define how __GFP_HIGH non-blocking allocations accesses reserves",
                read=("6.2.12", "6.3.8"),
            ),
            Change(
                (6, 12),
                WMARK_FREE_RESERVE,
                "__zone_watermark_unusable_free: c928807f6f6b mm/page_alloc: keep track of free highatomic",
                CAPTURES,
                ("6.8.1", "6.12.0"),
            ),
        ),
        note="6.1.158 has the flags of 6.3 (they were proposed for 6.1.116): that is not followed in 6.1.",
        words=(
            "blocks of lower orders, and halves by order",
            "all of the high-atomic reserve",
            "all of it; not blocking counts with high priority only",
            "free pages of it; not blocking may use them",
        ),
    ),
    Axis(
        "avoids_fragmentation",
        "zone Normal is left for DMA32 before migratetypes are mixed (ALLOC_NOFRAGMENT)",
        (
            always(False),
            Change(
                (5, 0),
                True,
                "alloc_flags_nofragment: 6bb154504f8b mm, page_alloc: "
                "spread allocations across zones before introducing fragmentation",
                CAPTURES,
                ("4.20", "5.0"),
            ),
        ),
    ),
    Axis(
        "fair_zones",
        "the zones of a node give pages in turn, by their size (ALLOC_FAIR)",
        (
            always(False),
            Change(
                (3, 12),
                True,
                "get_page_from_freelist: 81c0a2bb515f mm: page_alloc: fair zone allocator policy",
                read=("3.10.65", "3.16"),
            ),
            Change(
                (4, 8),
                False,
                "get_page_from_freelist: e6cbd7f2efb4 mm, page_alloc: remove fair zone allocation policy",
                CAPTURES,
                ("4.4.155", "4.9"),
            ),
        ),
        note="It is that of 3.17 to 4.7. Before 3.15 kswapd was woken before shares were given out anew, and "
        "in 3.12 the zones of other nodes took turns too.",
    ),
)

RECLAIM = (
    Axis(
        "dirty_rules",
        "what reclaim does with dirty pages of files",
        (
            always(DIRTY_WRITTEN, "shrink_page_list"),
            Change(
                (3, 2),
                DIRTY_LEFT,
                "shrink_page_list: ee72886d8ed5 "
                "mm: vmscan: do not writeback filesystem pages in direct reclaim",
                CAPTURES,
                ("3.0.101", "3.10.65"),
            ),
        ),
        note="From 3.2 to 4.11 kswapd could still write them; that is left out.",
        words=("writes them", "leaves them to the flushers"),
    ),
    Axis(
        "pass_rules",
        "when a pass of kswapd ends, and how its priority changes",
        (
            always(PASS_WHOLE, "balance_pgdat"),
            Change(
                (3, 11),
                PASS_AIMS,
                "shrink_lruvec: e82e0561dae9 mm: vmscan: obey proportional scanning requirements for kswapd",
                CAPTURES,
                ("3.10.65", "3.16"),
            ),
        ),
        words=("after all that its priority says", "when enough is reclaimed"),
    ),
    Axis(
        "dirtyable_less_reserves",
        "memory that may be dirty leaves out the zones' reserves",
        (
            always(False, "determine_dirtyable_memory"),
            Change((3, 3), True, "global_dirtyable_memory", CAPTURES, ("3.0.101", "3.10.65")),
        ),
    ),
)
