"""Who maps a page: found from the page alone (``rmap_walk``), for reclaim and migration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from numa_service.mm.mmap.entries import PRESENT, ZERO
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import PAGE_SHIFT, PAGE_SIZE
from numa_service.mm.mmap.vma import Vma


def mappings(processes: Iterable[Process], pfn: int) -> Iterator[tuple[Process, Vma, int]]:
    """The processes that map a page, with the VMA and the address.

    They are looked for where they can be: in the VMAs that are linked to the page's anon_vma or map its file,
    at the place of the page's number. `processes`: those of the machine, all of one `Frames`.
    """
    by_space = {id(process.mm.tree): process for process in processes}
    for process in by_space.values():
        frames = process.frames
        break
    else:
        return
    number = int(frames.index[pfn])
    for vma in list(frames.owner_of(pfn).vmas):
        found = by_space.get(id(vma.space))
        if found is None or not vma.pgoff <= number < vma.pgoff + vma.pages:
            continue
        address = vma.start + ((number - vma.pgoff) << PAGE_SHIFT)
        for _, part in found.chunks(address, address + PAGE_SIZE):
            entry = int(part[0])
            if entry & (PRESENT | ZERO) == PRESENT and entry >> 8 == pfn:
                yield found, vma, address
