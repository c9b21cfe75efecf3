"""Distances from fallback orders: the simplest matrix from which a kernel builds the orders it printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from numa_service.machine.machinefile import LOCAL_DISTANCE, MAX_DISTANCE, REMOTE_DISTANCE
from numa_service.mm.profile import profile_named
from numa_service.mm.zonelist import Topology, build_all_zonelists

Orders = Mapping[int, tuple[int, ...]]
#: Two distances that are farther apart than what a kernel adds to one (PENALTY_FOR_NODE_WITH_CPUS, and 1 for
#: lower nids), as of four-way Opterons.
_NEAR, _FAR = 16, 22
#: Most nodes for which two distances are tried, and most steps of that search.
_MAX_NODES = 64
_MAX_STEPS = 20_000


def distances_of(orders: Orders, profile: str) -> list[list[int]] | None:
    """Distances between the nodes of `orders`, in nid order; None if no distances give these orders.

    Tried are, in this order: the same distance between all; two distances, the same both ways; a distance of
    its own for each place in a row, which need not be the same both ways.
    """
    nids = sorted(orders)
    place = {nid: i for i, nid in enumerate(nids)}
    if any(nid not in place for order in orders.values() for nid in order):
        return None
    equal = [[LOCAL_DISTANCE if a == b else REMOTE_DISTANCE for b in nids] for a in nids]
    if _gives(equal, orders, profile):
        return equal
    if len(nids) <= _MAX_NODES:
        for near in _two_levels(orders, nids):
            rows = [
                [LOCAL_DISTANCE if a == b else _NEAR if b in near[a] else _FAR for b in nids] for a in nids
            ]
            if _gives(rows, orders, profile):
                return rows
    rows = [[REMOTE_DISTANCE if a != b else LOCAL_DISTANCE for b in nids] for a in nids]
    for nid, order in orders.items():
        others = [other for other in order if other != nid]
        step = min(2, (MAX_DISTANCE - REMOTE_DISTANCE) // max(1, len(others)))
        for at, other in enumerate(others):
            rows[place[nid]][place[other]] = REMOTE_DISTANCE + at * step
    return rows if _gives(rows, orders, profile) else None


def _gives(rows: Sequence[Sequence[int]], orders: Orders, profile: str) -> bool:
    """Whether a kernel builds these orders at boot: no CPU is on-line then."""
    nids = tuple(sorted(orders))
    place = {nid: i for i, nid in enumerate(nids)}

    def distance(a: int, b: int) -> int:
        return rows[place[a]][place[b]]

    with_memory = {nid for nid in nids if any(nid in orders[other] for other in nids if other != nid)}
    if len(nids) == 1:
        with_memory = set(nids)
    topology = Topology(
        nids=nids,
        populated={nid: (2,) if nid in with_memory else () for nid in nids},
        has_cpus=dict.fromkeys(nids, False),
        distance=distance,
    )
    built = build_all_zonelists(topology, profile_named(profile), "node")
    return all(built[nid].node_order == order for nid, order in orders.items())


def _two_levels(orders: Orders, nids: Sequence[int]) -> Iterator[dict[int, frozenset[int]]]:
    """The near nodes of each node: every choice that begins the node's order and is the same both ways."""
    others = {nid: [other for other in orders[nid] if other != nid] for nid in nids}
    chosen: dict[int, frozenset[int]] = {}
    steps = 0

    def fits(nid: int, near: frozenset[int]) -> bool:
        seen = set(others[nid])
        return all(
            (nid in theirs) == (other in near)
            for other, theirs in chosen.items()
            if other in seen and nid in others[other]
        )

    def choose(at: int) -> Iterator[dict[int, frozenset[int]]]:
        nonlocal steps
        if at == len(nids):
            yield dict(chosen)
            return
        nid = nids[at]
        for count in range(len(others[nid]) + 1):
            steps += 1
            if steps > _MAX_STEPS:
                return
            near = frozenset(others[nid][:count])
            if fits(nid, near):
                chosen[nid] = near
                yield from choose(at + 1)
                del chosen[nid]

    return choose(0)
