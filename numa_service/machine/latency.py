"""The latency model: what each step of an allocation costs, in virtual ns.

Costs are accounted in replies and metrics; only with `mode` "inject" do replies wait for them. SLIT distances
order the zonelists and are no times: latencies are given for pairs of nodes, or else are the local latency
scaled by distance. What a memory, or the link to it, adds under load is a curve over its utilisation
(docs/decisions/0005).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

#: Points (percent of the bandwidth, ns added to the idle latency), ascending from (0, 0) to (100, …).
Curve = tuple[tuple[float, float], ...]

#: Curves that every machine file may name, by the kind of memory or link.
CURVES: dict[str, Curve] = {
    # Six channels of DDR4-2666 a socket: `mlc --loaded_latency` of MLC 3.5 on two Xeon Skylake sockets, reads
    # only, in the calibration data of FD.io CSIT (sut_calib_skx.rst): 81.4 ns idle, 282.7 ns at 215.7 GB/s.
    # Its points, less the idle 81.4 ns, over 215.9 GB/s. Left out: 227 ns at 99.6 %, on the way up the wall.
    "ddr4": ((0, 0), (5, 8), (16.3, 10), (31.8, 13), (51.7, 20), (74.2, 41), (100, 201)),
    # Eight channels of DDR4-3200 a socket: MLC on two EPYC 7H12 (published 2022) has 157.8 ns at 237.1 GB/s,
    # 381 ns at 280.8 GB/s; less the 115 ns of an idle EPYC in Pond (ASPLOS 2023). At 50 %: our estimate.
    "ddr4-rome": ((0, 0), (50, 12), (84.4, 43), (100, 266)),
    # A CXL card: our estimate, twice the ns of "ddr4": a link and a controller of its own to queue for.
    "cxl": ((0, 0), (5, 16), (16.3, 20), (31.8, 26), (51.7, 40), (74.2, 82), (100, 402)),
    # The link between sockets: our estimate, the shape of "ddr4" and half of its ns.
    "socket": ((0, 0), (50, 10), (75, 20), (100, 100)),
}
#: One Skylake socket, and the link between two of them, in MB/s (10^6 B/s), read only: 107,948 and 50,952 by
#: `mlc --bandwidth_matrix` of the same calibration data.
SOCKET_MB_PER_S = 108_000
SOCKET_LINK_MB_PER_S = 51_000
#: Largest bandwidth that a machine file may give: 1 PB/s.
MAX_MB_PER_S = 10**9

MODES = ("account", "inject")


def queueing_ns(curve: Curve, utilisation: float) -> float:
    """The ns that load adds to the idle latency; `utilisation` is 1 at the full bandwidth, and cut there."""
    percent = 100 * utilisation
    at = bisect_left(curve, percent, key=lambda point: point[0])
    if at == 0:
        return curve[0][1]
    if at == len(curve):
        return curve[-1][1]
    (left, low), (right, high) = curve[at - 1], curve[at]
    return low + (high - low) * (percent - left) / (right - left)


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Constants of the cost account, each of which can be set under ``[latency]`` of a machine file.

    Times are in ns. Dictionaries have only what a machine file gives; the methods know the defaults.
    """

    #: Local read latency, idle. Intel MLC on 2-socket Xeon Scalable gives 80-100 ns as commonly published;
    #: Pond (Li et al., ASPLOS 2023) measured 78 ns on a Skylake and 115 ns on an EPYC 7452.
    local_read_ns: int = 90
    #: Read latency per (from nid, to nid), overriding local_read_ns × distance / 10.
    read_ns: dict[tuple[int, int], int] = field(default_factory=dict)
    #: Write latency likewise, as in an HMAT; the read latency where it is not given.
    write_ns: dict[tuple[int, int], int] = field(default_factory=dict)
    #: Bandwidth of each memory by nid, MB/s (10^6 B/s); 0 is without limit. Default: the highest
    #: `read_mb_per_s` of any node to it, else SOCKET_MB_PER_S.
    memory_mb_per_s: dict[int, int] = field(default_factory=dict)
    #: Bandwidth of the link by (from nid, to nid), MB/s; 0 is without limit. Default: `read_mb_per_s` of the
    #: pair, since a link gives at least what was measured over it; else SOCKET_LINK_MB_PER_S.
    link_mb_per_s: dict[tuple[int, int], int] = field(default_factory=dict)
    #: Bandwidth of reads and of writes by (from nid, to nid), as an HMAT has it, MB/s. They are shown in
    #: access0 and access1, and the two above default to that of reads. Writes load a memory as reads do.
    read_mb_per_s: dict[tuple[int, int], int] = field(default_factory=dict)
    write_mb_per_s: dict[tuple[int, int], int] = field(default_factory=dict)
    #: Name of each memory's curve by nid. Default: ddr4.
    memory_curve: dict[int, str] = field(default_factory=dict)
    #: Name of each link's curve. Default: socket.
    link_curve: dict[tuple[int, int], str] = field(default_factory=dict)
    #: Curves by name, beside or instead of CURVES.
    curves: dict[str, Curve] = field(default_factory=dict)
    #: Busy time of a CPU, in ns, over which traffic is averaged into a utilisation: long enough for some
    #: thousand accesses, and half a second for a client that asks for one page after the other.
    window_ns: int = 200_000
    #: "account": replies do not wait. "inject": a reply waits for its latency × time_dilation.
    mode: str = "account"
    #: Real seconds for each virtual second, with "inject": the latencies themselves are too short to sleep.
    time_dilation: float = 0.0
    #: One order-0 allocation or free through a pageset: half of the 55 ns that a pair of both takes on a
    #: 3.6 GHz Xeon (Mel Gorman's page_bench, kernel commit log of the bulk allocator, 2021).
    pageset_hit_ns: int = 28
    #: One block moved between pageset and buddy lists: 27 ns a page in bulk (same source).
    buddy_block_ns: int = 27
    #: One zone that is skipped because its watermark check fails. Our estimate: a few cache misses.
    zone_skip_ns: int = 50
    #: One lookup in the zones of another node, beside the access to the page: zone lock and lists are remote
    #: cache lines. Our estimate: three of them at the 130-140 ns of a remote socket.
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

    def write_latency_ns(self, from_nid: int, to_nid: int, distance: int) -> int:
        """Unloaded write latency of a CPU on `from_nid` to memory of `to_nid`, ns."""
        explicit = self.write_ns.get((from_nid, to_nid))
        return explicit if explicit is not None else self.read_latency_ns(from_nid, to_nid, distance)

    def memory_bandwidth(self, nid: int) -> int:
        """Bandwidth of a node's memory, MB/s; 0 is without limit."""
        stated = self.memory_mb_per_s.get(nid)
        if stated is not None:
            return stated
        return max((mb for (_, to), mb in self.read_mb_per_s.items() if to == nid), default=SOCKET_MB_PER_S)

    def link_bandwidth(self, from_nid: int, to_nid: int) -> int:
        """Bandwidth of the link from CPUs of a node to memory of another, MB/s.

        0 is without limit, as from a node to its own memory.
        """
        pair = from_nid, to_nid
        stated = 0 if from_nid == to_nid else self.link_mb_per_s.get(pair)
        return self.read_mb_per_s.get(pair, SOCKET_LINK_MB_PER_S) if stated is None else stated

    def memory_curve_name(self, nid: int) -> str:
        """Name of the curve of what load adds at a node's memory."""
        return self.memory_curve.get(nid, "ddr4")

    def link_curve_name(self, from_nid: int, to_nid: int) -> str:
        """Name of the curve of what load adds on a link."""
        return self.link_curve.get((from_nid, to_nid), "socket")

    def curve(self, name: str) -> Curve:
        """The curve of that name, one of the machine file's first, else one of CURVES; KeyError."""
        return self.curves[name] if name in self.curves else CURVES[name]
