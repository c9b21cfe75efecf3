"""``/proc/sys/vm``, and the files of ``/proc/sys/kernel`` that concern NUMA."""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.machine.sysctl import SYSCTLS
from numa_service.machine.zonelists import has_numa
from numa_service.mm.snapshot import MachineSnapshot

_FOLDERS = ("vm", "kernel")
#: Sysctls of captures that are not shown: those that act when they are written, and those of hugetlb pools,
#: which show what the pools have (``hugetlb.py``).
_NOT_KEPT = (
    "vm.stat_refresh",
    "vm.compact_memory",
    "vm.drop_caches",
    "vm.nr_hugepages",
    "vm.nr_hugepages_mempolicy",
)

#: Sysctls that only kernels with CONFIG_NUMA have.
NUMA_ONLY = (
    *(name for name in SYSCTLS if name.startswith("kernel.numa_balancing")),
    "vm.min_slab_ratio",
    "vm.min_unmapped_ratio",
    "vm.numa_stat",
    "vm.numa_zonelist_order",
    "vm.zone_reclaim_mode",
)


def _all(snapshot: MachineSnapshot) -> Iterator[tuple[str, str, bool]]:
    """(folder, name, whether it is in SYSCTLS) of every sysctl that is shown."""
    absent = _NOT_KEPT if has_numa(snapshot) else (*_NOT_KEPT, *NUMA_ONLY)
    for key in sorted(snapshot.sysctls):
        folder, _, name = key.partition(".")
        if folder in _FOLDERS and name and "/" not in name and key not in absent:
            known = SYSCTLS.get(key)
            yield folder, name, known is not None and known.is_in(snapshot.profile)


def writable(snapshot: MachineSnapshot) -> Iterator[tuple[str, str]]:
    """(folder, name) of the sysctls in SYSCTLS that the kernel has, which can be written."""
    return ((folder, name) for folder, name, known in _all(snapshot) if known)


def shown_only(snapshot: MachineSnapshot) -> Iterator[tuple[str, str]]:
    """(folder, name) of the other sysctls of a captured machine, which keep their captured values."""
    return ((folder, name) for folder, name, known in _all(snapshot) if not known)


def show(snapshot: MachineSnapshot, folder: str, name: str) -> str:
    """The text of a sysctl's file."""
    return f"{snapshot.sysctls[f'{folder}.{name}']}\n"
