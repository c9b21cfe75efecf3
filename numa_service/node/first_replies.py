"""First replies to requests, kept as long as a client may repeat a request that must not happen twice.

They are state of the node: :class:`ops.Remember` adds a reply and drops old ones, and so does
:class:`ops.ForgetReplies`. The ops carry the time, so that replaying a log leads to the same replies.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any, NamedTuple, TypeAlias

from numa_service.node.errors import TooMany
from numa_service.node.folded import Folded

#: A reply is kept at least this long: a client repeats a request for 10 s, and the last repeat may be slow.
KEEP_SECONDS = 12
KEEP_NS = KEEP_SECONDS * 1_000_000_000
#: Replies older than that are dropped while there are more than this many, or while they take more bytes.
REPLIES_LIMIT = 1 << 14
REPLIES_BYTES_LIMIT = 32 << 20
#: Bytes that the replies to one asker, and those to all askers, may take; beyond that, requests are refused.
#: The limit of one asker allows some 20,000 requests a second; a stream, the fastest client, makes half that.
ASKER_BYTES_LIMIT = 128 << 20
TOTAL_BYTES_LIMIT = 256 << 20
#: Bytes that a kept reply is taken to need beside its own: Python objects and dict entries.
ENTRY_BYTES = 400
#: The accounts are brought up to date, and old replies dropped, after so many new replies or bytes.
CHUNK = 256
CHUNK_BYTES = 1 << 20

#: The asker and its request id. The asker is the id of a session, 0 before there is one, or a node's negative
#: number (:func:`node_asker`).
Key: TypeAlias = tuple[int, str]


def node_asker(nid: int) -> int:
    """Return the asker number of a node: -1 - nid."""
    return -1 - nid


def asker_name(asker: int) -> str:
    """Return an asker in words, for error messages."""
    return f"session {asker}" if asker >= 0 else f"node {-1 - asker}"


class FirstReply(NamedTuple):
    """The reply to a request that was carried out."""

    #: Digest of the request: a different request under the same id is refused.
    digest: int
    #: Type of the reply, by which the shell unpacks it.
    kind: str
    #: The serialised reply, which takes less memory than objects.
    reply: bytes | Folded


class _Chunk(NamedTuple):
    """Keys of consecutive replies, with their sizes in bytes; the last one was remembered at `ns`."""

    ns: int
    entries: list[tuple[Key, int]]


class FirstReplies(dict[Key, FirstReply]):
    """Maps the key of each request to its first reply.

    No reply is dropped before its time, however many there are. Instead, :meth:`check_room` refuses new
    requests of an asker whose replies take too much room.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keep_ns = KEEP_NS
        #: Oldest first; replies since the last _look() are in `_new` instead.
        self._chunks: deque[_Chunk] = deque()
        self._new: list[tuple[Key, int]] = []
        self._new_bytes = 0
        #: Bytes of all chunks, and the same by asker.
        self._bytes = 0
        self._bytes_of: dict[int, int] = {}
        #: Askers whose replies take more than ASKER_BYTES_LIMIT.
        self._over: set[int] = set()
        #: Whether check_room() would refuse any asker.
        self.crowded = False

    def remember(self, key: Key, first: FirstReply, now_ns: int) -> None:
        """Keep a first reply under a key that has none."""
        assert key not in self, key
        self[key] = first
        size = len(first.reply)
        self._new.append((key, size))
        self._new_bytes += size
        if len(self._new) >= CHUNK or self._new_bytes > CHUNK_BYTES:
            self._look(now_ns)

    def _look(self, now_ns: int) -> None:
        """Account for the replies since the last look, and drop old ones.

        Many replies are accounted for at once, because code that ran a little at every request would find the
        CPU's caches cold each time.
        """
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
        """Drop the oldest replies while there are too many, but none younger than `keep_ns`."""
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
        """Return the bytes that the replies to an asker take, as of the last look."""
        return self._bytes_of.get(asker, 0)

    def check_room(self, asker: int) -> None:
        """Raise TooMany if one more reply to an asker must not be kept; to be called while `crowded`.

        An asker over its own limit is refused. If all replies together exceed TOTAL_BYTES_LIMIT, so are the
        askers that have more than an equal share of it; beyond twice that limit every asker is refused.
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
        """Return a blake2b digest of everything that a later answer depends on."""
        digest = hashlib.blake2b(digest_size=16)
        for key, first in self.items():
            digest.update(repr((key, first.digest, first.kind, len(first.reply))).encode())
            digest.update(bytes(first.reply))
        digest.update(repr(([chunk.ns for chunk in self._chunks], self._new, self._bytes)).encode())
        return digest.hexdigest()

    def dump(self) -> list[object]:
        """Return all of it as plain data, which :meth:`load` reads."""
        chunks = [(chunk.ns, chunk.entries) for chunk in self._chunks]
        entries = [(key, first.digest, first.kind, bytes(first.reply)) for key, first in self.items()]
        return [chunks, self._new, self._new_bytes, entries]

    def load(self, dumped: list[Any]) -> None:
        """Fill an empty object with what :meth:`dump` returned."""
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
