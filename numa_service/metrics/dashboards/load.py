"""The Load dashboard: workload programs, the requests of all clients, and the load of memories and links."""

from __future__ import annotations

from numa_service.metrics.dashboards.model import Dashboard, Kind, Panel, Query, Row

_N = 'machine="$machine", node=~"$node"'
_RATE = "[$__rate_interval]"
_VIRTUAL = "numa_alloc_virtual_seconds"


def _quantile(q: float) -> Query:
    return Query(
        f"histogram_quantile({q}, sum by (le, source) (rate({_VIRTUAL}_bucket{{{_N}}}{_RATE})))",
        f"{{{{source}}}} p{q * 100:g}",
    )


_PROGRAMS = Row(
    "Programs",
    (
        Panel(
            "Programs by phase",
            (
                Query(
                    f"sum by (program, phase) (numa_programs{{{_N}}})",
                    "{{program}}: {{phase}}",
                    quiet="no workload program runs",
                ),
            ),
            kind=Kind.STATES,
            width=12,
            states=((1, "runs", "blue"), (2, "two run", "dark-blue")),
        ),
        Panel(
            "Sessions",
            (Query(f"sum by (node) (numa_sessions{{{_N}}})", "node {{node}}"),),
            width=6,
        ),
        Panel(
            "Held pages",
            (Query(f"sum by (node) (numa_held_pages{{{_N}}})", "node {{node}}"),),
            width=6,
            stack=True,
        ),
    ),
)

_REQUESTS = Row(
    "What is asked for",
    (
        Panel(
            "Allocated",
            (
                Query(
                    f'sum by (node) (rate(numa_vm_events_total{{{_N}, event=~"pgalloc_.*"}}{_RATE}))',
                    "node {{node}}",
                ),
            ),
            unit="count:pages/s",
        ),
        Panel(
            "Virtual time of a block",
            (_quantile(0.5), _quantile(0.99)),
            unit="s",
            description="Modelled time, mean of each AllocPages request",
        ),
        Panel(
            "AllocPages requests",
            (Query(f"sum by (source) (rate({_VIRTUAL}_count{{{_N}}}{_RATE}))", "{{source}}"),),
            unit="reqps",
        ),
        Panel(
            "Virtual time of a block: how many took how long",
            (Query(f"sum by (le) (increase({_VIRTUAL}_bucket{{{_N}}}{_RATE}))", "{{le}}"),),
            kind=Kind.HEATMAP,
            unit="s",
            width=24,
        ),
    ),
)

_MEMORIES = Row(
    "Memories and links, in virtual time",
    (
        Panel(
            "Utilisation of memories",
            (Query(f"max by (node) (numa_memory_utilisation_ratio{{{_N}}})", "node {{node}}"),),
            unit="percentunit",
        ),
        Panel(
            "What an access waits",
            (Query(f"max by (node) (numa_memory_wait_seconds{{{_N}}})", "node {{node}}"),),
            unit="s",
        ),
        Panel(
            "Utilisation of links",
            (
                Query(
                    f"max by (node, target_node) (numa_link_utilisation_ratio{{{_N}}})",
                    "{{node}} → {{target_node}}",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            "Traffic by memory",
            (
                Query(
                    f"sum by (target_node) (rate(numa_memory_traffic_bytes_total{{{_N}}}{_RATE}))",
                    "memory {{target_node}}",
                ),
            ),
            unit="Bps",
            stack=True,
            description="Bytes of virtual load in real time",
        ),
        Panel(
            "Bandwidth of links: node (row) to memory (column)",
            (Query(f"sum by (node, target_node) (numa_link_bandwidth_bytes_per_second{{{_N}}})"),),
            unit="Bps",
            kind=Kind.TABLE,
            matrix=("node", "target_node"),
        ),
        Panel(
            "Bandwidth of memories",
            (Query(f"sum by (node) (numa_memory_bandwidth_bytes_per_second{{{_N}}})", "node {{node}}"),),
            unit="Bps",
            kind=Kind.STAT,
        ),
    ),
)

LOAD = Dashboard(
    "numa-load",
    "NUMA / Load",
    "Workload programs, the requests of all clients, and how loaded memories and links are.",
    (_PROGRAMS, _REQUESTS, _MEMORIES),
)
