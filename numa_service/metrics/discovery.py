"""Prometheus service discovery of a machine (``http_sd_configs``), and the metrics of the machine itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from aiohttp import web
from numa_client import MachineInfo
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from numa_service.rpc.exposition import HttpServer, metrics_app


def targets(machine: MachineInfo, targets_url: str = "") -> list[dict[str, object]]:
    """Prometheus target groups: one for each node that serves metrics, and one for the machine.

    The machine's metrics are beside `targets_url`, its service discovery; without it they are left out.
    """
    urls = {str(node.node): node.metrics_url for node in machine.nodes if node.metrics_url}
    groups = [_group(url, {"machine": machine.name, "node": nid}) for nid, url in urls.items()]
    if targets_url:
        groups.append(_group(targets_url.removesuffix("/targets") + "/metrics", {"machine": machine.name}))
    return groups


def _group(metrics_url: str, labels: dict[str, str]) -> dict[str, object]:
    url = urlsplit(metrics_url)
    return {"targets": [url.netloc], "labels": labels | {"__metrics_path__": url.path}}


class MachineCollector(Collector):
    """Which nodes are up, and how often they were restarted, as the supervisor knows it."""

    def __init__(self, machine: Callable[[], MachineInfo]) -> None:
        self._machine = machine

    def describe(self) -> list[Metric]:
        """Return nothing: else registering the collector would collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The current state of every node of the machine."""
        up = GaugeMetricFamily("numa_machine_node_up", "1 for a node that is up.", labels=["node"])
        restarts = CounterMetricFamily(
            "numa_machine_node_restarts", "Times that a node was booted again.", labels=["node"]
        )
        for node in self._machine().nodes:
            up.add_metric((str(node.node),), float(bool(node.address)))
            restarts.add_metric((str(node.node),), max(0, node.lineage - 1))
        yield from (up, restarts)


class TargetServer:
    """An HTTP server with GET /targets, for service discovery, and GET /metrics of the machine's process."""

    def __init__(self, machine: Callable[[], MachineInfo], registry: CollectorRegistry | None = None) -> None:
        """`machine` is called for each request; without `registry` there is no /metrics."""
        self._url = ""

        async def get(request: web.Request) -> web.Response:
            return web.json_response(targets(machine(), self._url if registry else ""))

        app = metrics_app(registry) if registry else web.Application()
        app.router.add_get("/targets", get)
        self._http = HttpServer(app)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Start to serve; returns the URL for ``http_sd_configs``. OSError when the port is taken."""
        self._url = f"http://{await self._http.start(host, port)}/targets"
        return self._url

    async def stop(self) -> None:
        """Close the socket."""
        await self._http.stop()
