"""What a request cost, in virtual ns: work counters times the constants of the latency model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numa_service.machine.latency import LatencyModel
from numa_service.machine.spec import MachineSpec
from numa_service.mm.vmstat import (
    PATH_BUDDY_BLOCKS,
    PATH_FILE_IO,
    PATH_PAGESET_PAGES,
    PATH_SCANNED,
    PATH_SWAPPED,
    PATH_ZONE_SKIPS,
)


@dataclass(slots=True)
class Cost:
    """Modelled time by what it was spent on, ns."""

    access_ns: int = 0
    pageset_ns: int = 0
    buddy_ns: int = 0
    fallback_ns: int = 0
    reclaim_ns: int = 0
    zeroing_ns: int = 0

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
        )

    def add_path(self, model: LatencyModel, path: Sequence[int]) -> None:
        """Work done in one node, as its PATH_* counters tell."""
        self.pageset_ns += path[PATH_PAGESET_PAGES] * model.pageset_hit_ns
        self.buddy_ns += path[PATH_BUDDY_BLOCKS] * model.buddy_block_ns
        self.fallback_ns += path[PATH_ZONE_SKIPS] * model.zone_skip_ns
        self.reclaim_ns += path[PATH_SCANNED] * model.reclaim_page_ns
        self.reclaim_ns += path[PATH_SWAPPED] * model.swap_page_ns + path[PATH_FILE_IO] * model.file_page_ns

    def add_lookup(self, model: LatencyModel) -> None:
        """One question to another node."""
        self.fallback_ns += model.remote_lookup_ns

    def add_access(self, spec: MachineSpec, from_nid: int, to_nid: int, pages: int) -> None:
        """First access of a CPU of one node to pages of another (or the same)."""
        read = spec.latency.read_latency_ns(from_nid, to_nid, spec.distance(from_nid, to_nid))
        self.access_ns += pages * read

    def add_zeroing(self, model: LatencyModel, pages: int) -> None:
        """__GFP_ZERO."""
        self.zeroing_ns += pages * model.zero_page_ns
