"""``numa=fake=``: a machine cut into N nodes, or into nodes of a size (``arch/x86/mm/numa_emulation.c``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numa_service.machine.notation import MAX_NUMNODES
from numa_service.machine.spec import SpecError
from numa_service.machine.zones import PfnRange, count_pages, intersect, merge
from numa_service.mm.mmzone import PAGE_SHIFT

#: FAKE_NODE_MIN_SIZE: 32 MiB.
_MIN_PAGES = 32 << 20 >> PAGE_SHIFT
_DMA32_END = 4 << 30 >> PAGE_SHIFT


@dataclass(frozen=True, slots=True)
class FakeNode:
    """One emulated node."""

    nid: int
    #: The real node that it is cut from.
    phys_nid: int
    #: Page frame ranges that the node is made of, holes included, ascending.
    blocks: tuple[PfnRange, ...]
    ram: tuple[PfnRange, ...]
    #: All CPUs of the real node (numa_add_cpu).
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fake:
    """The value of ``numa=fake=``: a number of nodes (`count`), or their size (`pages`); the other is 0."""

    count: int = 0
    pages: int = 0


def split_nodes_interleave(
    blocks: Sequence[tuple[PfnRange, int]], ram: Sequence[PfnRange], fake: Fake
) -> list[tuple[PfnRange, int, int]]:
    """(range, fake nid, real nid) of every piece, in the order in which the kernel makes them.

    `blocks` are (range, nid) of the real nodes, ascending; `ram` is all RAM. Fake nodes are cut from the real
    ones in turn, in units of 32 MiB. With a count, the first nodes get the remainder of the division
    (split_nodes_interleave); with a size, every piece is a node (split_nodes_size_interleave).
    SpecError if a node would have less than 32 MiB.
    """
    last_pfn = ram[-1][1]
    count, pages = fake.count or MAX_NUMNODES, fake.pages
    if fake.count:
        pages = count_pages(ram) // count
        big = pages % _MIN_PAGES * count // _MIN_PAGES
    else:
        big = 0
        pages = max(pages, -(-count_pages(ram) // count // _MIN_PAGES) * _MIN_PAGES)
    pages -= pages % _MIN_PAGES
    if not pages:
        raise SpecError(f"fake={count}: less than {_MIN_PAGES << PAGE_SHIFT >> 20} MiB for each node")

    def usable(start: int, end: int) -> int:
        return count_pages(intersect(ram, (start, end)))

    left = [(start, min(end, last_pfn), nid) for (start, end), nid in blocks]
    pieces: list[tuple[PfnRange, int, int]] = []
    while left:
        for phys in sorted({nid for _, _, nid in left}):
            at = next(i for i, block in enumerate(left) if block[2] == phys)
            start, limit, _ = left.pop(at)
            end = start + pages + (_MIN_PAGES if len(pieces) < big else 0)
            while end < limit and usable(start, end) < pages:
                end += _MIN_PAGES
            # a rest that is too small for another node is added to this one
            if end < _DMA32_END and usable(end, _DMA32_END) < _MIN_PAGES:
                end = _DMA32_END
            if usable(end, limit) < pages:
                end = limit
            end = min(end, limit)
            pieces.append(((start, end), len(pieces) % count, phys))
            if end < limit:
                left.insert(at, (end, limit, phys))
    return pieces


def numa_emulation(
    ram: Mapping[int, Sequence[PfnRange]], cpus: Mapping[int, Sequence[int]], fake: Fake
) -> list[FakeNode]:
    """The emulated nodes of a machine whose real nodes have `ram` and `cpus`, by nid.

    SpecError if a node would have less than 32 MiB.
    """
    placed = sorted((start, end, nid) for nid, ranges in ram.items() for start, end in ranges)
    every = merge((start, end) for start, end, _ in placed)
    # numa_cleanup_meminfo: ranges of one node become one block unless memory of another lies between them
    blocks: list[tuple[PfnRange, int]] = []
    for start, end, nid in placed:
        if blocks and blocks[-1][1] == nid:
            blocks[-1] = ((blocks[-1][0][0], end), nid)
        else:
            # page 0 is never RAM, but belongs to the first block of the SRAT
            blocks.append(((0 if not blocks else start, end), nid))
    pieces = split_nodes_interleave(blocks, every, fake)
    phys_of = {nid: phys for _, nid, phys in reversed(pieces)}
    # CPUs of a real node without memory join the real node that fake node 0 is cut from
    first = phys_of[0]
    homes: dict[int, list[int]] = {}
    for nid, own in cpus.items():
        homes.setdefault(nid if nid in phys_of.values() else first, []).extend(own)
    nodes = []
    for made in sorted(phys_of):
        spans = merge(block for block, nid, _ in pieces if nid == made)
        owned = merge(piece for span in spans for piece in intersect(every, span))
        nodes.append(FakeNode(made, phys_of[made], spans, owned, tuple(sorted(homes.get(phys_of[made], [])))))
    return nodes
