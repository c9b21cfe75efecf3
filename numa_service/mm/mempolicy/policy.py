"""A memory policy (``struct mempolicy``): how it is made, compared and bound to other nodes."""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import NamedTuple

from numa_service.mm.mempolicy.nodemask import (
    NUMA_NO_NODE,
    first_node,
    nodes_fold,
    nodes_onto,
    nodes_remap,
    nodes_weight,
)
from numa_service.mm.profile import Profile

#: Flags that go with a mode (MPOL_MODE_FLAGS).
MPOL_F_STATIC_NODES = 1 << 15
MPOL_F_RELATIVE_NODES = 1 << 14
MPOL_F_NUMA_BALANCING = 1 << 13
#: A policy with one of these keeps the nodes that were asked for (mpol_store_user_nodemask), and only these
#: two of them are what the mode's nodes mean.
_NODE_FLAGS = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES


class Mode(IntEnum):
    """The MPOL_* modes, by the kernel's numbers."""

    DEFAULT = 0
    PREFERRED = 1
    BIND = 2
    INTERLEAVE = 3
    LOCAL = 4
    PREFERRED_MANY = 5
    WEIGHTED_INTERLEAVE = 6


#: Policies that spread pages over their nodes.
INTERLEAVES = (Mode.INTERLEAVE, Mode.WEIGHTED_INTERLEAVE)


class CallError(Exception):
    """A call that fails with an errno, and has changed nothing."""

    def __init__(self, number: int) -> None:
        """Make the error of an errno, a number of the module errno."""
        super().__init__(errno.errorcode[number])
        self.errno = number


class Mempolicy(NamedTuple):
    """A policy of a task or of an area. None in place of it is the default policy."""

    mode: Mode
    #: The nodes that it means now; 0 for LOCAL.
    nodes: int = 0
    #: MPOL_F_* flags.
    flags: int = 0
    #: The node near which BIND and PREFERRED_MANY begin; NUMA_NO_NODE: near the CPU that asks.
    home_node: int = NUMA_NO_NODE
    #: The nodes that were asked for, if it keeps them, else 0.
    user_nodemask: int = 0
    #: The nodes that the cpuset allowed when its nodes were bound, if it does not keep those asked for.
    cpuset_mems_allowed: int = 0

    @property
    def stores_user_nodemask(self) -> bool:
        """Whether it keeps the nodes that were asked for (mpol_store_user_nodemask)."""
        return bool(self.flags & ALL_FLAGS)


ALL_FLAGS = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES | MPOL_F_NUMA_BALANCING


def mpol_equal(a: Mempolicy | None, b: Mempolicy | None) -> bool:
    """Whether two policies are the same for merging areas (mpol_equal), whenever they were bound."""
    if a is None or b is None:
        return a is b
    return a._replace(cpuset_mems_allowed=0) == b._replace(cpuset_mems_allowed=0)


def sanitize_mpol_flags(profile: Profile, mode: int) -> tuple[Mode, int]:
    """The mode and the flags of a call's argument (sanitize_mpol_flags); CallError(EINVAL)."""
    flags = mode & _known_flags(profile)
    mode &= ~flags
    if mode not in Mode.__members__.values() or Mode(mode).name not in profile.mempolicies:
        raise CallError(errno.EINVAL)
    if flags & MPOL_F_STATIC_NODES and flags & MPOL_F_RELATIVE_NODES:
        raise CallError(errno.EINVAL)
    if flags & MPOL_F_NUMA_BALANCING and Mode(mode).name not in profile.balanced_mempolicies:
        raise CallError(errno.EINVAL)
    return Mode(mode), flags


def _known_flags(profile: Profile) -> int:
    return ALL_FLAGS if profile.balanced_mempolicies else _NODE_FLAGS


def mpol_new(mode: Mode, flags: int, nodes: int) -> Mempolicy | None:
    """A policy whose nodes are not bound yet (mpol_new); CallError(EINVAL) if they do not fit the mode."""
    if mode is Mode.DEFAULT:
        if nodes:
            raise CallError(errno.EINVAL)
        return None
    if mode is Mode.PREFERRED and not nodes:
        if flags & _NODE_FLAGS:
            raise CallError(errno.EINVAL)
        mode = Mode.LOCAL
    elif mode is Mode.LOCAL:
        if nodes or flags & _NODE_FLAGS:
            raise CallError(errno.EINVAL)
    elif not nodes:
        raise CallError(errno.EINVAL)
    return Mempolicy(mode, 0, flags)


def mpol_set_nodemask(
    policy: Mempolicy | None, nodes: int, mems_allowed: int, n_memory: int
) -> Mempolicy | None:
    """A policy bound to those of the nodes asked for that it may use (mpol_set_nodemask).

    These are the nodes with memory (`n_memory`) that the task's cpuset allows. CallError(EINVAL) if there is
    none.
    """
    if policy is None or policy.mode is Mode.LOCAL:
        return policy
    usable = mems_allowed & n_memory
    relative = policy.flags & MPOL_F_RELATIVE_NODES
    bound = mpol_relative_nodemask(nodes, usable) if relative else nodes & usable
    if not bound:
        raise CallError(errno.EINVAL)
    if policy.mode is Mode.PREFERRED:
        bound = 1 << first_node(bound)
    if policy.stores_user_nodemask:
        return policy._replace(nodes=bound, user_nodemask=nodes)
    return policy._replace(nodes=bound, cpuset_mems_allowed=mems_allowed)


def mpol_relative_nodemask(nodes: int, relative_to: int) -> int:
    """Nodes by their places among others, folded if there are fewer of these (mpol_relative_nodemask)."""
    return nodes_onto(nodes_fold(nodes, nodes_weight(relative_to)), relative_to) if relative_to else 0


def mpol_rebind_policy(policy: Mempolicy | None, mems_allowed: int) -> Mempolicy | None:
    """The policy after the cpuset of its task allows other nodes (mpol_rebind_policy).

    PREFERRED and PREFERRED_MANY stay: they are wishes.
    """
    if policy is None or policy.mode is Mode.LOCAL:
        return policy
    if not policy.stores_user_nodemask and policy.cpuset_mems_allowed == mems_allowed:
        return policy
    if policy.mode in (Mode.PREFERRED, Mode.PREFERRED_MANY):
        return _keep(policy, mems_allowed)
    if policy.flags & MPOL_F_STATIC_NODES:
        nodes = policy.user_nodemask & mems_allowed
    elif policy.flags & MPOL_F_RELATIVE_NODES:
        nodes = mpol_relative_nodemask(policy.user_nodemask, mems_allowed)
    else:
        # with MPOL_F_NUMA_BALANCING alone, too, whose nodes asked for are then lost
        nodes = nodes_remap(policy.nodes, _kept(policy), mems_allowed)
        policy = _keep(policy, mems_allowed)
    return policy._replace(nodes=nodes or mems_allowed)


def _kept(policy: Mempolicy) -> int:
    """What the union `w` of the kernel's struct holds: the nodes asked for, or those of the cpuset."""
    return policy.user_nodemask if policy.stores_user_nodemask else policy.cpuset_mems_allowed


def _keep(policy: Mempolicy, nodes: int) -> Mempolicy:
    if policy.stores_user_nodemask:
        return policy._replace(user_nodemask=nodes)
    return policy._replace(cpuset_mems_allowed=nodes)
