"""The zonelist cache of 3.0: zones found full a moment ago are not looked at again (``zlc_*``).

Pure: the time is an argument, in ns. Positions are places in a node's fallback list.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from numa_service.mm.zonelist import Zoneref

#: zlc_setup: full zones are forgotten after one second (HZ jiffies).
ZLC_LIFETIME_NS = 1_000_000_000


@dataclass(slots=True)
class ZonelistCache:
    """``struct zonelist_cache`` of one fallback list."""

    #: z_to_n and the zones themselves, in list order.
    zonerefs: tuple[Zoneref, ...]
    #: Bit i: the zone at position i was full.
    fullzones: int = 0
    last_full_zap_ns: int = 0

    def is_old(self, now_ns: int) -> bool:
        """Whether zlc_setup() would wipe it."""
        return now_ns - self.last_full_zap_ns >= ZLC_LIFETIME_NS

    def setup(self, now_ns: int) -> None:
        """Forget all that is older than a second (zlc_setup)."""
        if self.is_old(now_ns):
            self.clear_zones_full()
            self.last_full_zap_ns = now_ns

    def position(self, ref: Zoneref) -> int:
        """Place of a zone in the list; ValueError if it is not there."""
        return self.zonerefs.index(ref)

    def zone_worth_trying(
        self, position: int, allowed_nodes: Collection[int] | None = None, expired: bool = False
    ) -> bool:
        """Not known to be full, and on an allowed node (zlc_zone_worth_trying).

        `expired`: what is known is about to be wiped.
        """
        if allowed_nodes is not None and self.zonerefs[position].nid not in allowed_nodes:
            return False
        return expired or not self.fullzones >> position & 1

    def mark_zone_full(self, position: int) -> None:
        """The zone failed its watermark, or had no page for the request (zlc_mark_zone_full)."""
        self.fullzones |= 1 << position

    def clear_zones_full(self) -> None:
        """Every zone is worth trying again: direct reclaim got pages (zlc_clear_zones_full)."""
        self.fullzones = 0

    @property
    def full(self) -> tuple[Zoneref, ...]:
        """Zones marked full, in list order."""
        return tuple(ref for i, ref in enumerate(self.zonerefs) if self.fullzones >> i & 1)


@dataclass(slots=True)
class ZonelistScan:
    """One ``get_page_from_freelist`` over a list with a cache: when the cache is asked, and when not.

    The cache costs more than it saves while the first zone serves: it is switched on by the first zone that
    fails its watermark, and only with more than one node on-line. A scan that found nothing with its help is
    repeated without it. Reads the cache only; whoever scans has it written.
    """

    cache: ZonelistCache
    nr_online_nodes: int
    #: A scan takes no time.
    now_ns: int
    #: Nodes of the cpuset, or None for all.
    allowed_nodes: Collection[int] | None = None
    #: False with ALLOC_NO_WATERMARKS: no zone fails a watermark, so nothing switches the cache on.
    watermarks: bool = True
    did_setup: bool = field(default=False, init=False)
    #: The repetition without the cache is under way.
    repeated: bool = field(default=False, init=False)

    def skips(self, position: int) -> bool:
        """Whether the zone at that position is passed over unseen, a zone before it having failed."""
        if self.repeated or not self._switches_on:
            return False
        return not self.cache.zone_worth_trying(
            position, self.allowed_nodes, expired=not self.did_setup and self.cache.is_old(self.now_ns)
        )

    @property
    def _switches_on(self) -> bool:
        return self.nr_online_nodes > 1 and self.watermarks

    def zones_full(self) -> bool:
        """Zones could not serve, and are to be marked: whether zlc_setup() comes first."""
        setup = self._switches_on and not self.did_setup
        self.did_setup |= setup
        return setup

    def scan_again(self) -> bool:
        """After a scan without result: True once, when zones may have been passed over."""
        again = self.did_setup and not self.repeated
        self.repeated = True
        return again
