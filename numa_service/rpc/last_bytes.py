"""The bytes of the request that was read last and of the reply that was packed last.

A request is hashed, and a reply kept for repeats, as bytes. gRPC has had the first and will need the other:
to serialise a list of 32 k pages once more takes a quarter of a millisecond in a server, where no cache has
the list. Both follow in the same turn of the event loop, so the last message is enough; for any other one
:meth:`LastBytes.of` serialises.

Two requests with the same fields have the same bytes as long as no request has a map, whose order is free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message


class LastBytes:
    """A message and its bytes. The message must not be changed after :meth:`note`."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: tuple[Message | None, bytes] = None, b""

    def note(self, message: Message, data: bytes) -> None:
        """Keep the bytes of a message, in place of those of the message before."""
        self._last = message, data

    def of(self, message: Message) -> bytes:
        """The bytes of a message: the ones that were noted, or serialised if another one was noted since."""
        known, data = self._last
        return data if known is message else message.SerializeToString()


RECEIVED = LastBytes()
PACKED = LastBytes()


def reading(parse: Callable[[bytes], Message]) -> Callable[[bytes], Any]:
    """A request deserialiser that notes what it has read."""

    def read(data: bytes) -> Message:
        message = parse(data)
        RECEIVED.note(message, data)
        return message

    return read
