"""What is counted as it happens: calls, and what allocations cost. State is read at scrape time instead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from numa_service.node.page_alloc import Allocation
from numa_service.rpc.status import Behavior, wrap_handler

#: Virtual seconds: 50 ns (a pageset hit on a near node) to 1 s (a batch that reclaims to swap).
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
_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class Instruments:
    """Counters and histograms of one node's server, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry, nid: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double every series
        node = str(nid)
        self._node = node
        self._fallback = Counter(
            "numa_fallback_pages",
            "Pages that requests of this node got from another one.",
            ["node", "target_node"],
            registry=registry,
        )
        self._fallback_of: dict[int, Counter] = {}
        #: The same counts, for who observes the node.
        self.fallback_pages: dict[int, int] = {}
        alloc = Histogram(
            "numa_alloc_virtual_seconds",
            "Modelled time of a block: the mean of each AllocPages request. local: all its blocks are.",
            ["node", "source"],
            buckets=_VIRTUAL_BUCKETS,
            registry=registry,
        )
        self._alloc = {local: alloc.labels(node, "local" if local else "remote") for local in (True, False)}
        expiries = Counter(
            "numa_lease_expiries", "Sessions that ended with their lease.", ["node"], registry=registry
        )
        self._expiries = expiries.labels(node)

    def fallback(self, nid: int, pages: int) -> None:
        """Another node gave pages."""
        counter = self._fallback_of.get(nid)
        if counter is None:
            counter = self._fallback_of[nid] = self._fallback.labels(self._node, str(nid))
        counter.inc(pages)
        self.fallback_pages[nid] = self.fallback_pages.get(nid, 0) + pages

    def allocated(self, nid: int, allocation: Allocation) -> None:
        """An AllocPages request was served by node `nid`."""
        if allocation.got:
            local = all(from_nid == nid for from_nid, _ in allocation.pages)
            self._alloc[local].observe(allocation.cost.latency_ns / 1e9 / allocation.got)

    def lease_expired(self) -> None:
        """A session ended with its lease."""
        self._expiries.inc()


class CallMetrics(grpc.aio.ServerInterceptor):
    """grpc_server_*: the names of go-grpc-prometheus, which dashboards know. A stream is one call."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["grpc_service", "grpc_method", "grpc_type"]
        self._started = Counter("grpc_server_started", "Calls begun.", labels, registry=registry)
        self._handled = Counter(
            "grpc_server_handled", "Calls ended, by status.", [*labels, "grpc_code"], registry=registry
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "Real time of a call in the server.",
            labels,
            buckets=_HANDLING_BUCKETS,
            registry=registry,
        )
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap each method's handler, once."""
        path = handler_call_details.method
        wrapped = self._handlers.get(path)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = wrap_handler(handler, lambda behavior, kind: self._wrap(path, behavior, kind))
            self._handlers[path] = wrapped
        return wrapped

    def _wrap(self, path: str, behavior: Behavior, kind: str) -> Behavior:
        _, service, method = path.split("/")
        labels = (service, method, kind)
        started, seconds = self._started.labels(*labels), self._seconds.labels(*labels)
        handled: dict[str, Counter] = {}

        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started.inc()
            begin = time.perf_counter()
            code = "OK"
            try:
                return await behavior(request, context)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except BaseException:
                code = _code_name(context.code())
                raise
            finally:
                seconds.observe(time.perf_counter() - begin)
                if code not in handled:
                    handled[code] = self._handled.labels(*labels, code)
                handled[code].inc()

        return serve


def _code_name(code: Any) -> str:
    """A status as the context has it: an enum member or a bare number."""
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODE_NAMES.get(code, "UNKNOWN")
