"""The Service dashboard: calls, their errors and latency, op logs, processes."""

from __future__ import annotations

from numa_service.metrics.dashboards.model import Dashboard, Kind, Panel, Query, Row

_M = 'machine="$machine"'
_N = 'machine="$machine", node=~"$node"'
_RATE = "[$__rate_interval]"
_SECONDS = "grpc_server_handling_seconds_bucket"
_OURS = 'grpc_service=~"numa.*"'


def _stat(title: str, query: Query, unit: str = "short", bad: float | None = None) -> Panel:
    thresholds = ((None, "green"), (bad, "red")) if bad is not None else ((None, "green"),)
    return Panel(title, (query,), unit=unit, kind=Kind.STAT, width=4, height=4, thresholds=thresholds)


def _quantile(q: float) -> Query:
    return Query(
        f"histogram_quantile({q}, sum by (le, grpc_method)"
        f' (rate({_SECONDS}{{{_N}, {_OURS}, grpc_type="unary"}}{_RATE})))',
        f"{{{{grpc_method}}}} p{q * 100:g}",
    )


_FAILED = f'grpc_server_handled_total{{{_N}, {_OURS}, grpc_code!="OK"}}'

_NOW = Row(
    "Now",
    (
        _stat("Calls", Query(f"sum(rate(grpc_server_started_total{{{_M}, {_OURS}}}{_RATE}))"), "reqps"),
        _stat(
            "Failed calls",
            Query(
                f"(sum(rate({_FAILED}{_RATE})) or vector(0))"
                f" / sum(rate(grpc_server_handled_total{{{_N}, {_OURS}}}{_RATE}))"
            ),
            "percentunit",
            0.05,
        ),
        _stat(
            "p99 of AllocPages",
            Query(
                f"histogram_quantile(0.99, sum by (le)"
                f' (rate({_SECONDS}{{{_N}, grpc_method="AllocPages"}}{_RATE})))'
            ),
            "s",
        ),
        _stat("Endpoints that answer", Query(f'sum(up{{job="numa", {_M}}})')),
        _stat("Nodes away", Query(f"count(numa_machine_node_up{{{_M}}} == 0) or vector(0)"), bad=1),
        _stat("Restarts", Query(f"sum(numa_machine_node_restarts_total{{{_M}}})"), bad=1),
    ),
)

_CALLS = Row(
    "Calls",
    (
        Panel(
            "Calls by method",
            (
                Query(
                    f"sum by (grpc_method) (rate(grpc_server_started_total{{{_N}, {_OURS}}}{_RATE}))",
                    "{{grpc_method}}",
                ),
            ),
            unit="reqps",
        ),
        Panel(
            "Failed calls by method and code",
            (
                Query(
                    f"sum by (grpc_method, grpc_code) (rate({_FAILED}{_RATE}))",
                    "{{grpc_method}} {{grpc_code}}",
                    quiet="no call has failed",
                ),
            ),
            unit="reqps",
        ),
        Panel("Time in the server", (_quantile(0.5), _quantile(0.99)), unit="s"),
        Panel(
            "Calls by node",
            (
                Query(
                    f"sum by (node) (rate(grpc_server_started_total{{{_N}, {_OURS}}}{_RATE}))",
                    "node {{node}}",
                ),
            ),
            unit="reqps",
        ),
        Panel(
            "Messages of unary calls",
            (
                Query(f"sum(rate(grpc_server_msg_received_total{{{_N}}}{_RATE}))", "received"),
                Query(f"sum(rate(grpc_server_msg_sent_total{{{_N}}}{_RATE}))", "sent"),
            ),
            unit="ops",
        ),
        Panel(
            "AllocPages: how many took how long",
            (
                Query(
                    f'sum by (le) (increase({_SECONDS}{{{_N}, grpc_method="AllocPages"}}{_RATE}))',
                    "{{le}}",
                ),
            ),
            kind=Kind.HEATMAP,
            unit="s",
        ),
    ),
)

_STATE = Row(
    "Op logs, leases and peers",
    (
        Panel(
            "Ops logged",
            (Query(f"sum by (node) (rate(numa_log_ops_total{{{_N}}}{_RATE}))", "node {{node}}"),),
            unit="ops",
            width=6,
        ),
        Panel(
            "Ops dropped from the logs",
            (Query(f"sum by (node) (numa_log_dropped_ops_total{{{_N}}})", "node {{node}}"),),
            width=6,
            description="A log can be replayed while none are",
        ),
        Panel(
            "Leases that ran out",
            (Query(f"sum by (node) (increase(numa_lease_expiries_total{{{_N}}}{_RATE}))", "node {{node}}"),),
            width=6,
        ),
        Panel(
            "Answers owed",
            (
                Query(
                    f"sum by (node, target_node) (numa_peer_owed_answers{{{_N}}})",
                    "{{target_node}} to {{node}}",
                ),
            ),
            width=6,
        ),
    ),
)

_PROCESSES = Row(
    "Processes",
    (
        Panel(
            "Nodes up",
            (Query(f"numa_machine_node_up{{{_N}}}", "node {{node}}"),),
            kind=Kind.STATES,
            states=((0, "away", "red"), (1, "up", "green")),
        ),
        Panel(
            "CPU",
            (Query(f"rate(process_cpu_seconds_total{{{_M}}}{_RATE})", "node {{node}}"),),
            unit="percentunit",
        ),
        Panel("Memory", (Query(f"process_resident_memory_bytes{{{_M}}}", "node {{node}}"),), unit="bytes"),
        Panel("Open files", (Query(f"process_open_fds{{{_M}}}", "node {{node}}"),), height=6),
        Panel(
            "Age",
            (Query(f"time() - process_start_time_seconds{{{_M}}}", "node {{node}}"),),
            unit="s",
            height=6,
        ),
        Panel(
            "Time of a scrape",
            (Query(f'scrape_duration_seconds{{job="numa", {_M}}}', "node {{node}}"),),
            unit="s",
            height=6,
        ),
        Panel(
            "Frees refused",
            (
                Query(
                    f"sum by (reason) (increase(numa_bad_pages_total{{{_N}}}[$__range])) > 0",
                    "{{reason}}",
                    quiet="no client has freed what it does not hold",
                ),
            ),
            width=24,
            height=6,
        ),
    ),
)

SERVICE = Dashboard(
    "numa-service",
    "NUMA / Service",
    "Calls, errors, latency, op logs, leases, and the processes behind the nodes.",
    (_NOW, _CALLS, _STATE, _PROCESSES),
)
