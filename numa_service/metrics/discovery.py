"""Where Prometheus finds the nodes: its HTTP service discovery (``http_sd_configs``)."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from aiohttp import web

from numa_service.rpc.exposition import HttpServer
from numa_service.rpc.machine import MachineInfo


def targets(machine: MachineInfo) -> list[dict[str, object]]:
    """One target group a node that has metrics now."""
    groups: list[dict[str, object]] = []
    for node in machine.nodes:
        if node.metrics_url:
            url = urlsplit(node.metrics_url)
            labels = {"machine": machine.name, "node": str(node.nid), "__metrics_path__": url.path}
            groups.append({"targets": [url.netloc], "labels": labels})
    return groups


class TargetServer:
    """GET /targets: the nodes as the callable tells them at that moment."""

    def __init__(self, machine: Callable[[], MachineInfo]) -> None:
        async def get(request: web.Request) -> web.Response:
            return web.json_response(targets(machine()))

        app = web.Application()
        app.router.add_get("/targets", get)
        self._http = HttpServer(app)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Serve; the URL for ``http_sd_configs``. OSError when the port is taken."""
        return f"http://{await self._http.start(host, port)}/targets"

    async def stop(self) -> None:
        """Close the socket."""
        await self._http.stop()
