"""``trace``: prints tracepoint events of a machine that is up, or of one booted and filled here."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import grpc.aio
import typer
from numa_client import AsyncMachine, NumaError
from numa_client._channel import async_channel
from numa_client._gen.numa.v1 import trace_service_pb2, trace_service_pb2_grpc

from numa_service.cli.fill import Fill, fill
from numa_service.cluster import lifecycle
from numa_service.cluster.errors import ClusterError
from numa_service.machine.source import load
from numa_service.machine.spec import MachineSpec
from numa_service.mm.mmzone import NR_ORDERS
from numa_service.node.errors import NodeError
from numa_service.node.node import Node
from numa_service.node.region import close_session
from numa_service.node.trace_ring import EventFilter, Listener
from numa_service.rpc.tracepoints import events_of
from numa_service.sim.simulation import Simulation
from numa_service.trace.tracepoint_formats import (
    ChromeTrace,
    EmittedEvents,
    Event,
    Printer,
    lost_line,
    matching,
    trace_header,
)

INTERRUPTED = 130
#: Most events of a machine in this process that are kept by default; they take some 150 MB.
KEPT_EVENTS = 1_000_000
#: Events in a node's ring buffer of a machine in this process. No op but a session's end writes more at once.
_RING_EVENTS = 1 << 18


class Format(StrEnum):
    """Output formats."""

    text = "text"
    perf = "perf"
    chrome = "chrome"
    json = "json"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("trace")(trace)


@dataclass
class _Sink:
    """Writes events to a file in one format, up to a number of them."""

    out: TextIO
    format: Format
    printer: Printer
    nr_cpus: int
    most: int | None
    written: int = 0
    dropped: dict[int, int] = field(default_factory=dict)
    _chrome: ChromeTrace = field(default_factory=ChromeTrace)

    def begin(self) -> None:
        """Write what comes before the first event."""
        if self.format is Format.text:
            self.out.write(trace_header(self.nr_cpus))
        elif self.format is Format.chrome:
            self.out.write(self._chrome.BEGIN)
        self.out.flush()

    def write(self, events: Iterable[Event]) -> bool:
        """Write events; returns whether more are wanted."""
        line = self._line
        for event in events:
            if self.full:
                return False
            self.out.write(line(event))
            self.written += 1
        return not self.full

    def lost(self, nid: int, dropped: int) -> None:
        """Note that node `nid` has dropped so many events so far."""
        new = dropped - self.dropped.get(nid, 0)
        self.dropped[nid] = dropped
        if new and self.format is Format.text:
            self.out.write(lost_line(0, new) + "\n")

    def end(self) -> None:
        """Write what comes after the last event; the numbers of events and of dropped ones go to stderr."""
        if self.format is Format.chrome:
            self.out.write(self._chrome.END)
        self.out.flush()
        typer.echo(f"{self.written:,} events", err=True)
        for nid, dropped in sorted(self.dropped.items()):
            if dropped:
                typer.echo(f"node {nid}: {dropped:,} events were dropped: they came too fast", err=True)

    @property
    def full(self) -> bool:
        """Whether as many events as were asked for are written."""
        return self.most is not None and self.written >= self.most

    @property
    def _line(self) -> Callable[[Event], str]:
        printers = {
            Format.text: lambda event: f"{self.printer.trace_line(event)}\n",
            Format.perf: lambda event: f"{self.printer.perf_line(event)}\n",
            Format.json: lambda event: f"{self.printer.json_line(event)}\n",
            Format.chrome: self._chrome.piece,
        }
        return printers[self.format]


def trace(
    source: Annotated[
        str | None, typer.Argument(help="A preset, a machine file, or what `import` reads: booted here.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Use a machine that is up, instead of SOURCE.")] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Only events of this name, such as 'mm_page_*' or 'vmscan:*'. May be repeated.",
        ),
    ] = None,
    node: Annotated[list[int] | None, typer.Option(help="Only events of this node. May be repeated.")] = None,
    zone: Annotated[
        list[str] | None, typer.Option(help="Only events of this zone, such as Normal. May be repeated.")
    ] = None,
    order: Annotated[
        list[int] | None,
        typer.Option(min=0, max=NR_ORDERS - 1, help="Only events of this order. May be repeated."),
    ] = None,
    fills: Annotated[
        list[str] | None,
        typer.Option(
            "--fill",
            metavar="NODE=PAGES|N%[:KIND]",
            help="What to trace: pages of a node are taken, held (default), anon or file. May be repeated; "
            "order counts. At the end all of it is freed. Only with SOURCE.",
        ),
    ] = None,
    format: Annotated[
        Format,
        typer.Option(
            help="The format of trace_pipe, of perf script, of Perfetto, or one JSON object a line."
        ),
    ] = Format.text,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of stdout."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help=f"Stop after so many events. SOURCE: {KEPT_EVENTS:,}.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after this many seconds. Only with --name.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="NUMA_SERVICE_ADDRESS",
            help="With --name: address of the Ray head node.",
        ),
    ] = None,
) -> None:
    """Print tracepoints as they happen: every page allocated, freed, drained, scanned and moved.

    With the kernel's names and fields; `numa-service replay` reads the text back. A machine that is up is
    traced until Ctrl-C, which ends the output in good order and exits 130.
    """
    if (source is None) == (name is None):
        raise typer.BadParameter("say SOURCE, or --name of a machine that is up")
    if name is not None and fills:
        raise typer.BadParameter("--fill changes a machine: only with SOURCE")
    if source is not None and seconds is not None:
        raise typer.BadParameter("--seconds is of a machine that is up: only with --name")
    try:
        matching(event or [])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--event") from None
    what = _What(event or [], node or [], zone or [], order or [])
    form = Format.json if as_json else format
    try:
        with _opened(output) as out:
            if source is not None:
                interrupted = _trace_here(load(source), fills or [], what, out, form, count or KEPT_EVENTS)
            else:
                assert name is not None
                [running] = lifecycle.status(name, address)
                interrupted = asyncio.run(_trace_there(running.address, what, out, form, count, seconds))
    except (NumaError, NodeError, ClusterError) as error:
        typer.echo(f"numa-service: {error}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        if isinstance(error, BrokenPipeError) or output is None:
            raise
        typer.echo(f"numa-service: {output}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    if interrupted:
        raise typer.Exit(INTERRUPTED)


@dataclass(frozen=True, slots=True)
class _What:
    """The filters as they were given; an empty one lets all events through."""

    events: list[str]
    nodes: list[int]
    zones: list[str]
    orders: list[int]

    def nids(self, known: Iterable[int]) -> list[int]:
        """The nodes to listen to, of those that are `known`. BadParameter for one that is not."""
        there = list(known)
        for nid in self.nodes:
            if nid not in there:
                raise typer.BadParameter(f"there is no node {nid}", param_hint="--node")
        return [nid for nid in there if not self.nodes or nid in self.nodes]


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
    else:
        with path.open("w") as file:
            yield file


# a machine in this process


class _Collector:
    """Reads the nodes' ring buffers between ops, before they overflow, and keeps up to `most` events."""

    def __init__(self, listeners: dict[int, Listener], most: int) -> None:
        self._listeners = listeners
        self._left = most
        self.parts: dict[int, list[EmittedEvents]] = {nid: [] for nid in listeners}

    def after_op(self, node: Node, op: Any, result: Any) -> None:
        """Observer of the nodes: empty a ring buffer that is a quarter full."""
        listener = self._listeners.get(node.nid)
        if listener and listener.waiting > _RING_EVENTS // 4:
            self.take(node.nid)

    def take(self, nid: int) -> None:
        """Take all events that node `nid` has."""
        listener = self._listeners[nid]
        while listener.waiting:
            events = listener.take()
            if len(events) and self._left > 0:
                self._left -= len(events)
                self.parts[nid].append(events)


def _trace_here(
    spec: MachineSpec, fills: list[str], what: _What, out: TextIO, form: Format, count: int
) -> bool:
    """Boot a machine, fill it, free everything, and print the events; returns whether it was interrupted."""
    wanted = [Fill.parse(text, spec) for text in fills]
    sim = Simulation(spec)
    names = next(iter(sim.nodes.values())).pgdat.zone_names
    for zone in what.zones:
        if zone not in names:
            raise typer.BadParameter(f"there is no zone {zone!r}: {', '.join(names)}", param_hint="--zone")
    which = EventFilter(
        matching(what.events) if what.events else None,
        tuple(names.index(zone) for zone in what.zones) or None,
        tuple(what.orders) or None,
    )
    listeners = {nid: sim.nodes[nid].tracepoints.listen(which, _RING_EVENTS) for nid in what.nids(sim.nodes)}
    collector = _Collector(listeners, count)
    for node in sim.nodes.values():
        node.observer = collector.after_op
    interrupted = False
    try:
        for one in wanted:
            fill(sim, one)
        for nid, node in sim.nodes.items():
            for session in list(node.sessions):
                sim.call(nid, close_session(node, session))
        sim.run()
    except KeyboardInterrupt:
        interrupted = True
    for nid in listeners:
        collector.take(nid)
    sink = _Sink(out, form, Printer(spec.profile), len(spec.cpus), count)
    sink.begin()
    streams = [(event for part in parts for event in part) for parts in collector.parts.values()]
    sink.write(heapq.merge(*streams, key=lambda event: event.time_ns))
    for nid, listener in listeners.items():
        sink.dropped[nid] = listener.dropped
    sink.end()
    return interrupted


# a machine that is up


async def _trace_there(
    address: str, what: _What, out: TextIO, form: Format, count: int | None, seconds: float | None
) -> bool:
    """Print events as the nodes send them, until `count` or `seconds`; returns whether it was interrupted."""
    async with await AsyncMachine.connect(address) as machine:
        info = machine.info
        nids = what.nids([node.node for node in info.nodes])
        addresses = {node.node: node.address for node in info.nodes}
        cpus = sum(len(node.cpus) for node in info.nodes)
    sink = _Sink(out, form, Printer(info.profile), cpus, count)
    interrupt = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt.set)
    request = trace_service_pb2.StreamEventsRequest(
        events=what.events, zones=what.zones, orders=what.orders, max_events=count or 0
    )
    begun = asyncio.Event()
    streams = [_Stream(nid, addresses[nid], sink, begun) for nid in nids]
    tasks = [asyncio.create_task(stream.run(request)) for stream in streams]
    waiting: list[asyncio.Task[Any]] = [*tasks, asyncio.create_task(interrupt.wait())]
    try:
        records = asyncio.create_task(_all_record(streams))
        await asyncio.wait([records, *waiting], return_when=asyncio.FIRST_COMPLETED)
        records.cancel()
        sink.begin()
        begun.set()
        # the first stream that has enough events, or fails, ends all of them
        done, _ = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if begun.is_set():
            sink.end()
    return interrupt.is_set()


async def _all_record(streams: list[_Stream]) -> None:
    for stream in streams:
        await stream.records.wait()


class _Stream:
    """Prints the events of one node as they come."""

    def __init__(self, nid: int, address: str, sink: _Sink, begun: asyncio.Event) -> None:
        """Nothing is printed before `begun`."""
        self.records = asyncio.Event()
        self._nid, self._address = nid, address
        self._sink = sink
        self._begun = begun

    async def run(self, request: trace_service_pb2.StreamEventsRequest) -> None:
        """Print events until there are enough. ClusterError when the node goes away."""
        try:
            async with async_channel(self._address) as channel:
                stub: Any = trace_service_pb2_grpc.TraceServiceStub(channel)
                async for message in stub.StreamEvents(request):
                    self.records.set()
                    await self._begun.wait()
                    self._sink.lost(self._nid, message.dropped_events)
                    if not self._sink.write(events_of(self._nid, message)):
                        return
                    self._sink.out.flush()
        except grpc.aio.AioRpcError as error:
            raise ClusterError(f"node {self._nid} at {self._address}: {error.details()}") from None
