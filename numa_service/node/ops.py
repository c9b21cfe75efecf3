"""Ops: the synchronous steps of a node. Each is plain data, applied by ``Node.apply``.

None is ever changed. Those of every request are not frozen: it makes them five times as slow to make.

The log is a sequence of these; replaying it into a fresh node gives the same state, as long as the log is
whole (``LOG_LIMIT`` in ``node.py``). Pages travel as packed little-endian bytes: uint64 pfns, uint32 indexes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:  # kswapd's process sends ops: it is not to load the kernels for it
    from numa_service.machine.hotplug import MemoryState
    from numa_service.node.cost import Cost
    from numa_service.node.explain import NodeAccount
    from numa_service.node.load import Report

R = TypeVar("R")


class Owner(NamedTuple):
    """Who holds pages, over the whole machine: home node, its incarnation, and a number there."""

    nid: int
    incarnation: int
    id: int


def _payload(fields: list[str]) -> Callable[[Any], int] | None:
    """Adds up the lengths of an op's packed fields; None without any. One and two are quicker by name."""
    match fields:
        case []:
            return None
        case ["pfns"]:
            return lambda op: len(op.pfns)
        case ["pfns", "indexes"]:
            return lambda op: len(op.pfns) + len(op.indexes)
        case _:
            return lambda op: sum(len(getattr(op, field)) for field in fields)


class Op(Generic[R]):
    """One step; `R` is what applying it returns."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        if payload := _payload([name for name, kind in cls.__annotations__.items() if kind == "bytes"]):
            # what is a number for every other op follows from the arrays here: no type says both
            cls.payload = property(payload)  # type: ignore[assignment]

    #: Bytes of page numbers and indexes that it carries.
    payload: ClassVar[int] = 0


class ZoneState(NamedTuple):
    """A zone as a lookup's reply shows it. Pages."""

    zone: int
    free: int
    managed: int
    min: int
    low: int
    high: int


class AllocResult(NamedTuple):
    """Pages taken from one node."""

    pfns: bytes
    #: PATH_* work counters.
    path: tuple[int, ...]
    #: Of every zone managed, free, min, low and high pages, as int64: see `zones`.
    zone_words: bytes = b""
    #: For an op that asked to explain.
    account: NodeAccount | None = None
    #: Zones that could not serve any more; told only by kernels with a zonelist cache.
    full: tuple[int, ...] = ()
    #: What an access to this node's memory waits now, in virtual ns.
    wait_ns: int = 0
    #: What a request that is over has cost, if that has been spent. Not to be changed: others cost the same.
    spent: Cost | None = None

    @property
    def zones(self) -> tuple[ZoneState, ...]:
        """The populated zones, after it. Made when looked at: most results are never shown."""
        pages = memoryview(self.zone_words).cast("q").tolist()
        return tuple(
            ZoneState(at // 5, pages[at + 1], pages[at], *pages[at + 2 : at + 5])
            for at in range(0, len(pages), 5)
            if pages[at]
        )


@dataclass(slots=True)
class Alloc(Op[AllocResult]):
    """Take blocks from this node's zones for an owner, here or elsewhere."""

    owner: Owner
    zones: tuple[int, ...]
    #: CPU that asks; every zone has a pageset for every CPU of the machine.
    cpu: int
    order: int
    count: int
    migratetype: int
    highest_zoneidx: int
    alloc_flags: int
    #: NUMA_HOW_* bits.
    numa_how: int
    #: LRU_KIND_*: region pages go on the LRU as pages `indexes`.
    lru_kind: int = 0
    indexes: bytes = b""
    dirty: bool = False
    #: Also tell what was looked at; changes nothing else.
    explain: bool = False
    #: Of the node that asks.
    report: Report | None = None
    #: Of the request.
    gfp: int = 0
    #: With all its blocks the request is over, and its CPU spends what it cost: see Spend.
    spends: bool = False


@dataclass(slots=True)
class Free(Op[int]):
    """Free blocks held by hand, all or none; pages freed."""

    owner: Owner
    cpu: int | None
    order: int
    pfns: bytes
    #: The request is over then, and its CPU spends what it cost.
    spends: bool = False


@dataclass(frozen=True, slots=True)
class FreeOwner(Op[int]):
    """Free all that an owner has on this node; pages freed.

    A region's home sends along its page table for this node, so that no list has to be searched.
    """

    owner: Owner
    pfns: bytes = b""
    indexes: bytes = b""


@dataclass(frozen=True, slots=True)
class FreeDeadOwners(Op[int]):
    """A node has booted anew: free what its owners of other incarnations have here; pages freed.

    What sessions of this node had there is lost.
    """

    nid: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class TouchResult:
    """Which of the pages are still there."""

    #: One byte a page: 0 resident, 1 gone.
    gone: bytes
    #: Gone pages that were in swap here, and were read back.
    swapped_in: int
    path: tuple[int, ...]
    #: As in AllocResult.
    wait_ns: int = 0


@dataclass(frozen=True, slots=True)
class Touch(Op[TouchResult]):
    """Access pages of a region on this node."""

    owner: Owner
    pfns: bytes
    indexes: bytes
    write: bool
    #: Of the node that asks.
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Release(Op[int]):
    """Free pages of a region that are still its own; pages freed."""

    owner: Owner
    cpu: int | None
    pfns: bytes
    indexes: bytes


@dataclass(frozen=True, slots=True)
class ZlcMarkFull(Op[None]):
    """Zones of a fallback list could not serve (zlc_mark_zone_full); kernels with a zonelist cache."""

    #: Node whose list it is; every home has its own cache of it.
    list_nid: int
    #: Places in the list.
    positions: tuple[int, ...]
    #: zlc_setup() comes first, at that time; None: not in this scan.
    setup_ns: int | None


@dataclass(frozen=True, slots=True)
class ZlcClear(Op[None]):
    """Direct reclaim got pages: every zone of a fallback list is worth trying (zlc_clear_zones_full)."""

    list_nid: int


@dataclass(frozen=True, slots=True)
class CountForeign(Op[None]):
    """numa_foreign: allocations that preferred this zone were served elsewhere."""

    zone: int
    count: int


@dataclass(frozen=True, slots=True)
class WakeKswapd(Op[bool]):
    """wakeup_kswapd(); True when it was asleep and is wanted."""

    order: int
    highest_zoneidx: int
    #: Of the request, for tracepoints.
    gfp: int = 0


@dataclass(frozen=True, slots=True)
class ReclaimResult:
    """One step of reclaim. Pages."""

    scanned: int
    reclaimed: int
    path: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reclaim(Op[ReclaimResult]):
    """Direct reclaim: one pass over this node's LRU lists."""

    highest_zoneidx: int
    priority: int
    nr_to_reclaim: int


@dataclass(frozen=True, slots=True)
class DrainPagesets(Op[int]):
    """Last resorts before a request gives up; pages that the pagesets had.

    Releases one high-atomic pageblock of `zones` (unreserve_highatomic_pageblock; `force`: even the last),
    then empties the pagesets (drain_all_pages).
    """

    zones: tuple[int, ...] = ()
    migratetype: int = 0
    force: bool = False


@dataclass(frozen=True, slots=True)
class KswapdWork:
    """What kswapd is woken for."""

    order: int
    highest_zoneidx: int
    #: Pages one pass aims at.
    nr_to_reclaim: int
    #: watermark_boost of the zones up to that one, by zone index: what boosted reclaim is to make up for.
    boosts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class KswapdBegin(Op[KswapdWork]):
    """kswapd starts a run: takes the order and zone it is wanted for."""


@dataclass(frozen=True, slots=True)
class BalanceResult:
    """One bounded step of kswapd. Pages."""

    #: The node was when the step began.
    balanced: bool
    scanned: int
    reclaimed: int


@dataclass(frozen=True, slots=True)
class Balance(Op[BalanceResult]):
    """One bounded step of balance_pgdat: nothing if the node is balanced, else one pass at a priority.

    With `boosted`, for the sake of boosted watermarks, the other way round: one pass without writeback and
    swap if the node is balanced, else nothing.
    """

    order: int
    highest_zoneidx: int
    priority: int
    nr_to_reclaim: int
    boosted: bool = False


@dataclass(frozen=True, slots=True)
class KswapdSleep(Op[bool]):
    """kswapd is done; True when it was wanted again meanwhile and must go on."""

    reclaimed: int
    balanced: bool
    #: Of KswapdWork: what of the watermarks' boosts has been seen to.
    boosts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class VmstatTick(Op[int]):
    """vmstat_update() on every CPU: counters folded, idle pagesets drained; pages that left the pagesets."""


class Movable(NamedTuple):
    """Pages of one region in an isolated range, of one kind."""

    owner: Owner
    #: LRU_KIND_*
    lru_kind: int
    dirty: bool
    pfns: bytes
    indexes: bytes


@dataclass(frozen=True, slots=True)
class IsolateMemory(Op[None]):
    """Take a memory block out of use, to be off-line (start_isolate_page_range). InvalidRequest, Busy."""

    start_pfn: int
    end_pfn: int


@dataclass(frozen=True, slots=True)
class UndoIsolation(Op[None]):
    """Put an isolated range back to use (undo_isolate_page_range)."""

    start_pfn: int
    end_pfn: int
    migratetype: int


@dataclass(frozen=True, slots=True)
class OfflinePages(Op["MemoryState"]):
    """Take an isolated range off-line; what is left of the node's memory. Busy when it is not empty."""

    start_pfn: int
    end_pfn: int


@dataclass(frozen=True, slots=True)
class OnlinePages(Op["MemoryState"]):
    """Bring a range on-line; what there is now of the node's memory. InvalidRequest."""

    start_pfn: int
    end_pfn: int
    #: online, online_kernel or online_movable.
    online_type: str


@dataclass(frozen=True, slots=True)
class OfflineNode(Op["MemoryState"]):
    """A node without memory and CPUs goes (try_offline_node). Precondition."""


@dataclass(frozen=True, slots=True)
class MemoryNotify(Op[None]):
    """Memory of another node came or went."""

    state: MemoryState


@dataclass(frozen=True, slots=True)
class Remap(Op[bytes]):
    """Migrated pages of a region, in its home's page table: one byte a page, 1 = entered.

    0: the entry no longer names the old page.
    """

    owner: Owner
    indexes: bytes
    from_nid: int
    from_pfns: bytes
    to_nid: int
    to_pfns: bytes


@dataclass(frozen=True, slots=True)
class ReleaseMigrated(Op[int]):
    """Free the pages that were migrated from; pages freed. What reclaim was faster to take is read back."""

    owner: Owner
    lru_kind: int
    pfns: bytes
    indexes: bytes


@dataclass(frozen=True, slots=True)
class CmaIsolate(Op[tuple[int, int]]):
    """Isolate the pageblocks of the next place for contiguous pages in an area; [start, end) of the place.

    The first one from `from_pfn` on that nobody holds by hand, aligned. Busy when there is none.
    """

    area: int
    count: int
    align_order: int
    from_pfn: int


@dataclass(frozen=True, slots=True)
class CmaTake(Op[None]):
    """Give an owner the isolated place, page by page, and put the rest of its pageblocks back. Busy."""

    owner: Owner
    start_pfn: int
    end_pfn: int


@dataclass(frozen=True, slots=True)
class WriteSysctl(Op[None]):
    """Write a sysctl, with its effects on this node."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class OpenSession(Op[int]):
    """Start a session; its number."""

    name: str
    lease_ns: int
    now_ns: int


@dataclass(frozen=True, slots=True)
class RenewSession(Op[int]):
    """Heartbeat; the lease in ns."""

    session: int
    now_ns: int


@dataclass(frozen=True, slots=True)
class EndSession(Op[int]):
    """Forget a session whose pages elsewhere are free; frees what it has here. Pages freed."""

    session: int


@dataclass(frozen=True, slots=True)
class MapRegion(Op[int]):
    """Make a region; its number."""

    session: int
    lru_kind: int
    nr_pages: int
    #: Policy mode and nodes.
    policy: tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class FillRegion(Op[None]):
    """Enter faulted pages into a region's page table."""

    region: int
    nid: int
    pfns: bytes
    indexes: bytes


@dataclass(frozen=True, slots=True)
class EndRegion(Op[int]):
    """Forget a region whose pages elsewhere are free; frees what it has here. Pages freed."""

    region: int


@dataclass(frozen=True, slots=True)
class NoteHolding(Op[None]):
    """A session has pages on another node from now on."""

    session: int
    nid: int


@dataclass(frozen=True, slots=True)
class Interleave(Op[int]):
    """Advance a session's interleave position by some pages; the position before (il_prev)."""

    session: int
    count: int


@dataclass(frozen=True, slots=True)
class CountEvents(Op[None]):
    """Faults and stalls of a request, in /proc/vmstat's counters."""

    faults: int = 0
    major_faults: int = 0
    pages_in: int = 0
    stalls: int = 0


@dataclass(slots=True)
class Spend(Op[None]):
    """A CPU has spent virtual time: on a request, or idle between two.

    Makes the load that later requests meet (``node/load.py``).
    """

    cpu: int
    ns: int
    #: (node of the memory, bytes)
    traffic: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Rest(Op[None]):
    """No CPU of this node does anything, and nobody uses its memory, for so long that all load is gone."""


@dataclass(frozen=True, slots=True)
class Ask(Generic[R]):
    """An effect: apply an op on another node, and send back its result.

    `request_id` is unique for this question: a node asked twice gives the first answer.
    """

    nid: int
    op: Op[R]
    request_id: str
