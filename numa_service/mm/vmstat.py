"""Counters and their kernel names (``include/linux/vmstat.h``, ``mm/vmstat.c``).

The constants are positions in the ``vm_stat``, ``node_stat``, ``numa_event`` and ``vm_event`` arrays of a
node. Only counters that the model changes are here; procfs prints the kernel's whole list, with 0 for the
others.
"""

from __future__ import annotations

# enum zone_stat_item, in pages
NR_FREE_PAGES = 0
NR_ZONE_LRU_BASE = 1  # the five LRU lists follow, in the order of LRU_*
NR_ZONE_WRITE_PENDING = 6
ZONE_STAT_NAMES = (
    "nr_free_pages",
    "nr_zone_inactive_anon",
    "nr_zone_active_anon",
    "nr_zone_inactive_file",
    "nr_zone_active_file",
    "nr_zone_unevictable",
    "nr_zone_write_pending",
)

# enum numa_stat_item, of each zone
NUMA_HIT = 0
NUMA_MISS = 1
NUMA_FOREIGN = 2
NUMA_INTERLEAVE_HIT = 3
NUMA_LOCAL = 4
NUMA_OTHER = 5
NUMA_EVENT_NAMES = (
    "numa_hit",
    "numa_miss",
    "numa_foreign",
    "numa_interleave",
    "numa_local",
    "numa_other",
)
#: Names of the NUMA events in numastat(8) and /sys/devices/system/node/*/numastat.
NUMASTAT_NAMES = ("numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node")

# enum node_stat_item, in pages
NR_ANON_MAPPED = 0
NR_FILE_PAGES = 1
NR_FILE_DIRTY = 2
NR_VMSCAN_WRITE = 3
NR_DIRTIED = 4
NR_WRITTEN = 5
NR_VMSCAN_IMMEDIATE = 6
NR_SLAB_RECLAIMABLE = 7
NR_SLAB_UNRECLAIMABLE = 8
NODE_STAT_NAMES = (
    "nr_anon_pages",
    "nr_file_pages",
    "nr_dirty",
    "nr_vmscan_write",
    "nr_dirtied",
    "nr_written",
    "nr_vmscan_immediate_reclaim",
    "nr_slab_reclaimable",
    "nr_slab_unreclaimable",
)

# enum vm_event_item
(
    PGALLOC,  # PGALLOC + zone index; room for five zone types
    _PGALLOC_1,
    _PGALLOC_2,
    _PGALLOC_3,
    _PGALLOC_4,
    ALLOCSTALL,
    PGFREE,
    PGACTIVATE,
    PGDEACTIVATE,
    PGFAULT,
    PGMAJFAULT,
    PGREFILL,
    PGSTEAL_KSWAPD,
    PGSTEAL_DIRECT,
    PGSCAN_KSWAPD,
    PGSCAN_DIRECT,
    PGSCAN_ANON,
    PGSCAN_FILE,
    PGSTEAL_ANON,
    PGSTEAL_FILE,
    PSWPIN,
    PSWPOUT,
    PGPGIN,
    PGPGOUT,
    KSWAPD_LOW_WMARK_HIT_QUICKLY,
    KSWAPD_HIGH_WMARK_HIT_QUICKLY,
    PAGEOUTRUN,
    PGROTATED,
    PGMIGRATE_SUCCESS,
    PGMIGRATE_FAIL,
    OOM_KILL,
) = range(31)
NR_VM_EVENTS = 31

_EVENT_NAMES = (
    "pgfree",
    "pgactivate",
    "pgdeactivate",
    "pgfault",
    "pgmajfault",
    "pgrefill",
    "pgsteal_kswapd",
    "pgsteal_direct",
    "pgscan_kswapd",
    "pgscan_direct",
    "pgscan_anon",
    "pgscan_file",
    "pgsteal_anon",
    "pgsteal_file",
    "pswpin",
    "pswpout",
    "pgpgin",
    "pgpgout",
    "kswapd_low_wmark_hit_quickly",
    "kswapd_high_wmark_hit_quickly",
    "pageoutrun",
    "pgrotated",
    "pgmigrate_success",
    "pgmigrate_fail",
    "oom_kill",
)


def vm_event_names(zone_names: tuple[str, ...]) -> tuple[str, ...]:
    """/proc/vmstat name of each position of ``vm_event``; empty where the architecture has no such zone."""
    pgalloc = tuple(f"pgalloc_{'high' if name == 'HighMem' else name.lower()}" for name in zone_names)
    normal = zone_names.index("Normal")
    return pgalloc + ("",) * (5 - len(pgalloc)) + (f"allocstall_{zone_names[normal].lower()}",) + _EVENT_NAMES


# Work counters of one operation, from which its modelled time is computed; not part of the node's state.
PATH_PAGESET_PAGES = 0  # blocks taken from or put on a pageset
PATH_BUDDY_BLOCKS = 1  # blocks taken from or put on the buddy lists
PATH_ZONE_SKIPS = 2  # zones whose watermark check failed
PATH_STEALS = 3  # fallbacks to another migratetype
PATH_SCANNED = 4  # pages scanned by reclaim
PATH_SWAPPED = 5  # pages written to or read from swap
PATH_FILE_IO = 6  # file pages read or written
NR_PATH = 7
