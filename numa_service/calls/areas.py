"""Policies of addresses: the areas of a process, cut where policies begin and end."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from numa_service.calls.placement import PAGE_SHIFT, Vma
from numa_service.calls.processes import Process
from numa_service.calls.shared import SharedPages
from numa_service.mm.mempolicy.calls import Area
from numa_service.mm.mempolicy.policy import Mempolicy


def with_policy(areas: Sequence[Area], start: int, end: int, policy: Mempolicy | None) -> tuple[Area, ...]:
    """Areas after a range has got a policy; the default policy is none at all, and nothing is kept of it."""
    kept = list[Area]()
    for area in areas:
        if area.start < min(area.end, start):
            kept.append(area._replace(end=min(area.end, start)))
        if max(area.start, end) < area.end:
            kept.append(area._replace(start=max(area.start, end)))
    if policy is not None:
        kept.append(Area(start, end, policy))
    return tuple(sorted(kept, key=lambda area: area.start))


def pieces(areas: Sequence[Area], start: int, end: int) -> Iterator[Area]:
    """The range cut where areas begin and end; what is in none of them has no policy."""
    for area in areas[max(bisect_right(areas, start, key=lambda area: area.start) - 1, 0) :]:
        if area.start >= end:
            break
        low, high = max(area.start, start), min(area.end, end)
        if low < high:
            if start < low:
                yield Area(start, low, None)
            yield Area(low, high, area.policy)
            start = high
    if start < end:
        yield Area(start, end, None)


def pieces_of(process: Process, shared: SharedPages, vma: Vma, start: int, end: int) -> Iterator[Area]:
    """A part of a mapping, cut where policies begin and end: shared memory has its own, for everybody."""
    if not vma.of_shared_memory:
        yield from pieces(process.areas, start, end)
        return
    shift = vma.start - (vma.pgoff << PAGE_SHIFT)
    for area in pieces(shared.of(vma).areas, start - shift, end - shift):
        yield Area(area.start + shift, area.end + shift, area.policy)


def address_space(process: Process, shared: SharedPages, maps: Sequence[Vma]) -> list[Area]:
    """The areas of a process: those of the host, cut where policies begin and end."""
    return [area for vma in maps for area in pieces_of(process, shared, vma, vma.start, vma.end)]


def bind(
    process: Process,
    shared: SharedPages,
    maps: Sequence[Vma],
    start: int,
    end: int,
    policy: Mempolicy | None,
) -> None:
    """Give addresses a policy (mbind_range): those of shared memory are everybody's who maps it."""
    for vma in maps:
        low, high = max(vma.start, start), min(vma.end, end)
        if low >= high:
            continue
        if vma.of_shared_memory:
            shift = vma.start - (vma.pgoff << PAGE_SHIFT)
            memory = shared.of(vma)
            memory.areas = with_policy(memory.areas, low - shift, high - shift, policy)
        else:
            process.areas = with_policy(process.areas, low, high, policy)
