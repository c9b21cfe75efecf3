"""The variants of rules in which kernels differ, as numbers: compiled code compares them (``PgData.tune``).

Which kernel has which is in the tables of ``mm/rules``.
"""

from __future__ import annotations

# BLOCKS_*: fallback to other migratetypes, and how pageblocks change their type
#: 3.0 (__rmqueue_fallback): the largest block of another type is split, and what is left of it may stay with
#: its type. MIGRATE_RESERVE is the last resort. Free buddies merge whatever their types are.
BLOCKS_TAKE = 0
#: 6.1 (steal_suitable_fallback): the largest block moves to the request's type, or the smallest for small
#: movable requests. Blocks of HIGHATOMIC, CMA and ISOLATE do not merge with others. A page on a pageset is
#: freed to the type of the list that it came from.
BLOCKS_STEAL = 1
#: 6.10: a free block is always on the list of its pageblock's type. The same block as in 6.1 is chosen: its
#: whole pageblock is claimed, or that block is split and the rest stays with its type.
BLOCKS_AGREE = 2
#: 6.15 and 6.12.29 (__rmqueue_claim, __rmqueue_steal): the same, but every pageblock that may be claimed is
#: tried, and failing that it is the smallest block that is split.
BLOCKS_CLAIM = 3

# WMARK_*: what __zone_watermark_ok() subtracts from free pages and from the watermark
#: 3.0: free blocks of every order below the requested one are subtracted, and halve the watermark.
WMARK_PER_ORDER = 0
#: 6.1: all pages of HIGHATOMIC pageblocks are subtracted; ALLOC_HIGH and ALLOC_HARDER both lower the
#: watermark.
WMARK_RESERVED = 1
#: 6.3: ALLOC_NON_BLOCK, of every request that may not block, lowers the watermark only together with
#: ALLOC_MIN_RESERVE; ALLOC_HIGHATOMIC is a flag of its own.
WMARK_NON_BLOCK = 2
#: 6.12: of HIGHATOMIC pageblocks only the free pages are subtracted, and a request that may not block may use
#: them rather than fail.
WMARK_FREE_RESERVE = 3

# PAGESET_*: how pagesets are filled and drained
#: 3.0: order 0 only; hot pages at the head and cold ones at the tail of a list; one batch is freed at a time.
PAGESET_HOT_COLD = 0
#: 6.1: the batch that is freed doubles while pages are only freed (free_factor).
PAGESET_FREE_FACTOR = 1
#: 6.12: `high` is tuned between high_min and high_max; batches double for frees and for allocations.
PAGESET_AUTO_TUNED = 2

# DIRTY_*: what reclaim does with dirty pages of files
#: 3.0 (shrink_page_list): they are written by kswapd or direct reclaim, whichever scans them.
DIRTY_WRITTEN = 0
#: They are left to flusher threads: direct reclaim writes none since 3.2 (ee72886d8ed5). Since 4.12 they are
#: activated, so that they are not scanned again soon (c55e8d035b28), and a batch that is all dirty
#: wakes the flushers (726d061fbd36). Reclaim counts them in NR_VMSCAN_IMMEDIATE (3.2, 49ea7eb65e7c).
DIRTY_LEFT = 1

# PASS_*: when a pass of kswapd over the LRU lists ends, and at which priority the next one runs
#: 3.0 (balance_pgdat): a pass scans all that its priority says. Each pass raises the priority (the number
#: falls, down to 0), until the passes since DEF_PRIORITY have reclaimed SWAP_CLUSTER_MAX pages; then kswapd
#: begins again at DEF_PRIORITY.
PASS_WHOLE = 0
#: Since 3.11: a pass aims to reclaim as many pages as the HIGH watermarks and ends when it has, while
#: anonymous and file pages are scanned in proportion (e82e0561dae9). It raises the priority only if it has
#: scanned fewer pages than that, or reclaimed none (balance_pgdat).
PASS_AIMS = 1

# LOAD_*: node_load of the node that begins a new distance, while fallback lists are built (build_zonelists)
#: Up to 5.15 it is set to the number of nodes not yet in the list.
LOAD_SET = 0
#: 5.16: that number is added to it.
LOAD_ADDED = 1
#: 5.19: 1 is added to it.
LOAD_ONE = 2

# ORDER_*: whether zonelists may be in zone order
#: Up to 3.17: the kernel chooses unless it is told (default_zonelist_order).
ORDER_CHOSEN = 0
#: 3.18: only if it is told to; on 32 bit it still chose zone order.
ORDER_ASKED = 1
#: 4.14: never.
ORDER_NODES = 2

# RESERVE_*: setup_per_zone_lowmem_reserve()
#: Up to 4.16: a ratio below 1 counts as 1. Empty zones have reserves like all others.
RESERVE_FORCED = 0
#: 4.17: a ratio below 1 reserves nothing. Empty zones have reserves.
RESERVE_OF_EMPTY = 1
#: 5.8: empty zones have none. Where a zone has none for a class, the zones below do not count its pages.
RESERVE_SKIPPED = 2
#: 5.11: every zone counts all pages above it.
RESERVE_COUNTED = 3

# BADNESS_*: how oom_badness() rates a task for the OOM killer
#: Since 2.6.36: thousandths of the memory in question, between 1 and 1000, less 30 for root.
BADNESS_PER_MILLE = 0
#: 3.5 (a7f638f999ff): pages, at least 1; root has 30 thousandths of the memory in question less.
BADNESS_PAGES = 1
#: 3.14 (778c14affaf9): root has 3 % less of what it uses.
BADNESS_ROOT_SHARE = 2
#: 4.17 (d46078b28889): root has no bonus.
BADNESS_ROOT_EQUAL = 3
#: 5.9 (9066e5cfb73c): pages, which may be less than none: only a task that may not be killed has no points.
BADNESS_SIGNED = 4
