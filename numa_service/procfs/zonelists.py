"""Boot log lines on zonelists (``build_zonelists``, and ``mminit_verify_zonelist`` at mminit_loglevel=4)."""

from __future__ import annotations

from numa_service.machine.zonelists import has_numa
from numa_service.mm.snapshot import MachineSnapshot

#: ZONELIST_FALLBACK and ZONELIST_NOFALLBACK as the kernel names them, in its order.
_LISTS = ("general", "thisnode")


def zonelists(snapshot: MachineSnapshot) -> str:
    """The lines "Fallback order for Node …", then the zonelists of every populated zone, without time stamps.

    A kernel without CONFIG_NUMA has no fallback order and no thisnode lists. The lines of the fallback order
    are shown also for 3.0, which does not print them.
    """
    lines: list[str] = []
    numa = has_numa(snapshot)
    if numa:
        lines += [fallback_order(snapshot, node.nid) for node in snapshot.nodes]
    for node in snapshot.nodes:
        for list_name in _LISTS if numa else _LISTS[:1]:
            for zone in node.zones:
                if zone.populated:
                    entries = snapshot.zonelists[list_name, node.nid, zone.name]
                    text = "".join(f"{nid}:{name} " for nid, name in entries)
                    lines.append(f"mminit::zonelist {list_name} {node.nid}:{zone.name} = {text}")
    return "".join(f"{line}\n" for line in lines)


def fallback_order(snapshot: MachineSnapshot, nid: int) -> str:
    """The line "Fallback order for Node 0: 0 1 ", trailing space included; KeyError on an unknown nid."""
    return f"Fallback order for Node {nid}: " + "".join(f"{n} " for n in snapshot.fallback_order[nid])
