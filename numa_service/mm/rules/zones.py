"""Rules of watermarks, reserves, pagesets and zonelists (``mm/page_alloc.c``)."""

from __future__ import annotations

from numa_service.mm.rules.axis import CAPTURES, Axis, Change, always
from numa_service.mm.variants import (
    LOAD_ADDED,
    LOAD_ONE,
    LOAD_SET,
    ORDER_ASKED,
    ORDER_CHOSEN,
    ORDER_NODES,
    PAGESET_AUTO_TUNED,
    PAGESET_FREE_FACTOR,
    PAGESET_HOT_COLD,
    RESERVE_COUNTED,
    RESERVE_FORCED,
    RESERVE_OF_EMPTY,
    RESERVE_SKIPPED,
)

WATERMARKS = (
    Axis(
        "min_free_kbytes_max",
        "largest default of min_free_kbytes, kB",
        (
            always(65536, "init_per_zone_wmark_min", "allocation failure of 4.9.24, 2 TB on 4 nodes"),
            Change(
                (5, 7),
                262144,
                "init_per_zone_wmark_min: ee8eb9a5fe86",
                CAPTURES,
                ("5.0", "5.7.14"),
            ),
        ),
    ),
    Axis(
        "wmark_highmem_zones",
        "zones whose MIN is managed/1024 clamped to 32…128 pages",
        (
            always(("HighMem",), "__setup_per_zone_wmarks", CAPTURES),
            Change(
                (6, 6),
                ("HighMem", "Movable"),
                "__setup_per_zone_wmarks",
                CAPTURES,
                ("6.5", "6.6.9"),
            ),
        ),
    ),
    Axis(
        "watermark_scale",
        "LOW and HIGH follow watermark_scale_factor",
        (
            always(False, "setup_per_zone_wmarks", "7 reports, 2.6.30-rc5 to 4.4.114"),
            Change(
                (4, 6),
                True,
                "__setup_per_zone_wmarks: 795ae7a0de6b mm: scale kswapd watermarks in proportion to memory",
                CAPTURES + "; 16 reports, 4.9.24 to 6.19.0-rc5",
                ("4.4.155", "4.9"),
            ),
        ),
    ),
    Axis(
        "lowmem_reserve_per_zone",
        "lowmem_reserve_ratio has an entry for every zone type, and 0 reserves nothing",
        (
            always(False, "setup_per_zone_lowmem_reserve"),
            Change(
                (4, 17),
                True,
                "setup_per_zone_lowmem_reserve: "
                "mm/page_alloc: don't reserve ZONE_HIGHMEM for ZONE_MOVABLE request",
                CAPTURES,
                ("4.15.18", "4.18.0-147.el8"),
            ),
        ),
    ),
    Axis(
        "lowmem_reserve_rules",
        "lowmem_reserve of empty zones, and which zones above count",
        (
            always(RESERVE_FORCED, "setup_per_zone_lowmem_reserve"),
            Change(
                (4, 17),
                RESERVE_OF_EMPTY,
                "setup_per_zone_lowmem_reserve: "
                "mm/page_alloc: don't reserve ZONE_HIGHMEM for ZONE_MOVABLE request",
                read=("4.15.18", "4.18.0-147.el8"),
            ),
            Change(
                (5, 8),
                RESERVE_SKIPPED,
                "setup_per_zone_lowmem_reserve: "
                "f63661566fad mm/page_alloc.c: clear out zone->lowmem_reserve[] if the zone is empty",
                read=("5.7.14", "5.8.1"),
            ),
            Change(
                (5, 11),
                RESERVE_COUNTED,
                "setup_per_zone_lowmem_reserve: mm: page_alloc: refactor setup_per_zone_lowmem_reserve()",
                CAPTURES,
                ("5.9.1", "5.11.14"),
                stable=((5, 10, 50),),
            ),
        ),
        words=(
            "also of empty zones; ratio 0 is 1",
            "also of empty zones",
            "zones without reserve do not count below",
            "all zones above count",
        ),
        note="6.10-rc1 reserved nothing from classes whose own zone is empty (one report); 6.12 does.",
    ),
    Axis(
        "thp_min_free",
        "khugepaged raises min_free_kbytes",
        (
            always(False),
            Change((2, 6, 38), True, "set_recommended_min_free_kbytes", CAPTURES, ("2.6.32", "3.0.101")),
        ),
    ),
    Axis(
        "thp_off_recalculates",
        "with THP off khugepaged recalculates min_free_kbytes",
        (
            always(False),
            Change(
                (5, 16),
                True,
                "set_recommended_min_free_kbytes: "
                "bd3400ea173f mm: khugepaged: recalculate min_free_kbytes after stopping khugepaged",
                CAPTURES,
                ("5.15.135", "5.17"),
            ),
        ),
    ),
)

PAGESETS = (
    Axis(
        "pcp_batch_cap",
        "largest batch of a pageset before the division by four, pages",
        (
            always(128, "zone_batchsize"),
            Change(
                (4, 19),
                256,
                "zone_batchsize: d8a759b57035 mm, page_alloc: double zone's batchsize",
                CAPTURES,
                ("4.18.0-147.el8", "4.19"),
            ),
        ),
    ),
    Axis(
        "pcp_high",
        "high of a pageset: six batches, or the LOW watermark divided by the node's CPUs",
        (
            always("batch", "pageset_set_batch"),
            Change(
                (5, 14),
                "wmark",
                "zone_highsize: b92ca18e8ca5 mm/page_alloc: disassociate the pcp->high from pcp->batch",
                CAPTURES,
                ("5.11.14", "5.14.2"),
            ),
        ),
    ),
    Axis(
        "pcp_max_order",
        "highest order on pagesets, beside that of huge pages; 0: order 0 only",
        (
            always(0, "free_hot_cold_page"),
            Change(
                (5, 14),
                3,
                "pcp_allowed_order: "
                "44042b449872 mm/page_alloc: allow high-order pages to be stored on the per-cpu lists",
                CAPTURES,
                ("5.11.14", "5.14.2"),
            ),
        ),
    ),
    Axis(
        "pageset_rules",
        "how pagesets are filled and drained",
        (
            always(PAGESET_HOT_COLD, "free_hot_cold_page, free_pcppages_bulk"),
            Change(
                (5, 14),
                PAGESET_FREE_FACTOR,
                "nr_pcp_free: 3b12e7e97938 mm/page_alloc: scale the number of pages that are batch freed",
                CAPTURES,
                ("5.11.14", "5.14.2"),
            ),
            Change(
                (6, 7),
                PAGESET_AUTO_TUNED,
                "nr_pcp_high, nr_pcp_alloc: 51a755c56dc0 mm: tune PCP high automatically",
                CAPTURES,
                ("6.6.9", "6.8.1"),
            ),
        ),
        note="Cold pages are kept at the tail up to 5.13, though no request is cold since 4.15.",
        words=("in batches, hot and cold", "frees in growing batches", "high tunes itself"),
    ),
)

ZONELISTS = (
    Axis(
        "node_load",
        "node_load of the node that begins a distance",
        (
            always(LOAD_SET, "build_zonelists"),
            Change(
                (5, 16),
                LOAD_ADDED,
                "build_zonelists: "
                "54d032ced983 mm/page_alloc: use accumulated load when building node fallback list",
                read=("5.15.135", "5.17"),
            ),
            Change(
                (5, 19),
                LOAD_ONE,
                "build_zonelists",
                CAPTURES + "; boot logs of 5.19 (8 nodes) and 6.16 (5 nodes)",
                ("5.17", "5.19"),
            ),
        ),
        words=("set to the nodes left", "plus the nodes left", "plus 1"),
    ),
    Axis(
        "memoryless_local_first",
        "a node without memory comes first in its own list",
        (
            always(True, "find_next_best_node", CAPTURES + "; boot log of 6.5 (32 nodes)"),
            Change(
                (6, 7),
                False,
                "find_next_best_node: c2baef394af8 mm: page_alloc: skip memoryless nodes entirely",
                CAPTURES,
                ("6.6.9", "6.8.1"),
            ),
        ),
    ),
    Axis(
        "zone_order",
        "whether lists may be in zone order",
        (
            always(ORDER_CHOSEN, "default_zonelist_order"),
            Change(
                (3, 18),
                ORDER_ASKED,
                "default_zonelist_order: "
                "3193913ce62c mm: page_alloc: default node-ordering on 64-bit NUMA, "
                "zone-ordering on 32-bit NUMA",
                read=("3.17", "3.18.140"),
            ),
            Change(
                (4, 14),
                ORDER_NODES,
                "build_zonelists: c9bff3eebc09 mm, page_alloc: rip out ZONELIST_ORDER_ZONE",
                CAPTURES,
                ("4.12", "4.15.18"),
            ),
        ),
        words=("if the kernel chooses it", "if asked for", "never"),
    ),
    Axis(
        "distance_sets_zone_reclaim",
        "nodes farther apart than 30 set zone_reclaim_mode",
        (
            always(True, "build_zonelists"),
            Change(
                (3, 16),
                False,
                "build_zonelists: 4f9b16a64753 mm: disable zone_reclaim_mode by default",
                CAPTURES,
                ("3.10.65", "3.16"),
            ),
        ),
    ),
    Axis(
        "zonelist_cache",
        "zones found full are passed over for a second",
        (
            always(True, "zlc_setup"),
            Change(
                (4, 4),
                False,
                "get_page_from_freelist: f77cf4e4cc9d mm, page_alloc: delete the zonelist_cache",
                read=("4.3", "4.4.155"),
            ),
        ),
    ),
)
