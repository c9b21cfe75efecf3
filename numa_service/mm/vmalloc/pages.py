"""Where the pages of an area come from: vm_area_alloc_pages, and the interleave policy of the boot.

This module knows no allocator. It asks a :class:`PageSource`, which may be the buddy allocator of a node,
every node of a machine, or a list made up by a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

#: No node is asked for: the policy of the task decides, and without one the node that it runs on.
NUMA_NO_NODE = -1
#: Order-0 pages are asked for in batches of this many (vm_area_alloc_pages).
_BULK = 100


class PageSource(Protocol):
    """What gives out pages."""

    def alloc_pages(self, node: int, order: int, count: int) -> Sequence[int]:
        """First pfns of up to `count` blocks of 2**order pages, from `node` or where it falls back to."""

    def free_pages(self, pfns: Sequence[int], order: int) -> None:
        """Take back blocks by their first pfns."""

    def page_to_nid(self, pfn: int) -> int:
        """The node of a page."""


@dataclass(slots=True)
class Interleave:
    """MPOL_INTERLEAVE of a task: the init task has it, over all nodes, until it starts userspace."""

    nodes: Sequence[int]
    #: The node of the page before (il_prev).
    previous: int = field(default=NUMA_NO_NODE)

    def __post_init__(self) -> None:
        self.nodes = sorted(set(self.nodes))
        if not self.nodes:
            raise ValueError("interleaving needs a node")

    def next_node(self) -> int:
        """The next node in turn (interleave_nodes)."""
        self.previous = next((node for node in self.nodes if node > self.previous), self.nodes[0])
        return self.previous

    def alloc_bulk(self, source: PageSource, count: int) -> list[int]:
        """`count` order-0 pages in equal shares; the first nodes in turn give one more if they do not divide.

        That is alloc_pages_bulk_array_interleave: a share is allocated at once, not page by page.
        """
        share, rest = divmod(count, len(self.nodes))
        pfns: list[int] = []
        for nth in range(len(self.nodes)):
            wanted = share + (nth < rest)
            node = self.next_node()
            if wanted:
                pfns += source.alloc_pages(node, 0, wanted)
        return pfns


def vm_area_alloc_pages(
    source: PageSource, node: int, order: int, nr_pages: int, policy: Interleave | None = None
) -> list[int]:
    """First pfns of blocks of 2**order that make up `nr_pages`: fewer if the source has no more.

    A `policy` counts where no node is asked for. Order 0 comes in batches; a batch that falls short is not
    tried again: the rest is asked for block by block, and blocks of a higher order always are.
    """
    interleaved = policy if node == NUMA_NO_NODE else None
    blocks = nr_pages >> order
    pfns: list[int] = []
    while order == 0 and len(pfns) < blocks:
        wanted = min(_BULK, blocks - len(pfns))
        if interleaved is not None:
            got = interleaved.alloc_bulk(source, wanted)
        else:
            got = list(source.alloc_pages(node, 0, wanted))
        pfns += got
        if len(got) < wanted:
            break
    while len(pfns) < blocks:
        one = source.alloc_pages(interleaved.next_node() if interleaved is not None else node, order, 1)
        if not one:
            break
        pfns += one
    return pfns
