"""Makes every gRPC channel, of clients, nodes and tools, with its options for connections and retries."""

from __future__ import annotations

import json
from collections.abc import Sequence

import grpc
import grpc.aio

Options = Sequence[tuple[str, str | int]]

#: Seconds that a call may take, retries included, unless told otherwise.
DEFAULT_TIMEOUT = 10.0

#: Largest message in either direction. A reply with 65,536 PFNs has 512 KiB.
MAX_MESSAGE_BYTES = 64 << 20

# Retries are safe because mutating requests carry ids, and only UNAVAILABLE is retried. Calls to the
# machine's own server are retried by _search.py instead, as long as the caller's deadline allows.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "numa.v1.MemoryService"},
                {"service": "numa.v1.KmemService"},
                {"service": "numa.v1.NodeService"},
                {"service": "numa.v1.TaskService"},
            ],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

#: Options for making and keeping connections, also of the channels between nodes.
CONNECTION: tuple[tuple[str, int], ...] = (
    # A host that is cut off sends nothing, not even a reset. So while a call waits, a keepalive ping is sent
    # on a connection on which nothing came for 2 s, and the connection is given up 3 s later. gRPC itself
    # answers pings, however busy a service is. The server has to allow them: see rpc/grpc_server.py of the
    # service.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 3000),
    # Timeout of pings that are no keepalives; a keepalive waits for such a ping. 60 s by default.
    ("grpc.http2.ping_timeout_ms", 3000),
    # No limit on the number of pings in one long call; 2 by default.
    ("grpc.http2.max_pings_without_data", 0),
    # Despite its name this also limits the time of one attempt to connect; 20 s by default.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # A server that comes back should be found soon; the defaults are 1 s and 120 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

OPTIONS: tuple[tuple[str, str | int], ...] = (
    *CONNECTION,
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    # A request larger than this buffer (256 KiB by default) is not retried, without any error.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)


def blocking_channel(target: str, options: Options = OPTIONS) -> grpc.Channel:
    """Makes a channel to `target`, host:port, for blocking calls."""
    return grpc.insecure_channel(target, options=options)


def async_channel(
    target: str,
    options: Options = OPTIONS,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
) -> grpc.aio.Channel:
    """Makes a channel to `target`, host:port, for calls from an event loop."""
    return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)


#: How many times a lease is renewed in the time after which it would run out.
BEATS_PER_LEASE = 3
