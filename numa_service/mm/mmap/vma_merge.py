"""Which neighbours become one VMA, and how a VMA is cut (``vma_merge``, ``split_vma``)."""

from __future__ import annotations

import errno
from collections.abc import Hashable
from dataclasses import dataclass

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.anon_vma import anon_vma_clone, take_over, unlink_anon_vmas
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.hugetlb import huge_size
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.rules import ANON_UNFORKED, PAGE_SHIFT
from numa_service.mm.mmap.vma import AnonVma, File, Vma


@dataclass(frozen=True, slots=True)
class Wanted:
    """The attributes that a range of addresses is to have, by which it may merge with its neighbours."""

    flags: int
    pgoff: int
    file: File | None = None
    policy: Hashable = None
    anon_name: str | None = None
    #: The VMA that the range is of, whose pages go with it; None for a new mapping.
    source: Vma | None = None

    @property
    def anon_vma(self) -> AnonVma | None:
        """The anon_vma of the anonymous pages in the range."""
        return self.source.anon_vma if self.source is not None else None


def can_merge_after(mm: MmStruct, prev: Vma, wanted: Wanted) -> bool:
    """can_vma_merge_after: whether a range behind `prev` may become a part of it."""
    return _alike(prev, wanted) and _anon_agrees(mm, wanted, prev) and prev.pgoff + prev.pages == wanted.pgoff


def can_merge_before(mm: MmStruct, following: Vma, wanted: Wanted, pages: int) -> bool:
    """can_vma_merge_before: whether a range of `pages` before `following` may become a part of it."""
    return (
        _alike(following, wanted)
        and _anon_agrees(mm, wanted, following)
        and following.pgoff == wanted.pgoff + pages
    )


def _alike(vma: Vma, wanted: Wanted) -> bool:
    """is_mergeable_vma, and equal policies."""
    return (
        not (vma.flags ^ wanted.flags) & ~vf.VM_SOFTDIRTY
        and vma.file is wanted.file
        and vma.special is None
        and vma.anon_name == wanted.anon_name
        and vma.policy == wanted.policy
    )


def _anon_agrees(mm: MmStruct, wanted: Wanted, vma: Vma) -> bool:
    """is_mergeable_anon_vma with the VMA that remains."""
    mine, its = wanted.anon_vma, vma.anon_vma
    if mm.rules.anon_rules == ANON_UNFORKED:
        if its is None and mine is not None and wanted.source is not None:
            return len(wanted.source.chain) == 1
        if its is not None and mine is None:
            return len(vma.chain) == 1
        return mine is its
    if (mine is None or its is None) and len(vma.chain) == 1:
        return True
    return mine is its


def _both_agree(prev: Vma, following: Vma) -> bool:
    """is_mergeable_anon_vma of two neighbours between which the range closes the gap."""
    mine, its = prev.anon_vma, following.anon_vma
    return mine is None or its is None or mine is its


def merge_new(mm: MmStruct, start: int, end: int, wanted: Wanted) -> Vma | None:
    """Make a new mapping a part of its neighbours; None if it has to be a VMA of its own.

    There is no VMA in the range. What it counts (stat_account) is left to the caller.
    """
    if wanted.flags & vf.VM_SPECIAL:
        return None
    prev, following = mm.tree.around(start, end)
    pages = (end - start) >> PAGE_SHIFT
    after = prev is not None and prev.end == start and can_merge_after(mm, prev, wanted)
    before = (
        following is not None and following.start == end and can_merge_before(mm, following, wanted, pages)
    )
    if after and before and prev is not None and following is not None:
        if mm.rules.mmap_prev_agrees_with_next and wanted.source is None:
            # prev is asked on behalf of the one behind
            behind = Wanted(wanted.flags, wanted.pgoff, wanted.file, source=following)
            after = following.anon_vma is None or _anon_agrees(mm, behind, prev)
        elif not _both_agree(prev, following):
            before = False
    if after and prev is not None:
        if before and following is not None:
            _absorb(mm, prev, following)
            return prev
        mm.tree.resize(prev, prev.start, end)
        _adopt(prev, wanted.source)
        return prev
    if before and following is not None:
        following.pgoff -= pages
        mm.tree.resize(following, start, following.end)
        _adopt(following, wanted.source)
        return following
    return None


def as_is(vma: Vma, start: int) -> Wanted:
    """Return the present attributes of a VMA from address `start` on."""
    moved = (start - vma.start) >> PAGE_SHIFT
    return Wanted(vma.flags, vma.pgoff + moved, vma.file, vma.policy, vma.anon_name, vma)


def modify(mm: MmStruct, vma: Vma, start: int, end: int, wanted: Wanted) -> Vma:
    """Give a part of a VMA other flags, another policy or another name; return the VMA that has the part now.

    It becomes a part of a neighbour that is like it (vma_merge), else the VMA is cut (split_vma: ENOMEM if
    there would be too many, and then it may be cut already where the part begins).
    """
    merged = _merge_part(mm, vma, start, end, wanted)
    if merged is not None:
        return merged
    if start != vma.start:
        vma = split(mm, vma, start)
    if end != vma.end:
        split(mm, vma, end)
    vma.flags, vma.policy, vma.anon_name = wanted.flags, wanted.policy, wanted.anon_name
    return vma


def split(mm: MmStruct, vma: Vma, address: int, *, checked: bool = True) -> Vma:
    """Cut a VMA in two and return the upper one. EINVAL within a huge page.

    ENOMEM beyond max_map_count, if that is `checked`.
    """
    if checked and mm.map_count >= mm.limits.max_map_count:
        raise Errno(errno.ENOMEM, "there are max_map_count VMAs")
    if address % huge_size(vma):
        raise Errno(errno.EINVAL, f"{address:#x} is within a huge page")
    upper = vma.copy(address, vma.end)
    upper.anon_vma = vma.anon_vma
    anon_vma_clone(upper, vma)
    mm.boundary(address)
    mm.tree.resize(vma, vma.start, address)
    mm.tree.insert(upper)
    return upper


def _merge_part(mm: MmStruct, vma: Vma, start: int, end: int, wanted: Wanted) -> Vma | None:
    """vma_merge of a part of a VMA that is to change, with its neighbours."""
    if wanted.flags & vf.VM_SPECIAL or vma.special is not None:
        return None
    prev, following = mm.tree.neighbours(vma)
    pages = (end - start) >> PAGE_SHIFT
    after = (
        start == vma.start and prev is not None and prev.end == start and can_merge_after(mm, prev, wanted)
    )
    before = (
        end == vma.end
        and following is not None
        and following.start == end
        and can_merge_before(mm, following, wanted, pages)
    )
    if after and before and prev is not None and following is not None:
        before = _both_agree(prev, following)
    if after and prev is not None:
        if end != vma.end:
            mm.boundary(end)
            vma.pgoff += pages
            mm.tree.resize(vma, end, vma.end)
            mm.tree.resize(prev, prev.start, end)
            take_over(prev, vma)
            return prev
        _absorb(mm, prev, vma)
        if before and following is not None:
            _absorb(mm, prev, following)
        return prev
    if before and following is not None:
        if start != vma.start:
            mm.boundary(start)
            mm.tree.resize(vma, vma.start, start)
            following.pgoff -= pages
            mm.tree.resize(following, start, following.end)
            take_over(following, vma)
            return following
        mm.tree.remove(vma)
        following.pgoff -= pages
        mm.tree.resize(following, start, following.end)
        take_over(following, vma)
        unlink_anon_vmas(vma)
        return following
    return None


def _absorb(mm: MmStruct, survivor: Vma, gone: Vma) -> None:
    """`gone` becomes the upper part of `survivor`."""
    take_over(survivor, gone)
    mm.tree.remove(gone)
    mm.tree.resize(survivor, survivor.start, gone.end)
    unlink_anon_vmas(gone)


def _adopt(survivor: Vma, source: Vma | None) -> None:
    """A VMA that has grown by a copy of another one's pages may have those, too."""
    if source is not None:
        take_over(survivor, source)
