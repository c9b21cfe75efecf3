"""First replies of requests that must not happen twice."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

#: Replies kept for repeated requests, and bytes that they may take.
REPLIES_LIMIT = 1 << 14
REPLIES_BYTES_LIMIT = 128 << 20


class FirstReplies(OrderedDict[str, Any]):
    """By request id; the oldest are forgotten when there are too many. Filled by the shell of a node."""

    def __init__(self) -> None:
        super().__init__()
        #: Size of each, in the same order, and of all.
        self._sizes: deque[int] = deque()
        self._bytes = 0

    def remember(self, request_id: str, reply: Any, size: int = 0) -> None:
        """Keep a first reply; `size` is what it takes, in bytes."""
        assert request_id not in self, request_id
        self[request_id] = reply
        self._sizes.append(size)
        self._bytes += size
        while len(self) > REPLIES_LIMIT or self._bytes > REPLIES_BYTES_LIMIT:
            self.popitem(last=False)
            self._bytes -= self._sizes.popleft()
