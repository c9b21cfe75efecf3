"""The wait table: queues of requests that wait for a page, by a hash of its address (``page_waitqueue``).

Until 4.8 each zone has a table (``zone->wait_table``), whose size follows from the zone's; then there is one
of 256 queues for all pages. Pages of one hash share a queue, in which each waiter says what it waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numa_service.mm.structs import wait_table_bits, wait_table_hash_nr_entries
from numa_service.node.state import NodeState

#: PAGE_WAIT_TABLE_BITS since 4.9 (WAIT_TABLE_BITS of its first form).
PAGE_WAIT_TABLE_BITS = 8
#: hash_64 and hash_32: the multipliers until 4.6, and since.
_PRIMES = {64: 0x9E37_FFFF_FFFC_0001, 32: 0x9E37_0001}
_GOLDEN_RATIOS = {64: 0x61C8_8646_80B5_83EB, 32: 0x61C8_8647}


def hash_ptr(address: int, bits: int, *, golden_ratio: bool, long_bits: int = 64) -> int:
    """Return the hash of an address, in `bits` bits (function of that name in include/linux/hash.h)."""
    multiplier = (_GOLDEN_RATIOS if golden_ratio else _PRIMES)[long_bits]
    return (address * multiplier & (1 << long_bits) - 1) >> long_bits - bits


@dataclass(eq=False, slots=True)
class Waiter:
    """One request that waits (``wait_queue_entry``)."""

    session: int
    pfn: int
    #: What it waits for: "locked" or "writeback" to be cleared.
    bit: str
    #: An unlock wakes only one of these (WQ_FLAG_EXCLUSIVE).
    exclusive: bool
    #: Resumes the request.
    wake: Callable[[], None]


class PageWaitTable:
    """The queues of one node."""

    def __init__(self, node: NodeState) -> None:
        self._node = node
        #: (zone, number of the queue) → waiters in the order in which they are woken. The zone is -1 in a
        #: table for all zones.
        self._queues: dict[tuple[int, int], list[Waiter]] = {}

    def queue_of(self, pfn: int) -> tuple[int, int]:
        """Return zone and number of the queue of a page; the zone is -1 in a table for all zones."""
        machine, pgdat = self._node.machine, self._node.pgdat
        zone, bits = -1, PAGE_WAIT_TABLE_BITS
        if machine.profile.wait_table_per_zone:
            zone = pgdat.zone_of(pfn)
            bits = wait_table_bits(wait_table_hash_nr_entries(pgdat.extents[zone].spanned))
        address = machine.memory_model.pfn_to_page(pfn)
        golden_ratio = machine.profile.golden_ratio_hash
        long_bits = 32 if pgdat.arch == "i386" else 64
        return zone, hash_ptr(address, bits, golden_ratio=golden_ratio, long_bits=long_bits)

    def enter(self, waiter: Waiter) -> Waiter:
        """Add a waiter to its page's queue.

        In a zone's table who waits without being exclusive is woken first (__add_wait_queue), in a table for
        all zones waiters keep their order.
        """
        key = self.queue_of(waiter.pfn)
        queue = self._queues.setdefault(key, [])
        if key[0] >= 0 and not waiter.exclusive:
            queue.insert(0, waiter)
        else:
            queue.append(waiter)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Remove a waiter, if it is still in a queue."""
        for key, queue in list(self._queues.items()):
            if waiter in queue:
                queue.remove(waiter)
                if not queue:
                    del self._queues[key]

    def wake(self, pfn: int, bit: str) -> None:
        """Wake who waits for a page's bit, in order, up to the first exclusive one (__wake_up_bit)."""
        for waiter in list(self._queues.get(self.queue_of(pfn), ())):
            if (waiter.pfn, waiter.bit) == (pfn, bit):
                self.leave(waiter)
                waiter.wake()
                if waiter.exclusive:
                    break

    def wake_session(self, session: int) -> None:
        """Wake every waiter of a session, which is being closed."""
        for waiter in [w for queue in self._queues.values() for w in queue if w.session == session]:
            self.leave(waiter)
            waiter.wake()

    def wake_all(self) -> None:
        """Wake for every page whose bit nobody has set any more."""
        waited = [(w.pfn, w.bit) for queue in self._queues.values() for w in queue]
        for pfn, bit in dict.fromkeys(waited):
            if self._node.page_bits.holder(pfn, bit) is None:
                self.wake(pfn, bit)

    def has_waiters(self, pfn: int) -> bool:
        """Return whether somebody waits for the page."""
        return any(w.pfn == pfn for w in self._queues.get(self.queue_of(pfn), ())) if self._queues else False

    def shown(self, zone: int) -> dict[str, str]:
        """Return the queues in which somebody waits for a page of a zone, by number, with the waiters."""
        shown = {}
        for (_, number), queue in sorted(self._queues.items()):
            waiters = [w for w in queue if self._node.pgdat.zone_of(w.pfn) == zone]
            if waiters:
                shown[str(number)] = ", ".join(
                    f"session {w.session}: {w.pfn:#x} {w.bit}{' exclusive' if w.exclusive else ''}"
                    for w in waiters
                )
        return shown
