"""Policies of addresses against a table with a line for each page."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from numa_service.calls.areas import pieces, with_policy
from numa_service.calls.placement import NOWHERE, Placement
from numa_service.calls.processes import Process
from numa_service.calls.remap import move
from numa_service.mm.mempolicy.calls import Area
from numa_service.mm.mempolicy.policy import Mempolicy, Mode

PAGE, PAGES = 4096, 24
POLICIES = (None, Mempolicy(Mode.LOCAL, 0), Mempolicy(Mode.BIND, 1), Mempolicy(Mode.BIND, 2))

ranges = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES)).map(
    lambda at: (at[0], min(sum(at), PAGES))
)
steps = st.lists(
    st.tuples(st.just("bind"), ranges, st.integers(0, len(POLICIES) - 1))
    | st.tuples(st.just("move"), ranges, st.integers(PAGES, 2 * PAGES)),
    max_size=12,
)


@given(steps)
def test_each_page_has_the_policy_it_was_given_last(done: list[tuple[str, tuple[int, int], int]]) -> None:
    process = Process(1, 0, placement=Placement())
    policies = dict.fromkeys(range(3 * PAGES), POLICIES[0])
    nodes = dict.fromkeys(range(3 * PAGES), NOWHERE)
    for page in range(PAGES):
        process.placement.of_chunk(0)[page] = nodes[page] = page
    for what, (first, end), to in done:
        if what == "bind":
            process.areas = with_policy(process.areas, first * PAGE, end * PAGE, POLICIES[to])
            policies |= dict.fromkeys(range(first, end), POLICIES[to])
            continue
        move(process, first * PAGE, (end - first) * PAGE, to * PAGE)
        for page in range(first, end):
            policies[page - first + to], policies[page] = policies[page], None
            nodes[page - first + to], nodes[page] = nodes[page], NOWHERE
    found = list(pieces(process.areas, 0, 3 * PAGES * PAGE))
    assert {page: _policy(found, page * PAGE) for page in policies} == policies
    assert [area.start for area in found] == [0, *(area.end for area in found[:-1])]
    assert {page: process.placement.node(page) for page in nodes} == nodes
    assert process.placement.left == {}


def _policy(areas: list[Area], address: int) -> Mempolicy | None:
    return next(area.policy for area in areas if area.start <= address < area.end)
