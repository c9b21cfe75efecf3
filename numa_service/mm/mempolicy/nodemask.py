"""Sets of nodes (``nodemask_t``): bit N of an int is node N."""

from __future__ import annotations

from collections.abc import Iterable

from numa_service.mm.zonelist import MAX_NUMNODES

#: No node (NUMA_NO_NODE).
NUMA_NO_NODE = -1
#: Every node that the kernel is built for.
NODE_MASK_ALL = (1 << MAX_NUMNODES) - 1


def mask_of(nids: Iterable[int]) -> int:
    """The set of these nodes."""
    mask = 0
    for nid in nids:
        mask |= 1 << nid
    return mask


def nids_of(mask: int) -> tuple[int, ...]:
    """The nodes of a set, ascending."""
    nids = []
    while mask:
        low = mask & -mask
        nids.append(low.bit_length() - 1)
        mask ^= low
    return tuple(nids)


def nodes_weight(mask: int) -> int:
    """How many nodes a set has."""
    return mask.bit_count()


def first_node(mask: int) -> int:
    """The lowest node of a set; MAX_NUMNODES for an empty one."""
    return (mask & -mask).bit_length() - 1 if mask else MAX_NUMNODES


def next_node_in(nid: int, mask: int) -> int:
    """The node of a set that follows `nid`, the first after the last; MAX_NUMNODES for an empty set."""
    above = mask >> (nid + 1) << (nid + 1)
    return first_node(above or mask)


def nodes_fold(mask: int, size: int) -> int:
    """A set folded to `size` bits: node N becomes N modulo `size` (bitmap_fold)."""
    folded, part = 0, (1 << size) - 1
    while mask:
        folded |= mask & part
        mask >>= size
    return folded


def nodes_onto(mask: int, relative_to: int) -> int:
    """Node N of a set becomes the N-th node of another; those beyond its last are left out (bitmap_onto)."""
    onto = nids_of(relative_to)
    return mask_of(onto[n] for n in nids_of(mask) if n < len(onto))


def node_remap(nid: int, old: int, new: int) -> int:
    """Where a node goes when the set `old` becomes `new`: the n-th of one becomes the n-th of the other.

    The new set is begun again where it has fewer. A node that is not in `old` stays (bitmap_bitremap).
    """
    if not new or not old >> nid & 1:
        return nid
    onto = nids_of(new)
    return onto[nodes_weight(old & ((1 << nid) - 1)) % len(onto)]


def nodes_remap(mask: int, old: int, new: int) -> int:
    """A set whose nodes go where :func:`node_remap` says (bitmap_remap)."""
    return mask_of(node_remap(nid, old, new) for nid in nids_of(mask))


def nodelist(mask: int) -> str:
    """A set as the kernel prints it (``%*pbl``): "0-2,5"."""
    parts, nids = list[str](), nids_of(mask)
    for at, nid in enumerate(nids):
        if at and nids[at - 1] == nid - 1:
            continue
        last = nid
        while mask >> last + 1 & 1:
            last += 1
        parts.append(f"{nid}-{last}" if last > nid else str(nid))
    return ",".join(parts)


def nodelist_parse(text: str) -> int | None:
    """The set of a list of nodes and ranges, "0-2,5"; None for one that bitmap_parselist() refuses.

    A range may have a pattern: "0-7:2/4" are the first two of each four. Bounds are checked before a range is
    expanded.
    """
    mask = 0
    for part in text.split(","):
        if not part:
            continue
        span, colon, pattern = part.partition(":")
        first, dash, last = span.partition("-")
        used, slash, group = pattern.partition("/")
        numbers = [first, last if dash else first, *([used, group] if colon else ["1", "1"])]
        if not all(n.isascii() and n.isdigit() and len(n) <= 9 for n in numbers) or (colon and not slash):
            return None
        start, end, width, step = map(int, numbers)
        if start > end or end >= MAX_NUMNODES or not step or width > step:
            return None
        mask |= mask_of(nid for nid in range(start, end + 1) if (nid - start) % step < width)
    return mask
