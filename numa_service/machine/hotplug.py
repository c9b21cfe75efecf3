"""Memory hotplug: what every node recomputes when memory of any node comes or goes (``mm/memory_hotplug.c``).

Watermarks are shares of min_free_kbytes, and zonelists name all nodes: a memory block that goes off-line on
one node therefore changes the other nodes too.
"""

from __future__ import annotations

from collections.abc import Sequence

from numa_service.machine.booted import (
    BootedMachine,
    apply_sysctls,
    rebuild_zonelists,
    setup_per_cpu_pageset,
)
from numa_service.machine.record import MemoryState
from numa_service.mm.mmzone import ZONE_NAMES
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.watermark import calculate_min_free_kbytes, recommended_min_free_kbytes


def memory_state(pgdat: Pgdat, online: bool = True) -> MemoryState:
    """The present memory of a node, as other nodes are told of it, but without vm.min_free_kbytes."""
    return MemoryState(
        pgdat.nid, tuple((e.index, e.present, e.managed) for e in pgdat.extents if e.present), online
    )


def memory_notify(machine: BootedMachine, state: MemoryState, *, recorded: bool = False) -> None:
    """Recompute what depends on a node's memory: min_free_kbytes, watermarks, reserves, pagesets, zonelists.

    If the node is one of this process, its arrays have changed already. Zonelists are rebuilt when a zone or
    a node came or went: before the watermarks when it came, after them when it went. It is idempotent.
    `recorded` says that the state is in the machine's record.
    """
    names = ZONE_NAMES[machine.spec.arch]
    managed = dict.fromkeys(names, 0) | {names[zone]: pages for zone, _, pages in state.zones}
    machine.managed = machine.managed | {(state.nid, name): pages for name, pages in managed.items()}
    populated: dict[int, Sequence[int]] = dict(machine.populated)
    before = set(populated.get(state.nid, ()))
    populated.pop(state.nid, None)
    if state.online:
        populated[state.nid] = tuple(zone for zone, _, _ in state.zones)
    changed = populated != machine.populated
    came = bool(set(populated.get(state.nid, ())) - before)
    if changed and came:
        rebuild_zonelists(machine, populated)
    setup_per_cpu_pageset(machine)
    kbytes = state.min_free_kbytes or _min_free_kbytes(machine, recorded)
    machine.sysctls.set("vm.min_free_kbytes", str(kbytes))
    apply_sysctls(machine)
    if changed and not came:
        rebuild_zonelists(machine, populated)


def _min_free_kbytes(machine: BootedMachine, recorded: bool) -> int:
    """The min_free_kbytes that init_per_zone_wmark_min() now sets.

    A value that somebody wrote is preferred, unless it is less than the computed one; khugepaged may raise
    either. A kernel leaves the sysctl as it is then; nodes that read the same record, but may have missed
    earlier ones, all go back to the value that was written.
    """
    plain = calculate_min_free_kbytes(machine.managed, machine.profile)
    user = machine.user_min_free_kbytes
    kbytes = plain
    if user is not None and plain <= user:
        kbytes = user if recorded else machine.sysctls.min_free_kbytes or plain
    if machine.khugepaged:
        populated = machine.populated_zones()
        recommended = recommended_min_free_kbytes(machine.managed, machine.profile, populated=populated)
        kbytes = max(kbytes, recommended)
    return kbytes
