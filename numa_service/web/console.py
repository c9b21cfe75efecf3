"""The console's server: static files, the machine as JSON, one push stream a browser, and a few actions.

It is safe from other web pages: requests must name this host (``rpc/exposition.py``), a POST must have this
server's origin, and the page's Content-Security-Policy allows no script but its own. Any error that the body
of a POST causes is answered with 422.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from aiohttp import web
from numa_client import MachineInfo, NumaError
from pydantic import ValidationError

from numa_service.mm.profile import profile_named
from numa_service.rpc.exposition import Handler, HttpServer
from numa_service.web.actions import Actions, Alloc, Asked, AskedZone, Free, Placing, Refused, Sysctl
from numa_service.web.boot_steps import boot_steps, boot_view
from numa_service.web.feed import MachineFeed
from numa_service.web.options import ConsoleOptions
from numa_service.web.static_files import add_page
from numa_service.web.view import compact, machine_view, message, node_view

#: Most browsers with a push stream at a time.
MAX_VIEWERS = 32
#: Pause between two pushes to one browser.
PUSH_SECONDS = 0.2
#: An idle stream sends a comment this often, by which a browser that has gone is noticed.
ALIVE_SECONDS = 10.0
#: The stream of a browser that reads nothing for so long is ended.
STUCK_SECONDS = 30.0
MAX_BODY_BYTES = 16 << 10

_FEED = web.AppKey("feed", MachineFeed)
#: Most characters of an unforeseen error, in an answer and in the log.
_MAX_REASON = 200

A = TypeVar("A", bound=Asked)
T = TypeVar("T")

_log = logging.getLogger(__name__)


class ConsoleServer:
    """The server of one machine's console. Its callables are called for each request that needs them."""

    def __init__(
        self,
        machine: Callable[[], MachineInfo],
        machine_address: Callable[[], str],
        dmesg: Callable[[], Iterable[tuple[float, str]]],
        options: ConsoleOptions,
    ) -> None:
        """`machine_address` returns MachineService's address, `dmesg` the boot log as (seconds, text)."""
        self._machine = machine
        self._options = options
        self.feed = MachineFeed(machine)
        self._actions = Actions(machine_address)
        self._dmesg = dmesg
        self._viewers: set[asyncio.Task[Any]] = set()
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_BYTES)
        app[_FEED] = self.feed
        add_page(app, "index.html")
        app.router.add_get("/api/machine", self._get_machine)
        app.router.add_get("/api/boot", self._get_boot)
        app.router.add_get("/api/feed", self._push)
        app.router.add_get("/api/zone", self._get_zone)
        actions = self._actions
        self._add_post(app, "explain", Placing, lambda asked: actions.explain(asked, options.writable))
        if options.writable:
            self._add_post(app, "alloc", Alloc, actions.alloc)
            self._add_post(app, "free", Free, lambda _: actions.free())
            self._add_post(app, "sysctl", Sysctl, actions.sysctl)
        app.on_shutdown.append(self._end_streams)
        self._http = HttpServer(app)

    async def start(self) -> str:
        """Start to serve; returns the URL. OSError when the port is taken."""
        return f"http://{await self._http.start(self._options.host, self._options.port)}/"

    async def stop(self) -> None:
        """End every stream, close the socket, and free what was allocated through the console."""
        await self._http.stop()
        await self._actions.close()

    async def _end_streams(self, _: web.Application) -> None:
        for viewer in list(self._viewers):
            viewer.cancel()
        await asyncio.gather(*self._viewers, return_exceptions=True)

    # checks of requests, and errors

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        posted = request.method == "POST"
        own = f"{request.scheme}://{request.host}"
        if posted and (request.headers.get("Origin") != own or request.content_type != "application/json"):
            raise web.HTTPForbidden(text="only the console's own page may ask that")
        try:
            return await handler(request)
        except web.HTTPException:
            raise
        except (Refused, NumaError, TimeoutError) as error:
            return _json({"error": str(error) or "no answer in time"}, status=422)
        except Exception as error:
            # of a POST the body is to blame, so it is the client's error
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:_MAX_REASON]
            _log.warning("%s of %s failed: %s", request.method, request.path, reason)
            return _json({"error": f"that cannot be answered: {reason}"}, status=422 if posted else 500)

    def _add_post(
        self, app: web.Application, name: str, model: type[A], act: Callable[[A], Awaitable[dict[str, Any]]]
    ) -> None:
        """Serve POST /api/`name`: `act` is called with the body, which must be a valid `model`."""

        async def post(request: web.Request) -> web.Response:
            return _json(await act(_valid(model.model_validate_json, await request.read())))

        app.router.add_post(f"/api/{name}", post)

    # GET requests

    async def _get_machine(self, _: web.Request) -> web.Response:
        return _json(machine_view(self._machine(), self._options.writable))

    async def _get_boot(self, _: web.Request) -> web.Response:
        mm_init = profile_named(self._machine().profile).mm_init
        return _json(boot_view(boot_steps(await asyncio.to_thread(self._dmesg), mm_init)))

    async def _get_zone(self, request: web.Request) -> web.Response:
        return _json(await self._actions.zone(_valid(AskedZone.model_validate_strings, dict(request.query))))

    # the push stream

    async def _push(self, request: web.Request) -> web.StreamResponse:
        if len(self._viewers) >= MAX_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_VIEWERS} browsers look already: close one")
        task = asyncio.current_task()
        assert task is not None
        self._viewers.add(task)
        try:
            stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await stream.prepare(request)
            async with self.feed.watched():
                # the errors of a browser that goes away, or stops reading
                with suppress(ConnectionError, TimeoutError):
                    await self._push_on(stream)
            return stream
        finally:
            self._viewers.discard(task)

    async def _push_on(self, stream: web.StreamResponse) -> None:
        """Push what changed since the last push. A slow browser gets fewer pushes, each with more changes."""
        version, event = 0, 0
        while True:
            if not await self.feed.wait(version, ALIVE_SECONDS):
                await asyncio.wait_for(stream.write(b": nothing new\n\n"), STUCK_SECONDS)
                continue
            nodes = [(nid, node_view(self.feed.nodes[nid].frame)) for nid in self.feed.newer(version)]
            text = message(nodes, self.feed.events.since(event))
            version, event = self.feed.version, self.feed.events.last_id
            await asyncio.wait_for(stream.write(f"data: {text}\n\n".encode()), STUCK_SECONDS)
            await asyncio.sleep(PUSH_SECONDS)


def _valid(validate: Callable[[T], A], asked: T) -> A:
    """Validate a request. Refused names the first field that is wrong, and why."""
    try:
        return validate(asked)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "request"
        raise Refused(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(text=compact(value), status=status, content_type="application/json")
