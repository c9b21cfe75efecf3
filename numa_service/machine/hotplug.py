"""Memory came or went somewhere in the machine: what every node makes of it (``mm/memory_hotplug.c``).

Watermarks are shares of min_free_kbytes and zonelists name all nodes, so that a block that goes off-line on
one node changes the others too.
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
    """Of a node, now."""
    return MemoryState(
        pgdat.nid, tuple((e.index, e.present, e.managed) for e in pgdat.extents if e.present), online
    )


def booted_state(machine: BootedMachine, nid: int) -> MemoryState:
    """Of a node, as boot left it."""
    names = ZONE_NAMES[machine.spec.arch]
    zones = (
        (names.index(z.name), z.present, machine.booted[nid, z.name]) for z in machine.spec.node(nid).zones
    )
    return MemoryState(nid, tuple(zone for zone in zones if zone[1]))


def known_state_differs(machine: BootedMachine, state: MemoryState) -> bool:
    """Whether memory_notify() would change anything."""
    names = ZONE_NAMES[machine.spec.arch]
    managed = {names[zone]: pages for zone, _, pages in state.zones}
    known = machine.populated.get(state.nid)
    wanted = tuple(zone for zone, _, _ in state.zones) if state.online else None
    return known != wanted or any(machine.managed[state.nid, n] != managed.get(n, 0) for n in names)


def memory_notify(machine: BootedMachine, state: MemoryState) -> None:
    """Recompute what depends on a node's memory: min_free_kbytes, watermarks, reserves, pagesets, zonelists.

    Of that node itself the arrays have changed already. Lists are built anew when a zone or node came or
    went: before the watermarks for what came, after them for what went. Told twice, nothing more changes;
    nor by what was sent before what is known.
    """
    if state.sequence < machine.memory_news.get(state.nid, 0):
        return
    machine.memory_news[state.nid] = state.sequence
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
    machine.sysctls.set("vm.min_free_kbytes", str(_min_free_kbytes(machine)))
    apply_sysctls(machine)
    if changed and not came:
        rebuild_zonelists(machine, populated)


def _min_free_kbytes(machine: BootedMachine) -> int:
    """init_per_zone_wmark_min() anew: what somebody wrote stays unless it is less than the kernel wants."""
    plain = calculate_min_free_kbytes(machine.managed, machine.profile)
    user = machine.user_min_free_kbytes
    kbytes = plain if user is None or plain > user else machine.sysctls.min_free_kbytes or plain
    if machine.khugepaged:
        kbytes = max(kbytes, recommended_min_free_kbytes(machine.managed, machine.profile))
    return kbytes
