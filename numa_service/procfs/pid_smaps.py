"""``/proc/PID/smaps`` and ``numa_maps``: the VMAs of a process with their pages (``fs/proc/task_mmu.c``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.entries import ACCESSED, DIRTY, HUGE, Entries, has, pfns_of
from numa_service.mm.mmap.frames import ANON, FILE, SHMEM, AddressSpace
from numa_service.mm.mmap.huge_memory import allowed
from numa_service.mm.mmap.hugetlb import huge_size, of_vma
from numa_service.mm.mmap.hugetlb_fault import within
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.vma import Vma
from numa_service.procfs.pid_maps import header, is_heap, is_stack

#: PSS_SHIFT: a proportional share is counted in parts of a byte.
_PSS_SHIFT = 12


@dataclass(slots=True)
class Resident:
    """struct mem_size_stats, in bytes; proportional ones with PSS_SHIFT more bits."""

    rss: int = 0
    pss: int = 0
    pss_dirty: int = 0
    pss_anon: int = 0
    pss_file: int = 0
    pss_shmem: int = 0
    shared_clean: int = 0
    shared_dirty: int = 0
    private_clean: int = 0
    private_dirty: int = 0
    referenced: int = 0
    anonymous: int = 0
    lazyfree: int = 0
    anonymous_thp: int = 0
    pss_locked: int = 0
    shared_hugetlb: int = 0
    private_hugetlb: int = 0

    def add(self, other: Resident) -> None:
        """Count both together, for smaps_rollup."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


def resident(process: Process, vma: Vma) -> Resident:
    """smaps_account, for every page of a VMA; of huge pages smaps_hugetlb_range."""
    if vma.flags & vf.VM_HUGETLB:
        return _of_huge_pages(process, vma)
    entries = process.mapped_entries(vma.start, vma.end)
    frames, pfns = process.frames, pfns_of(entries)
    mapcount = frames.mapcount[pfns]
    anonymous = frames.kind[pfns] == ANON
    dirty = has(entries, DIRTY) | frames.dirty[pfns]
    clean_anon = anonymous & frames.lazyfree[pfns] & ~dirty
    share = (4096 << _PSS_SHIFT) // np.maximum(mapcount, 1).astype(np.int64)
    alone = mapcount == 1
    pss = int(share.sum())
    return Resident(
        rss=len(pfns) << 12,
        pss=pss,
        pss_dirty=int(share[dirty].sum()),
        pss_anon=int(share[anonymous].sum()),
        pss_file=int(share[frames.kind[pfns] == FILE].sum()),
        pss_shmem=int(share[frames.kind[pfns] == SHMEM].sum()),
        shared_clean=int((~alone & ~dirty).sum()) << 12,
        shared_dirty=int((~alone & dirty).sum()) << 12,
        private_clean=int((alone & ~dirty).sum()) << 12,
        private_dirty=int((alone & dirty).sum()) << 12,
        referenced=int((has(entries, ACCESSED) | frames.referenced[pfns]).sum()) << 12,
        anonymous=int(anonymous.sum()) << 12,
        lazyfree=int(clean_anon.sum()) << 12,
        anonymous_thp=int(has(entries, HUGE).sum()) << 12,
        pss_locked=pss if vma.flags & vf.VM_LOCKED else 0,
    )


def _of_huge_pages(process: Process, vma: Vma) -> Resident:
    size = huge_size(vma)
    mapcount = process.frames.mapcount[pfns_of(_huge_entries(process, vma))]
    shared = int((mapcount > 1).sum())
    return Resident(shared_hugetlb=shared * size, private_hugetlb=(len(mapcount) - shared) * size)


def numbers(process: Process, vma: Vma) -> dict[str, int]:
    """The lines of one VMA in smaps, in kB, by their label, in order."""
    page = huge_size(vma) >> 10
    sizes = {"Size": (vma.end - vma.start) >> 10, "KernelPageSize": page, "MMUPageSize": page}
    return sizes | _lines(resident(process, vma), rollup=False)


def _lines(found: Resident, *, rollup: bool) -> dict[str, int]:
    """__show_smap."""
    parts = {"Pss_Anon": found.pss_anon, "Pss_File": found.pss_file, "Pss_Shmem": found.pss_shmem}
    shares = {"Pss": found.pss, "Pss_Dirty": found.pss_dirty, **(parts if rollup else {})}
    return {
        "Rss": found.rss >> 10,
        **{label: share >> (10 + _PSS_SHIFT) for label, share in shares.items()},
        "Shared_Clean": found.shared_clean >> 10,
        "Shared_Dirty": found.shared_dirty >> 10,
        "Private_Clean": found.private_clean >> 10,
        "Private_Dirty": found.private_dirty >> 10,
        "Referenced": found.referenced >> 10,
        "Anonymous": found.anonymous >> 10,
        "LazyFree": found.lazyfree >> 10,
        "AnonHugePages": found.anonymous_thp >> 10,
        "ShmemPmdMapped": 0,
        "FilePmdMapped": 0,
        "Shared_Hugetlb": found.shared_hugetlb >> 10,
        "Private_Hugetlb": found.private_hugetlb >> 10,
        "Swap": 0,
        "SwapPss": 0,
        "Locked": found.pss_locked >> (10 + _PSS_SHIFT),
    }


def smaps(process: Process) -> str:
    """The whole file, without ProtectionKey."""
    lines: list[str] = []
    unnamed = process.mm.rules.unnamed_flags
    for vma in process.mm.tree:
        lines.append(header(process.mm, vma))
        lines += [f"{label + ':':<15} {kb:>8} kB" for label, kb in numbers(process, vma).items()]
        lines += _eligible(process, vma)
        lines.append(f"VmFlags: {vf.flags_text(vma.flags, unnamed=unnamed)}")
    return "".join(f"{line}\n" for line in lines)


def _eligible(process: Process, vma: Vma) -> list[str]:
    """The line that says whether a VMA may have huge pages, where a kernel has it."""
    thp = process.frames.thp
    if thp is None or not thp.rules.says_eligible:
        return []
    number = int(allowed(thp, vma, smaps=True))
    return [f"THPeligible:    {number:>8}" if thp.rules.aligns_eligible else f"THPeligible:    {number}"]


def smaps_rollup(process: Process) -> str:
    """/proc/PID/smaps_rollup: all VMAs together; empty for a process that has none."""
    areas = list(process.mm.tree)
    if not areas:
        return ""
    whole = Resident()
    for vma in areas:
        whole.add(resident(process, vma))
    head = f"{areas[0].start:08x}-{areas[-1].end:08x} ---p 00000000 00:00 0 "
    lines = [head.ljust(25 + process.mm.layout.pointer * 6) + "[rollup]"]
    lines += [f"{label + ':':<15} {kb:>8} kB" for label, kb in _lines(whole, rollup=True).items()]
    return "".join(f"{line}\n" for line in lines)


def numa_line(process: Process, vma: Vma, policy: str) -> str:
    """show_numa_map: one line, without `active=`, as there are no LRU lists here. `policy`: mpol_to_str."""
    line = f"{vma.start:08x} {policy}"
    if vma.file is not None:
        line += f" file={_escaped(vma.file.path)}"
    elif vma.special is None and is_heap(process.mm, vma):
        line += " heap"
    elif vma.special is None and is_stack(process.mm, vma):
        line += " stack"
    huge = bool(vma.flags & vf.VM_HUGETLB)
    line += " huge" if huge else ""
    entries = _huge_entries(process, vma) if huge else process.mapped_entries(vma.start, vma.end)
    if not len(entries):
        return line
    frames, pfns = process.frames, pfns_of(entries)
    pages, anon = len(pfns), int((frames.kind[pfns] == ANON).sum())
    if huge:
        anon = sum(not isinstance(frames.owner_of(pfn), AddressSpace) for pfn in pfns.tolist())
    dirty = int((has(entries, DIRTY) | frames.dirty[pfns]).sum())
    # of a huge page the first one counts
    counted = pfns_of(entries[~has(entries, HUGE)])
    if frames.thp is not None:
        counted = np.concatenate([counted, pfns[has(entries, HUGE)] & -frames.thp.nr])
    most = int(frames.mapcount[counted].max())
    line += f" anon={anon}" if anon else ""
    line += f" dirty={dirty}" if dirty else ""
    line += f" mapped={pages}" if pages not in (anon, dirty) else ""
    line += f" mapmax={most}" if most > 1 else ""
    pool = of_vma(vma).pool if huge else None
    nids = frames.source.nids_of(pfns) if pool is None else [pool.nid_of(pfn) for pfn in pfns.tolist()]
    nodes = np.bincount(nids)
    line += "".join(f" N{nid}={count}" for nid, count in enumerate(nodes.tolist()) if count)
    return f"{line} kernelpagesize_kB={huge_size(vma) >> 10}"


def _huge_entries(process: Process, vma: Vma) -> Entries:
    tree = process.mm.tree
    return np.array([tree.huge_entries[at] for at in within(tree, vma, vma.start, vma.end)], np.int64)


def _escaped(path: str) -> str:
    """seq_file_path: characters that would end a word are written as their octal numbers."""
    return "".join(f"\\{ord(letter):03o}" if letter in "\n\t= " else letter for letter in path)


def numa_maps(process: Process, policy: Callable[[Vma], str]) -> str:
    """The whole file; `policy` says how the effective policy of a VMA is written."""
    return "".join(f"{numa_line(process, vma, policy(vma))}\n" for vma in process.mm.tree)
