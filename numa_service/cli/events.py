"""``events``: prints the event feed of a machine that is up, the same lines that the console and top show."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
import time
from typing import Annotated

import typer

from numa_service.cli.files import AsJson
from numa_service.cli.top import AddressOfRay, NameOfMachine, connected
from numa_service.web.event_feed import Event
from numa_service.web.feed import MachineFeed

#: Interval of the frames that are compared; what begins and ends within one shows in counters only.
_INTERVAL_MS = 100


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("events")(events)


def events(
    name: NameOfMachine = None,
    address: AddressOfRay = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", min=0.0, help="Stop after this many seconds. The default is to run until Ctrl-C."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print what happens on a machine that is up: marks crossed, kswapd, fallback, reclaim, restarts."""
    with connected(name, address, _INTERVAL_MS) as feed, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(follow(feed, seconds, as_json))


async def follow(feed: MachineFeed, seconds: float | None, as_json: bool) -> None:
    """Print events as they come, for `seconds` or until Ctrl-C."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    with contextlib.suppress(NotImplementedError, RuntimeError):
        loop.add_signal_handler(signal.SIGINT, over.set)
    if seconds is not None:
        loop.call_later(seconds, over.set)
    seen = 0
    async with feed.watched():
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), feed.interval_ms / 1000)
            for event in feed.events.since(seen):
                seen = event.id
                typer.echo(json.dumps(dataclasses.asdict(event)) if as_json else _line(event))


def _line(event: Event) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(event.time))
    return f"{at} node {event.nid:<3} {event.kind:<10} {event.text}"
