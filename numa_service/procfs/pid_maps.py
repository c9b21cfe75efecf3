"""``/proc/PID/maps``: the VMAs of a process (``fs/proc/task_mmu.c``)."""

from __future__ import annotations

from collections.abc import Iterable

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.mm.mmap.vma import DEV_ZERO, Vma


def maps(mm: MmStruct) -> str:
    """The whole file."""
    return "".join(f"{line}\n" for line in map_lines(mm))


def map_lines(mm: MmStruct) -> Iterable[str]:
    """A line for each VMA, without its end."""
    for vma in mm.tree:
        yield header(mm, vma)


def header(mm: MmStruct, vma: Vma) -> str:
    """show_map_vma: the line of one VMA; smaps has it in front of each VMA's numbers, too."""
    flags = vma.flags
    allowed = "".join(
        letter if flags & bit else "-"
        for letter, bit in (("r", vf.VM_READ), ("w", vf.VM_WRITE), ("x", vf.VM_EXEC))
    )
    shared = "s" if flags & vf.VM_MAYSHARE else "p"
    file = vma.file
    offset = vma.pgoff << PAGE_SHIFT if file is not None else 0
    device = f"{file.major:02x}:{file.minor:02x} {file.inode}" if file is not None else "00:00 0"
    line = f"{vma.start:08x}-{vma.end:08x} {allowed}{shared} {offset:08x} {device} "
    name = vma_name(mm, vma)
    # names begin in one column, behind the widest numbers (seq_pad)
    return line.ljust(25 + mm.layout.pointer * 6) + name if name else line


def vma_name(mm: MmStruct, vma: Vma) -> str:
    """get_vma_name: the file's path, or what the VMA is for; empty for other anonymous memory."""
    if vma.file is not None:
        if vma.anon_name is not None and vma.file.path == DEV_ZERO:
            return f"[anon_shmem:{vma.anon_name}]"
        return vma.file.path
    if vma.special is not None:
        return vma.special
    if is_heap(mm, vma):
        return "[heap]"
    if is_stack(mm, vma):
        return "[stack]"
    return f"[anon:{vma.anon_name}]" if vma.anon_name is not None else ""


def is_heap(mm: MmStruct, vma: Vma) -> bool:
    """vma_is_initial_heap."""
    if mm.rules.heap_by_touch:
        return vma.start <= mm.brk and vma.end >= mm.start_brk
    return vma.start < mm.brk and vma.end > mm.start_brk


def is_stack(mm: MmStruct, vma: Vma) -> bool:
    """vma_is_initial_stack."""
    return vma.start <= mm.start_stack <= vma.end
