"""First replies are kept for as long as promised, and askers whose replies take too much room are refused."""

from __future__ import annotations

import msgpack
import pytest

from numa_service.node import first_replies as replies
from numa_service.node.errors import TooMany
from numa_service.node.first_replies import (
    CHUNK,
    ENTRY_BYTES,
    KEEP_SECONDS,
    FirstReplies,
    FirstReply,
    node_asker,
)

SECOND = 1_000_000_000


class Asked:
    """First replies, and how many requests each asker has made."""

    def __init__(self) -> None:
        self.now_ns = 100 * SECOND
        self.kept = FirstReplies()
        self.asked: dict[int, int] = {}

    def ask(self, asker: int, times: int = 1, size: int = 0) -> None:
        for number in range(start := self.asked.get(asker, 0), start + times):
            self.kept.remember((asker, str(number)), FirstReply(number, "", bytes(size)), self.now_ns)
        self.asked[asker] = start + times

    def refused(self, asker: int) -> str:
        """Return why another request of an asker is refused; "" if it is not."""
        self.kept.forget_old(self.now_ns)
        if not self.kept.crowded:
            return ""
        try:
            self.kept.check_room(asker)
        except TooMany as error:
            return f"{error}: again after {error.retry_seconds} s"
        return ""


@pytest.fixture
def asked() -> Asked:
    return Asked()


def limits(
    monkeypatch: pytest.MonkeyPatch, count: int = 0, size: int = 0, asker: int = 1 << 40, total: int = 1 << 40
) -> None:
    monkeypatch.setattr(replies, "REPLIES_LIMIT", count)
    monkeypatch.setattr(replies, "REPLIES_BYTES_LIMIT", size or 1 << 40)
    monkeypatch.setattr(replies, "ASKER_BYTES_LIMIT", asker)
    monkeypatch.setattr(replies, "TOTAL_BYTES_LIMIT", total)


def test_a_neighbour_puts_nothing_out(asked: Asked) -> None:
    asked.ask(1)
    asked.ask(2, 17_400)
    asked.now_ns += KEEP_SECONDS * SECOND - 1
    asked.ask(2, 17_400)
    assert asked.kept[1, "0"].digest == 0
    assert not asked.refused(1)
    assert not asked.refused(2)


def test_a_busy_session_is_not_refused(asked: Asked) -> None:
    """4,000 small requests a second, for a minute: old replies are dropped and make room."""
    for _ in range(60):
        asked.ask(1, 4000, 100)
        asked.now_ns += SECOND
        assert len(asked.kept) <= (KEEP_SECONDS + 1) * 4000 + CHUNK
        assert (1, str(max(0, asked.asked[1] - KEEP_SECONDS * 4000))) in asked.kept
        assert not asked.refused(1)
    assert len(asked.kept) < asked.asked[1]


def test_a_quiet_node_keeps_them_longer(asked: Asked) -> None:
    """A node that was cut off repeats its questions when it is back."""
    asked.ask(node_asker(1), 1000, 1000)
    asked.now_ns += 3600 * SECOND
    asked.ask(node_asker(1), 1000, 1000)
    assert len(asked.kept) == 2000


def test_so_many_or_so_much_is_forgotten_when_it_is_old(
    monkeypatch: pytest.MonkeyPatch, asked: Asked
) -> None:
    limits(monkeypatch, count=2 * CHUNK)
    asked.ask(1, 2 * CHUNK)
    asked.now_ns += KEEP_SECONDS * SECOND
    asked.ask(1, CHUNK)
    assert [first.digest for first in asked.kept.values()] == list(range(CHUNK, 3 * CHUNK))
    limits(monkeypatch, count=1 << 20, size=4 * CHUNK * ENTRY_BYTES)
    asked.ask(1, CHUNK)
    asked.now_ns += KEEP_SECONDS * SECOND
    assert len(asked.kept) == 3 * CHUNK
    asked.ask(1, CHUNK, 2 * ENTRY_BYTES)
    assert [first.digest for first in asked.kept.values()] == list(range(3 * CHUNK, 5 * CHUNK))


def test_who_has_more_than_it_may_is_refused_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch, asked: Asked
) -> None:
    limits(monkeypatch, asker=1 << 20)
    asked.ask(1, 3, 1 << 19)
    asked.ask(2, CHUNK)
    assert asked.refused(1).startswith("session 1: first replies")
    assert asked.refused(1).endswith("again after 1.0 s")
    assert not asked.refused(2)
    assert not asked.refused(3)
    assert len(asked.kept) == 3 + CHUNK
    asked.now_ns += KEEP_SECONDS * SECOND
    assert not asked.refused(1)
    assert (1, "0") not in asked.kept
    asked.ask(node_asker(0), 3, 1 << 19)
    assert asked.refused(node_asker(0)).startswith("node 0: first replies")


def test_of_too_many_together_those_with_more_than_their_part_are_refused(
    monkeypatch: pytest.MonkeyPatch, asked: Asked
) -> None:
    limits(monkeypatch, total=1 << 22)
    for asker in range(1, 8):
        asked.ask(asker, 1, 100)
    asked.ask(8, 3, (1 << 22) // 3 + 1)
    asked.ask(9, CHUNK)
    assert asked.refused(8)
    assert not any(asked.refused(asker) for asker in (1, 7, 9, 10))
    asked.ask(8, 4, 1 << 20)
    asked.ask(9, CHUNK)
    assert all(asked.refused(asker) for asker in (1, 7, 8, 9, 10))
    asked.now_ns += KEEP_SECONDS * SECOND
    assert not any(asked.refused(asker) for asker in (1, 7, 8, 9, 10))


def test_a_reply_is_the_first_of_its_request(asked: Asked) -> None:
    first = FirstReply(1, "", b"")
    asked.kept.remember((1, "a"), first, 0)
    with pytest.raises(AssertionError):
        asked.kept.remember((1, "a"), first, 0)


def test_what_is_dumped_is_loaded(monkeypatch: pytest.MonkeyPatch, asked: Asked) -> None:
    """A node restored from a snapshot repeats, drops and refuses the same replies."""
    limits(monkeypatch, asker=1 << 20)
    asked.ask(1, 3, 1 << 19)
    asked.ask(2, CHUNK)
    asked.ask(3)
    again = FirstReplies()
    again.load(msgpack.unpackb(msgpack.packb(asked.kept.dump())))
    assert again == asked.kept
    assert again.digest() == asked.kept.digest()
    asked.kept, before = again, asked.kept
    assert asked.refused(1)
    assert not asked.refused(2)
    for kept in (again, before):
        kept.remember((3, "x"), FirstReply(0, "", bytes(1 << 20)), asked.now_ns + KEEP_SECONDS * SECOND)
    assert again.digest() == before.digest()
