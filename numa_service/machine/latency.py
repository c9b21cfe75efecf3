"""Modelled time: what each step of an allocation costs, in virtual ns.

Nobody sleeps: costs are accounted in replies and metrics. SLIT distances order zonelists; times are
their own numbers, per pair of nodes where given, else scaled from the local one by distance.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Constants of the cost account, in ns. Every one can be set under ``[latency]`` of a machine file."""

    #: Local read latency, idle. Intel MLC on 2-socket Xeon Scalable gives 80-100 ns as commonly published;
    #: Pond (Li et al., ASPLOS 2023) measured 78 ns on a Skylake and 115 ns on an EPYC 7452.
    local_read_ns: int = 90
    #: Read latency per (from nid, to nid), overriding local_read_ns × distance / 10.
    read_ns: dict[tuple[int, int], int] = field(default_factory=dict)
    #: Order-0 pair through a pageset is about 55 ns on a 3.6 GHz Xeon (Mel Gorman's page_bench, kernel
    #: commit log of the bulk allocator, 2021); half of it for one side.
    pageset_hit_ns: int = 28
    #: One block moved between pageset and buddy lists: 27 ns a page in bulk (same source).
    buddy_block_ns: int = 27
    #: One zone looked at whose watermark failed. Our estimate: a few cache misses.
    zone_skip_ns: int = 50
    #: One lookup at another node's zones, beside the access itself: zone lock and lists are remote cache
    #: lines. Our estimate: three of them at the 130-140 ns of a remote socket.
    remote_lookup_ns: int = 400
    #: One page scanned by direct reclaim. Our estimate from vmscan tracepoint intervals: about 0.5 µs.
    reclaim_page_ns: int = 500
    #: One page written to or read from swap: NVMe 4 KiB access as commonly published, about 80 µs.
    swap_page_ns: int = 80_000
    #: One file page read, same device.
    file_page_ns: int = 80_000
    #: Clearing one 4 KiB page at about 10 GB/s.
    zero_page_ns: int = 400

    def read_latency_ns(self, from_nid: int, to_nid: int, distance: int) -> int:
        """Unloaded read latency of a CPU on `from_nid` to memory of `to_nid`, ns."""
        explicit = self.read_ns.get((from_nid, to_nid))
        return explicit if explicit is not None else self.local_read_ns * distance // 10
