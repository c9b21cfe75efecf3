"""First replies of requests that must not happen twice, kept so long as a client may repeat them.

State of the node: filled by :class:`ops.Remember`, emptied by that and :class:`ops.ForgetReplies`. Time comes
with the ops, so that a log leads to the same replies.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any, NamedTuple, TypeAlias

from numa_service.node.errors import TooMany
from numa_service.node.folded import Folded

#: So long a reply is kept at least: a client repeats a request for 10 s, and a repeat takes its time.
KEEP_SECONDS = 12
KEEP_NS = KEEP_SECONDS * 1_000_000_000
#: Older ones are forgotten when there are more than so many, or when they take so many bytes.
REPLIES_LIMIT = 1 << 14
REPLIES_BYTES_LIMIT = 32 << 20
#: Bytes that the replies to one asker may take, and those to all: who has more of them is refused new ones.
#: One asker's are some 20,000 requests a second; a stream, which is the fastest, comes to half of that.
ASKER_BYTES_LIMIT = 128 << 20
TOTAL_BYTES_LIMIT = 256 << 20
#: What a reply takes beside its own bytes: objects, and room in the tables.
ENTRY_BYTES = 400
#: Replies, and bytes, between two looks at what is old.
CHUNK = 256
CHUNK_BYTES = 1 << 20

#: Who asks, and its request id. Askers are sessions by number (0: none yet), and nodes: see `node_asker`.
Key: TypeAlias = tuple[int, str]


def node_asker(nid: int) -> int:
    """A node as an asker."""
    return -1 - nid


def asker_name(asker: int) -> str:
    """An asker in words."""
    return f"session {asker}" if asker >= 0 else f"node {-1 - asker}"


class FirstReply(NamedTuple):
    """The reply to a request that was carried out."""

    #: Tells the request from another one under the same id.
    digest: int
    #: Of the reply, for whoever unpacks it.
    kind: str
    #: Packed: objects take more.
    reply: bytes | Folded


class _Chunk(NamedTuple):
    """Replies that were remembered one after the other, with their sizes; the last one at `ns`."""

    ns: int
    entries: list[tuple[Key, int]]


class FirstReplies(dict[Key, FirstReply]):
    """Replies by what tells requests apart.

    None is forgotten before its time, whatever others ask: who asks for more than there is room for is
    refused, by :meth:`check_room`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keep_ns = KEEP_NS
        #: Oldest first; those since the last look are not among them yet.
        self._chunks: deque[_Chunk] = deque()
        self._new: list[tuple[Key, int]] = []
        self._new_bytes = 0
        #: Of all chunks, and of each asker.
        self._bytes = 0
        self._bytes_of: dict[int, int] = {}
        #: Askers with more than they may have.
        self._over: set[int] = set()
        #: Whether anybody would be refused.
        self.crowded = False

    def remember(self, key: Key, first: FirstReply, now_ns: int) -> None:
        """Keep a first reply."""
        assert key not in self, key
        self[key] = first
        size = len(first.reply)
        self._new.append((key, size))
        self._new_bytes += size
        if len(self._new) >= CHUNK or self._new_bytes > CHUNK_BYTES:
            self._look(now_ns)

    def _look(self, now_ns: int) -> None:
        """Account for many at once: code that ran for every request would be cold each time."""
        held = self._bytes_of
        for (asker, _), size in self._new:
            held[asker] = now = held.get(asker, 0) + size + ENTRY_BYTES
            if now > ASKER_BYTES_LIMIT:
                self._over.add(asker)
        self._bytes += self._new_bytes + ENTRY_BYTES * len(self._new)
        self._chunks.append(_Chunk(now_ns, self._new))
        self._new, self._new_bytes = [], 0
        self.forget_old(now_ns)

    def forget_old(self, now_ns: int) -> None:
        """Drop what is old enough, as far as there is too much."""
        held, old = self._bytes_of, now_ns - self.keep_ns
        while self._too_much and self._chunks and self._chunks[0].ns <= old:
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

    @property
    def _too_much(self) -> bool:
        return len(self) > REPLIES_LIMIT or self._bytes > REPLIES_BYTES_LIMIT

    def bytes_of(self, asker: int) -> int:
        """What the replies to an asker take, as of the last look."""
        return self._bytes_of.get(asker, 0)

    def check_room(self, asker: int) -> None:
        """Raise TooMany when one more reply to an asker is not to be kept; to be called if it is `crowded`.

        With too many of all askers together, it is those with more than their part of them who are refused;
        with twice too many, everybody.
        """
        mine, most = self.bytes_of(asker), TOTAL_BYTES_LIMIT // max(1, len(self._bytes_of))
        if asker in self._over:
            most = ASKER_BYTES_LIMIT
        elif self._bytes <= TOTAL_BYTES_LIMIT or (mine <= most and self._bytes <= 2 * TOTAL_BYTES_LIMIT):
            return
        raise TooMany(
            f"{asker_name(asker)}: first replies of the last {KEEP_SECONDS} s, kept for repeats, take "
            f"{mine >> 10} KiB, more than {most >> 10}: ask less often, or for less at a time"
        )

    def digest(self) -> str:
        """blake2b over everything that decides a later answer."""
        digest = hashlib.blake2b(digest_size=16)
        for key, first in self.items():
            digest.update(repr((key, first.digest, first.kind, len(first.reply))).encode())
            digest.update(bytes(first.reply))
        digest.update(repr(([chunk.ns for chunk in self._chunks], self._new, self._bytes)).encode())
        return digest.hexdigest()

    def dump(self) -> list[object]:
        """All of it as plain data; see :meth:`load`."""
        chunks = [(chunk.ns, chunk.entries) for chunk in self._chunks]
        entries = [(key, first.digest, first.kind, bytes(first.reply)) for key, first in self.items()]
        return [chunks, self._new, self._new_bytes, entries]

    def load(self, dumped: list[Any]) -> None:
        """Take over what :meth:`dump` gave, into an empty one."""
        chunks, new, self._new_bytes, entries = dumped
        for (asker, id), digest, kind, reply in entries:
            self[asker, id] = FirstReply(digest, kind, reply)
        self._new = [((asker, id), size) for (asker, id), size in new]
        for ns, rows in chunks:
            self._chunks.append(_Chunk(ns, [((asker, id), size) for (asker, id), size in rows]))
            for (asker, _), size in rows:
                self._bytes_of[asker] = self._bytes_of.get(asker, 0) + size + ENTRY_BYTES
                self._bytes += size + ENTRY_BYTES
        self._over = {asker for asker, size in self._bytes_of.items() if size > ASKER_BYTES_LIMIT}
        self.crowded = bool(self._over) or self._bytes > TOTAL_BYTES_LIMIT
