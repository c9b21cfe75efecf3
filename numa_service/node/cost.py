"""The modelled cost of a request in virtual ns: work counters times the constants of the latency model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from numa_service.machine.latency import LatencyModel
from numa_service.mm.gfp import Gfp
from numa_service.mm.vmstat import (
    PATH_BUDDY_BLOCKS,
    PATH_FILE_IO,
    PATH_PAGESET_PAGES,
    PATH_SCANNED,
    PATH_SWAPPED,
    PATH_ZONE_SKIPS,
)
from numa_service.node.load import Load, bytes_of


@dataclass(slots=True)
class Cost:
    """The modelled time of a request, in ns, by what it was spent on."""

    access_ns: int = 0
    pageset_ns: int = 0
    buddy_ns: int = 0
    fallback_ns: int = 0
    reclaim_ns: int = 0
    zeroing_ns: int = 0
    #: Time that accesses and zeroing waited behind other traffic to the same memory or over the same link.
    queueing_ns: int = 0
    #: Translations that the TLBs missed; of programs only.
    translation_ns: int = 0
    #: nid of the memory → bytes moved. Not a time.
    traffic: dict[int, int] = field(default_factory=dict)
    #: nid of the memory → ns that one access waits, as the request's first access there has found.
    waits: dict[int, int] = field(default_factory=dict, compare=False)

    @property
    def latency_ns(self) -> int:
        """The time of the whole request: the sum of the parts, in ns."""
        return (
            self.access_ns
            + self.pageset_ns
            + self.buddy_ns
            + self.fallback_ns
            + self.reclaim_ns
            + self.zeroing_ns
            + self.queueing_ns
            + self.translation_ns
        )

    def add_path(self, model: LatencyModel, path: Sequence[int]) -> None:
        """Add the work that one node did, given as its PATH_* counters."""
        self.pageset_ns += path[PATH_PAGESET_PAGES] * model.pageset_hit_ns
        self.buddy_ns += path[PATH_BUDDY_BLOCKS] * model.buddy_block_ns
        self.fallback_ns += path[PATH_ZONE_SKIPS] * model.zone_skip_ns
        if path[PATH_SCANNED] or path[PATH_SWAPPED] or path[PATH_FILE_IO]:
            self.reclaim_ns += path[PATH_SCANNED] * model.reclaim_page_ns
            self.reclaim_ns += path[PATH_SWAPPED] * model.swap_page_ns
            self.reclaim_ns += path[PATH_FILE_IO] * model.file_page_ns

    @classmethod
    def of_pages_here(
        cls, model: LatencyModel, load: Load, path: tuple[int, ...], pages: int, wait_ns: int, gfp: int
    ) -> Cost:
        """Return the cost of allocating `pages` of the CPU's own node, and of zeroing them for __GFP_ZERO.

        `path` are the PATH_* counters; one access waits `wait_ns`.
        """
        nid = load.nid
        zero = gfp & Gfp.ZERO
        passes = 2 * pages if zero else pages
        cost = cls(
            pages * load.idle_ns(nid),
            zeroing_ns=pages * model.zero_page_ns if zero else 0,
            queueing_ns=passes * wait_ns,
            traffic={nid: bytes_of(passes)},
        )
        cost.add_path(model, path)
        return cost

    @classmethod
    def of_free(cls, model: LatencyModel, blocks: int) -> Cost:
        """Return the cost of freeing blocks."""
        return cls(pageset_ns=blocks * model.pageset_hit_ns)

    def add_lookup(self, model: LatencyModel) -> None:
        """Add one question to another node."""
        self.fallback_ns += model.remote_lookup_ns

    def add_access(self, load: Load, to_nid: int, pages: int, wait_ns: int, write: bool = False) -> None:
        """Add accesses to pages of node `to_nid`, by a CPU of the node whose load is `load`.

        `wait_ns` is what the memory's node says that one access waits for the memory; the wait for the link
        is added here.
        """
        self.access_ns += pages * load.idle_ns(to_nid, write)
        if to_nid != load.nid:
            wait_ns += load.link(to_nid).wait_ns
        self.waits[to_nid] = wait_ns
        self._move(to_nid, pages)

    def access_again(self, load: Load, to_nid: int, pages: int, write: bool = False) -> None:
        """Add further accesses to memory that :meth:`add_access` was called for; each waits as long."""
        self.access_ns += pages * load.idle_ns(to_nid, write)
        self._move(to_nid, pages)

    def add_zeroing(self, model: LatencyModel, to_nid: int, pages: int) -> None:
        """Add the zeroing for __GFP_ZERO: a second pass over pages that were accessed before."""
        self.zeroing_ns += pages * model.zero_page_ns
        self._move(to_nid, pages)

    def _move(self, to_nid: int, pages: int) -> None:
        self.queueing_ns += pages * self.waits[to_nid]
        self.traffic[to_nid] = self.traffic.get(to_nid, 0) + bytes_of(pages)

    def add(self, other: Cost) -> None:
        """Add the cost of another part of the same request."""
        self.access_ns += other.access_ns
        self.pageset_ns += other.pageset_ns
        self.buddy_ns += other.buddy_ns
        self.fallback_ns += other.fallback_ns
        self.reclaim_ns += other.reclaim_ns
        self.zeroing_ns += other.zeroing_ns
        self.queueing_ns += other.queueing_ns
        self.translation_ns += other.translation_ns
        for nid, nr_bytes in other.traffic.items():
            self.traffic[nid] = self.traffic.get(nid, 0) + nr_bytes
