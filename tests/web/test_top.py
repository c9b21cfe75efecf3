"""top of a machine on the loopback interface, with its keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from consoled import Consoled
from textual.widgets import DataTable, Footer, Static

from numa_service.cli.events import follow
from numa_service.cli.top import Top
from numa_service.web.feed import MachineFeed


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def test_top(consoled: Consoled) -> None:
    app = Top(MachineFeed(consoled.info, 50))
    async with app.run_test(size=(140, 40)) as pilot:
        table = app.query_one(DataTable)

        def column(number: int) -> list[str]:
            return [str(table.get_row_at(row)[number]) for row in range(table.row_count)]

        def head() -> str:
            return str(app.query_one("#head", Static).render())

        # a node that has not been heard of yet has one row, without a zone
        await until(lambda: column(1) == ["DMA", "DMA32", "DMA32", "DMA32"])
        assert column(0) == ["0", "0", "1", "2"]
        assert "3 nodes" in head()
        shown = {binding.description for _, binding, *_ in app.active_bindings.values() if binding.show}
        assert {"Quit", "Sort", "Filter", "Pause", "Help"} <= shown
        assert app.query_one(Footer)

        client = await consoled.client()
        async with client, client.session(cpu=2) as session:
            await session.alloc(count=25_600)
            await until(lambda: "151M" in column(2)[2])
            assert column(13)[2] == "1"
            await pilot.press("s", "s")  # zone, free: most first
            await until(lambda: column(0)[0] == "2")
            await pilot.press("r")
            assert column(1)[0] == "DMA"
            await pilot.press("p")
            assert "paused" in head()
            before = column(2)
            await session.alloc(count=10_000)
            await asyncio.sleep(0.3)
            assert column(2) == before
            await pilot.press("p")
            await until(lambda: column(2) != before)
        await pilot.press("f", *"node 1")
        await until(lambda: column(0) == ["1"])
        await pilot.press("escape")
        await until(lambda: table.row_count == 4)
        await pilot.press("h")
        assert type(app.screen).__name__ == "_Help"
        await pilot.press("x")
        assert type(app.screen).__name__ != "_Help"
        await consoled.kill(1)
        await until(lambda: "away" in column(8))
        assert "1 away" in head()
        await pilot.press("q")
    await until(lambda: not any(server._observe.observers for server in consoled.servers.values()))


async def test_events_are_printed_as_they_come(
    consoled: Consoled, capsys: pytest.CaptureFixture[str]
) -> None:
    feed = MachineFeed(consoled.info, 50)
    printing = asyncio.create_task(follow(feed, 60.0, as_json=True))
    await until(lambda: len(feed.nodes) == 3 and all(seen.frame for seen in feed.nodes.values()))
    await consoled.kill(2)
    await until(lambda: "does not answer" in feed_text(feed))
    await asyncio.sleep(0.2)
    printing.cancel()
    with suppress(asyncio.CancelledError):
        await printing
    (line,) = capsys.readouterr().out.splitlines()
    event = json.loads(line)
    assert (event["nid"], event["kind"], event["text"]) == (2, "node", "does not answer")


def feed_text(feed: MachineFeed) -> str:
    return "\n".join(event.text for event in feed.events.since(0))
