"""The zonelist cache: zones found full within the last second are passed over (``zlc_*``, 2.6.20 to 4.3).

Times are arguments, in ns. A position is an index in a node's fallback list.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from numa_service.mm.zonelist import Zoneref

#: Full zones are forgotten after one second: HZ jiffies (zlc_setup).
ZLC_LIFETIME_NS = 1_000_000_000


@dataclass(slots=True)
class ZonelistCache:
    """``struct zonelist_cache`` of one fallback list."""

    #: The zones of the list, in list order; stands for z_to_n.
    zonerefs: tuple[Zoneref, ...]
    #: Bit i: the zone at position i was full.
    fullzones: int = 0
    #: When `fullzones` was last cleared.
    last_full_zap_ns: int = 0

    def is_old(self, now_ns: int) -> bool:
        """Whether zlc_setup() would clear the cache now."""
        return now_ns - self.last_full_zap_ns >= ZLC_LIFETIME_NS

    def setup(self, now_ns: int) -> None:
        """Clear the cache if it was last cleared a second ago or longer (zlc_setup)."""
        if self.is_old(now_ns):
            self.clear_zones_full()
            self.last_full_zap_ns = now_ns

    def position(self, ref: Zoneref) -> int:
        """Position of a zone in the list; ValueError if it is not there."""
        return self.zonerefs.index(ref)

    def zone_worth_trying(
        self, position: int, allowed_nodes: Collection[int] | None = None, expired: bool = False
    ) -> bool:
        """Whether a zone is on an allowed node and not known to be full (zlc_zone_worth_trying).

        With `expired` no zone counts as full, since the cache is about to be cleared.
        """
        if allowed_nodes is not None and self.zonerefs[position].nid not in allowed_nodes:
            return False
        return expired or not self.fullzones >> position & 1

    def mark_zone_full(self, position: int) -> None:
        """Record that a zone failed its watermark or had no page for a request (zlc_mark_zone_full)."""
        self.fullzones |= 1 << position

    def clear_zones_full(self) -> None:
        """Forget all full zones, after direct reclaim has freed pages (zlc_clear_zones_full)."""
        self.fullzones = 0

    @property
    def full(self) -> tuple[Zoneref, ...]:
        """The zones that are recorded as full, in list order."""
        return tuple(ref for i, ref in enumerate(self.zonerefs) if self.fullzones >> i & 1)


@dataclass(slots=True)
class ZonelistScan:
    """The use of the cache during one ``get_page_from_freelist()`` of 3.0.

    Only after a zone has failed its watermark is the cache consulted, and only with more than one node
    on-line. A scan that finds no page after that is repeated without the cache. This class only reads the
    cache; the caller makes the changes.
    """

    cache: ZonelistCache
    nr_online_nodes: int
    #: Time of the scan, which is taken to need none itself.
    now_ns: int
    #: Nodes of the cpuset (mems_allowed); None: all.
    allowed_nodes: Collection[int] | None = None
    #: False with ALLOC_NO_WATERMARKS: no zone fails a watermark then, so that the cache is never consulted.
    watermarks: bool = True
    #: did_zlc_setup: the cache is in use.
    did_setup: bool = field(default=False, init=False)
    #: The scan is being repeated without the cache.
    repeated: bool = field(default=False, init=False)

    def skips(self, position: int) -> bool:
        """Whether the zone at a position is passed over; asked once a zone before it has failed."""
        if self.repeated or not self._switches_on:
            return False
        return not self.cache.zone_worth_trying(
            position, self.allowed_nodes, expired=not self.did_setup and self.cache.is_old(self.now_ns)
        )

    @property
    def _switches_on(self) -> bool:
        """Whether a zone that fails its watermark makes this scan use the cache."""
        return self.nr_online_nodes > 1 and self.watermarks

    def zones_full(self) -> bool:
        """Note that zones failed and are to be marked full; True if the caller has to call setup() first."""
        setup = self._switches_on and not self.did_setup
        self.did_setup |= setup
        return setup

    def scan_again(self) -> bool:
        """Whether a scan without result is to be repeated: True once, if the cache has been in use."""
        again = self.did_setup and not self.repeated
        self.repeated = True
        return again
