"""``demo``: shows in some 20 seconds local pages, fallback, kswapd, a client that dies, and recovery."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from numa_client import Allocation, AsyncMachine, NodeState, OutOfMemory, Touch
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from numa_service.cli.progress import steps
from numa_service.cli.source import load
from numa_service.cluster import lifecycle
from numa_service.web.options import ConsoleOptions

#: How much longer than planned a phase may take on a slow host before the demo counts it as failed.
PATIENCE_SECONDS = 60.0
MIB_PAGES = 256
_MUST_BE_SEEN = ("local_pages", "remote_pages", "reclaimed_pages", "returned_after_lost_client_pages")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("demo")(demo)


def demo(
    seconds: Annotated[
        float, typer.Option(min=5.0, max=600.0, help="How long the load runs, in seconds.")
    ] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Boot a small machine on a Ray of its own, load it, show what happens, and leave nothing running."""
    console = Console(stderr=as_json)
    with tempfile.TemporaryDirectory(prefix="numa-demo-") as folder:
        os.environ["NUMA_SERVICE_STATE_DIR"] = folder
        console.print(
            "Booting preset [b]demo[/b]: two CPU nodes and a CXL node without CPUs, each a Ray actor."
        )
        with steps(console) as progress:
            running = lifecycle.up(load("demo"), "demo", None, progress, ConsoleOptions())
        console.print(f"Watch it at [b]{running.console_url}[/b]", highlight=False)
        try:
            story = asyncio.run(_play(running.address, seconds, console))
        finally:
            lifecycle.down("demo")
    summary = story.summary()
    if as_json:
        typer.echo(json.dumps(summary, indent=1))
    else:
        console.print(_summary_table(summary))
    missing = [key for key in _MUST_BE_SEEN if not summary[key]]
    if missing or summary["violations"]:
        typer.echo(
            f"numa-service: demo: nothing seen of {missing}, violations {summary['violations']}", err=True
        )
        raise typer.Exit(1)


@dataclass
class _Story:
    """What has happened in the demo so far."""

    machine: AsyncMachine
    nodes: dict[int, NodeState] = field(default_factory=dict)
    phases: list[tuple[str, str]] = field(default_factory=list)
    local_pages: int = 0
    remote_pages: int = 0
    direct_reclaimed: int = 0
    requests: int = 0
    #: (virtual ns of access, pages) of requests that got all pages locally, and of those that got none there.
    local_cost: tuple[int, int] = (0, 0)
    remote_cost: tuple[int, int] = (0, 0)
    lost_pages_returned: int = 0
    violations: list[str] = field(default_factory=list)

    def note(self, home: int, placement: dict[int, int], access_ns: int, reclaimed: int) -> None:
        """Count one reply: `placement` is nid → pages, `reclaimed` pages of direct reclaim."""
        local = placement.get(home, 0)
        remote = sum(placement.values()) - local
        self.requests += 1
        self.local_pages += local
        self.remote_pages += remote
        self.direct_reclaimed += reclaimed
        if remote and not local:
            self.remote_cost = (self.remote_cost[0] + access_ns, self.remote_cost[1] + remote)
        elif local and not remote:
            self.local_cost = (self.local_cost[0] + access_ns, self.local_cost[1] + local)

    def note_allocation(self, home: int, reply: Allocation) -> None:
        """Count a reply of AllocPages."""
        self.note(home, reply.pages_by_node, reply.cost.access_ns, reply.direct_reclaimed_pages)

    def note_touch(self, home: int, reply: Touch) -> None:
        """Count a reply of TouchRegion."""
        self.note(home, dict(reply.placement), reply.cost.access_ns, reply.direct_reclaimed_pages)

    def kswapd_reclaimed(self) -> int:
        """Pages that the kswapds of all nodes have reclaimed."""
        return sum(node.kswapd.reclaimed_pages for node in self.nodes.values())

    async def look(self) -> None:
        """Read the state of every node."""
        for node in self.machine.info.nodes:
            self.nodes[node.node] = await self.machine.node(node.node)

    def summary(self) -> dict[str, Any]:
        """The totals, by the keys of --json."""
        stats = [node.numa_stat for node in self.nodes.values()]
        return {
            "requests": self.requests,
            "local_pages": self.local_pages,
            "remote_pages": self.remote_pages,
            "reclaimed_pages": self.kswapd_reclaimed() + self.direct_reclaimed,
            "reclaimed_by_kswapd_pages": self.kswapd_reclaimed(),
            "reclaimed_directly_pages": self.direct_reclaimed,
            "kswapd_wakeups": sum(node.kswapd.wakeups for node in self.nodes.values()),
            "swapped_out_pages": sum(node.vm_events.get("pswpout", 0) for node in self.nodes.values()),
            "returned_after_lost_client_pages": self.lost_pages_returned,
            "local_access_ns_per_page": round(self.local_cost[0] / max(self.local_cost[1], 1)),
            "remote_access_ns_per_page": round(self.remote_cost[0] / max(self.remote_cost[1], 1)),
            "numa_hit": sum(stat.numa_hit for stat in stats),
            "numa_miss": sum(stat.numa_miss for stat in stats),
            "numa_foreign": sum(stat.numa_foreign for stat in stats),
            "held_pages_at_end": sum(node.held_pages for node in self.nodes.values()),
            "violations": self.violations,
        }


async def _play(address: str, seconds: float, console: Console) -> _Story:
    async with await AsyncMachine.connect(address) as machine:
        story = _Story(machine)
        await story.look()
        with Live(console=console, refresh_per_second=8, transient=console.is_terminal) as live:
            watcher = asyncio.create_task(_watch(story, live))
            try:
                await _phases(story, seconds, address)
            finally:
                watcher.cancel()
            await story.look()
            story.violations = [text for found in (await machine.check()).values() for text in found]
            live.update(_screen(story))
        console.print()
        return story


async def _watch(story: _Story, live: Live) -> None:
    while True:
        await story.look()
        live.update(_screen(story))
        await asyncio.sleep(0.25)


async def _phases(story: _Story, seconds: float, address: str) -> None:
    """Five phases. Each lasts its share of the time, and goes on until its effect has been seen."""
    share = seconds / 10
    for title, act, shares in (
        ("clients on both CPU nodes allocate and free: all local", _local, 2),
        ("kernel pages fill node 0 and spill to its neighbours", _spill, 2),
        ("page cache and anonymous memory: kswapd wakes and reclaims", _pressure, 3),
        ("a client is killed: its lease ends, its pages return", _killed_client, 2),
        ("recovered: allocation is local again", _local, 1),
    ):
        story.phases.append((title, "…"))
        start = time.monotonic()
        await act(story, start + shares * share, address)
        story.phases[-1] = (title, f"{time.monotonic() - start:.1f} s")


async def _until(end: float, seen: Callable[[], bool], step: Callable[[], Awaitable[None]]) -> None:
    """Repeat `step` until the time is over and `seen()`, but for PATIENCE_SECONDS more at most."""
    while time.monotonic() < end or (not seen() and time.monotonic() < end + PATIENCE_SECONDS):
        await step()
        await asyncio.sleep(0.02)


async def _local(story: _Story, end: float, address: str) -> None:
    before = story.local_pages

    async def client(nid: int) -> None:
        async with story.machine.session(node=nid, name="demo-local") as session:

            async def step() -> None:
                allocation = await session.alloc(count=256, order=0)
                story.note_allocation(nid, allocation)
                await session.free(allocation)

            await _until(end, lambda: story.local_pages > before, step)

    await asyncio.gather(client(0), client(1))


async def _spill(story: _Story, end: float, address: str) -> None:
    before = story.remote_pages
    async with story.machine.session(node=0, name="demo-kernel") as session:
        # enough for node 0 and 64 MiB of its neighbour, spread over the phase
        goal = story.machine.info.nodes[0].managed_pages + 64 * MIB_PAGES
        held = 0
        pause = max(0.0, (end - time.monotonic()) / (goal / 1024) - 0.02)

        async def step() -> None:
            nonlocal held
            if held < goal:
                allocation = await session.alloc(count=1024, partial=True)
                story.note_allocation(0, allocation)
                held += allocation.nr_pages
            await asyncio.sleep(pause)

        await _until(end, lambda: story.remote_pages > before, step)


async def _pressure(story: _Story, end: float, address: str) -> None:
    before = story.kswapd_reclaimed()

    async def client(nid: int) -> None:
        async with story.machine.session(node=nid, name="demo-pressure") as session:
            pages = 512 * MIB_PAGES
            file = await session.map_region("file", pages)
            anon = await session.map_region("anon", 160 * MIB_PAGES)
            at = {"file": 0, "anon": 0}

            async def step() -> None:
                for kind, region, size in (("file", file, pages), ("anon", anon, 160 * MIB_PAGES)):
                    first = at[kind] % (size - 2048)
                    try:
                        story.note_touch(nid, await region.touch(first, 2048, write=kind == "anon"))
                    except OutOfMemory:
                        await asyncio.sleep(0.1)
                    at[kind] += 2048

            await _until(end, lambda: story.kswapd_reclaimed() > before, step)

    await asyncio.gather(client(0), client(1))


async def _killed_client(story: _Story, end: float, address: str) -> None:
    """Kill a client process while it holds 64 MiB with a lease of one second."""
    await story.look()
    before = sum(node.held_pages for node in story.nodes.values())
    client = subprocess.Popen(
        [sys.executable, "-P", "-m", "numa_service.cli.lost_client", address], stdout=subprocess.PIPE
    )
    try:
        assert client.stdout is not None
        taken = int(await asyncio.to_thread(client.stdout.readline) or 0)
        await asyncio.sleep(max(0.0, (end - time.monotonic()) / 3))
        client.send_signal(signal.SIGKILL)
    finally:
        client.kill()
        client.wait()

    if not taken:
        return  # the summary will say that no pages returned

    async def step() -> None:
        await story.look()
        still_held = sum(node.held_pages for node in story.nodes.values()) - before
        story.lost_pages_returned = max(0, taken - max(0, still_held))

    await _until(end, lambda: story.lost_pages_returned >= taken > 0, step)


# output


def _screen(story: _Story) -> Group:
    table = Table(*("node", "free pages", "cache", "anon", "kswapd", "reclaimed", "hit", "miss"), box=SIMPLE)
    for column in table.columns:
        column.no_wrap = True
    for info in story.machine.info.nodes:
        node = story.nodes[info.node]
        free = sum(zone.free_pages for zone in node.zones)
        low = sum(zone.low_pages for zone in node.zones)
        managed = max(sum(zone.managed_pages for zone in node.zones), 1)
        bar = "█" * round(6 * free / managed)
        table.add_row(
            str(info.node),
            f"[{'green' if free > 2 * low else 'yellow'}]{bar:<6}[/] {free:>6}",
            str(sum(z.inactive_file_pages + z.active_file_pages for z in node.zones)),
            str(sum(z.inactive_anon_pages + z.active_anon_pages for z in node.zones)),
            "[yellow]running[/]" if node.kswapd.running else "asleep",
            str(node.kswapd.reclaimed_pages),
            str(node.numa_stat.numa_hit),
            str(node.numa_stat.numa_miss),
        )
    lines = [Text(f"{'▶' if took == '…' else '✔'} {title}  {took}") for title, took in story.phases]
    return Group(table, *lines)


def _summary_table(summary: dict[str, Any]) -> Table:
    table = Table("what happened", "", box=SIMPLE)
    for key, value in summary.items():
        text = f"{value:,}" if isinstance(value, int) else (str(value) or "none") if value else "none"
        table.add_row(key.replace("_", " "), text)
    return table
