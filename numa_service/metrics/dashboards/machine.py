"""The Machine dashboard: all nodes side by side, and the pages that they get from each other."""

from __future__ import annotations

from numa_service.metrics.dashboards.model import Dashboard, Kind, Panel, Query, Row

_M = 'machine="$machine"'
_N = 'machine="$machine", node=~"$node"'
_RATE = "[$__rate_interval]"
_FREE = f'sum by (node) (numa_zone_pages{{{_N}, state="free"}})'
_PAIR = ("node", "target_node")


def _mark(level: str) -> str:
    return f'sum by (node) (numa_zone_watermark_pages{{{_N}, level="{level}"}})'


_STATS = Row(
    "Now",
    (
        Panel(
            "Nodes up",
            (Query(f"sum(numa_machine_node_up{{{_M}}})"),),
            kind=Kind.STAT,
            width=3,
            height=4,
            thresholds=((None, "red"), (1, "green")),
        ),
        Panel(
            "Memory free",
            (
                Query(
                    f'sum(numa_zone_pages{{{_M}, state="free"}})'
                    f' / sum(numa_zone_pages{{{_M}, state="managed"}})'
                ),
            ),
            unit="percentunit",
            kind=Kind.STAT,
            width=3,
            height=4,
            thresholds=((None, "red"), (0.05, "orange"), (0.15, "green")),
        ),
        Panel(
            "Meant for another node",
            (
                Query(
                    f'sum(rate(numa_stat_total{{{_M}, item="numa_miss"}}{_RATE}))'
                    f' / sum(rate(numa_stat_total{{{_M}, item=~"numa_hit|numa_miss"}}{_RATE}))'
                ),
            ),
            unit="percentunit",
            kind=Kind.STAT,
            width=3,
            height=4,
            thresholds=((None, "green"), (0.05, "orange"), (0.2, "red")),
            description="Share of allocations that were served by a node other than the one wanted",
        ),
        Panel(
            "kswapd running",
            (Query(f'sum(numa_kswapd_state{{{_M}, state="running"}})'),),
            kind=Kind.STAT,
            width=3,
            height=4,
            thresholds=((None, "green"), (1, "blue")),
        ),
        Panel(
            "Virtual time, p99",
            (
                Query(
                    "histogram_quantile(0.99,"
                    f" sum by (le) (rate(numa_alloc_virtual_seconds_bucket{{{_M}}}{_RATE})))"
                ),
            ),
            unit="s",
            kind=Kind.STAT,
            width=3,
            height=4,
        ),
        Panel(
            "Blocks not to be had",
            (Query(f"sum(increase(numa_alloc_failed_blocks_total{{{_M}}}[$__range]))"),),
            kind=Kind.STAT,
            width=3,
            height=4,
            thresholds=((None, "green"), (1, "red")),
        ),
        Panel("Sessions", (Query(f"sum(numa_sessions{{{_M}}})"),), kind=Kind.STAT, width=3, height=4),
        Panel(
            "Restarts",
            (Query(f"sum(numa_machine_node_restarts_total{{{_M}}})"),),
            kind=Kind.STAT,
            width=3,
            height=4,
            thresholds=((None, "green"), (1, "orange")),
        ),
    ),
)

_FLOWS = Row(
    "Between nodes",
    (
        Panel(
            "Fallback: pages/s that node (row) got from node (column)",
            (Query(f"sum by (node, target_node) (rate(numa_fallback_pages_total{{{_M}}}{_RATE}))"),),
            unit="count:pages/s",
            kind=Kind.TABLE,
            matrix=_PAIR,
        ),
        Panel(
            "Traffic: bytes/s of virtual load, node (row) to memory (column)",
            (Query(f"sum by (node, target_node) (rate(numa_memory_traffic_bytes_total{{{_M}}}{_RATE}))"),),
            unit="Bps",
            kind=Kind.TABLE,
            matrix=_PAIR,
        ),
        Panel(
            "Fallback over time",
            (
                Query(
                    f"sum by (node, target_node) (rate(numa_fallback_pages_total{{{_N}}}{_RATE}))",
                    "{{node}} → {{target_node}}",
                ),
            ),
            unit="count:pages/s",
        ),
    ),
)

_MEMORY = Row(
    "Memory and watermarks",
    (
        Panel(
            "Node $node: free pages between its watermarks",
            (
                Query(_FREE, "free"),
                Query(_mark("min"), "min"),
                Query(_mark("low"), "low"),
                Query(_mark("high"), "high"),
            ),
            marks=(("min", "red"), ("low", "orange"), ("high", "yellow")),
            repeat="node",
            description="Sums over the node's zones",
        ),
        Panel(
            "Where free pages stand between min (0) and high (1)",
            (
                Query(
                    f"clamp_max(({_FREE} - {_mark('min')}) / ({_mark('high')} - {_mark('min')}), 4)",
                    "node {{node}}",
                ),
            ),
            width=12,
            minimum=None,
            description="Above 1 all is well (what is above 4 is shown as 4); below 0 only reserves are left",
        ),
        Panel(
            "Held pages",
            (Query(f"sum by (node) (numa_held_pages{{{_N}}})", "node {{node}}"),),
            width=12,
            stack=True,
        ),
    ),
)

_NUMASTAT = Row(
    "numastat",
    tuple(
        Panel(
            item,
            (Query(f'sum by (node) (rate(numa_stat_total{{{_N}, item="{item}"}}{_RATE}))', "node {{node}}"),),
            unit="count:pages/s",
            width=4,
            height=6,
        )
        for item in ("numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node")
    ),
)

_RECLAIM = Row(
    "Reclaim",
    (
        Panel(
            "kswapd",
            (
                Query(
                    f'sum by (node) (numa_kswapd_state{{{_N}, state="running"}})'
                    f' + 2 * sum by (node) (numa_kswapd_state{{{_N}, state="hopeless"}})',
                    "node {{node}}",
                ),
            ),
            kind=Kind.STATES,
            states=((0, "asleep", "text"), (1, "running", "blue"), (2, "hopeless", "red")),
            width=12,
        ),
        Panel(
            "Pages reclaimed by kswapd",
            (
                Query(
                    f"sum by (node) (rate(numa_kswapd_reclaimed_pages_total{{{_N}}}{_RATE}))", "node {{node}}"
                ),
            ),
            unit="count:pages/s",
            width=12,
        ),
    ),
)

MACHINE = Dashboard(
    "numa-machine",
    "NUMA / Machine",
    "All nodes of a machine: what is free, what flows between them, who reclaims.",
    (_STATS, _FLOWS, _MEMORY, _NUMASTAT, _RECLAIM),
)
