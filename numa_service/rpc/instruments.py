"""Metrics that are counted as things happen: gRPC calls, and what allocations cost.

The state of a node is read at scrape time instead (``metrics/collector.py``). A request only adds to plain
numbers; they become Prometheus metrics when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from prometheus_client import CollectorRegistry, Counter, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from numa_service.node.page_alloc import Allocation

#: In virtual seconds, from 50 ns (a pageset hit on a near node) to 1 s (a batch that reclaims to swap).
_VIRTUAL_BUCKETS = (5e-8, *(m * 10.0**e for e in range(-7, 0) for m in (1, 2, 5)), 1.0)
_HANDLING_BUCKETS = (
    2.5e-4,
    5e-4,
    1e-3,
    2.5e-3,
    5e-3,
    1e-2,
    2.5e-2,
    5e-2,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
#: Values that a tally collects before it sorts them into buckets. In batches that code stays in the CPU's
#: caches; run once between two calls it does not, and is slow.
UNCOUNTED = 256
_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class Tally:
    """The bucket counts and the sum of one histogram."""

    __slots__ = ("_bounds", "_counts", "_sum", "new")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the buckets' upper bounds, ascending; values above the last one count as +Inf."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        #: Values not yet in a bucket. Whoever appends one calls :meth:`count` when there are UNCOUNTED.
        self.new: list[float] = []

    def count(self) -> None:
        """Put the new values into their buckets."""
        for value in self.new:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value
        self.new.clear()

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add the histogram to a metric family."""
        self.count()
        buckets, total = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append((_bound_name(bound), float(total)))
        family.add_metric(labels, buckets, self._sum)


class Instruments(Collector):
    """Counters and histograms of one node's server, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry, nid: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double every series
        node = str(nid)
        self._node = node
        #: nid → pages that requests of this node got from that node.
        self.fallback_pages: dict[int, int] = {}
        self._alloc = {local: Tally(_VIRTUAL_BUCKETS) for local in (True, False)}
        expiries = Counter(
            "numa_lease_expiries", "Sessions that ended with their lease.", ["node"], registry=registry
        )
        self._expiries = expiries.labels(node)
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Metrics of allocations' modelled time, and of pages that other nodes gave."""
        family = HistogramMetricFamily(
            "numa_alloc_virtual_seconds",
            "Modelled time of a block: the mean of each AllocPages request. local: all its blocks are.",
            labels=["node", "source"],
        )
        for local, tally in self._alloc.items():
            tally.add_to(family, [self._node, "local" if local else "remote"])
        yield family
        pages = CounterMetricFamily(
            "numa_fallback_pages",
            "Pages that requests of this node got from another one.",
            labels=["node", "target_node"],
        )
        for nid, count in self.fallback_pages.items():
            pages.add_metric([self._node, str(nid)], count)
        yield pages

    def fallback(self, nid: int, pages: int) -> None:
        """Count pages that another node gave."""
        self.fallback_pages[nid] = self.fallback_pages.get(nid, 0) + pages

    def allocated(self, nid: int, allocation: Allocation) -> None:
        """Count an AllocPages request that node `nid` served."""
        if allocation.got:
            pages = allocation.pages
            local = pages[0][0] == nid and (len(pages) == 1 or all(n == nid for n, _ in pages))
            tally = self._alloc[local]
            tally.new.append(allocation.cost.latency_ns / 1e9 / allocation.got)
            if len(tally.new) >= UNCOUNTED:
                tally.count()

    def lease_expired(self) -> None:
        """Count a session that was closed because its lease ran out."""
        self._expiries.inc()


class CallTally:
    """The calls of one method."""

    __slots__ = ("handled", "labels", "seconds", "started")

    def __init__(self, labels: tuple[str, str, str]) -> None:
        self.labels = labels
        self.started = 0
        #: Name of a gRPC status code → calls that ended with it.
        self.handled: defaultdict[str, int] = defaultdict(int)
        self.seconds = Tally(_HANDLING_BUCKETS)


class CallMetrics(Collector):
    """The grpc_server_* metrics of go-grpc-prometheus, whose names dashboards know. A stream is one call.

    The message counts of unary calls are derived: one received for each call begun, one sent for each that
    ended with OK. Messages of streams are not counted.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double every series
        self._calls: list[CallTally] = []
        registry.register(self)

    def method(self, service: str, method: str, kind: str) -> CallTally:
        """A new tally for the calls of a method; `kind` is its grpc_type ("unary", "bidi_stream", …)."""
        tally = CallTally((service, method, kind))
        self._calls.append(tally)
        return tally

    def collect(self) -> Iterator[Metric]:
        """Metrics of every method that has been called."""
        labels = ["grpc_service", "grpc_method", "grpc_type"]
        started = CounterMetricFamily("grpc_server_started", "Calls begun.", labels=labels)
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls ended, by status.", labels=[*labels, "grpc_code"]
        )
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Real time of a call in the server.", labels=labels
        )
        received = CounterMetricFamily(
            "grpc_server_msg_received", "Messages received by unary calls.", labels=labels
        )
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages sent by unary calls.", labels=labels)
        for call in self._calls:
            if call.started:
                started.add_metric(call.labels, call.started)
                for code, count in call.handled.items():
                    handled.add_metric((*call.labels, code), count)
                call.seconds.add_to(seconds, call.labels)
                if call.labels[2] == "unary":
                    received.add_metric(call.labels, call.started)
                    sent.add_metric(call.labels, call.handled.get("OK", 0))
        yield from (started, handled, seconds, received, sent)


def _bound_name(bound: float) -> str:
    name: str = floatToGoString(bound)  # type: ignore[no-untyped-call]  # it has no types
    return name


def code_name(code: Any) -> str:
    """The name of a status code, which a call's context has as an enum member or as a number."""
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODE_NAMES.get(code, "UNKNOWN")
