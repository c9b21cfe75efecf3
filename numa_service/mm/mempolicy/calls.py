"""The calls that set and tell memory policies, and all that they check (``mm/mempolicy.c``).

Each is a function of its arguments and of what the kernel looks at besides: it returns what the call does, or
raises the errno with which the call fails. Pointers of the caller are given as what is found there.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from numa_service.mm.mempolicy.interleave import FIRST_TURN, Turn, next_node
from numa_service.mm.mempolicy.nodemask import NODE_MASK_ALL
from numa_service.mm.mempolicy.policy import (
    INTERLEAVES,
    MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    CallError,
    Mempolicy,
    Mode,
    mpol_new,
    mpol_set_nodemask,
    sanitize_mpol_flags,
)
from numa_service.mm.profile import Profile
from numa_service.mm.zonelist import MAX_NUMNODES

PAGE_SIZE = 4096
BITS_PER_LONG = 64
_ULONG_MAX = (1 << 64) - 1
_PAGE_MASK = _ULONG_MAX & ~(PAGE_SIZE - 1)

#: Flags of get_mempolicy().
MPOL_F_NODE = 1
MPOL_F_ADDR = 2
MPOL_F_MEMS_ALLOWED = 4

#: Flags of mbind().
MPOL_MF_STRICT = 1
MPOL_MF_MOVE = 2
MPOL_MF_MOVE_ALL = 4
_MPOL_MF_VALID = MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL


class UserMask(NamedTuple):
    """A nodemask in the caller's memory: words of 64 bits, the lowest nodes first, and zeros behind them."""

    words: tuple[int, ...] = ()
    #: Memory ends behind the words: reading further is a fault.
    ends: bool = False


#: A pointer to nothing that can be read.
BAD_MASK = UserMask((), ends=True)


class Pointer(Enum):
    """A pointer of the caller that the kernel writes to, or an array that it reads."""

    NULL = "null"
    GOOD = "good"
    BAD = "bad"


class Nodes(NamedTuple):
    """What calls ask of the machine."""

    #: node_online_map.
    online: int
    #: Nodes with memory (N_MEMORY).
    memory: int
    #: The number of the last possible node, and one.
    nr_node_ids: int


class Caller(NamedTuple):
    """The task that calls."""

    profile: Profile
    nodes: Nodes
    #: The nodes that its cpuset allows.
    mems_allowed: int
    policy: Mempolicy | None = None
    turn: Turn = FIRST_TURN
    cap_sys_nice: bool = False


class Area(NamedTuple):
    """A part of the address space with one policy: an area (VMA), from `start` to `end` in bytes."""

    start: int
    end: int
    policy: Mempolicy | None


class Pages(Protocol):
    """The pages of an address space."""

    def node_of(self, addr: int) -> int:
        """The node of the page at an address of an area; the page is made if it is missing (lookup_node)."""

    def misplaced(self, start: int, end: int, nodes: int) -> bool:
        """Whether a page in the range is on none of the nodes."""


# pointers


def get_nodes(mask: UserMask | None, maxnode: int) -> int:
    """The set that a call is given (get_nodes); `maxnode` is one more than the bits that count.

    CallError(EINVAL) for nodes that the kernel is not built for and for masks of more than a page, and
    CallError(EFAULT).
    """
    bits = (maxnode - 1) & _ULONG_MAX
    if bits == 0 or mask is None:
        return 0
    if bits > PAGE_SIZE * 8:
        raise CallError(errno.EINVAL)
    words = -(-bits // BITS_PER_LONG)
    read = mask.words[:words]
    # the words beyond the last possible node are looked at first, from the end, and all their bits count
    for at in range(words - 1, MAX_NUMNODES // BITS_PER_LONG - 1, -1):
        if mask.ends and at >= len(mask.words):
            raise CallError(errno.EFAULT)
        if at < len(read) and read[at]:
            raise CallError(errno.EINVAL)
    if mask.ends and min(words, MAX_NUMNODES // BITS_PER_LONG) > len(mask.words):
        raise CallError(errno.EFAULT)
    nodes = sum(word << at * BITS_PER_LONG for at, word in enumerate(read))
    return nodes & ((1 << bits) - 1) & NODE_MASK_ALL


def _range(start: int, length: int) -> tuple[int, int]:
    """The end of a range rounded up to pages; CallError(EINVAL) if it is before the start."""
    end = (start + ((length + PAGE_SIZE - 1) & _ULONG_MAX & _PAGE_MASK)) & _ULONG_MAX
    if end < start:
        raise CallError(errno.EINVAL)
    return start, end


# policies of tasks


def set_mempolicy(
    caller: Caller, mode: int, nmask: UserMask | None, maxnode: int
) -> tuple[Mempolicy | None, Turn]:
    """The caller's policy after set_mempolicy(), and its turn; CallError(EINVAL, EFAULT)."""
    made, flags = sanitize_mpol_flags(caller.profile, mode)
    nodes = get_nodes(nmask, maxnode)
    policy = _bound(caller, mpol_new(made, flags, nodes), nodes)
    return policy, FIRST_TURN if policy and policy.mode in INTERLEAVES else caller.turn


def _bound(caller: Caller, policy: Mempolicy | None, nodes: int) -> Mempolicy | None:
    return mpol_set_nodemask(policy, nodes, caller.mems_allowed, caller.nodes.memory)


class Told(NamedTuple):
    """What get_mempolicy() writes."""

    #: A mode with its flags, or a node.
    mode: int
    nodes: int
    #: Words of the nodemask that are written.
    words: int
    #: The errno with which it ends after the mode is written, 0 for success.
    errno: int = 0


def get_mempolicy(
    caller: Caller,
    areas: Sequence[Area],
    pages: Pages,
    mode: Pointer,
    nmask: Pointer,
    maxnode: int,
    addr: int,
    flags: int,
) -> Told:
    """What get_mempolicy() tells of the caller's policy, or with MPOL_F_ADDR of that of an address.

    CallError(EINVAL) for flags, an address or a size that do not fit, CallError(EFAULT) where there is no
    area and for a bad pointer. The mode is written before the nodemask is looked at: see :class:`Told`.
    """
    if nmask is not Pointer.NULL and maxnode < caller.nodes.nr_node_ids:
        raise CallError(errno.EINVAL)
    value, nodes = _do_get_mempolicy(caller, areas, pages, addr, flags)
    if mode is Pointer.BAD:
        raise CallError(errno.EFAULT)
    if nmask is Pointer.NULL:
        return Told(value, nodes, 0)
    copied = (maxnode - 1 + BITS_PER_LONG - 1) // BITS_PER_LONG * 8
    possible = -(-caller.nodes.nr_node_ids // BITS_PER_LONG) * 8
    if copied > possible and copied > PAGE_SIZE:
        return Told(value, nodes, 0, errno.EINVAL)
    if nmask is Pointer.BAD:
        return Told(value, nodes, 0, errno.EFAULT)
    return Told(value, nodes, copied // 8)


def _do_get_mempolicy(
    caller: Caller, areas: Sequence[Area], pages: Pages, addr: int, flags: int
) -> tuple[int, int]:
    if flags & ~(MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED):
        raise CallError(errno.EINVAL)
    if flags & MPOL_F_MEMS_ALLOWED:
        if flags & (MPOL_F_NODE | MPOL_F_ADDR):
            raise CallError(errno.EINVAL)
        return 0, caller.mems_allowed
    policy = caller.policy
    if flags & MPOL_F_ADDR:
        found = [area for area in areas if area.start <= addr < area.end]
        if not found:
            raise CallError(errno.EFAULT)
        policy = found[0].policy
    elif addr:
        raise CallError(errno.EINVAL)
    if flags & MPOL_F_NODE:
        if flags & MPOL_F_ADDR:
            value = pages.node_of(addr)
        elif policy is not None and policy.mode in INTERLEAVES:
            value = next_node(policy, caller.turn)
        else:
            raise CallError(errno.EINVAL)
    else:
        value = Mode.DEFAULT if policy is None else policy.mode | policy.flags & _MODE_FLAGS
    if policy is None:
        return value, 0
    return value, policy.user_nodemask if policy.stores_user_nodemask else policy.nodes


_MODE_FLAGS = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES | MPOL_F_NUMA_BALANCING


# policies of areas


class Bind(NamedTuple):
    """What mbind() does."""

    start: int
    end: int
    policy: Mempolicy | None
    #: Pages of the range on none of these nodes are moved to where the policy wants them; None: none is.
    #: They are the nodes asked for, not those that the policy was bound to.
    keeps: int | None
    #: Pages that cannot be moved make the call fail with EIO, after it has been carried out (MPOL_MF_STRICT).
    strict: bool
    #: Pages that others map as well are moved, too (MPOL_MF_MOVE_ALL).
    shared: bool


def mbind(
    caller: Caller,
    areas: Sequence[Area],
    pages: Pages,
    start: int,
    length: int,
    mode: int,
    nmask: UserMask | None,
    maxnode: int,
    flags: int,
) -> Bind | None:
    """What mbind() does; None: nothing, for an empty range.

    CallError(EINVAL, EFAULT, EPERM), and CallError(EIO) for MPOL_MF_STRICT alone where a page is on no node
    of the policy. An mbind to the default policy needs no area in all of the range, only one in it.
    """
    made, mode_flags = sanitize_mpol_flags(caller.profile, mode)
    nodes = get_nodes(nmask, maxnode)
    if flags & ~_MPOL_MF_VALID:
        raise CallError(errno.EINVAL)
    if flags & MPOL_MF_MOVE_ALL and not caller.cap_sys_nice:
        raise CallError(errno.EPERM)
    if start & ~_PAGE_MASK & _ULONG_MAX:
        raise CallError(errno.EINVAL)
    if made is Mode.DEFAULT:
        flags &= ~MPOL_MF_STRICT
    start, end = _range(start, length)
    if end == start:
        return None
    policy = _bound(caller, mpol_new(made, mode_flags, nodes), nodes)
    within = [area for area in areas if area.start < end and start < area.end]
    if not within or (policy is not None and _has_hole(within, start, end)):
        raise CallError(errno.EFAULT)
    moves = flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL)
    if flags & MPOL_MF_STRICT and not moves and pages.misplaced(start, end, nodes):
        raise CallError(errno.EIO)
    return Bind(
        start,
        end,
        policy,
        nodes if moves else None,
        bool(flags & MPOL_MF_STRICT),
        bool(flags & MPOL_MF_MOVE_ALL),
    )


def _has_hole(areas: Sequence[Area], start: int, end: int) -> bool:
    """Whether areas, ascending, leave a part of the range uncovered."""
    for area in areas:
        if area.start > start:
            return True
        start = area.end
    return start < end


class HomeNode(NamedTuple):
    """What set_mempolicy_home_node() does."""

    #: Ranges that get a policy, in order.
    changed: tuple[Area, ...]
    #: The errno with which it ends after that, 0 for success.
    errno: int


def set_mempolicy_home_node(
    caller: Caller, areas: Sequence[Area], start: int, length: int, home_node: int, flags: int
) -> HomeNode:
    """What set_mempolicy_home_node() does; CallError(EINVAL, ENOSYS).

    Areas that it came to before it fails keep the home node: with EOPNOTSUPP at a policy that has none, with
    ENOENT if there is no policy in the range.
    """
    if not caller.profile.mempolicy_home_node:
        raise CallError(errno.ENOSYS)
    if start & ~_PAGE_MASK & _ULONG_MAX or flags:
        raise CallError(errno.EINVAL)
    if home_node >= MAX_NUMNODES or not caller.nodes.online >> home_node & 1:
        raise CallError(errno.EINVAL)
    start, end = _range(start, length)
    if end == start:
        return HomeNode((), 0)
    changed = list[Area]()
    for area in areas:
        if area.policy is None or area.end <= start or end <= area.start:
            continue
        if area.policy.mode not in (Mode.BIND, Mode.PREFERRED_MANY):
            return HomeNode(tuple(changed), errno.EOPNOTSUPP)
        policy = area.policy._replace(home_node=home_node)
        changed.append(Area(max(start, area.start), min(end, area.end), policy))
    return HomeNode(tuple(changed), 0 if changed else errno.ENOENT)
