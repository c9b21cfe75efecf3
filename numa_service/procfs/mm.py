"""``/sys/kernel/mm``, and the memory_failure counts of each node; its hugetlb pools are in ``hugetlb.py``."""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.machine.sysctl import weight_name
from numa_service.machine.zonelists import has_numa
from numa_service.mm.mempolicy.interleave import weight_of
from numa_service.mm.mmzone import PAGE_SHIFT
from numa_service.mm.profile import profile_named
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.meminfo import HPAGE_PMD_NR

#: Files of a node's memory_failure, which kernels have since 6.3: memory errors by how they were handled.
MEMORY_FAILURE = ("total", "ignored", "failed", "delayed", "recovered")


def memory_failure(snapshot: MachineSnapshot, nid: int, name: str) -> str:
    """A file of a node's memory_failure: memory errors that ended so, or all of them."""
    node = next(node for node in snapshot.nodes if node.nid == nid)
    return f"{node.memory_failure.get(name, 0)}\n"


def interleave_weights(snapshot: MachineSnapshot) -> Iterator[tuple[int]]:
    """nid of every file in ``mempolicy/weighted_interleave``: all nodes that may come on-line have one."""
    if has_numa(snapshot) and "WEIGHTED_INTERLEAVE" in profile_named(snapshot.profile).mempolicies:
        yield from ((node.nid,) for node in snapshot.nodes)


def interleave_weight(snapshot: MachineSnapshot, nid: int) -> str:
    """The file of a node's weight (node_show): its pages in each round of weighted interleave."""
    written = int(snapshot.sysctls.get(weight_name(nid), "0"))
    return f"{weight_of({nid: written}, nid)}\n"


def hpage_pmd_size(snapshot: MachineSnapshot) -> str:
    """The file ``hpage_pmd_size``: bytes of a huge page."""
    return f"{HPAGE_PMD_NR << PAGE_SHIFT}\n"


def demotion_enabled(snapshot: MachineSnapshot) -> str:
    """The file ``demotion_enabled``: false, as the model reclaims pages and does not demote them."""
    return "false\n"
