"""First replies are kept until there are too many."""

from __future__ import annotations

import pytest

from numa_service.node import replies
from numa_service.node.replies import FirstReplies


def remembered(monkeypatch: pytest.MonkeyPatch, limit: int, limit_bytes: int, sizes: list[int]) -> list[int]:
    monkeypatch.setattr(replies, "REPLIES_LIMIT", limit)
    monkeypatch.setattr(replies, "REPLIES_BYTES_LIMIT", limit_bytes)
    kept = FirstReplies()
    for number, size in enumerate(sizes):
        kept.remember(str(number), number, size)
        assert len(kept) <= limit
        assert sum(sizes[n] for n in kept.values()) <= limit_bytes
    return list(kept.values())


def test_the_oldest_are_forgotten_some_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remembered(monkeypatch, 128, 1000, [1] * 128) == list(range(128))
    assert remembered(monkeypatch, 128, 1000, [1] * 129) == list(range(3, 129))
    assert remembered(monkeypatch, 128, 1000, [1] * 131) == list(range(3, 131))


def test_so_are_those_that_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remembered(monkeypatch, 128, 640, [640]) == [0]
    assert remembered(monkeypatch, 128, 640, [300, 300, 40, 1]) == [1, 2, 3]
    assert remembered(monkeypatch, 128, 640, [640, 630]) == [1]


def test_a_reply_is_the_first_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = FirstReplies()
    kept.remember("a", 1)
    with pytest.raises(AssertionError):
        kept.remember("a", 2)
