"""Where every channel of a client, a node or a tool is made: connections, retries, message sizes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import grpc
import grpc.aio

Options = Sequence[tuple[str, str | int]]

#: Seconds that a call may take, retries included, unless told otherwise.
DEFAULT_TIMEOUT = 10.0

#: A reply with 65,536 PFNs is 512 KiB; 64 MiB leaves room for any batch of the contract.
MAX_MESSAGE_BYTES = 64 << 20

# Retrying is safe only because mutating requests carry ids, and only UNAVAILABLE says "try again". What the
# machine's own server is asked is asked again by _search.py, for as long as the caller has time.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "numa.v1.MemoryService"},
                {"service": "numa.v1.NodeService"},
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

#: How a connection is made and kept; of the channels between nodes, too. All in ms.
CONNECTION: tuple[tuple[str, int], ...] = (
    # A host that is cut off says nothing, not even goodbye: a connection over which nothing comes for 2 s,
    # while a call waits, is asked whether it lives, and is given up 3 s later. gRPC answers by itself,
    # however busy a service is. A server has to allow it: grpc_server.py.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 3000),
    # Of every other ping, after which that one waits; 60 s by default.
    ("grpc.http2.ping_timeout_ms", 3000),
    # As often as needed in one long call; 2 by default.
    ("grpc.http2.max_pings_without_data", 0),
    # The longest that one attempt to connect may take, whatever the name says; 20 s by default.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # Who comes back is to be found soon; the defaults are 1 s and 120 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

OPTIONS: tuple[tuple[str, str | int], ...] = (
    *CONNECTION,
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    # A request larger than this buffer (256 KiB by default) would silently not be retried.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)


def blocking_channel(target: str, options: Options = OPTIONS) -> grpc.Channel:
    """A channel to `target`, host:port, for callers that wait in a thread."""
    return grpc.insecure_channel(target, options=options)


def async_channel(
    target: str,
    options: Options = OPTIONS,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
) -> grpc.aio.Channel:
    """A channel to `target`, host:port, for callers on an event loop."""
    return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)


#: A lease is renewed this many times before it would run out.
BEATS_PER_LEASE = 3
