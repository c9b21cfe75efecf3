"""Access patterns: the page indexes of a region that are accessed next, as arrays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numa_client import Access

from numa_service.node.errors import InvalidRequest

MAX_THETA = 4.0

_GOLDEN = (math.sqrt(5) - 1) / 2


def check_pattern(access: Access, nr_pages: int, field: str) -> None:
    """InvalidRequest, naming the part of `field` that is wrong for a region of `nr_pages`."""
    pattern = access.pattern
    if not 0 <= access.write <= 1:
        raise InvalidRequest(f"{field}.write", f"{access.write:g} is not in 0…1")
    if pattern == "zipf" and not 0 < access.theta <= MAX_THETA:
        raise InvalidRequest(f"{field}.theta", f"{access.theta:g} is not above 0 and at most {MAX_THETA:g}")
    if pattern == "hot-set":
        if not 0 < access.hot_pages <= 1:
            raise InvalidRequest(f"{field}.hot_pages", f"{access.hot_pages:g} is not above 0 and at most 1")
        if not 0 <= access.hot_accesses <= 1:
            raise InvalidRequest(f"{field}.hot_accesses", f"{access.hot_accesses:g} is not in 0…1")
    if pattern == "stride" and not 1 <= access.stride <= nr_pages:
        raise InvalidRequest(f"{field}.stride", f"{access.stride} is not in 1…{nr_pages}, the region's pages")


class Indexes:
    """The sequence of page indexes of one access of a program."""

    def __init__(self, access: Access, nr_pages: int, random: np.random.Generator) -> None:
        self._access = access
        self._pages = nr_pages
        self._random = random
        self._next = 0

    def _in_order(self, count: int) -> npt.NDArray[np.int64]:
        """The next places of 0 to the region's size - 1, over and over."""
        first = self._next
        self._next = (first + count) % self._pages
        return (first + np.arange(count)) % self._pages

    def take(self, count: int) -> npt.NDArray[np.int64]:
        """The next `count` indexes, each from 0 to the region's size - 1."""
        pages, random = self._pages, self._random
        match self._access.pattern:
            case "sequential":
                return self._in_order(count)
            case "stride":
                return strided(self._in_order(count), self._access.stride, pages)
            case "pointer-chase":
                return scatter(self._in_order(count), pages)
            case "uniform":
                return random.integers(0, pages, count)
            case "zipf":
                return scatter(ranks(random.random(count), self._access.theta, pages), pages)
        hot = max(1, round(self._access.hot_pages * pages))
        where = random.random(count)
        is_hot = random.random(count) < self._access.hot_accesses if hot < pages else np.ones(count, bool)
        return np.where(is_hot, where * hot, hot + where * (pages - hot)).astype(np.int64)


def strided(places: npt.NDArray[np.int64], stride: int, count: int) -> npt.NDArray[np.int64]:
    """Page indexes for places in rounds of every `stride`-th of `count` pages, each a page further."""
    short = count // stride
    longer = count % stride  # rounds that have one page more
    early = longer * (short + 1)
    late = np.maximum(places - early, 0)
    in_early = (places % (short + 1)) * stride + places // (short + 1)
    in_late = (late % short) * stride + longer + late // short
    return np.where(places < early, in_early, in_late)


def ranks(u: npt.NDArray[np.float64], theta: float, count: int) -> npt.NDArray[np.int64]:
    """Ranks from 0 to `count` - 1 with probabilities proportional to (rank + 1)^-theta, from uniform `u`.

    They are sampled by inverting the continuous power law on [1, count + 1), which differs from Zipf's
    distribution in the first few ranks only.
    """
    if abs(theta - 1) < 1e-9:
        x = np.exp(u * math.log(count + 1))
    else:
        power = 1 - theta
        x = ((((count + 1) ** power) - 1) * u + 1) ** (1 / power)
    return np.clip(x.astype(np.int64) - 1, 0, count - 1)


def scatter(ranks: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Page indexes for ranks: a permutation that spreads the popular ranks over the region."""
    step = max(1, round(count * _GOLDEN))
    while math.gcd(step, count) != 1:
        step += 1
    scattered: npt.NDArray[np.int64] = ranks * step % count
    return scattered
