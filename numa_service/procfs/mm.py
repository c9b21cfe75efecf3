"""``/sys/kernel/mm``, the huge page pools of each node, slabinfo: what of it the model has an answer to."""

from __future__ import annotations

from numa_service.mm.mmzone import PAGE_SHIFT
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.meminfo import HPAGE_PMD_NR

#: hugetlb pools of the machine and of a node. The model has no hugetlb: they are empty and cannot be filled.
MACHINE_HUGEPAGES = (
    "nr_hugepages",
    "nr_hugepages_mempolicy",
    "nr_overcommit_hugepages",
    "free_hugepages",
    "resv_hugepages",
    "surplus_hugepages",
)
NODE_HUGEPAGES = ("nr_hugepages", "free_hugepages", "surplus_hugepages")


def hugepages(snapshot: MachineSnapshot, *_: object, name: str = "") -> str:
    """A count of an empty pool."""
    return "0\n"


#: Counts of memory errors that were handled, since 6.3: the model's memory has none.
MEMORY_FAILURE = ("total", "ignored", "failed", "delayed", "recovered")


def memory_failure(snapshot: MachineSnapshot, *_: object) -> str:
    """No page was found broken."""
    return "0\n"


def hpage_pmd_size(snapshot: MachineSnapshot) -> str:
    """Bytes of a huge page."""
    return f"{HPAGE_PMD_NR << PAGE_SHIFT}\n"


def demotion_enabled(snapshot: MachineSnapshot) -> str:
    """Pages are reclaimed, not demoted."""
    return "false\n"


def slabinfo(snapshot: MachineSnapshot) -> str:
    """The two lines of the header (``print_slabinfo_header``): there is no slab cache."""
    return (
        "slabinfo - version: 2.1\n"
        "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
        " : tunables <limit> <batchcount> <sharedfactor>"
        " : slabdata <active_slabs> <num_slabs> <sharedavail>\n"
    )
