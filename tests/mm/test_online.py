"""Iteration over on-line nodes."""

from __future__ import annotations

from numa_service.mm.online import first_online_pgdat, for_each_online_pgdat, next_online_pgdat


def test_nodes_are_walked_in_nid_order() -> None:
    pgdats = {7: "seven", 0: "zero", 3: "three"}
    assert list(for_each_online_pgdat(pgdats)) == ["zero", "three", "seven"]
    assert first_online_pgdat(pgdats) == "zero"
    assert next_online_pgdat(pgdats, 0) == "three"
    assert next_online_pgdat(pgdats, 4) == "seven"
    assert next_online_pgdat(pgdats, 7) is None


def test_one_node_is_a_list_of_one() -> None:
    assert list(for_each_online_pgdat({0: "uma"})) == ["uma"]


def test_no_node_is_no_error() -> None:
    assert first_online_pgdat({}) is None
    assert list(for_each_online_pgdat({})) == []


def test_nodes_may_go_and_come_during_the_walk() -> None:
    pgdats = {0: 0, 1: 1, 2: 2}
    seen = []
    for nid in for_each_online_pgdat(pgdats):
        seen.append(nid)
        if nid == 0:
            del pgdats[0], pgdats[1]
            pgdats[5] = 5
    assert seen == [0, 2, 5]
