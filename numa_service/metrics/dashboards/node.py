"""The Node dashboard: one node (pg_data_t), zone by zone."""

from __future__ import annotations

from numa_service.metrics.dashboards.model import (
    MACHINE_VARIABLE,
    Dashboard,
    Kind,
    Panel,
    Query,
    Row,
    Variable,
)

_N = 'machine="$machine", node="$node"'
_Z = f'{_N}, zone=~"$zone"'
_RATE = "[$__rate_interval]"
_EVENT = "numa_vm_events_total"


def _events(pattern: str) -> Query:
    return Query(f'sum by (event) (rate({_EVENT}{{{_N}, event=~"{pattern}"}}{_RATE}))', "{{event}}")


def _mark(level: str) -> Query:
    return Query(f'numa_zone_watermark_pages{{{_Z}, level="{level}"}}', level)


def _stat(title: str, expr: str, unit: str = "short") -> Panel:
    return Panel(title, (Query(expr),), unit=unit, kind=Kind.STAT, width=4, height=4)


_NOW = Row(
    "Now",
    (
        _stat("Free pages", f'sum(numa_zone_pages{{{_N}, state="free"}})'),
        _stat("Managed pages", f'sum(numa_zone_pages{{{_N}, state="managed"}})'),
        _stat("Held pages", f"sum(numa_held_pages{{{_N}}})"),
        _stat("Sessions", f"sum(numa_sessions{{{_N}}})"),
        _stat("Swap used, pages", f'sum(numa_swap_pages{{{_N}, state="used"}})'),
        _stat("Lineage", f"max(numa_node_lineage{{{_N}}})"),
    ),
)

_ZONES = Row(
    "Zones",
    (
        Panel(
            "Zone $zone: free pages between its watermarks",
            (
                Query(f'numa_zone_pages{{{_Z}, state="free"}}', "free"),
                *map(_mark, ("min", "low", "high", "promo")),
                _mark("boost"),
            ),
            width=12,
            marks=(
                ("min", "red"),
                ("low", "orange"),
                ("high", "yellow"),
                ("promo", "green"),
                ("boost", "blue"),
            ),
            repeat="zone",
        ),
        Panel(
            "Pages of the zones",
            (Query(f"sum by (zone, state) (numa_zone_pages{{{_N}}})"),),
            kind=Kind.TABLE,
            matrix=("zone", "state"),
            height=6,
        ),
        Panel(
            "On the pagesets of all CPUs",
            (Query(f"numa_pcp_pages{{{_N}}}", "{{zone}}"),),
            height=6,
        ),
        Panel(
            "Free memory in blocks of 2 MiB or more",
            (
                Query(
                    f"numa:zone_huge_free:ratio{{{_Z}}}",
                    "{{zone}}",
                ),
            ),
            unit="percentunit",
            height=6,
            maximum=1,
            description="Falls as memory falls to pieces",
        ),
    ),
)

_BUDDY = Row(
    "Buddy allocator",
    (
        Panel(
            "Free blocks by order",
            (Query(f"sum by (order) (numa_zone_free_blocks{{{_Z}}})", "{{order}}"),),
            kind=Kind.HEATMAP,
            width=12,
        ),
        Panel(
            "Allocated and freed",
            (_events("pgalloc_.*|pgfree"),),
            unit="count:pages/s",
            width=6,
        ),
        Panel(
            "Blocks not to be had, by order",
            (
                Query(
                    f"sum by (order) (rate(numa_alloc_failed_blocks_total{{{_N}}}{_RATE}))", "order {{order}}"
                ),
            ),
            width=6,
        ),
    ),
)

_LRU = Row(
    "LRU, page cache and swap",
    (
        Panel(
            "LRU lists",
            (Query(f"sum by (list) (numa_lru_pages{{{_Z}}})", "{{list}}"),),
            stack=True,
        ),
        Panel(
            "What pages hold",
            (Query(f"sum by (state) (numa_node_pages{{{_N}}})", "{{state}}"),),
        ),
        Panel("Faults", (_events("pgfault|pgmajfault"),), unit="ops"),
        Panel("Swapped and paged", (_events("pswpin|pswpout|pgpgin|pgpgout"),), unit="count:pages/s"),
        Panel(
            "Moved between LRU lists",
            (_events("pgactivate|pgdeactivate|pgrefill|pgrotated"),),
            unit="count:pages/s",
        ),
        Panel(
            "Moved to other pages",
            (_events("pgmigrate_.*"),),
            unit="count:pages/s",
            description="Hotplug and CMA; direct compaction is not modelled",
        ),
    ),
)

_SLAB = Row(
    "Slab caches",
    (
        Panel(
            "Pages of slabs",
            (Query(f"sum by (state) (numa_slab_pages{{{_N}}})", "{{state}}"),),
            stack=True,
        ),
        Panel(
            "Slabs of the largest caches",
            (Query(f"sum by (cache) (numa_slab_cache_slabs{{{_N}}})", "{{cache}}"),),
        ),
        Panel(
            "Objects of the largest caches",
            (Query(f"sum by (cache) (numa_slab_cache_objects{{{_N}}})", "{{cache}}"),),
        ),
    ),
)

_RECLAIM = Row(
    "kswapd and direct reclaim",
    (
        Panel(
            "kswapd",
            (
                Query(
                    f'sum by (node) (numa_kswapd_state{{{_N}, state="running"}})'
                    f' + 2 * sum by (node) (numa_kswapd_state{{{_N}, state="hopeless"}})',
                    "kswapd{{node}}",
                ),
            ),
            kind=Kind.STATES,
            states=((0, "asleep", "text"), (1, "running", "blue"), (2, "hopeless", "red")),
            width=24,
            height=4,
        ),
        Panel("Scanned and reclaimed", (_events("pg(scan|steal)_(kswapd|direct)"),), unit="count:pages/s"),
        Panel(
            "Reclaimed of what was scanned",
            (Query(f"numa:node_reclaim_efficiency:ratio_rate5m{{{_N}}}", "5 min"),),
            unit="percentunit",
            maximum=1,
        ),
        Panel(
            "Woken, stalled, done quickly",
            (
                Query(f"sum(rate(numa_kswapd_wakeups_total{{{_N}}}{_RATE}))", "runs"),
                _events("allocstall.*|kswapd_.*_hit_quickly|pageoutrun"),
            ),
            unit="ops",
        ),
    ),
)

NODE = Dashboard(
    "numa-node",
    "NUMA / Node",
    "One node: its zones, free lists, pagesets, LRU lists and reclaim.",
    (_NOW, _ZONES, _BUDDY, _LRU, _SLAB, _RECLAIM),
    (
        MACHINE_VARIABLE,
        Variable("node", 'numa_node_info{machine="$machine"}', "node"),
        Variable("zone", f"numa_zone_pages{{{_N}}}", "zone", many=True),
    ),
)
