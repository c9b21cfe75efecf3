"""Windows of readahead, one after the other."""

from __future__ import annotations

from numa_service.mm.mmap.readahead import RA_PAGES, ReadaheadState, Window, hit, missed, reached


def test_windows_follow_each_other() -> None:
    state = ReadaheadState()
    assert missed(state, 0) == Window(0, 32, 24)
    assert reached(state, 24) == Window(32, 32, 32)
    assert reached(state, 32) == Window(64, 32, 64)
    # around a page in the middle
    assert missed(state, 200) == Window(184, 32, 208)


def test_a_mark_of_somebody_else_starts_nothing() -> None:
    state = ReadaheadState()
    assert reached(state, 0) is None
    missed(state, 100)
    assert reached(state, 24) is None
    assert reached(state, 108) is not None


def test_after_many_misses_only_the_page_is_read() -> None:
    state = ReadaheadState()
    windows = [missed(state, 1000 * nth) for nth in range(200)]
    assert [window.size for window in windows] == [RA_PAGES] * 100 + [1] * 100
    for _ in range(200):
        hit(state)
    assert missed(state, 5).size == RA_PAGES
