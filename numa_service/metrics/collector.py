"""The state of a node as Prometheus metrics, read at each scrape and at no other time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from numa_service.mm.mmzone import LRU_UNEVICTABLE, NR_ORDERS, NR_WMARK
from numa_service.mm.pgdat import MAX_RECLAIM_RETRIES, ZoneExtent
from numa_service.mm.pgdata import KSWAPD_FAILURES, SWAP_TOTAL
from numa_service.mm.vmstat import (
    NR_ANON_MAPPED,
    NR_FILE_DIRTY,
    NR_FILE_PAGES,
    NR_SLAB_RECLAIMABLE,
    NR_SLAB_UNRECLAIMABLE,
    NR_ZONE_LRU_BASE,
    NUMASTAT_NAMES,
    vm_event_names,
)
from numa_service.node.node import Node
from numa_service.rpc.server import NodeServer

_WMARK_LEVELS = ("min", "low", "high", "promo")
_LRU_LISTS = ("inactive_anon", "active_anon", "inactive_file", "active_file")
_NODE_PAGES = (("anon", NR_ANON_MAPPED), ("file", NR_FILE_PAGES), ("dirty", NR_FILE_DIRTY))
_SLAB_PAGES = (("reclaimable", NR_SLAB_RECLAIMABLE), ("unreclaimable", NR_SLAB_UNRECLAIMABLE))
#: Slab caches that have series of their own: those with the most pages. The others are one together.
SLAB_CACHES_SHOWN = 10
_KSWAPD_STATES = ("asleep", "running", "hopeless")


class NodeCollector(Collector):
    """Zones, counters and kswapd of one node. Register it in the server's registry.

    It reads counters and walks no list, so that the cost of a scrape does not grow with memory. Metrics must
    be collected on the node's event loop: a scrape then falls between two ops, and its numbers are
    consistent.
    """

    def __init__(self, server: NodeServer) -> None:
        self._server = server
        self._node: Node = server.node

    def describe(self) -> list[Metric]:
        """Return nothing: else registering the collector would collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric family with its current values."""
        yield from self._zones()
        yield from self._counters()
        yield from self._kswapd()
        yield from self._owners()
        yield from self._slab()
        yield from self._load()
        yield from self._service()

    @property
    def _id(self) -> str:
        return str(self._node.nid)

    def _populated(self) -> Sequence[ZoneExtent]:
        return [extent for extent in self._node.pgdat.extents if extent.present]

    def _zones(self) -> Iterator[Metric]:
        pg = self._node.pgdat.pg
        pages = GaugeMetricFamily(
            "numa_zone_pages", "Pages of a zone, by state.", labels=["node", "zone", "state"]
        )
        marks = GaugeMetricFamily(
            "numa_zone_watermark_pages",
            "Watermarks of a zone as the kernel stores them; boost is added to each while it lasts.",
            labels=["node", "zone", "level"],
        )
        blocks = GaugeMetricFamily(
            "numa_zone_free_blocks",
            "Free blocks of 2^order pages, as in /proc/buddyinfo.",
            labels=["node", "zone", "order"],
        )
        pagesets = GaugeMetricFamily(
            "numa_pcp_pages", "Pages on the per-CPU lists of a zone, all CPUs.", labels=["node", "zone"]
        )
        lru = GaugeMetricFamily(
            "numa_lru_pages", "Pages on the LRU lists of a zone.", labels=["node", "zone", "list"]
        )
        for extent in self._populated():
            zone, at = extent.index, (self._id, extent.name)
            pages.add_metric((*at, "free"), self._node.pgdat.free_pages(zone))
            pages.add_metric((*at, "managed"), extent.managed)
            pages.add_metric((*at, "present"), extent.present)
            pages.add_metric((*at, "spanned"), extent.spanned)
            for wmark, level in zip(range(NR_WMARK), _WMARK_LEVELS, strict=True):
                marks.add_metric((*at, level), int(pg.watermark[zone, wmark]))
            marks.add_metric((*at, "boost"), int(pg.watermark_boost[zone]))
            for order, count in enumerate(pg.nr_free[zone].tolist()):
                blocks.add_metric((*at, str(order)), count)
            pagesets.add_metric(at, int(pg.pcp_count[:, zone].sum()))
            for item, name in zip(range(LRU_UNEVICTABLE), _LRU_LISTS, strict=True):
                lru.add_metric((*at, name), int(pg.vm_stat[zone, NR_ZONE_LRU_BASE + item]))
        yield from (pages, marks, blocks, pagesets, lru)

    def _counters(self) -> Iterator[Metric]:
        pgdat = self._node.pgdat
        stat = CounterMetricFamily("numa_stat", "The counters of numastat(8).", labels=["node", "item"])
        for item, count in zip(NUMASTAT_NAMES, pgdat.pg.numa_event.sum(axis=0).tolist(), strict=True):
            stat.add_metric((self._id, item), count)
        events = CounterMetricFamily(
            "numa_vm_events", "vm events by their /proc/vmstat name.", labels=["node", "event"]
        )
        for event, count in zip(vm_event_names(pgdat.zone_names), pgdat.pg.vm_event.tolist(), strict=True):
            if event:
                events.add_metric((self._id, event), count)
        bad = CounterMetricFamily("numa_bad_pages", "Frees refused, by reason.", labels=["node", "reason"])
        for reason, count in pgdat.bad_pages().items():
            bad.add_metric((self._id, reason), count)
        failed = CounterMetricFamily(
            "numa_alloc_failed_blocks",
            "Blocks of 2^order pages that requests of the node wanted and did not get.",
            labels=["node", "order"],
        )
        for order in range(NR_ORDERS):
            failed.add_metric((self._id, str(order)), self._node.alloc_failures.get(order, 0))
        yield from (stat, events, bad, failed)

    def _kswapd(self) -> Iterator[Metric]:
        node = self._node
        failed = node.pgdat.pg.kswapd[KSWAPD_FAILURES] >= MAX_RECLAIM_RETRIES
        now = "running" if node.kswapd.running else "hopeless" if failed else "asleep"
        state = GaugeMetricFamily(
            "numa_kswapd_state",
            "1 for what kswapd does now; hopeless: it gave up, only direct reclaim is left.",
            labels=["node", "state"],
        )
        for name in _KSWAPD_STATES:
            state.add_metric((self._id, name), float(name == now))
        wakeups = CounterMetricFamily("numa_kswapd_wakeups", "Runs that kswapd began.", labels=["node"])
        wakeups.add_metric((self._id,), node.kswapd.wakeups)
        reclaimed = CounterMetricFamily(
            "numa_kswapd_reclaimed_pages", "Pages that kswapd reclaimed.", labels=["node"]
        )
        reclaimed.add_metric((self._id,), node.kswapd.reclaimed)
        yield from (state, wakeups, reclaimed)

    def _owners(self) -> Iterator[Metric]:
        node = self._node
        sessions = GaugeMetricFamily("numa_sessions", "Open sessions.", labels=["node"])
        sessions.add_metric((self._id,), len(node.sessions))
        held = GaugeMetricFamily(
            "numa_held_pages", "Pages that sessions and regions of any node have here.", labels=["node"]
        )
        held.add_metric((self._id,), node.held_pages())
        pages = GaugeMetricFamily(
            "numa_node_pages",
            "Pages of the node by what they hold: nr_anon_pages, nr_file_pages, nr_dirty.",
            labels=["node", "state"],
        )
        for name, item in _NODE_PAGES:
            pages.add_metric((self._id, name), int(node.pgdat.pg.node_stat[item]))
        swap = GaugeMetricFamily(
            "numa_swap_pages", "The node's share of swap, in pages.", labels=["node", "state"]
        )
        swap.add_metric((self._id, "total"), int(node.pgdat.pg.reclaim_stat[SWAP_TOTAL]))
        swap.add_metric((self._id, "used"), node.swap_used)
        info = GaugeMetricFamily(
            "numa_node_info",
            "Always 1: which machine the node belongs to.",
            labels=["node", "machine", "profile", "lineage"],
        )
        spec = node.machine.spec
        info.add_metric((self._id, spec.name, spec.profile, str(node.lineage)), 1)
        yield from (sessions, held, pages, swap, info)

    def _slab(self) -> Iterator[Metric]:
        node = self._node
        pages = GaugeMetricFamily(
            "numa_slab_pages",
            "Pages of slabs: nr_slab_reclaimable, nr_slab_unreclaimable.",
            labels=["node", "state"],
        )
        for name, item in _SLAB_PAGES:
            pages.add_metric((self._id, name), int(node.pgdat.pg.node_stat[item]))
        held = GaugeMetricFamily(
            "numa_slab_held_objects", "Slab objects that sessions of the node hold.", labels=["node"]
        )
        held.add_metric((self._id,), node.kmem.held)
        labels = ["node", "cache"]
        slabs = GaugeMetricFamily(
            "numa_slab_cache_slabs", "Slabs of a cache in the node's memory.", labels=labels
        )
        objects = GaugeMetricFamily(
            "numa_slab_cache_objects", "Objects of these slabs, free ones included.", labels=labels
        )
        kmem = node.kmem
        counts = {name: kmem.count(name) for name in kmem.used}
        caches = sorted(counts, key=lambda name: -(counts[name].slabs << kmem.cache(name).order))
        for name in caches[:SLAB_CACHES_SHOWN]:
            slabs.add_metric((self._id, name), counts[name].slabs)
            objects.add_metric((self._id, name), counts[name].objects)
        others = [counts[name] for name in caches[SLAB_CACHES_SHOWN:]]
        slabs.add_metric((self._id, "others"), sum(of.slabs for of in others))
        objects.add_metric((self._id, "others"), sum(of.objects for of in others))
        yield from (pages, held, slabs, objects)

    def _load(self) -> Iterator[Metric]:
        load = self._node.load
        used = GaugeMetricFamily(
            "numa_memory_utilisation_ratio",
            "Traffic to the node's memory over its bandwidth, in virtual time.",
            labels=["node"],
        )
        wait = GaugeMetricFamily(
            "numa_memory_wait_seconds",
            "Virtual time that an access to the node's memory waits.",
            labels=["node"],
        )
        bandwidth = GaugeMetricFamily(
            "numa_memory_bandwidth_bytes_per_second",
            "Bandwidth of the node's memory; none if it is without limit.",
            labels=["node"],
        )
        used.add_metric((self._id,), load.memory.utilisation)
        wait.add_metric((self._id,), load.memory.waiting / 1e9)
        if load.memory.mb_per_s:
            bandwidth.add_metric((self._id,), load.memory.mb_per_s * 1e6)
        labels = ["node", "target_node"]
        link_used = GaugeMetricFamily(
            "numa_link_utilisation_ratio",
            "Traffic of the node's CPUs to another node over the bandwidth between them, in virtual time.",
            labels=labels,
        )
        link_bandwidth = GaugeMetricFamily(
            "numa_link_bandwidth_bytes_per_second", "Bandwidth from the node to another one.", labels=labels
        )
        for to, link in sorted(load.links.items()):
            if link.mb_per_s:
                link_used.add_metric((self._id, str(to)), link.utilisation)
                link_bandwidth.add_metric((self._id, str(to)), link.mb_per_s * 1e6)
        moved = CounterMetricFamily(
            "numa_memory_traffic_bytes",
            "Bytes that CPUs of the node moved, by the node of the memory.",
            labels=labels,
        )
        for to, nr_bytes in load.traffic.items():
            moved.add_metric((self._id, str(to)), nr_bytes)
        yield from (used, wait, bandwidth, link_used, link_bandwidth, moved)

    def _service(self) -> Iterator[Metric]:
        node = self._node
        lineage = GaugeMetricFamily("numa_node_lineage", "Times that the node has booted.", labels=["node"])
        lineage.add_metric((self._id,), node.lineage)
        ops = CounterMetricFamily("numa_log_ops", "Ops in the node's log.", labels=["node"])
        ops.add_metric((self._id,), node.log_length)
        dropped = CounterMetricFamily(
            "numa_log_dropped_ops",
            "Ops dropped from the log's old end; it replays while there are none.",
            labels=["node"],
        )
        dropped.add_metric((self._id,), node.log_dropped)
        programs = GaugeMetricFamily(
            "numa_programs", "Programs that run now, by name and phase.", labels=["node", "program", "phase"]
        )
        for (program, phase), count in sorted(Counter(self._server.programs()).items()):
            programs.add_metric((self._id, program or "unnamed", phase or "unnamed"), count)
        owed = GaugeMetricFamily(
            "numa_peer_owed_answers",
            "Questions that another node has not answered; 0 for one that is not away.",
            labels=["node", "target_node"],
        )
        debts = self._server.owed()
        for other in node.machine.spec.nodes:
            if other.nid != node.nid:
                owed.add_metric((self._id, str(other.nid)), debts.get(other.nid, 0))
        yield from (lineage, ops, dropped, programs, owed)
