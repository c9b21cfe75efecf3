"""``top``: watches a machine that is up on the whole terminal, with a row for each zone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, ClassVar

import typer
from numa_client import Machine, MachineInfo, NumaError, Unavailable
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, RichLog, Static

from numa_service.cli.files import UNREACHABLE
from numa_service.cluster import lifecycle
from numa_service.cluster.connect import detach
from numa_service.mm.mmzone import PAGE_SIZE
from numa_service.web.event_feed import level
from numa_service.web.feed import MachineFeed

ANSWER_SECONDS = 2.0

_LEVEL_STYLE = {"ok": "green", "high": "yellow", "low": "dark_orange", "min": "red"}
_KSWAPD_STYLE = {"running": "dark_orange", "hopeless": "red"}
_BAR = 16

_HELP = """\
[b]numa-service top[/b]

A row is a zone. [b]free[/b] is a bar of its managed pages: green above the high mark, yellow below it,
orange below low, where requests go elsewhere or wake kswapd, red below min. Rates are a second's, of
the whole node.

[b]s[/b]  sort by the next column, [b]r[/b] the other way round
[b]f[/b]  only nodes and zones whose name has the text; Esc: all
[b]p[/b]  pause, and go on
[b]e[/b]  show or hide events
[b]q[/b]  quit

Any key goes back."""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("top")(top)


NameOfMachine = Annotated[
    str | None, typer.Option("--name", metavar="MACHINE", help="The machine to watch, if several are up.")
]
AddressOfRay = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", envvar="NUMA_SERVICE_ADDRESS", help="Address of the Ray head node."),
]


def top(
    name: NameOfMachine = None,
    address: AddressOfRay = None,
    watch: Annotated[
        float,
        typer.Option("--watch", metavar="SECONDS", min=0.05, max=60.0, help="Time between two updates."),
    ] = 1.0,
) -> None:
    """Watch a machine that is up, full-screen: zones, marks, kswapd, who got pages where."""
    with connected(name, address, round(watch * 1000)) as feed:
        Top(feed).run()


@contextmanager
def connected(name: str | None, address: str | None, interval_ms: int) -> Iterator[MachineFeed]:
    """The feed of the machine called `name`, or of the only one that is up.

    BadParameter if several or none are up. The command exits with UNREACHABLE if the machine does not answer.
    """
    found = lifecycle.status(name, address)
    if len(found) != 1:
        up = ", ".join(running.info.name for running in found) or "none"
        raise typer.BadParameter(f"which machine? up: {up}", param_hint="--name")
    # Ray is not needed any more, and would print its own messages into the screen
    detach()
    try:
        with Machine.connect(found[0].address, ANSWER_SECONDS) as client:
            yield MachineFeed(_Places(client), interval_ms)
    except Unavailable as error:
        typer.echo(f"numa-service: {error}", err=True)
        raise typer.Exit(UNREACHABLE) from None


class _Places:
    """The machine's description, read again every two seconds, as a restart changes a node's address."""

    _READ_EVERY_SECONDS = 2.0

    def __init__(self, client: Machine) -> None:
        self._client = client
        self._read = time.monotonic()

    def __call__(self) -> MachineInfo:
        if time.monotonic() - self._read > self._READ_EVERY_SECONDS:
            self._read = time.monotonic()
            with suppress(NumaError):  # the supervisor may be restarting
                self._client.refresh()
        return self._client.info


@dataclass(frozen=True, slots=True)
class Row:
    """The current state of a zone, in pages. Rates are those of its node, per second."""

    nid: int
    zone: str
    level: str
    free: int
    managed: int
    low: int
    pageset: int
    file: int
    anon: int
    kswapd: str
    alloc: float
    freed: float
    reclaimed: float
    fallback: float
    sessions: int

    @property
    def used(self) -> float:
        """Share of the managed pages that are not free."""
        return 1 - self.free / self.managed if self.managed else 0.0


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cell: Callable[[Row], Text | str]
    key: Callable[[Row], float | str | tuple[int, str]]


def _pages(pages: float) -> str:
    """Pages as an amount of memory, in at most five characters."""
    value = pages * PAGE_SIZE
    for unit in ("B", "K", "M", "G"):
        if value < 1000:
            return f"{value:.0f}{unit}" if unit in "BK" or value >= 100 else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}T"


def _rate(rate: float) -> str:
    if rate >= 1e6:
        return f"{rate / 1e6:.1f}M"
    return f"{rate / 1e3:.1f}k" if rate >= 1e4 else f"{rate:.0f}"


def _bar(row: Row) -> Text:
    filled = round(_BAR * (1 - row.used))
    text = Text("█" * filled + "░" * (_BAR - filled), style=_LEVEL_STYLE[row.level])
    return text.append(f" {_pages(row.free):>6}", style="default")


_COLUMNS = (
    _Column("node", lambda r: str(r.nid), lambda r: (r.nid, r.zone)),
    _Column("zone", lambda r: r.zone, lambda r: r.zone),
    _Column("free", _bar, lambda r: r.free),
    _Column("used%", lambda r: f"{100 * r.used:5.1f}", lambda r: r.used),
    _Column("low", lambda r: _pages(r.low), lambda r: r.low),
    _Column("pcp", lambda r: _pages(r.pageset), lambda r: r.pageset),
    _Column("file", lambda r: _pages(r.file), lambda r: r.file),
    _Column("anon", lambda r: _pages(r.anon), lambda r: r.anon),
    _Column("kswapd", lambda r: Text(r.kswapd, _KSWAPD_STYLE.get(r.kswapd, "dim")), lambda r: r.kswapd),
    _Column("alloc/s", lambda r: _rate(r.alloc), lambda r: r.alloc),
    _Column("free/s", lambda r: _rate(r.freed), lambda r: r.freed),
    _Column("steal/s", lambda r: _rate(r.reclaimed), lambda r: r.reclaimed),
    _Column("away/s", lambda r: _rate(r.fallback), lambda r: r.fallback),
    _Column("sess", lambda r: str(r.sessions), lambda r: r.sessions),
)


@dataclass(frozen=True, slots=True)
class _Totals:
    """Counters of a node at one moment, from which rates are computed."""

    time_ns: int
    alloc: int
    freed: int
    reclaimed: int
    fallback: int


class Rates:
    """Computes the rates of nodes' counters, per second."""

    def __init__(self) -> None:
        self._before: dict[int, _Totals] = {}
        self._rates: dict[int, tuple[float, float, float, float]] = {}

    def rows(self, feed: MachineFeed) -> Iterator[Row]:
        """A row for every zone of every node, and one for each node that does not answer."""
        for nid, seen in feed.nodes.items():
            frame = seen.frame
            if frame is None:
                self._before.pop(nid, None)
                yield Row(nid, "", "min", 0, 0, 0, 0, 0, 0, "away", 0, 0, 0, 0, 0)
                continue
            events = dict(zip(seen.vm_event_names, frame.vm_events, strict=True))
            now = _Totals(
                frame.time_ns,
                sum(count for name, count in events.items() if name.startswith("pgalloc_")),
                events.get("pgfree", 0),
                events.get("pgsteal_kswapd", 0) + events.get("pgsteal_direct", 0),
                sum(one.pages for one in frame.fallback),
            )
            kswapd = "hopeless" if frame.kswapd_hopeless else "running" if frame.kswapd.running else "asleep"
            rates = self._rate(nid, now)
            for zone in frame.zones:
                lru = zone.lru_pages
                yield Row(
                    nid,
                    zone.zone,
                    level(zone),
                    zone.free_pages,
                    zone.managed_pages,
                    zone.low_pages + zone.boost_pages,
                    zone.pageset_pages,
                    lru[2] + lru[3],
                    lru[0] + lru[1],
                    kswapd,
                    *rates,
                    frame.sessions,
                )

    def _rate(self, nid: int, now: _Totals) -> tuple[float, float, float, float]:
        before = self._before.get(nid)
        if before is None or now.alloc < before.alloc:
            self._before[nid] = now
            self._rates[nid] = (0.0, 0.0, 0.0, 0.0)
        elif now.time_ns > before.time_ns:
            seconds = (now.time_ns - before.time_ns) / 1e9
            self._before[nid] = now
            self._rates[nid] = (
                (now.alloc - before.alloc) / seconds,
                (now.freed - before.freed) / seconds,
                (now.reclaimed - before.reclaimed) / seconds,
                (now.fallback - before.fallback) / seconds,
            )
        return self._rates[nid]


class _Help(ModalScreen[None]):
    def compose(self) -> ComposeResult:
        yield Vertical(Static(_HELP), id="help")

    def on_key(self) -> None:
        self.dismiss()


class Top(App[None]):
    """The full-screen application."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "numa-service top"
    CSS = """
    #head { height: 1; background: $primary-background; padding: 0 1; }
    #filter { display: none; height: 3; }
    #filter.open { display: block; }
    #table { height: 1fr; }
    #events { height: 8; border-top: solid $primary-background; display: none; }
    #events.open { display: block; }
    _Help { align: center middle; }
    #help { width: 76; height: auto; border: round $primary; padding: 1 2; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse"),
        Binding("f", "filter", "Filter"),
        Binding("p", "pause", "Pause"),
        Binding("e", "events", "Events"),
        Binding("h,question_mark", "help", "Help"),
        Binding("escape", "all", "All", show=False),
    ]

    def __init__(self, feed: MachineFeed) -> None:
        super().__init__()
        self._feed = feed
        self._open = AsyncExitStack()
        self._rates = Rates()
        self._rows: list[Row] = []
        self._sort = 0
        self._reversed = False
        self._paused = False
        self._text = ""
        self._event = 0

    def compose(self) -> ComposeResult:
        """The head line, the filter, the table, the events and the keys."""
        yield Static(id="head")
        yield Input(placeholder="node or zone", id="filter")
        yield DataTable(id="table", cursor_type="row", zebra_stripes=True)
        yield RichLog(id="events", max_lines=200)
        yield Footer()

    async def on_mount(self) -> None:
        """Start to watch the machine."""
        self.query_one(DataTable).focus()
        await self._open.enter_async_context(self._feed.watched())
        self.run_worker(self._watch(), name="feed")

    async def on_unmount(self) -> None:
        """End the streams from the nodes."""
        await self._open.aclose()

    async def _watch(self) -> None:
        version = 0
        pause = self._feed.interval_ms / 1000
        while True:
            # go on when nothing changed, too: rates then fall to zero
            await self._feed.wait(version, pause)
            version = self._feed.version
            if not self._paused:
                self._rows = list(self._rates.rows(self._feed))
                self._draw()
            # the nodes send at different times: wait for the frames of the others
            await asyncio.sleep(pause / 2)

    def _draw(self) -> None:
        column = _COLUMNS[self._sort]
        shown = [row for row in self._rows if self._text in f"node {row.nid} {row.zone}".lower()]
        shown.sort(key=column.key, reverse=self._reversed)
        table = self.query_one(DataTable)
        titles = [
            c.title + (" ▼" if self._reversed else " ▲") * (at == self._sort) for at, c in enumerate(_COLUMNS)
        ]
        at = table.cursor_row
        with self.batch_update():
            table.clear(columns=True)
            table.add_columns(*titles)
            for row in shown:
                table.add_row(*(c.cell(row) for c in _COLUMNS), key=f"{row.nid} {row.zone}")
            table.move_cursor(row=min(at, max(0, len(shown) - 1)), scroll=False)
        self._draw_head(len(shown))
        log = self.query_one("#events", RichLog)
        for event in self._feed.events.since(self._event):
            self._event = event.id
            log.write(f"node {event.nid:<3} {event.kind:<10} {event.text}")

    def _draw_head(self, shown: int) -> None:
        machine = self._feed.machine()
        free, managed = sum(r.free for r in self._rows), sum(r.managed for r in self._rows)
        away = sum(1 for r in self._rows if r.kswapd == "away")
        parts = [
            f"[b]{machine.name.replace('[', chr(92) + '[')}[/b] ({machine.profile})",
            f"{len(machine.nodes)} nodes" + (f", {away} away" if away else ""),
            f"{_pages(free)} of {_pages(managed)} free",
        ]
        if self._text:
            parts.append(f"filter {self._text!r}: {shown} zones")
        if self._paused:
            parts.append("[reverse] paused [/reverse]")
        self.query_one("#head", Static).update("   ".join(parts))

    # keys

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._sort = (self._sort + 1) % len(_COLUMNS)
        # node and zone in ascending order, amounts in descending order
        self._reversed = self._sort > 1
        self._draw()

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._reversed = not self._reversed
        self._draw()

    def action_pause(self) -> None:
        """Stop to update the table, or go on."""
        self._paused = not self._paused
        self._draw()

    def action_events(self) -> None:
        """Show or hide the events."""
        self.query_one("#events").toggle_class("open")

    def action_help(self) -> None:
        """Show the help."""
        self.push_screen(_Help())

    def action_filter(self) -> None:
        """Open the filter."""
        box = self.query_one("#filter", Input)
        box.add_class("open")
        box.focus()

    def action_all(self) -> None:
        """Remove the filter."""
        self._text = ""
        box = self.query_one("#filter", Input)
        box.value = ""
        box.remove_class("open")
        self.query_one(DataTable).focus()
        self._draw()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Apply the filter while it is typed."""
        self._text = event.value.strip().lower()
        self._draw()

    def on_input_submitted(self) -> None:
        """Close the input, and go back to the filtered table."""
        self.query_one("#filter").remove_class("open")
        self.query_one(DataTable).focus()
