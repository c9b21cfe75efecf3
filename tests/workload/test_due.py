"""The timer wheel, compared with a plain dictionary of due times."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from numa_service.workload.due import MAX_TICKS, Due

ADD = st.lists(st.integers(0, 5000) | st.integers(0, MAX_TICKS), max_size=20)
STEPS = st.lists(st.tuples(ADD, st.integers(0, 300) | st.integers(0, 1 << 50)), max_size=12)


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_everything_comes_when_it_is_due_and_not_before(steps: list[tuple[list[int], int]]) -> None:
    due, waiting, now, pfn = Due(), dict[int, int](), 0, 0
    for lifetimes, passes in steps:
        when = [min(now + lifetime, MAX_TICKS) for lifetime in lifetimes]
        pfns = list(range(pfn, pfn + len(when)))
        pfn += len(when)
        due.add(np.array(when, dtype=np.int64), np.array(pfns, dtype=np.uint64))
        # a pfn that is due at once comes when the clock advances
        waiting |= {p: min(max(w, now + 1), MAX_TICKS) for p, w in zip(pfns, when, strict=True)}
        now = min(now + passes, MAX_TICKS - 1)
        taken = set(due.take(now).tolist())
        assert taken == {p for p, w in waiting.items() if w <= now}
        waiting = {p: w for p, w in waiting.items() if p not in taken}
        assert due.count == len(waiting)
    assert set(due.drain().tolist()) == set(waiting)
    assert due.count == 0


def test_order_of_what_is_due_is_the_same_every_time() -> None:
    def run() -> list[int]:
        random, due, out = np.random.Generator(np.random.PCG64(3)), Due(), []
        for step in range(50):
            due.add(random.integers(0, 10_000, 100) + 37 * step, np.arange(100, dtype=np.uint64) + 100 * step)
            out += due.take(37 * (step + 1)).tolist()
        return out

    assert run() == run()
