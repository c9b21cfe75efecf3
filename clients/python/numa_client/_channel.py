"""How channels are made: retries, message sizes."""

from __future__ import annotations

import json

#: Seconds that a call may take, retries included, unless told otherwise.
DEFAULT_TIMEOUT = 10.0

#: A reply with 65,536 PFNs is 512 KiB; 64 MiB leaves room for any batch of the contract.
MAX_MESSAGE_BYTES = 64 << 20

# Retrying is safe only because mutating requests carry ids, and only UNAVAILABLE says "try again".
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "numa.v1.MachineService"},
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

OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    # A request larger than this buffer (256 KiB by default) would silently not be retried.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)

#: A lease is renewed this many times before it would run out.
BEATS_PER_LEASE = 3
