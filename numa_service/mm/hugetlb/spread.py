"""How huge pages are spread over nodes: one by one in turn, from where the last time ended.

``for_each_node_mask_to_alloc`` and ``for_each_node_mask_to_free`` go on to the next node of a mask after each
attempt, successful or not, and give up after a whole round without success. Here the outcome of all attempts
is computed at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


def in_turn(mask: tuple[int, ...], first: int) -> tuple[int, ...]:
    """Return the nodes of an ascending mask in the order of their turns; `first` or the next above begins.

    (get_valid_node_allowed, next_node_allowed.)
    """
    at = next((i for i, nid in enumerate(mask) if nid >= first), 0)
    return mask[at:] + mask[:at]


def spread(turns: tuple[int, ...], limits: Mapping[int, int], total: int) -> dict[int, int]:
    """Return how many of `total` pages each node gets if nodes take turns, by nid.

    A node gets no more than its limit; one without a limit takes what is left. If limits do not allow for
    `total`, all are reached.
    """
    shares = dict.fromkeys(turns, 0)
    left = total
    open_ = list(turns)
    while left and open_:
        rounds = left // len(open_)
        least = min((limits[nid] - shares[nid] for nid in open_ if nid in limits), default=rounds)
        rounds = min(rounds, least)
        if rounds:
            for nid in open_:
                shares[nid] += rounds
            left -= rounds * len(open_)
        open_ = [nid for nid in open_ if nid not in limits or shares[nid] < limits[nid]]
        if left < len(open_):
            for nid in open_[:left]:
                shares[nid] += 1
            break
    return shares


class Outcome(NamedTuple):
    """How attempts in turn ended: where the next one begins, and which of them failed."""

    #: The node at which the next attempt begins (next_nid_to_alloc, next_nid_to_free).
    next_nid: int
    #: nid → attempts of the node that failed.
    failed: dict[int, int]


def outcome(turns: tuple[int, ...], shares: Mapping[int, int], total: int) -> Outcome:
    """Return where the next attempt begins, and which attempts failed, after pages were taken in turn.

    `shares` are the pages that nodes gave; if they are fewer than `total`, every node failed at the end.
    """
    rounds = max(shares.values(), default=0)
    if not rounds:
        return Outcome(turns[0], dict.fromkeys(turns, 1 if total else 0))
    last = max(at for at, nid in enumerate(turns) if shares[nid] == rounds)
    met = sum(shares.values()) >= total
    failed = {}
    for at, nid in enumerate(turns):
        attempts = rounds + (at <= last) - met
        failed[nid] = max(0, attempts - shares[nid])
    return Outcome(turns[(last + 1) % len(turns)], failed)
