"""How busy memories and links are, in virtual time: what makes a loaded machine slower (decision 0005).

Every CPU has a clock of its own, which its requests advance by their latency: a CPU that is used is used
without a pause, unless it says so. Traffic is summed up over windows of that time. A window over the CPUs of
a node tells how busy the links from here are. What it has for each memory is reported to that memory's node,
with the next question that goes there anyway; all reports together tell how busy the memory is.

Nothing here is measured, drawn or waited for: the same ops lead to the same numbers. All of them are bounded,
so that every cost fits the wire: a report by what the CPUs of its node can move in its time, a wait by every
CPU of the machine standing in the queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numa_service.machine.latency import Curve, queueing_ns
from numa_service.machine.spec import MachineSpec
from numa_service.mm.mmzone import PAGE_SIZE
from numa_service.node.errors import InvalidRequest

#: Weight of the last window in the utilisation. Alone it would never come to rest: where the curve is steep,
#: a little more load is answered by a wait that leaves much less, and the other way round.
STEP = 1 / 8
#: A utilisation up to which every curve is flat. There a step may be as large as the time is long.
QUIET = 0.1
#: Totals of a report begin anew before they exceed this, in ns and in bytes.
TOTAL_LIMIT = 1 << 62


def mb_per_s(nr_bytes: int, ns: int) -> float:
    """1 MB/s is one byte in 1000 ns."""
    return nr_bytes * 1000 / ns


class Report(NamedTuple):
    """What the CPUs of a node did to one memory since it booted: totals of its closed windows.

    Totals, not differences: a report that is lost, or comes twice, does no harm.
    """

    nid: int
    #: Virtual time.
    ns: int
    bytes: int


class Closed(NamedTuple):
    """A window that is over."""

    ns: int
    bytes: dict[int, int]


@dataclass(slots=True)
class Window:
    """Traffic of CPUs that work at the same time, each on its own clock.

    It is over when a CPU that has come to its end begins something more: then the others have had their turn,
    even if a single request is longer than the window.
    """

    length_ns: int
    #: Where each CPU stands, in ns from the start of the window.
    clocks: dict[int, int] = field(default_factory=dict)
    #: By destination.
    bytes: dict[int, int] = field(default_factory=dict)
    #: Ns that each CPU spent in the windows before, and where it stood when this one began.
    before: dict[int, int] = field(default_factory=dict)
    began: dict[int, int] = field(default_factory=dict)

    def add(self, cpu: int, ns: int, traffic: Iterable[tuple[int, int]]) -> Closed | None:
        """A CPU has spent time, and moved (destination, bytes); the window that this put an end to."""
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
        """Start the next one. Who lags has up to a window to catch up; who does not even begin, is idle."""
        over = Closed(max(self.clocks.values()), self.bytes)
        lag = -self.length_ns
        self._begin({cpu: max(clock - over.ns, lag) for cpu, clock in self.clocks.items() if clock > lag})
        return over

    def _begin(self, clocks: dict[int, int]) -> None:
        self.before, self.began = self.spent, clocks
        self.clocks, self.bytes = dict(clocks), {}

    def clear(self) -> None:
        """Start anew: every CPU at 0, and nothing moved."""
        self._begin({})

    @property
    def spent(self) -> dict[int, int]:
        """Ns that each CPU has spent in all windows, this one included."""
        now = {cpu: clock - self.began.get(cpu, 0) for cpu, clock in self.clocks.items()}
        return self.before | {cpu: self.before.get(cpu, 0) + ns for cpu, ns in now.items()}


@dataclass(slots=True)
class Queue:
    """What waits at one memory or link."""

    #: MB/s; 0 is without limit.
    mb_per_s: int
    curve: Curve
    #: Idle latency of the accesses that queue, ns.
    idle_ns: int
    #: The longest wait: everybody is in the queue.
    most_ns: float
    #: Of the last windows, smoothed.
    utilisation: float = 0.0
    waiting: float = 0.0
    #: What an access waits now.
    wait_ns: int = 0

    def update(self, mb_per_s: float, ns: int, window_ns: int) -> None:
        """Traffic of the last `ns`: a step towards its utilisation; when it is quiet, by how long that was.

        A demand above the bandwidth stretches every access, until the accesses are so slow that it fits.
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
    """The load of a node: its memory, and the links from its CPUs to other memories."""

    def __init__(self, spec: MachineSpec, nid: int) -> None:
        self.nid = nid
        self._spec = spec
        #: Idle read and write latency from here, and links, of the nodes that were ever needed.
        self._idle: dict[int, tuple[int, int]] = {}
        self._links: dict[int, Queue] = {}
        model = spec.latency
        self._nr_cpus = sum(len(node.cpus) for node in spec.nodes)
        self.memory = self._queue(
            model.memory_bandwidth(nid), model.curve(model.memory_curve_name(nid)), self.idle_ns(nid)
        )
        self._window_ns = model.window_ns
        self._cpus = Window(model.window_ns)
        #: Totals last heard, by node, and what each has added in this round: ns and bytes.
        self._heard: dict[int, tuple[int, int]] = {}
        self._round: dict[int, tuple[int, int]] = {}
        #: ns of the quickest access from each node's CPUs to this memory.
        self._page_ns: dict[int, int] = {}
        #: Totals of the closed windows of this node's CPUs.
        self._ns = 0
        self._bytes: dict[int, int] = {}

    def _queue(self, mb_per_s: int, curve: Curve, idle_ns: int) -> Queue:
        """An empty one. Its longest wait is a page of every CPU, or the curve's end if that is more."""
        everybody = self._nr_cpus * PAGE_SIZE * 1000 / mb_per_s if mb_per_s else 0.0
        return Queue(mb_per_s, curve, idle_ns, max(everybody, curve[-1][1]))

    def idle_ns(self, to_nid: int, write: bool = False) -> int:
        """Latency of an access from here to a memory when nobody else is there."""
        known = self._idle.get(to_nid)
        if known is None:
            model, distance = self._spec.latency, self._spec.distance(self.nid, to_nid)
            known = self._idle[to_nid] = (
                model.read_latency_ns(self.nid, to_nid, distance),
                model.write_latency_ns(self.nid, to_nid, distance),
            )
        return known[write]

    def link(self, to_nid: int) -> Queue:
        """The link from here to another node."""
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
        """The links that have been used, by nid."""
        return self._links

    def spend(self, cpu: int, ns: int, traffic: Iterable[tuple[int, int]]) -> None:
        """A CPU of this node has spent virtual time, and moved (nid, bytes)."""
        over = self._cpus.add(cpu, ns, traffic)
        if over:
            self._ns += over.ns
            for to, nr_bytes in over.bytes.items():
                self._bytes[to] = self._bytes.get(to, 0) + nr_bytes
                if to != self.nid:
                    self.link(to)
            if self._ns > TOTAL_LIMIT or max(self._bytes.values(), default=0) > TOTAL_LIMIT:
                self._ns, self._bytes = over.ns, dict(over.bytes)  # as after a restart
            for to, link in self._links.items():
                link.update(mb_per_s(over.bytes.get(to, 0), over.ns), over.ns, self._window_ns)
            self.hear(self.report(self.nid))

    def report(self, to_nid: int) -> Report:
        """What a memory's node should know of this node's traffic to it."""
        return Report(self.nid, self._ns, self._bytes.get(to_nid, 0))

    def check_report(self, report: Report) -> None:
        """InvalidRequest for totals that no node can have: its CPUs cannot move so much in its time."""
        if report.nid == self.nid:
            raise InvalidRequest("report.node", f"{report.nid} is this node: reports are of others")
        for name, total in (("window_ns", report.ns), ("moved_bytes", report.bytes)):
            if not 0 <= total <= TOTAL_LIMIT:
                raise InvalidRequest(f"report.{name}", f"{total} is not in 0…{TOTAL_LIMIT}")
        most = self.most_bytes(report.nid, report.ns)
        if report.bytes > most:
            raise InvalidRequest("report.moved_bytes", f"{report.bytes} in {report.ns} ns: {most} at most")

    def most_bytes(self, nid: int, ns: int) -> int:
        """What the CPUs of a node can move to or from this memory in closed windows of `ns` together.

        A page that is accessed moves at most twice, to be read and to be cleared, and takes the idle latency
        at least once. A CPU begins a window at most a window's length behind, so it has twice the time.
        """
        page_ns = self._page_ns.get(nid)
        if page_ns is None:
            model, distance = self._spec.latency, self._spec.distance(nid, self.nid)
            read = model.read_latency_ns(nid, self.nid, distance)
            page_ns = self._page_ns[nid] = min(read, model.write_latency_ns(nid, self.nid, distance))
        cpus = len(self._spec.node(nid).cpus)
        return 4 * cpus * PAGE_SIZE * ns // page_ns if page_ns else TOTAL_LIMIT

    def hear(self, report: Report) -> None:
        """Traffic that a node caused to this node's memory, as it says.

        A round is over when a node that had its turn reports again. Its traffic is the sum of the rates of
        all who reported: each rate is over that node's own time, whether it was silent for long or not.
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
        """Nothing happens here, nor to this memory, for so long that all load is gone."""
        for queue in (self.memory, *self._links.values()):
            queue.utilisation = queue.waiting = 0.0
            queue.wait_ns = 0
        self._cpus.clear()
        self._round = {}

    @property
    def state(self) -> tuple[object, ...]:
        """What decides later waits; the same after the same ops."""
        return (
            self._ns,
            sorted(self._bytes.items()),
            sorted(self._heard.items()),
            sorted(self._round.items()),
            (sorted(self._cpus.clocks.items()), sorted(self._cpus.bytes.items())),
            (self.memory.utilisation, self.memory.waiting),
            # one that was only looked at has no state yet
            [
                (to, q.utilisation, q.waiting)
                for to, q in sorted(self._links.items())
                if q.waiting or q.utilisation
            ],
        )

    def dump(self) -> list[Any]:
        """All that decides later waits, as plain data; see :meth:`load`."""
        cpus = self._cpus
        window = [list(part.items()) for part in (cpus.clocks, cpus.bytes, cpus.began, cpus.before)]
        queues = [(q.utilisation, q.waiting, q.wait_ns) for q in (self.memory, *self._links.values())]
        totals = [list(part.items()) for part in (self._bytes, self._heard, self._round)]
        return [self._ns, totals, window, list(self._links), queues]

    def load(self, dumped: list[Any]) -> None:
        """Take over what :meth:`dump` gave."""
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
        """Virtual ns that CPUs of this node have worked since it booted."""
        return self._cpus.spent

    @property
    def traffic(self) -> dict[int, int]:
        """Bytes moved by CPUs of this node since it booted, by the node of the memory."""
        since = self._cpus.bytes
        return {to: self._bytes.get(to, 0) + since.get(to, 0) for to in sorted(self._bytes.keys() | since)}


def bytes_of(pages: int) -> int:
    """What access to so many pages moves: all of each. The first line's latency hides the rest (prefetch)."""
    return pages * PAGE_SIZE
