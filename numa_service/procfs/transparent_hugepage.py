"""``/sys/kernel/mm/transparent_hugepage``: settings that can be written, and counts (mm/huge_memory.c)."""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.machine.thp_files import files_of, key_of, size_counts
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.counters import all_vm_events

#: The folder of huge pages of a PMD entry, and which events of /proc/vmstat its counts are.
_LARGEST = "hugepages-2048kB"
_OF_EVENTS = {
    "anon_fault_alloc": "thp_fault_alloc",
    "anon_fault_fallback": "thp_fault_fallback",
    "split": "thp_split_page",
    "split_deferred": "thp_deferred_split_page",
}
#: khugepaged's counts.
_COUNTS = ("khugepaged/full_scans", "khugepaged/pages_collapsed")


def _parts(paths: Iterator[str], depth: int) -> Iterator[tuple[str, ...]]:
    return (parts for path in paths if len(parts := tuple(path.split("/"))) == depth)


def written(snapshot: MachineSnapshot) -> Iterator[tuple[str, ...]]:
    """Names of the files of the folder itself that can be written."""
    return _parts(iter(files_of(snapshot.profile)), 1)


def written_below(snapshot: MachineSnapshot) -> Iterator[tuple[str, ...]]:
    """(folder, name) of those of its folders."""
    return _parts(iter(files_of(snapshot.profile)), 2)


def show(snapshot: MachineSnapshot, *parts: str) -> str:
    """The text of a file that can be written."""
    path = "/".join(parts)
    file = files_of(snapshot.profile)[path]
    return file.text(snapshot.sysctls.get(key_of(path), file.default))


def counts(snapshot: MachineSnapshot) -> Iterator[tuple[str, ...]]:
    """(folder, name) of khugepaged's counts, where there are huge pages."""
    return _parts(iter(_COUNTS if files_of(snapshot.profile) else ()), 2)


def counts_of_sizes(snapshot: MachineSnapshot) -> Iterator[tuple[str, ...]]:
    """(folder of a size, stats, name) of what is counted by size."""
    return _parts(size_counts(snapshot.profile), 3)


def count(snapshot: MachineSnapshot, *parts: str) -> str:
    """A count: khugepaged's, and of the sizes that of the largest, which alone there are."""
    if parts[0] == "khugepaged":
        return f"{snapshot.khugepaged.get(parts[-1], 0)}\n"
    name = _OF_EVENTS.get(parts[-1]) if parts[0] == _LARGEST else None
    if parts[0] == _LARGEST and parts[-1] == "nr_anon":
        return f"{sum(node.node_stat.get('nr_anon_transparent_hugepages', 0) for node in snapshot.nodes)}\n"
    return f"{all_vm_events(snapshot, name) if name else 0}\n"
