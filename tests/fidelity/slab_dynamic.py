"""Replays of captured traces of objects as fields: slabs that come and go, the reaper, places of objects.

What is compared of each allocator is what its replay computes (``slub_work.py``, ``slab_replay.py``,
``slob_replay.py``). A tolerance is what a capture cannot tell: what one CPU had at hand when the trace began,
and slabs that wait for a grace period, the end of which is no event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from fidelity.compare import Field
from fidelity.kmem_events import CACHE_ALLOC, CACHE_FREE, KMALLOC, kmem_events
from fidelity.slab import guest_of
from fidelity.slab_replay import Idle, SlabReplay, captured_rounds, reaped, replay_slab
from fidelity.slab_steps import SlabCounts, slab_steps
from fidelity.slob_replay import replay_slob
from fidelity.slub_work import ALLOC, DISCARD, FREE, NEW_SLAB, Replay

from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import PAGE_SIZE
from numa_service.mm.slab.profile import SLAB
from numa_service.mm.slab.slab import SlabCache

#: Rounds of the reaper that are looked at: 16 s of slabinfo have eight.
_ROUNDS = 9
_CPU_PARTIAL = "what one CPU's partial list had when the trace began"
_GRACE = "slabs that wait for a grace period, the end of which is no event"
_SHARED = "what one CPU's array, and what nodes share, had when the trace began"
_ARRAY = "what one CPU's array had when the trace began"


def _field(
    capture: Path, kind: str, where: str, captured: object, computed: object, slack: int = 0, cause: str = ""
) -> Field:
    name = f"{capture.parent.name}/{capture.name}"
    return Field(name, "replay", kind, where, captured, computed, slack=slack, cause=cause if slack else "")


# -- SLUB


def slub_fields(replay: Replay) -> Iterator[Field]:
    """Slabs of one cache: made and given back in a trace, and what that leaves."""
    counts, cache, events = replay.run(), replay.cache, replay.events
    where = f"{replay.workload} {cache.name}"
    partial = -(-cache.cpu_partial * 2 // cache.objects)
    made = sum(event.kind == NEW_SLAB for event in events)
    freed = sum(event.kind == DISCARD for event in events)
    waiting = _waiting(replay) if SlabFlag.TYPESAFE_BY_RCU in cache.flags else 0
    computed_made = counts.slabs_same + counts.slabs_model
    computed_freed = counts.freed_same + counts.freed_model
    yield _field(replay.capture, "slabs made", where, made, computed_made, partial, _CPU_PARTIAL)
    cause = _GRACE if waiting else _CPU_PARTIAL
    yield _field(replay.capture, "slabs given back", where, freed, computed_freed, partial + waiting, cause)


def bulk(replay: Replay) -> bool:
    """Whether many objects are freed that were not seen to be allocated: those of bulk allocations."""
    free: set[tuple[int, int]] = set()
    unseen = 0
    for event in replay.events:
        place = event.pfn, event.index
        if event.kind == FREE:
            unseen += place in free
            free.add(place)
        elif event.kind == ALLOC:
            free.discard(place)
    return unseen * 100 > len(replay.events)


def _waiting(replay: Replay) -> int:
    """Slabs made in a trace whose objects are all free at its end, and whose pages are not."""
    inuse: dict[int, int] = {}
    for event in replay.events:
        if event.kind == NEW_SLAB:
            inuse[event.pfn] = 0
        elif event.kind == DISCARD:
            inuse.pop(event.pfn, None)
        elif event.pfn in inuse:
            inuse[event.pfn] += 1 if event.kind == ALLOC else -1
    return sum(not count for count in inuse.values())


def slub_row(replay: Replay) -> str:
    """One row of the table of SLUB."""
    counts = replay.run()
    objects = counts.same + counts.other_object + counts.other_slab
    name = f"{replay.capture.parent.name} {replay.workload} | {replay.cache.name}"
    return (
        f"| {name} | {objects} | {counts.same} | {counts.same + counts.other_object} | "
        f"{counts.slabs_same + counts.slabs_kernel} | {counts.slabs_same + counts.slabs_model} | "
        f"{counts.slabs_same} | {counts.freed_same + counts.freed_kernel} | "
        f"{counts.freed_same + counts.freed_model} | {counts.freed_same} |\n"
    )


# -- SLAB


def _array_slabs(cache: SlabCache) -> int:
    """In how many slabs the objects of one CPU's array can be, at least."""
    return -(-cache.limit // cache.objects)


def _shared_slabs(replay: SlabReplay, cache: SlabCache) -> int:
    """In how many slabs what a node shares can be, at least; 0 if the trace shows what that is.

    It shows that for the node of a CPU which takes objects of it, so not for a CPU whose node has no memory.
    """
    homes = {replay.slab.cpus[cpu] for name, cpu in replay.synced if name == cache.name}
    if all(replay.source.guest.has_memory(home) for home in homes):
        return 0
    return -(-cache.shared * cache.batchcount // cache.objects)


def _counts_around(capture: Path, workload: str, cache: str) -> tuple[SlabCounts, SlabCounts] | None:
    """A cache's line of slabinfo before and after the trace, if there is one."""
    before = after = now = None
    for step in slab_steps(capture, workload):
        now = step.counts.get(cache, now)
        if step.command.endswith("tracing_on 1"):
            before = now
        elif step.command.endswith("tracing_on 0"):
            after = now
        elif before and after and step.command in ("slabinfo", "dump"):
            return (before, now) if now else None
    return None


def slab_fields(capture: Path, workload: str, rows: list[str]) -> Iterator[Field]:
    """Of one trace, by cache: slabs added and given back, the lines of slabinfo after it, and the reaper."""
    replay = replay_slab(capture, workload)
    name = f"{capture.parent.name}/{capture.name} {workload}"
    for cache_name, tally in replay.tallies.items():
        if not tally.allocations:
            continue
        cache = replay.slab.caches[cache_name]
        geometry = cache.cache
        where = f"{workload} {cache_name}"
        rows.append(
            f"| {name} | {cache_name} | {tally.allocations} | {tally.same_address} | {tally.slabs_added} | "
            f"{tally.same_growth} | {tally.slabs_freed} | {tally.same_free} |\n"
        )
        slack = _array_slabs(geometry)
        made, freed = tally.same_growth + tally.extra, tally.same_free + tally.early
        yield _field(capture, "slabs made", where, tally.slabs_added, made, slack, _ARRAY)
        yield _field(
            capture,
            "slabs given back",
            where,
            tally.slabs_freed,
            freed,
            slack + (shared := _shared_slabs(replay, geometry)),
            _SHARED if shared else _ARRAY,
        )
        # what is shorter has not been through the array, which may be that of before the trace
        long = tally.allocations > geometry.limit
        if long and (around := _counts_around(capture, workload, cache_name)):
            info, (_, after) = cache.info(), around
            limit = geometry.limit
            free = after.objects - after.active_objects
            yield _field(
                capture, "free objects", where, free, info.objects - info.active_objects, limit, _ARRAY
            )
            # what nodes shared before the trace, of which a CPU without memory took some, may be all of it
            if not (_shared_slabs(replay, geometry) and around[0].shared):
                yield _field(
                    capture, "sharedavail", where, after.shared, info.shared_available, limit, _ARRAY
                )
            if around[0].slabs <= after.slabs // 10:
                yield _field(capture, "slabs", where, after.slabs, info.slabs, slack, _ARRAY)


def reaper_fields(capture: Path, workload: str) -> Iterator[Field]:
    """Each reading of slabinfo after a trace: the rounds of the reaper that it shows.

    A round comes every 2 s of a CPU's time, and at which moment is not captured: a reading is compared with
    the round that it is nearest to and that is not before the one of the reading before. A capture that reads
    slabinfo once shows none. Nor does a cache of which nodes shared free objects before the trace, if a CPU
    whose node has no memory took some of it: which these are is not known.
    """
    before = replay_slab(capture, workload)
    unknown = {name for name, count in before.shared_elsewhere.items() if count}
    names = [name for name, tally in before.tallies.items() if tally.slabs_freed > 10 and name not in unknown]
    seen = {name: captured_rounds(capture, workload, name) for name in names}
    if not any(len(moments) > 2 for moments in seen.values()):
        return
    runs = [
        reaped(capture, workload, odd, touched, _ROUNDS) for odd, touched in product((False, True), repeat=2)
    ]
    caches = replay_slab(capture, workload).slab.caches
    for name in names:
        geometry = caches[name].cache
        moments = seen[name]
        states, rounds = min(
            ((run[name], _rounds(moments, run[name])) for run in runs), key=lambda pair: _off(moments, *pair)
        )
        for number, (moment, at) in enumerate(zip(moments, rounds, strict=True)):
            where = f"{workload} {name}, reading {number}"
            state = states[at]
            yield _field(
                capture,
                "reaper: free objects",
                where,
                moment.free_objects,
                state.free_objects,
                geometry.limit,
                _ARRAY,
            )
            yield _field(
                capture, "reaper: sharedavail", where, moment.shared, state.shared, geometry.limit, _ARRAY
            )
            slack = _array_slabs(geometry)
            yield _field(
                capture, "reaper: slabs given back", where, moment.slabs_gone, state.slabs_gone, slack, _ARRAY
            )


def _distance(moment: Idle, state: Idle) -> int:
    return (
        abs(moment.free_objects - state.free_objects)
        + abs(moment.shared - state.shared)
        + abs(moment.slabs_gone - state.slabs_gone)
    )


def _off(moments: list[Idle], states: list[Idle], rounds: tuple[int, ...]) -> int:
    return sum(_distance(moment, states[at]) for moment, at in zip(moments, rounds, strict=True))


def _rounds(moments: list[Idle], states: list[Idle]) -> tuple[int, ...]:
    """The round of each moment, none before that of the moment before, with the least difference in all."""
    best: list[tuple[int, tuple[int, ...]]] = [(0, ()) for _ in states]
    for moment in moments:
        here: list[tuple[int, tuple[int, ...]]] = []
        for at, state in enumerate(states):
            off, before = min(best[: at + 1], key=lambda pair: pair[0])
            here.append((off + _distance(moment, state), (*before, at)))
        best = here
    return min(best, key=lambda pair: pair[0])[1]


# -- SLOB


def slob_fields(capture: Path, workload: str, rows: list[str]) -> Iterator[Field]:
    """Of one trace: objects at the predicted address, and pages given back when the model does it.

    One object in a hundred may be elsewhere in its page, and one in fifty in another page: pages that were
    partly free before the trace are unknown. Events of CPUs may not be in the order in which these took the
    lock: of more than two, as many may be in another page as CPUs took beside the one of the workload.
    """
    tally = replay_slob(capture, workload)
    guest = guest_of(capture)
    slab = SLAB[guest.profile]
    late = {args.name for args in slab.boot.args(slab.kmalloc) if SlabFlag.TYPESAFE_BY_RCU in args.flags}
    events = kmem_events(capture, workload)
    waiting = sum(event.kind == CACHE_FREE and event.name in late for event in events)
    by_cpu = Counter(e.cpu for e in events if e.kind in (KMALLOC, CACHE_ALLOC) and e.given < PAGE_SIZE)
    beside = by_cpu.total() - max(by_cpu.values(), default=0) if len(guest.cpus) > 2 else 0
    name = f"{capture.parent.name}/{capture.name} {workload}"
    rows.append(
        f"| {name} | {tally.objects} | {tally.same_place} | {tally.same_address} | {tally.elsewhere} | "
        f"{tally.pages_freed} | {tally.same_free} |\n"
    )
    cause = "objects that wait for a grace period, the end of which is no event"
    if waiting * 100 < tally.objects:
        cause = "the order in which CPUs took the lock, and pages of before the trace"
    yield _field(
        capture,
        "place in the page",
        workload,
        tally.objects,
        tally.same_place,
        tally.objects // 100 + waiting,
        cause,
    )
    yield _field(
        capture,
        "address",
        workload,
        tally.objects,
        tally.same_address,
        tally.objects // 50 + waiting + beside,
        cause,
    )
    yield _field(capture, "pages given back", workload, tally.pages_freed, tally.same_free, 1, cause)
