"""TraceService: a node's tracepoint events as a stream, and the mapping of events to and from protobuf."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc.aio
import numpy as np
from numa_client._gen.numa.v1 import trace_service_pb2 as pb2
from numa_client._gen.numa.v1 import trace_service_pb2_grpc as pb2_grpc

from numa_service.mm.mmzone import NR_ORDERS
from numa_service.node.errors import InvalidRequest, TooMany
from numa_service.node.node import Node
from numa_service.node.trace_ring import EventFilter
from numa_service.trace.tracepoint_formats import NR_FIELDS, EmittedEvents, matching

#: Streams of events that a node serves at a time.
MAX_LISTENERS = 8
#: Most globs in a request, and the longest glob.
MAX_GLOBS = 32
MAX_GLOB_CHARACTERS = 128
#: Seconds between two looks at a ring buffer that had no new events.
POLL_SECONDS = 0.02
#: After each look with events a stream pauses for this many times as long as it worked, so that three
#: quarters of the time are left for the node's requests.
REST = 3

Context = grpc.aio.ServicerContext[Any, Any]


class TraceServicer(pb2_grpc.TraceServiceServicer):
    """Streams tracepoint events to clients. The node records events while at least one stream is open."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def StreamEvents(  # type: ignore[override]  # grpc.aio takes a coroutine that writes, too
        self, request: pb2.StreamEventsRequest, context: Context
    ) -> None:
        """Send events until the client leaves, or `max_events` are sent.

        A client that reads too slowly misses events; `dropped_events` counts them.
        """
        wanted = event_filter(self._node, request)
        if self._node.tracepoints.listeners >= MAX_LISTENERS:
            raise TooMany(f"node {self._node.nid} has {MAX_LISTENERS} listeners already")
        listener = self._node.tracepoints.listen(wanted)
        left = request.max_events or None
        told = 0
        try:
            await context.write(pb2.StreamEventsResponse())
            while left is None or left > 0:
                began = time.monotonic()
                looked = listener.waiting
                events = listener.take()
                message = response(events, listener.dropped, left) if len(events) else None
                worked = time.monotonic() - began
                if message is None and listener.dropped != told:
                    message = pb2.StreamEventsResponse(dropped_events=listener.dropped)
                if message is not None:
                    told = listener.dropped
                    left = left - len(message.kinds) if left is not None else None
                    await context.write(message)
                await asyncio.sleep(REST * worked if looked else POLL_SECONDS)
        finally:
            listener.close()


def event_filter(node: Node, request: pb2.StreamEventsRequest) -> EventFilter:
    """Convert the filter of a request. InvalidRequest for unknown events, zones or orders."""
    if len(request.events) > MAX_GLOBS or any(len(glob) > MAX_GLOB_CHARACTERS for glob in request.events):
        raise InvalidRequest("events", f"at most {MAX_GLOBS} globs of {MAX_GLOB_CHARACTERS} characters")
    names = node.pgdat.zone_names
    for zone in request.zones:
        if zone not in names:
            raise InvalidRequest("zones", f"there is no zone {zone!r}: {', '.join(names)}")
    for order in request.orders:
        if order >= NR_ORDERS:
            raise InvalidRequest("orders", f"{order} is not in 0…{NR_ORDERS - 1}")
    try:
        kinds = matching(request.events) if request.events else None
    except ValueError as error:
        raise InvalidRequest("events", str(error)) from None
    zones = tuple(sorted({names.index(zone) for zone in request.zones})) or None
    return EventFilter(kinds, zones, tuple(sorted(set(request.orders))) or None)


def response(events: EmittedEvents, dropped: int, most: int | None = None) -> pb2.StreamEventsResponse:
    """Convert events to a message, the first `most` of them; None converts all."""
    here = slice(0, most)
    kinds = events.kind[here]
    values = events.values[: int(NR_FIELDS[kinds].sum())]
    return pb2.StreamEventsResponse(
        kinds=(kinds + 1).tolist(),
        times_ns=events.time_ns[here].tolist(),
        cpus=events.cpu[here].tolist(),
        pids=events.pid[here].tolist(),
        comms=events.comm[here].tolist(),
        comm_names=events.comms,
        zones=(events.zone[here] + 1).tolist(),
        values=values.view(np.uint64).tolist(),
        dropped_events=dropped,
    )


def events_of(nid: int, message: pb2.StreamEventsResponse) -> EmittedEvents:
    """Inverse of :func:`response`. `order` is -1 throughout: the message has orders only among the values."""
    return EmittedEvents(
        nid=nid,
        kind=(np.array(message.kinds, dtype=np.int64) - 1).astype(np.uint8),
        time_ns=np.array(message.times_ns, dtype=np.int64),
        cpu=np.array(message.cpus, dtype=np.int64),
        pid=np.array(message.pids, dtype=np.int64),
        comm=np.array(message.comms, dtype=np.int64),
        zone=np.array(message.zones, dtype=np.int64) - 1,
        order=np.full(len(message.kinds), -1, dtype=np.int64),
        values=np.array(message.values, dtype=np.uint64).view(np.int64),
        comms=tuple(message.comm_names),
    )
