"""The node of a page under the two interleave policies.

Pages of areas go by their place in the mapping or file, whether the policy is the area's or the task's. Only
what belongs to no area (page cache, kernel memory) goes by the task's counter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from numa_service.mm.mempolicy.nodemask import next_node_in, nids_of
from numa_service.mm.mempolicy.policy import Mempolicy, Mode
from numa_service.mm.zonelist import MAX_NUMNODES

#: The weight of a node whose file was not written.
DEFAULT_WEIGHT = 1
MAX_WEIGHT = 255

#: nid → weight of the nodes that were given one, as /sys/kernel/mm/mempolicy/weighted_interleave has them.
Weights = Mapping[int, int]


class Turn(NamedTuple):
    """Where a task is in its round (il_prev and il_weight of ``task_struct``)."""

    #: The node that got the last page; MAX_NUMNODES - 1 before the first.
    prev: int = MAX_NUMNODES - 1
    #: Pages that it still gets, under WEIGHTED_INTERLEAVE.
    weight: int = 0


#: What set_mempolicy() with an interleave policy leaves.
FIRST_TURN = Turn()


def weight_of(weights: Weights, nid: int) -> int:
    """Pages of a node in each round (get_il_weight)."""
    return weights.get(nid) or DEFAULT_WEIGHT


def next_node(policy: Mempolicy, turn: Turn) -> int:
    """The node that get_mempolicy(MPOL_F_NODE) tells: the one that the next page gets."""
    if policy.mode is Mode.WEIGHTED_INTERLEAVE and turn.weight:
        return turn.prev
    return next_node_in(turn.prev, policy.nodes)


def interleave_nodes(
    policy: Mempolicy, turn: Turn, weights: Weights, count: int
) -> tuple[npt.NDArray[np.int64], Turn]:
    """The nodes of the next `count` blocks of a task, and where it is then.

    This is as many calls of interleave_nodes(), or of weighted_interleave_nodes(), in a row.
    """
    weighted = policy.mode is Mode.WEIGHTED_INTERLEAVE
    nids = nids_of(policy.nodes)
    head = 0
    if weighted and turn.weight and turn.prev in nids:
        head = min(turn.weight, count)
    first = next_node_in(turn.prev, policy.nodes)
    at = nids.index(first)
    order = (*nids[at:], *nids[:at])
    shares = [weight_of(weights, nid) if weighted else 1 for nid in order]
    round_ = np.repeat(np.array(order), shares)
    rest = count - head
    nodes = np.concatenate([np.full(head, turn.prev), np.resize(round_, rest)]).astype(np.int64)
    if not count:
        return nodes, turn
    if not rest:
        return nodes, Turn(turn.prev, turn.weight - head)
    # the pages that its last node still gets in this round
    ends = np.cumsum(shares)
    into = (rest - 1) % len(round_) + 1
    left = int(ends[np.searchsorted(ends, into)]) - into if weighted else turn.weight
    return nodes, Turn(int(nodes[-1]), left)


def interleave_nid(
    policy: Mempolicy, indexes: npt.NDArray[np.uint64], weights: Weights, offset_bits: int
) -> npt.NDArray[np.int64]:
    """The nodes of the pages at these places (interleave_nid, weighted_interleave_nid).

    A place is vm_pgoff plus the page's number in its area; for shared memory its index in the file plus the
    inode's number. Kernels before 6.7 take no more than the low 32 bits of it (offset_il_node):
    `offset_bits`.
    """
    nids = np.array(nids_of(policy.nodes), dtype=np.int64)
    if policy.mode is Mode.WEIGHTED_INTERLEAVE:
        nids = np.repeat(nids, [weight_of(weights, int(nid)) for nid in nids])
    places = indexes.astype(np.uint64) & np.uint64((1 << offset_bits) - 1)
    return nids[(places % np.uint64(len(nids))).astype(np.int64)]
