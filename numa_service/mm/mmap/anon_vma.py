"""anon_vma: which VMAs may share anonymous pages, one being split or forked off the other (``mm/rmap.c``)."""

from __future__ import annotations

from numa_service.mm.mmap.vm_flags import VM_ACCESS_FLAGS, VM_SOFTDIRTY
from numa_service.mm.mmap.vma import AnonVma, Vma
from numa_service.mm.mmap.vma_tree import VmaTree


def anon_vma_prepare(tree: VmaTree, vma: Vma) -> None:
    """Before the first anonymous page of a VMA: it gets a neighbour's anon_vma if it could be merged with it.

    __anon_vma_prepare and find_mergeable_anon_vma: so that mprotect of neighbours that differ in nothing but
    their protection makes one VMA of them later.
    """
    if vma.anon_vma is not None:
        return
    prev, following = tree.neighbours(vma)
    found = None
    if following is not None and _compatible(vma, following):
        found = _reusable(following)
    if found is None and prev is not None and _compatible(prev, vma):
        found = _reusable(prev)
    if found is None:
        found = AnonVma(parent=None)
        found.children += 1
    _link(vma, found)
    vma.anon_vma = found
    found.active += 1


def anon_vma_clone(copy: Vma, vma: Vma) -> None:
    """A part of a VMA, or its copy for a child, may have pages of all the anon_vmas that it may have."""
    for anon in vma.chain:
        _link(copy, anon)
        # a child takes over an anon_vma whose own VMA has gone, and that has no more than one child
        forked = copy.anon_vma is None and vma.anon_vma is not None
        if forked and anon.children < 2 and anon.active == 0:
            copy.anon_vma = anon
    if copy.anon_vma is not None:
        copy.anon_vma.active += 1


def anon_vma_fork(child: Vma, parent: Vma) -> None:
    """A child's copy of a VMA: shared pages are its parent's, new ones are of an anon_vma of its own."""
    if parent.anon_vma is None:
        return
    child.anon_vma = None
    anon_vma_clone(child, parent)
    if child.anon_vma is not None:
        return
    own = AnonVma(parent=parent.anon_vma)
    own.active += 1
    parent.anon_vma.children += 1
    child.anon_vma = own
    _link(child, own)


def unlink_anon_vmas(vma: Vma) -> None:
    """A VMA goes: what no VMA is linked to any more goes, too."""
    for anon in vma.chain:
        del anon.vmas[vma]
        if not anon.vmas:
            (anon.parent or anon).children -= 1
    if vma.anon_vma is not None:
        vma.anon_vma.active -= 1
    vma.chain = ()
    vma.anon_vma = None


def take_over(survivor: Vma, gone: Vma) -> None:
    """dup_anon_vma: the VMA that remains of two has what the other one had."""
    if gone.anon_vma is not None and survivor.anon_vma is None:
        survivor.anon_vma = gone.anon_vma
        anon_vma_clone(survivor, gone)


def _link(vma: Vma, anon: AnonVma) -> None:
    vma.chain = (*vma.chain, anon)
    anon.vmas[vma] = None


def _reusable(near: Vma) -> AnonVma | None:
    return near.anon_vma if len(near.chain) == 1 else None


def _compatible(low: Vma, high: Vma) -> bool:
    """anon_vma_compatible: adjacent, and the same but for protection."""
    return (
        low.end == high.start
        and low.policy == high.policy
        and low.file is high.file
        and not (low.flags ^ high.flags) & ~(VM_ACCESS_FLAGS | VM_SOFTDIRTY)
        and high.pgoff == low.pgoff + low.pages
    )
