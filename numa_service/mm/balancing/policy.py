"""What policies say to NUMA balancing: whether pages may move, and where to (``mpol_misplaced``)."""

from __future__ import annotations

from numa_service.mm.balancing.misplaced import should_numa_migrate_memory
from numa_service.mm.balancing.task import NumaBalancing, NumaTask
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE
from numa_service.mm.mempolicy.policy import MPOL_F_NUMA_BALANCING, Mempolicy, Mode
from numa_service.mm.mmap.vma import Vma


def policy_of(task: NumaTask, vma: Vma) -> Mempolicy | None:
    """get_vma_policy: that of the VMA, else of the task; None is the default policy."""
    return vma.policy if isinstance(vma.policy, Mempolicy) else task.policy


def vma_policy_mof(task: NumaTask, vma: Vma) -> bool:
    """Whether pages of a VMA may move when they are used: by default, and where a policy asks for it.

    Shared memory has only the policies that were given to it: without one its pages never move.
    """
    if vma.file is not None and vma.file.shmem:
        return isinstance(vma.policy, Mempolicy) and bool(vma.policy.flags & MPOL_F_NUMA_BALANCING)
    policy = policy_of(task, vma)
    return policy is None or bool(policy.flags & MPOL_F_NUMA_BALANCING)


def mpol_misplaced(balancing: NumaBalancing, task: NumaTask, vma: Vma, pfn: int, nid: int) -> int:
    """The node to which a page of `nid` that a task uses should move; NUMA_NO_NODE if it should stay.

    A page that is where it should be is left alone, and nobody is noted for it.
    """
    if not vma_policy_mof(task, vma):
        return NUMA_NO_NODE
    here = balancing.cpu_node[task.cpu]
    policy = policy_of(task, vma)
    if policy is None:
        if nid == here:
            return NUMA_NO_NODE
    elif policy.mode in (Mode.BIND, Mode.PREFERRED_MANY) and not policy.nodes >> here & 1:
        return NUMA_NO_NODE
    if not should_numa_migrate_memory(balancing, task, pfn, nid):
        return NUMA_NO_NODE
    return here if here != nid else NUMA_NO_NODE
