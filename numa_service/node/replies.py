"""First replies of requests that must not happen twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any

#: Replies kept for repeated requests, and bytes that they may take: 64 of the largest, and 128 of 32 k pages.
REPLIES_LIMIT = 1 << 14
REPLIES_BYTES_LIMIT = 32 << 20


class FirstReplies(dict[Hashable, Any]):
    """By what tells requests apart; the oldest are forgotten when there are too many.

    Filled by the shell of a node.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Request ids and sizes, oldest first.
        self._order: deque[tuple[Hashable, int]] = deque()
        self._bytes = 0

    def remember(self, request_id: Hashable, reply: Any, size: int = 0) -> None:
        """Keep a first reply; `size` is what it takes, in bytes."""
        assert request_id not in self, request_id
        self[request_id] = reply
        self._order.append((request_id, size))
        self._bytes += size
        if len(self) > REPLIES_LIMIT or self._bytes > REPLIES_BYTES_LIMIT:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        """A sixty-fourth at once: code that ran for every request would be cold each time."""
        most, most_bytes = (limit - limit // 64 for limit in (REPLIES_LIMIT, REPLIES_BYTES_LIMIT))
        while len(self) > most or self._bytes > most_bytes:
            request_id, size = self._order.popleft()
            del self[request_id]
            self._bytes -= size
