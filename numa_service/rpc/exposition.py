"""Small HTTP servers beside gRPC, such as /metrics, each on a socket of its own.

They answer only requests whose Host header names their socket.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

#: Matches a Host header: a name, or an IPv6 address in brackets, with or without a port.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::\d+)?", re.ASCII)
#: Names of the local host. A browser uses them too when a port of its own host is forwarded to here.
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _brief(record: logging.LogRecord) -> bool:
    """Log bytes that are not HTTP as a one-line warning.

    By itself aiohttp logs them as an error of the server, with the traceback of its parser.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, web.RequestPayloadError):
        error = error.__cause__
    if isinstance(error, HttpProcessingError):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args = "no HTTP: %s", (error.message.splitlines()[0][:200],)
        record.exc_info = None
    return True


_log = logging.getLogger(__name__)
_log.addFilter(_brief)


class HttpServer:
    """An aiohttp application on a socket of its own.

    The Host header of a request must name that socket: the host that the server was told to listen on, the
    address that the request came to, or localhost. Every other name is refused with 403: by DNS rebinding a
    web page could point its own name at this host, and have a visitor's browser read the server.
    """

    def __init__(self, app: web.Application) -> None:
        app.middlewares.insert(0, self._guard)
        self._runner = web.AppRunner(app, access_log=None, logger=_log)
        self._host = ""

    async def start(self, host: str, port: int = 0) -> str:
        """Start to serve; returns the address as host:port. OSError when the port is taken."""
        self._host = host
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return join_address(host, self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the socket."""
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        asked = request.headers.getall("Host", [])
        found = _HOST.fullmatch(asked[0]) if len(asked) == 1 else None
        came_to = request.transport.get_extra_info("sockname") if request.transport else None
        own = {_plain(name) for name in (self._host, came_to[0] if came_to else "")} | _LOCAL
        if not found or _plain(found[1] or found[2]) not in own:
            known = ", ".join(sorted(own - {""}))
            raise web.HTTPForbidden(text=f"this host does not answer under that name: use one of {known}\n")
        return await handler(request)


def metrics_app(registry: CollectorRegistry) -> web.Application:
    """An application with GET /metrics, in the text format or in OpenMetrics, as the scraper prefers.

    Metrics are collected on the event loop, between two ops, so that all numbers are of the same moment.
    """

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    return app


def join_address(host: str, port: int) -> str:
    """Join host and port to host:port, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _plain(name: str) -> str:
    """One spelling for all spellings of a name or an IP address."""
    try:
        return str(ip_address(name))
    except ValueError:
        return name.lower()
