"""First replies of requests that must not happen twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeAlias

from numa_service.node.errors import TooMany

#: So long a reply is kept at least: a client repeats a request for 10 s, and a repeat takes its time.
KEEP_SECONDS = 12
#: Older ones are forgotten when there are more than so many, or when they take so many bytes.
REPLIES_LIMIT = 1 << 14
REPLIES_BYTES_LIMIT = 32 << 20
#: Bytes that the replies to one asker may take, and those to all: who has more of them is refused new ones.
#: One asker's are some 20,000 requests a second; a stream, which is the fastest, comes to half of that.
ASKER_BYTES_LIMIT = 128 << 20
TOTAL_BYTES_LIMIT = 256 << 20
#: What a reply takes beside its own bytes: objects, and room in the tables.
ENTRY_BYTES = 400
#: Replies, and bytes, between two looks at the clock.
CHUNK = 256
CHUNK_BYTES = 1 << 20

#: Who asks (a session, or another node), and its request id.
Key: TypeAlias = tuple[Hashable, str]


class _Chunk(NamedTuple):
    """Replies that were remembered one after the other, with their sizes; the last not after `ns`."""

    ns: int
    entries: list[tuple[Key, int]]


class FirstReplies(dict[Key, Any]):
    """Replies by what tells requests apart. Filled by the shell of a node.

    None is forgotten before its time, whatever others ask: who asks for more than there is room for is
    refused, by :meth:`check_room`.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` gives ns."""
        super().__init__()
        self._clock = clock
        self.keep_ns = KEEP_SECONDS * 1_000_000_000
        #: Oldest first; those since the last look at the clock are not among them yet.
        self._chunks: deque[_Chunk] = deque()
        self._new: list[tuple[Key, int]] = []
        self._new_bytes = 0
        #: Of all chunks, and of each asker.
        self._bytes = 0
        self._bytes_of: dict[Hashable, int] = {}
        #: Askers with more than they may have.
        self._over: set[Hashable] = set()
        #: Whether anybody would be refused.
        self.crowded = False

    def remember(self, key: Key, reply: Any, size: int = 0) -> None:
        """Keep a first reply; `size` is what it takes, in bytes."""
        assert key not in self, key
        self[key] = reply
        self._new.append((key, size))
        self._new_bytes += size
        if len(self._new) >= CHUNK or self._new_bytes > CHUNK_BYTES:
            self._look()

    def _look(self) -> None:
        """Many at once: code that ran for every request would be cold each time."""
        held = self._bytes_of
        for (asker, _), size in self._new:
            held[asker] = now = held.get(asker, 0) + size + ENTRY_BYTES
            if now > ASKER_BYTES_LIMIT:
                self._over.add(asker)
        self._bytes += self._new_bytes + ENTRY_BYTES * len(self._new)
        self._chunks.append(_Chunk(self._clock(), self._new))
        self._new, self._new_bytes = [], 0
        self._forget_old()

    def _forget_old(self) -> None:
        """What is old enough, as far as there is too much."""
        held, old = self._bytes_of, self._clock() - self.keep_ns
        while (len(self) > REPLIES_LIMIT or self._bytes > REPLIES_BYTES_LIMIT) and self._chunks[0].ns <= old:
            for key, size in self._chunks.popleft().entries:
                del self[key]
                asker, size = key[0], size + ENTRY_BYTES
                self._bytes -= size
                held[asker] -= size
                if held[asker] <= ASKER_BYTES_LIMIT:
                    self._over.discard(asker)
                    if not held[asker]:
                        del held[asker]
        self.crowded = bool(self._over) or self._bytes > TOTAL_BYTES_LIMIT

    def bytes_of(self, asker: Hashable) -> int:
        """What the replies to an asker take, as of the last look."""
        return self._bytes_of.get(asker, 0)

    def check_room(self, asker: Hashable) -> None:
        """TooMany when one more reply to an asker is not to be kept; to be called if it is `crowded`.

        With too many of all askers together, it is those with more than their part of them who are refused;
        with twice too many, everybody.
        """
        self._forget_old()
        mine, most = self.bytes_of(asker), TOTAL_BYTES_LIMIT // max(1, len(self._bytes_of))
        if asker in self._over:
            most = ASKER_BYTES_LIMIT
        elif self._bytes <= TOTAL_BYTES_LIMIT or (mine <= most and self._bytes <= 2 * TOTAL_BYTES_LIMIT):
            return
        who = asker if isinstance(asker, str) else f"session {asker}"
        raise TooMany(
            f"{who}: first replies of the last {KEEP_SECONDS} s, kept for repeats, take {mine >> 10} KiB, "
            f"more than {most >> 10}: ask less often, or for less at a time"
        )
