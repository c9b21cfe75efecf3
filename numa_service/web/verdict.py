"""The picture of a verdict on a Mem-Info report (``numa-service why --console``): a page and an answer."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from numa_service.rpc.exposition import HttpServer
from numa_service.web.static_files import add_page
from numa_service.web.view import compact

_HOST = "127.0.0.1"


class VerdictServer:
    """Shows one verdict to browsers of this host; there is nothing on the page that could change anything."""

    def __init__(self, answer: dict[str, Any]) -> None:
        """`answer` is what ``why --json`` prints."""
        self._answer = compact(answer)
        app = web.Application()
        app.router.add_get("/api/verdict", self._verdict)
        add_page(app, "verdict.html")
        self._http = HttpServer(app)

    async def start(self, port: int = 0) -> str:
        """Start to serve; returns the URL. OSError when the port is taken."""
        return f"http://{await self._http.start(_HOST, port)}/"

    async def stop(self) -> None:
        """Close the socket."""
        await self._http.stop()

    async def _verdict(self, _: web.Request) -> web.Response:
        return web.Response(text=self._answer, content_type="application/json")
