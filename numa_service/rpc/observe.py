"""ObserveService: a node's counters as a stream of frames, and a reader of such a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc.aio
from numa_client._channel import async_channel
from numa_client._gen.numa.v1 import node_service_pb2
from numa_client._gen.numa.v1 import observe_service_pb2 as pb2
from numa_client._gen.numa.v1 import observe_service_pb2_grpc as pb2_grpc

from numa_service.mm.mmzone import LRU_UNEVICTABLE, WMARK_HIGH, WMARK_LOW, WMARK_MIN
from numa_service.mm.pgdat import MAX_RECLAIM_RETRIES, ZoneExtent
from numa_service.mm.pgdata import KSWAPD_FAILURES, SWAP_TOTAL
from numa_service.mm.vmstat import NR_ZONE_LRU_BASE, vm_event_names
from numa_service.node.errors import InvalidRequest, TooMany
from numa_service.node.node import Node

INTERVAL_MS_DEFAULT = 250
INTERVAL_MS_MIN = 50
INTERVAL_MS_MAX = 60_000
#: Streams that a node serves at a time. A console takes one, however many browsers it has.
MAX_OBSERVERS = 16

Context = grpc.aio.ServicerContext[Any, Any]


class ObserveServicer(pb2_grpc.ObserveServiceServicer):
    """Frames of one node, for a bounded number of readers."""

    def __init__(self, node: Node, fallback_pages: Mapping[int, int]) -> None:
        """`fallback_pages` maps a nid to the pages that requests of this node got from that node."""
        self._node = node
        self._fallback_pages = fallback_pages
        self._closing = asyncio.Event()
        #: Streams that are open.
        self.observers = 0

    def close(self) -> None:
        """End every stream, because the server stops."""
        self._closing.set()

    async def Observe(  # type: ignore[override]  # grpc.aio takes a coroutine that writes, too
        self, request: pb2.ObserveRequest, context: Context
    ) -> None:
        """Send a frame each interval. Frames that a slow reader has no room for are left out."""
        seconds = interval_seconds(request.interval_ms)
        if self.observers >= MAX_OBSERVERS:
            raise TooMany(f"{MAX_OBSERVERS} already observe node {self._node.nid}: close one first")
        self.observers += 1
        try:
            await self._send(context, seconds)
        finally:
            self.observers -= 1

    async def _send(self, context: Context, seconds: float) -> None:
        start, sequence = time.monotonic(), 1
        message = frame(self._node, self._fallback_pages, sequence)
        message.vm_event_names[:] = [name for name in vm_event_names(self._node.pgdat.zone_names) if name]
        while True:
            await context.write(message)
            behind = time.monotonic() - start
            sequence = max(sequence, int(behind / seconds)) + 1
            try:
                await asyncio.wait_for(
                    self._closing.wait(), max(0.0, start + (sequence - 1) * seconds - time.monotonic())
                )
                return
            except TimeoutError:
                message = frame(self._node, self._fallback_pages, sequence)


def interval_seconds(interval_ms: int) -> float:
    """Convert a request's interval to seconds; 0 is the default. InvalidRequest outside the limits."""
    interval_ms = interval_ms or INTERVAL_MS_DEFAULT
    if not INTERVAL_MS_MIN <= interval_ms <= INTERVAL_MS_MAX:
        raise InvalidRequest(
            "interval_ms", f"{interval_ms} is not in {INTERVAL_MS_MIN}…{INTERVAL_MS_MAX} (0 is 250)"
        )
    return interval_ms / 1000


def frame(node: Node, fallback_pages: Mapping[int, int], sequence: int) -> pb2.ObserveResponse:
    """A frame with the node's current counters. No list is walked, so its cost does not grow with memory."""
    pg, zone_names = node.pgdat.pg, node.pgdat.zone_names
    failures = int(pg.kswapd[KSWAPD_FAILURES])
    names = vm_event_names(zone_names)
    return pb2.ObserveResponse(
        node=node.nid,
        lineage=node.lineage,
        sequence=sequence,
        time_ns=time.monotonic_ns(),
        zones=[_zone(node, extent) for extent in node.pgdat.extents if extent.present],
        numa_stat=pg.numa_event.sum(axis=0).tolist(),
        vm_events=[count for name, count in zip(names, pg.vm_event.tolist(), strict=True) if name],
        kswapd=node_service_pb2.KswapdState(
            running=node.kswapd.running,
            wakeups=node.kswapd.wakeups,
            reclaimed_pages=node.kswapd.reclaimed,
            order=node.kswapd_order,
            failures=failures,
        ),
        kswapd_hopeless=failures >= MAX_RECLAIM_RETRIES,
        sessions=len(node.sessions),
        held_pages=node.held_pages(),
        swap_total_pages=int(pg.reclaim_stat[SWAP_TOTAL]),
        swap_used_pages=node.swap_used,
        fallback=[pb2.FallbackPages(node=nid, pages=n) for nid, n in sorted(fallback_pages.items())],
    )


def _zone(node: Node, extent: ZoneExtent) -> pb2.ObservedZone:
    pg, zone = node.pgdat.pg, extent.index
    marks = pg.watermark[zone].tolist()
    return pb2.ObservedZone(
        zone=extent.name,
        free_pages=node.pgdat.free_pages(zone),
        min_pages=marks[WMARK_MIN],
        low_pages=marks[WMARK_LOW],
        high_pages=marks[WMARK_HIGH],
        boost_pages=int(pg.watermark_boost[zone]),
        managed_pages=extent.managed,
        present_pages=extent.present,
        spanned_pages=extent.spanned,
        pageset_pages=int(pg.pcp_count[:, zone].sum()),
        free_blocks=pg.nr_free[zone].tolist(),
        lru_pages=pg.vm_stat[zone, NR_ZONE_LRU_BASE : NR_ZONE_LRU_BASE + LRU_UNEVICTABLE].tolist(),
    )


async def observe(address: str, interval_ms: int = 0) -> AsyncIterator[pb2.ObserveResponse]:
    """Frames of the node that serves at `address`. grpc.aio.AioRpcError when the node goes away."""
    async with async_channel(address) as channel:
        async for message in pb2_grpc.ObserveServiceStub(channel).Observe(
            pb2.ObserveRequest(interval_ms=interval_ms)
        ):
            yield message
