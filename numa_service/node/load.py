"""How busy memories and links are, in virtual time, and how long accesses wait for them (decision 0005).

Every CPU has a virtual clock, which each of its requests advances by the request's latency. A CPU in use is
taken to issue requests without pause; one that pauses says so with a Spend op. Traffic is summed over windows
of this time. The window of a node's CPUs gives the utilisation of the links that start at the node. The
traffic to each memory is reported to the memory's node, within the next question to that node; the reports
of all nodes together give the utilisation of the memory.

Nothing here depends on real time or randomness: the same ops lead to the same numbers. All numbers are
bounded, so that every cost fits the wire. A report is bounded by what its node's CPUs can move in that time,
a wait by the time it takes to serve one page to every CPU of the machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numa_service.machine.latency import Curve, queueing_ns
from numa_service.machine.spec import MachineSpec
from numa_service.mm.mmzone import PAGE_SIZE
from numa_service.node.errors import InvalidRequest

#: Weight of the last window in the smoothed utilisation. The last window alone would oscillate: where the
#: curve is steep, a little more load causes a wait so long that the next window has much less load.
STEP = 1 / 8
#: Every curve is flat up to this utilisation. Below it the weight of a window may grow with the window's
#: length.
QUIET = 0.1
#: The totals of a report restart from 0 before they exceed this, in ns and in bytes.
TOTAL_LIMIT = 1 << 62


def mb_per_s(nr_bytes: int, ns: int) -> float:
    """Return a rate in MB/s: 1 MB/s is one byte in 1000 ns."""
    return nr_bytes * 1000 / ns


class Report(NamedTuple):
    """The traffic of one node's CPUs to one memory since the node booted, summed over its closed windows.

    The numbers are totals and not differences, so that a report may be lost, or arrive twice.
    """

    #: The node of the CPUs.
    nid: int
    #: Virtual time of the windows.
    ns: int
    #: Bytes moved in that time.
    bytes: int


class Closed(NamedTuple):
    """A window that is over."""

    #: Its length in virtual ns.
    ns: int
    #: nid of the memory → bytes moved.
    bytes: dict[int, int]


@dataclass(slots=True)
class Window:
    """The traffic of a node's CPUs during some virtual time. They work in parallel, each by its own clock.

    The window is closed when a CPU whose clock has reached the end starts another request. By then the other
    CPUs have had their turn, even if a single request is longer than the window.
    """

    length_ns: int
    #: CPU → its clock, in ns from the start of the window.
    clocks: dict[int, int] = field(default_factory=dict)
    #: nid of the memory → bytes moved in this window.
    bytes: dict[int, int] = field(default_factory=dict)
    #: CPU → ns that it spent in earlier windows; and CPU → its clock when this window began.
    before: dict[int, int] = field(default_factory=dict)
    began: dict[int, int] = field(default_factory=dict)

    def add(self, cpu: int, ns: int, traffic: Iterable[tuple[int, int]]) -> Closed | None:
        """Add virtual time that a CPU has spent, and (nid, bytes) that it moved meanwhile.

        Returns the previous window if this closed it.
        """
        clock = self.clocks.get(cpu, 0)
        closed = None
        if clock >= self.length_ns:
            closed = self._close()
            clock = self.clocks[cpu]
        self.clocks[cpu] = clock + ns
        for to, nr_bytes in traffic:
            self.bytes[to] = self.bytes.get(to, 0) + nr_bytes
        return closed

    def _close(self) -> Closed:
        """Start the next window; return the one that is over.

        A CPU that lags keeps its lag, up to the length of a window. One that did nothing for longer is idle:
        it is dropped, and begins at 0 when it is used again.
        """
        over = Closed(max(self.clocks.values()), self.bytes)
        lag = -self.length_ns
        self._begin({cpu: max(clock - over.ns, lag) for cpu, clock in self.clocks.items() if clock > lag})
        return over

    def _begin(self, clocks: dict[int, int]) -> None:
        self.before, self.began = self.spent, clocks
        self.clocks, self.bytes = dict(clocks), {}

    def clear(self) -> None:
        """Start over: every CPU's clock at 0 and no bytes moved."""
        self._begin({})

    @property
    def spent(self) -> dict[int, int]:
        """CPU → virtual ns that it has spent in all windows, this one included."""
        now = {cpu: clock - self.began.get(cpu, 0) for cpu, clock in self.clocks.items()}
        return self.before | {cpu: self.before.get(cpu, 0) + ns for cpu, ns in now.items()}


@dataclass(slots=True)
class Queue:
    """The queue of accesses at one memory or link."""

    #: Bandwidth in MB/s; 0 = unlimited.
    mb_per_s: int
    curve: Curve
    #: Idle latency of the accesses that queue, ns.
    idle_ns: int
    #: The longest possible wait in ns: every CPU of the machine is in the queue.
    most_ns: float
    #: Traffic over bandwidth, smoothed over the last windows; above 1 if the demand exceeds the bandwidth.
    utilisation: float = 0.0
    #: What an access waits, in ns; and the same, rounded, as costs have it.
    waiting: float = 0.0
    wait_ns: int = 0

    def update(self, mb_per_s: float, ns: int, window_ns: int) -> None:
        """Take a window's traffic into account: `mb_per_s` over `ns`.

        The utilisation moves towards the window's by STEP. In a window with little traffic it moves by more
        the longer the window was. While the demand exceeds the bandwidth, the wait grows until the accesses
        are so slow that their traffic fits the bandwidth.
        """
        if not self.mb_per_s:
            return
        used = mb_per_s / self.mb_per_s
        step = STEP if used > QUIET else ns / (ns + window_ns / STEP - window_ns)
        self.utilisation += step * (used - self.utilisation)
        stretched = (self.idle_ns + self.waiting) * (1 + step * (used - 1)) - self.idle_ns
        self.waiting = min(max(queueing_ns(self.curve, self.utilisation), stretched), self.most_ns)
        self.wait_ns = round(self.waiting)


class Load:
    """The load of one node's memory, and of the links from its CPUs to other nodes' memories."""

    def __init__(self, spec: MachineSpec, nid: int) -> None:
        self.nid = nid
        self._spec = spec
        #: By nid, filled as needed: idle (read, write) latency from here in ns, and the link to the node.
        self._idle: dict[int, tuple[int, int]] = {}
        self._links: dict[int, Queue] = {}
        model = spec.latency
        self._nr_cpus = sum(len(node.cpus) for node in spec.nodes)
        self.memory = self._queue(
            model.memory_bandwidth(nid), model.curve(model.memory_curve_name(nid)), self.idle_ns(nid)
        )
        self._window_ns = model.window_ns
        self._cpus = Window(model.window_ns)
        #: By nid: the (ns, bytes) of its last report, and what its reports have added in this round.
        self._heard: dict[int, tuple[int, int]] = {}
        self._round: dict[int, tuple[int, int]] = {}
        #: nid → ns of the quickest access from that node's CPUs to this memory.
        self._page_ns: dict[int, int] = {}
        #: Totals of this node's closed windows: virtual ns, and bytes by nid of the memory.
        self._ns = 0
        self._bytes: dict[int, int] = {}

    def _queue(self, mb_per_s: int, curve: Curve, idle_ns: int) -> Queue:
        """Make an empty queue.

        Its longest wait is the time to move one page for every CPU, or the end of the curve if that is
        longer.
        """
        everybody = self._nr_cpus * PAGE_SIZE * 1000 / mb_per_s if mb_per_s else 0.0
        return Queue(mb_per_s, curve, idle_ns, max(everybody, curve[-1][1]))

    def idle_ns(self, to_nid: int, write: bool = False) -> int:
        """Return the latency in ns of an access from this node's CPUs to a memory that is otherwise idle."""
        known = self._idle.get(to_nid)
        if known is None:
            model, distance = self._spec.latency, self._spec.distance(self.nid, to_nid)
            known = self._idle[to_nid] = (
                model.read_latency_ns(self.nid, to_nid, distance),
                model.write_latency_ns(self.nid, to_nid, distance),
            )
        return known[write]

    def link(self, to_nid: int) -> Queue:
        """Return the link from here to another node."""
        link = self._links.get(to_nid)
        if link is None:
            model = self._spec.latency
            link = self._links[to_nid] = self._queue(
                model.link_bandwidth(self.nid, to_nid),
                model.curve(model.link_curve_name(self.nid, to_nid)),
                self.idle_ns(to_nid),
            )
        return link

    @property
    def links(self) -> dict[int, Queue]:
        """nid → link, for the links that have been used."""
        return self._links

    def spend(self, cpu: int, ns: int, traffic: Iterable[tuple[int, int]]) -> None:
        """Advance the clock of a CPU of this node, which has moved (nid of the memory, bytes) meanwhile."""
        over = self._cpus.add(cpu, ns, traffic)
        if over:
            self._ns += over.ns
            for to, nr_bytes in over.bytes.items():
                self._bytes[to] = self._bytes.get(to, 0) + nr_bytes
                if to != self.nid:
                    self.link(to)
            if self._ns > TOTAL_LIMIT or max(self._bytes.values(), default=0) > TOTAL_LIMIT:
                self._ns, self._bytes = over.ns, dict(over.bytes)  # other nodes take it for a restart
            for to, link in self._links.items():
                link.update(mb_per_s(over.bytes.get(to, 0), over.ns), over.ns, self._window_ns)
            self.hear(self.report(self.nid))

    def report(self, to_nid: int) -> Report:
        """Return the report of this node's traffic to the memory of node `to_nid`."""
        return Report(self.nid, self._ns, self._bytes.get(to_nid, 0))

    def check_report(self, report: Report) -> None:
        """Raise InvalidRequest for totals that are more than the node's CPUs can move in that time."""
        if report.nid == self.nid:
            raise InvalidRequest("report.node", f"{report.nid} is this node: reports are of others")
        for name, total in (("window_ns", report.ns), ("moved_bytes", report.bytes)):
            if not 0 <= total <= TOTAL_LIMIT:
                raise InvalidRequest(f"report.{name}", f"{total} is not in 0…{TOTAL_LIMIT}")
        most = self.most_bytes(report.nid, report.ns)
        if report.bytes > most:
            raise InvalidRequest("report.moved_bytes", f"{report.bytes} in {report.ns} ns: {most} at most")

    def most_bytes(self, nid: int, ns: int) -> int:
        """Return the most bytes that a node's CPUs can move to or from this memory in `ns` of closed windows.

        An access to a page moves the page at most twice, to read it and to zero it, and takes at least the
        idle latency. A CPU may begin a window with a lag of one window, and so have twice the time in it.
        """
        page_ns = self._page_ns.get(nid)
        if page_ns is None:
            model, distance = self._spec.latency, self._spec.distance(nid, self.nid)
            read = model.read_latency_ns(nid, self.nid, distance)
            page_ns = self._page_ns[nid] = min(read, model.write_latency_ns(nid, self.nid, distance))
        cpus = len(self._spec.node(nid).cpus)
        return 4 * cpus * PAGE_SIZE * ns // page_ns if page_ns else TOTAL_LIMIT

    def hear(self, report: Report) -> None:
        """Take a node's report of its traffic to this node's memory into account.

        Reports are collected in rounds. A round is over when a node that has reported at least one window in
        it reports again. The traffic of a round is the sum of the nodes' rates, each over the time that the
        node's own reports cover, however far apart they were.
        """
        ns, nr_bytes = self._heard.get(report.nid, (0, 0))
        if report.ns < ns or report.bytes < nr_bytes:
            ns = nr_bytes = 0  # it has been restarted
        if report.ns == ns:
            return
        during, moved = report.ns - ns, report.bytes - nr_bytes
        self._heard[report.nid] = report.ns, report.bytes
        if self._round.get(report.nid, (0, 0))[0] >= self._window_ns:
            rates = [
                mb_per_s(min(moved, self.most_bytes(nid, ns)), ns) for nid, (ns, moved) in self._round.items()
            ]
            longest = max(ns for ns, _ in self._round.values())
            self.memory.update(sum(rates), longest, self._window_ns)
            self._round = {}
        before_ns, before_bytes = self._round.get(report.nid, (0, 0))
        self._round[report.nid] = before_ns + during, before_bytes + moved

    def rest(self) -> None:
        """Forget all load, as after a long time without any traffic from this node or to its memory."""
        for queue in (self.memory, *self._links.values()):
            queue.utilisation = queue.waiting = 0.0
            queue.wait_ns = 0
        self._cpus.clear()
        self._round = {}

    @property
    def state(self) -> tuple[object, ...]:
        """What later waits depend on, for the node's digest."""
        return (
            self._ns,
            sorted(self._bytes.items()),
            sorted(self._heard.items()),
            sorted(self._round.items()),
            (sorted(self._cpus.clocks.items()), sorted(self._cpus.bytes.items())),
            (self.memory.utilisation, self.memory.waiting),
            # a link without traffic has no state yet, even if its latency was asked for
            [
                (to, q.utilisation, q.waiting)
                for to, q in sorted(self._links.items())
                if q.waiting or q.utilisation
            ],
        )

    def dump(self) -> list[Any]:
        """Return everything that later waits depend on as plain data, which :meth:`load` reads."""
        cpus = self._cpus
        window = [list(part.items()) for part in (cpus.clocks, cpus.bytes, cpus.began, cpus.before)]
        queues = [(q.utilisation, q.waiting, q.wait_ns) for q in (self.memory, *self._links.values())]
        totals = [list(part.items()) for part in (self._bytes, self._heard, self._round)]
        return [self._ns, totals, window, list(self._links), queues]

    def load(self, dumped: list[Any]) -> None:
        """Replace the state by what :meth:`dump` returned."""
        self._ns, totals, window, links, queues = dumped
        self._bytes, heard, rounds = (dict(part) for part in totals)
        self._heard = {nid: (ns, nr_bytes) for nid, (ns, nr_bytes) in heard.items()}
        self._round = {nid: (ns, nr_bytes) for nid, (ns, nr_bytes) in rounds.items()}
        cpus = self._cpus
        cpus.clocks, cpus.bytes, cpus.began, cpus.before = (dict(part) for part in window)
        for queue, numbers in zip((self.memory, *map(self.link, links)), queues, strict=True):
            queue.utilisation, queue.waiting, queue.wait_ns = numbers

    @property
    def cpu_ns(self) -> dict[int, int]:
        """CPU of this node → virtual ns that it has worked since the node booted."""
        return self._cpus.spent

    @property
    def traffic(self) -> dict[int, int]:
        """nid of the memory → bytes that CPUs of this node have moved since the node booted."""
        since = self._cpus.bytes
        return {to: self._bytes.get(to, 0) + since.get(to, 0) for to in sorted(self._bytes.keys() | since)}


def bytes_of(pages: int) -> int:
    """Return the bytes that accesses to so many pages move.

    A page is moved whole; its first cache line has the latency, the others are prefetched.
    """
    return pages * PAGE_SIZE
