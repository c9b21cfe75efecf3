"""``/sys/kernel/mm/transparent_hugepage``: settings that can be written, and counts (mm/huge_memory.c)."""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.machine.thp_files import files_of, key_of, size_counts
from numa_service.mm.snapshot import MachineSnapshot

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
    """A count: 0, as no node has huge pages of processes yet."""
    return "0\n"
