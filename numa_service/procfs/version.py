"""``/proc/version`` (``version_proc_show`` in fs/proc/version.c)."""

from __future__ import annotations

from numa_service.mm.profile import profile_named
from numa_service.mm.snapshot import MachineSnapshot


def version(snapshot: MachineSnapshot) -> str:
    """The file: the release of the machine's kernel, from which captures know it; nobody built it."""
    return f"Linux version {profile_named(snapshot.profile).release} (numa-service) #1 SMP\n"
