"""Physical memory: ``/sys/devices/system/memory`` (drivers/base/memory.c), ``/proc/{iomem,swaps}``."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES
from numa_service.mm.mmzone import PAGE_SHIFT
from numa_service.mm.snapshot import MachineSnapshot, MemoryBlockSnapshot, NodeSnapshot
from numa_service.procfs.meminfo import kb
from numa_service.procfs.names import printed_by
from numa_service.procfs.node import online_nodes


def memory_blocks(snapshot: MachineSnapshot) -> list[int]:
    """Numbers of the memory blocks with RAM, ascending."""
    return sorted({block.number for node in snapshot.nodes for block in node.memory_blocks})


def blocks_of_node(snapshot: MachineSnapshot, nid: int) -> Iterator[int]:
    """Numbers of the memory blocks in which an on-line node has RAM, ascending."""
    return (b.number for node in online_nodes(snapshot) if node.nid == nid for b in node.memory_blocks)


def nodes_of_block(snapshot: MachineSnapshot, number: int) -> Iterator[int]:
    """On-line nodes that have RAM in a memory block."""
    return (node.nid for node in online_nodes(snapshot) if _block_of(node, number))


def _block_of(node: NodeSnapshot, number: int) -> MemoryBlockSnapshot | None:
    at = bisect_left(node.memory_blocks, number, key=lambda block: block.number)
    found = node.memory_blocks[at : at + 1]
    return found[0] if found and found[0].number == number else None


def _block(snapshot: MachineSnapshot, number: int) -> MemoryBlockSnapshot:
    return next(block for node in snapshot.nodes if (block := _block_of(node, number)))


def block_size_bytes(snapshot: MachineSnapshot) -> str:
    """The file ``block_size_bytes``: hexadecimal, without 0x."""
    return f"{MEMORY_BLOCK_PAGES << PAGE_SHIFT:x}\n"


def auto_online_blocks(snapshot: MachineSnapshot) -> str:
    """The file ``auto_online_blocks``: the captured distribution's default. No memory is ever added here."""
    return f"{printed_by(snapshot.profile).auto_online_blocks}\n"


def write_only(snapshot: MachineSnapshot) -> str:
    """A file that can only be written, as soft_offline_page and hard_offline_page: empty."""
    return ""


def state(snapshot: MachineSnapshot, number: int) -> str:
    """A block's file ``state``: online or offline."""
    return "online\n" if _block(snapshot, number).online else "offline\n"


def online(snapshot: MachineSnapshot, number: int) -> str:
    """A block's file ``online``: 1 or 0."""
    return f"{int(_block(snapshot, number).online)}\n"


def phys_index(snapshot: MachineSnapshot, number: int) -> str:
    """A block's file ``phys_index``: its number, hexadecimal."""
    return f"{number:08x}\n"


def phys_device(snapshot: MachineSnapshot, number: int) -> str:
    """A block's file ``phys_device``: always 0 on x86."""
    return "0\n"


def removable(snapshot: MachineSnapshot, number: int) -> str:
    """A block's file ``removable``: since 5.9 always 1 in a kernel that can take memory off-line."""
    return "1\n"


def valid_zones(snapshot: MachineSnapshot, number: int) -> str:
    """A block's file ``valid_zones``.

    It has the zone of an on-line block, or "none" if it is in several, and the zones that an off-line block
    may be put into.
    """
    zones = _block(snapshot, number).valid_zones
    return f"{' '.join(zones) or 'none'}\n"


def iomem(snapshot: MachineSnapshot) -> str:
    """The file /proc/iomem, with RAM only: the model has no devices, and does not show its kernel image."""
    ranges: list[list[int]] = []
    for start, end in sorted(each for node in snapshot.nodes for each in node.ram):
        if ranges and ranges[-1][1] == start:
            ranges[-1][1] = end
        else:
            ranges.append([start, end])
    return "".join(
        f"{start << PAGE_SHIFT:08x}-{(end << PAGE_SHIFT) - 1:08x} : System RAM\n" for start, end in ranges
    )


def swaps(snapshot: MachineSnapshot) -> str:
    """The file /proc/swaps: one device, whose sizes are the model's; name, type and priority are made up."""
    text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    total = kb(sum(node.swap_total for node in snapshot.nodes))
    used = kb(sum(node.swap_used for node in snapshot.nodes))
    if total:
        # the kernel writes one tab less behind a number of eight digits, which reaches the next tab stop
        columns = [f"{number}\t" if number >= 10_000_000 else f"{number}\t\t" for number in (total, used)]
        priority = printed_by(snapshot.profile).swap_priority
        text += f"{'/dev/swap':<40}partition\t{columns[0]}{columns[1]}{priority}\n"
    return text
