"""Files of the pools of huge pages, of the machine and of its nodes (``hstate_attrs`` in mm/hugetlb.c)."""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.machine.zonelists import has_numa
from numa_service.mm.hugetlb.hstate import Hstate
from numa_service.mm.snapshot import HugetlbSnapshot, MachineSnapshot


def _sizes(snapshot: MachineSnapshot) -> list[int]:
    """kB of the sizes of huge pages, ascending."""
    return sorted({kb for node in snapshot.nodes for kb in node.hugetlb})


def sizes(snapshot: MachineSnapshot) -> Iterator[tuple[int]]:
    """The sizes, each of which has a folder."""
    return ((kb,) for kb in _sizes(snapshot))


def numa_sizes(snapshot: MachineSnapshot) -> Iterator[tuple[int]]:
    """The same of a kernel with CONFIG_NUMA; none without."""
    return sizes(snapshot) if has_numa(snapshot) else iter(())


def _pools(snapshot: MachineSnapshot, kb: int) -> list[HugetlbSnapshot]:
    return [node.hugetlb[kb] for node in snapshot.nodes if kb in node.hugetlb]


def nr_hugepages(snapshot: MachineSnapshot, kb: int | None = None) -> str:
    """Huge pages of a size on all nodes; of the default size in ``/proc/sys/vm``."""
    return f"{sum(pool.nr for pool in _pools(snapshot, kb or snapshot.default_hugepage_kb))}\n"


def of_machine(snapshot: MachineSnapshot, kb: int, name: str = "") -> str:
    """A sum over the nodes: ``free_hugepages``, ``resv_hugepages`` or ``surplus_hugepages``."""
    field = name.removesuffix("_hugepages")
    return f"{sum(getattr(pool, field) for pool in _pools(snapshot, kb))}\n"


def overcommit(snapshot: MachineSnapshot, kb: int) -> str:
    """How many surplus pages there may be; of gigantic pages none."""
    number = "0" if Hstate(kb).gigantic else snapshot.sysctls.get("vm.nr_overcommit_hugepages", "0")
    return f"{number}\n"


def node_nr_hugepages(snapshot: MachineSnapshot, nid: int, kb: int) -> str:
    """Huge pages of a size on one node."""
    return of_node(snapshot, nid, kb, name="nr_hugepages")


def of_node(snapshot: MachineSnapshot, nid: int, kb: int, name: str = "") -> str:
    """A file of a node's pool."""
    node = next(node for node in snapshot.nodes if node.nid == nid)
    pool = node.hugetlb.get(kb, HugetlbSnapshot(0, 0, 0))
    return f"{getattr(pool, name.removesuffix('_hugepages'))}\n"
