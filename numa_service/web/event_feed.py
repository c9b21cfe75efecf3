"""The console's event feed: a line for each thing that happened between two frames of a node."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from numa_client._gen.numa.v1 import observe_service_pb2 as pb2

#: Events kept for browsers that come later.
EVENTS_KEPT = 200
#: Things that go on (fallback, swapping, direct reclaim, sessions) become an event this often, with their
#: sum.
TOLD_EVERY_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the feed."""

    #: Number of the event, from 1 on, without gaps.
    id: int
    #: Unix time in seconds, by the clock of the process that watches.
    time: float
    nid: int
    #: kswapd, watermark, fallback, reclaim, swap, session or node.
    kind: str
    text: str


def level(zone: pb2.ObservedZone) -> str:
    """The lowest watermark that a zone's free pages are below: ``min``, ``low`` or ``high``; else ``ok``."""
    for name, mark in (("min", zone.min_pages), ("low", zone.low_pages), ("high", zone.high_pages)):
        if zone.free_pages < mark + zone.boost_pages:
            return name
    return "ok"


_LEVEL_TEXT = {
    "min": "below min: only requests that may use reserves",
    "low": "below low: requests go elsewhere, or wake kswapd",
    "high": "below high: a kswapd that runs goes on",
    "ok": "above high again",
}
#: Prefix of the names of vm events → kind and text of the event that tells their sum.
_TOLD = {
    "allocstall": ("reclaim", "direct reclaims"),
    "pswpout": ("swap", "pages swapped out"),
    "pswpin": ("swap", "pages swapped in"),
}


class Events:
    """The newest events of all nodes."""

    def __init__(self) -> None:
        self._kept: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.last_id = 0
        #: (nid, kind, what) → [sum since it was last told, time_ns of the frame when it was last told].
        self._sums: dict[tuple[int, str, str], list[int]] = {}

    def since(self, event_id: int) -> list[Event]:
        """The events after that one, as far as they are still kept."""
        return [event for event in self._kept if event.id > event_id]

    def tell(self, nid: int, kind: str, text: str) -> None:
        """Add an event."""
        self.last_id += 1
        self._kept.append(Event(self.last_id, time.time(), nid, kind, text))

    def compare(
        self, old: pb2.ObserveResponse | None, new: pb2.ObserveResponse, names: Iterable[str]
    ) -> None:
        """Add events for what changed between two frames of a node; `names` are those of its vm events."""
        if old is None:
            return
        if old.lineage != new.lineage:
            self.tell(new.node, "node", f"booted anew: lineage {new.lineage}, its memory is empty")
            return
        self._kswapd(old, new)
        self._zones(old, new)
        for what, kind, amount in _amounts(old, new, tuple(names)):
            self._sum(new, kind, what, amount)
        self._tell_sums(new)

    def _kswapd(self, old: pb2.ObserveResponse, new: pb2.ObserveResponse) -> None:
        if new.kswapd.wakeups > old.kswapd.wakeups:
            self.tell(new.node, "kswapd", f"kswapd{new.node} woken for order {new.kswapd.order}")
        if new.kswapd_hopeless and not old.kswapd_hopeless:
            self.tell(new.node, "kswapd", f"kswapd{new.node} gave up: only direct reclaim is left")
        reclaimed = new.kswapd.reclaimed_pages - old.kswapd.reclaimed_pages
        if reclaimed > 0:
            self._sum(new, "kswapd", f"pages reclaimed by kswapd{new.node}", reclaimed)
        if old.kswapd.running and not new.kswapd.running:
            self.tell(new.node, "kswapd", f"kswapd{new.node} sleeps")

    def _zones(self, old: pb2.ObserveResponse, new: pb2.ObserveResponse) -> None:
        before = {zone.zone: zone for zone in old.zones}
        for zone in new.zones:
            was = before.pop(zone.zone, None)
            if was is None:
                self.tell(new.node, "node", f"zone {zone.zone} is there: {zone.managed_pages:,} pages")
                continue
            now = level(zone)
            if now != level(was):
                self.tell(new.node, "watermark", f"{zone.zone}: {zone.free_pages:,} free, {_LEVEL_TEXT[now]}")
            if zone.boost_pages > was.boost_pages:
                self.tell(new.node, "watermark", f"{zone.zone}: marks boosted by {zone.boost_pages:,} pages")
            if zone.present_pages != was.present_pages:
                self.tell(
                    new.node,
                    "node",
                    f"zone {zone.zone}: {was.present_pages:,} → {zone.present_pages:,} present",
                )
        for name in before:
            self.tell(new.node, "node", f"zone {name} is empty")

    def _sum(self, new: pb2.ObserveResponse, kind: str, what: str, amount: int) -> None:
        self._sums.setdefault((new.node, kind, what), [0, 0])[0] += amount

    def _tell_sums(self, new: pb2.ObserveResponse) -> None:
        for (nid, kind, what), told in self._sums.items():
            if nid == new.node and told[0] and new.time_ns - told[1] >= TOLD_EVERY_NS:
                self.tell(nid, kind, f"{told[0]:,} {what}")
                told[:] = 0, new.time_ns


def _amounts(
    old: pb2.ObserveResponse, new: pb2.ObserveResponse, names: tuple[str, ...]
) -> Iterator[tuple[str, str, int]]:
    """(text, kind, amount) of each counter that grew between two frames."""
    before = {one.node: one.pages for one in old.fallback}
    for one in new.fallback:
        if more := one.pages - before.get(one.node, 0):
            yield f"pages from node {one.node}: fallback", "fallback", more
    if len(names) == len(old.vm_events) == len(new.vm_events):
        for name, was, now in zip(names, old.vm_events, new.vm_events, strict=True):
            for prefix, (kind, text) in _TOLD.items():
                if now > was and name.startswith(prefix):
                    yield text, kind, now - was
    if new.sessions > old.sessions:
        yield "sessions opened", "session", new.sessions - old.sessions
    if new.sessions < old.sessions:
        yield "sessions ended", "session", old.sessions - new.sessions
