"""``/proc/sys/vm``, and of ``/proc/sys/kernel`` what is about NUMA."""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.machine.sysctl import SYSCTLS
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.names import has_numa

_FOLDERS = ("vm", "kernel")
#: Not shown as a capture had them: files that do something when written, and the huge page pools, which
#: start empty here whatever they held there.
_NOT_KEPT = (
    "vm.stat_refresh",
    "vm.compact_memory",
    "vm.drop_caches",
    "vm.nr_hugepages",
    "vm.nr_hugepages_mempolicy",
)

#: Of kernels with CONFIG_NUMA only.
NUMA_ONLY = (
    "kernel.numa_balancing",
    "vm.min_slab_ratio",
    "vm.min_unmapped_ratio",
    "vm.numa_stat",
    "vm.numa_zonelist_order",
    "vm.zone_reclaim_mode",
)


def _all(snapshot: MachineSnapshot) -> Iterator[tuple[str, str, bool]]:
    absent = _NOT_KEPT if has_numa(snapshot) else (*_NOT_KEPT, *NUMA_ONLY)
    for key in sorted(snapshot.sysctls):
        folder, _, name = key.partition(".")
        if folder in _FOLDERS and name and "/" not in name and key not in absent:
            known = SYSCTLS.get(key)
            yield folder, name, known is not None and known.is_in(snapshot.profile)


def writable(snapshot: MachineSnapshot) -> Iterator[tuple[str, str]]:
    """(folder, name) of those that the service knows."""
    return ((folder, name) for folder, name, known in _all(snapshot) if known)


def shown_only(snapshot: MachineSnapshot) -> Iterator[tuple[str, str]]:
    """(folder, name) of those that a captured machine had beside them: as it had them."""
    return ((folder, name) for folder, name, known in _all(snapshot) if not known)


def show(snapshot: MachineSnapshot, folder: str, name: str) -> str:
    """The value as the kernel prints it."""
    return f"{snapshot.sysctls[f'{folder}.{name}']}\n"
