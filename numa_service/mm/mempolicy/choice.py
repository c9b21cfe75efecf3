"""With which node's zonelist, and within which nodes, a request is served; what a cpuset allows."""

from __future__ import annotations

from typing import NamedTuple

from numa_service.mm.gfp import Gfp
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE, first_node
from numa_service.mm.mempolicy.policy import Mempolicy, Mode


class Choice(NamedTuple):
    """Where a request's walk begins, and which nodes it may use."""

    #: The node whose zonelist is walked (the preferred nid).
    nid: int
    #: The nodes that it may use; None: all.
    nodemask: int | None = None
    #: The nodes are a wish: they are walked first, without direct reclaim, then all nodes are.
    wished: bool = False


class PolicyZone(NamedTuple):
    """What of a machine policies depend on."""

    #: The highest zone that is not ZONE_MOVABLE (policy_zone): requests below it are not bound.
    policy_zone: int
    #: The index of ZONE_MOVABLE.
    zone_movable: int
    #: Nodes with memory that is not ZONE_MOVABLE (N_HIGH_MEMORY, that is N_NORMAL_MEMORY with highmem).
    n_high_memory: int


def policy_nodemask(
    policy: Mempolicy | None, local: int, highest_zoneidx: int, mems_allowed: int, zone: PolicyZone
) -> Choice:
    """The choice for a request of a CPU on node `local` (policy_nodemask, policy_node).

    `highest_zoneidx` is gfp_zone() of its flags: BIND does not bind requests below the policy zone, nor where
    the cpuset allows none of its nodes. The nodes of the interleave policies are ``interleave.py``'s.
    """
    if policy is None:
        return Choice(local)
    if policy.mode is Mode.PREFERRED:
        return Choice(first_node(policy.nodes))
    nid = local if policy.home_node == NUMA_NO_NODE else policy.home_node
    if policy.mode is Mode.PREFERRED_MANY:
        return Choice(nid, policy.nodes, wished=True)
    if policy.mode is Mode.BIND:
        bound = apply_policy_zone(policy.nodes, highest_zoneidx, zone) and policy.nodes & mems_allowed
        return Choice(nid, policy.nodes if bound else None)
    return Choice(local)


def apply_policy_zone(nodes: int, highest_zoneidx: int, zone: PolicyZone) -> bool:
    """Whether nodes bind a request for zones up to this one (apply_policy_zone).

    Nodes that have nothing but ZONE_MOVABLE bind movable requests only.
    """
    least = zone.policy_zone if nodes & zone.n_high_memory else zone.zone_movable
    return highest_zoneidx >= least


class CpusetTask(NamedTuple):
    """What a cpuset asks of the task that allocates."""

    #: cpuset.mems of its cpuset.
    mems_allowed: int
    #: Of the nearest ancestor that is exclusive or a hardwall; with cgroup v2 of the root.
    hardwall_mems: int
    in_interrupt: bool = False
    oom_victim: bool = False
    exiting: bool = False


def cpuset_node_allowed(nid: int, gfp: int, task: CpusetTask) -> bool:
    """Whether a cpuset lets a request use a node (cpuset_node_allowed).

    Requests of user memory have __GFP_HARDWALL and stay in the cpuset's own nodes. Others, of the kernel for
    the task, may go to those of the hardwall ancestor; interrupts and tasks that are being killed anywhere.
    """
    if task.in_interrupt or task.mems_allowed >> nid & 1 or task.oom_victim:
        return True
    if gfp & Gfp.HARDWALL:
        return False
    return task.exiting or bool(task.hardwall_mems >> nid & 1)
