"""HTTP beside gRPC: one small server a registry, for Prometheus."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


class HttpServer:
    """An aiohttp application on a socket of its own."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, host: str, port: int = 0) -> str:
        """Serve; the address as host:port."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return join_address(host, self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the socket."""
        await self._runner.cleanup()


def metrics_app(registry: CollectorRegistry) -> web.Application:
    """GET /metrics, in the text format or OpenMetrics as the scraper prefers.

    Collected on the event loop, between two ops: every number is of the same moment.
    """

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    return app


def join_address(host: str, port: int) -> str:
    """host:port, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
