"""What a request cost, in virtual ns: work counters times the constants of the latency model."""

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
    """Modelled time by what it was spent on, ns."""

    access_ns: int = 0
    pageset_ns: int = 0
    buddy_ns: int = 0
    fallback_ns: int = 0
    reclaim_ns: int = 0
    zeroing_ns: int = 0
    #: Accesses and clearing, waiting behind other traffic to the same memory or over the same link.
    queueing_ns: int = 0
    #: Bytes moved, by the node of the memory; not a time.
    traffic: dict[int, int] = field(default_factory=dict)
    #: What each access waited, by the node of the memory; for more of the same request.
    waits: dict[int, int] = field(default_factory=dict, compare=False)

    @property
    def latency_ns(self) -> int:
        """The sum."""
        return (
            self.access_ns
            + self.pageset_ns
            + self.buddy_ns
            + self.fallback_ns
            + self.reclaim_ns
            + self.zeroing_ns
            + self.queueing_ns
        )

    def add_path(self, model: LatencyModel, path: Sequence[int]) -> None:
        """Work done in one node, as its PATH_* counters tell."""
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
        """Of getting pages of the CPU's own node, and with __GFP_ZERO of clearing them."""
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
        """Of giving blocks back."""
        return cls(pageset_ns=blocks * model.pageset_hit_ns)

    def add_lookup(self, model: LatencyModel) -> None:
        """One question to another node."""
        self.fallback_ns += model.remote_lookup_ns

    def add_access(self, load: Load, to_nid: int, pages: int, wait_ns: int, write: bool = False) -> None:
        """Access by a CPU of the node with this `load`; `wait_ns` is what the memory's node says of it."""
        self.access_ns += pages * load.idle_ns(to_nid, write)
        if to_nid != load.nid:
            wait_ns += load.link(to_nid).wait_ns
        self.waits[to_nid] = wait_ns
        self._move(to_nid, pages)

    def access_again(self, load: Load, to_nid: int, pages: int, write: bool = False) -> None:
        """More of what :meth:`add_access` has had, with the same wait."""
        self.access_ns += pages * load.idle_ns(to_nid, write)
        self._move(to_nid, pages)

    def add_zeroing(self, model: LatencyModel, to_nid: int, pages: int) -> None:
        """__GFP_ZERO: another pass over pages that were accessed before."""
        self.zeroing_ns += pages * model.zero_page_ns
        self._move(to_nid, pages)

    def _move(self, to_nid: int, pages: int) -> None:
        self.queueing_ns += pages * self.waits[to_nid]
        self.traffic[to_nid] = self.traffic.get(to_nid, 0) + bytes_of(pages)

    def add(self, other: Cost) -> None:
        """Another part of the same request."""
        self.access_ns += other.access_ns
        self.pageset_ns += other.pageset_ns
        self.buddy_ns += other.buddy_ns
        self.fallback_ns += other.fallback_ns
        self.reclaim_ns += other.reclaim_ns
        self.zeroing_ns += other.zeroing_ns
        self.queueing_ns += other.queueing_ns
        for nid, nr_bytes in other.traffic.items():
            self.traffic[nid] = self.traffic.get(nid, 0) + nr_bytes
