"""Samples of every zone's free pages and blocks, spread evenly over a replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from numa_service.mm.pgdat import Pgdat

#: Most samples that are kept. When there are more, every other one is dropped.
MAX_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class ZoneSample:
    """One zone at one moment: free pages, pages in pagesets, and free blocks by order."""

    nid: int
    zone: str
    free: int
    pageset: int
    nr_free: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """The machine after so many events of the trace."""

    events: int
    time_ns: int
    zones: tuple[ZoneSample, ...]


S = TypeVar("S", bound=Sample)


class Samples(Generic[S]):
    """Keeps a bounded number of samples: the interval between samples doubles when there are too many."""

    def __init__(self) -> None:
        self.kept: list[S] = []
        self._calls = 0
        self._stride = 1

    def due(self) -> bool:
        """Return whether a sample has to be taken at this call."""
        self._calls += 1
        return self._calls % self._stride == 0

    def add(self, sample: S) -> None:
        """Keep a sample."""
        self.kept.append(sample)
        if len(self.kept) > MAX_SAMPLES:
            self._stride *= 2
            self.kept = self.kept[1::2]


def zone_samples(pgdats: list[Pgdat]) -> tuple[ZoneSample, ...]:
    """Return a sample of every zone that has managed pages."""
    return tuple(
        ZoneSample(
            nid=pgdat.nid,
            zone=extent.name,
            free=pgdat.free_pages(extent.index),
            pageset=int(pgdat.pg.pcp_count[:, extent.index].sum()),
            nr_free=tuple(pgdat.pg.nr_free[extent.index].tolist()),
        )
        for pgdat in pgdats
        for extent in pgdat.extents
        if extent.managed
    )
