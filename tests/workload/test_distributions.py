"""Samples have the means and tails of their distributions, patterns their shapes; errors name the field."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numa_client import Access, Distribution

from numa_service.node.errors import InvalidRequest
from numa_service.workload.distributions import check_distribution, sample
from numa_service.workload.patterns import Indexes, ranks, scatter

COUNT = 200_000


def random() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(1))


@pytest.mark.parametrize(
    ("distribution", "mean", "tolerance"),
    [
        (Distribution("fixed", mean=3), 3, 0),
        (Distribution("uniform", low=1, high=4), 2.5, 0.01),
        (Distribution("exponential", mean=0.2), 0.2, 0.01),
        (Distribution("lognormal", mean=7, sigma=1), 7, 0.02),
        (Distribution("pareto", mean=2, alpha=3), 2, 0.02),
    ],
)
def test_means(distribution: Distribution, mean: float, tolerance: float) -> None:
    values = sample(distribution, random(), COUNT)
    assert len(values) == COUNT
    assert abs(values.mean() - mean) <= tolerance * mean
    assert values.min() >= 0


def test_tails() -> None:
    pareto = sample(Distribution("pareto", mean=3, alpha=1.5), random(), COUNT)
    assert pareto.min() >= 1, "mean × (alpha - 1) / alpha"
    assert abs((pareto > 4).mean() - 4**-1.5) < 0.003
    lognormal = sample(Distribution("lognormal", mean=1, sigma=2), random(), COUNT)
    assert abs(np.log(lognormal).std() - 2) < 0.02


@pytest.mark.parametrize(
    ("distribution", "field"),
    [
        (Distribution("fixed", mean=-1), "mean"),
        (Distribution("fixed", mean=float("nan")), "mean"),
        (Distribution("exponential"), "mean"),
        (Distribution("exponential", mean=1e7), "mean"),
        (Distribution("uniform", low=2, high=1), "high"),
        (Distribution("uniform", low=float("inf"), high=1), "low"),
        (Distribution("lognormal", mean=1, sigma=9), "sigma"),
        (Distribution("pareto", mean=1, alpha=1), "alpha"),
        (Distribution("pareto", mean=1, alpha=float("inf")), "alpha"),
    ],
)
def test_what_is_wrong_with_a_distribution(distribution: Distribution, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_distribution(distribution, "lifetime")
    assert refused.value.field == f"lifetime.{field}"


def test_forever_is_a_lifetime_and_no_time_to_think() -> None:
    forever = Distribution("forever")
    check_distribution(forever, "lifetime")
    with pytest.raises(InvalidRequest):
        check_distribution(forever, "think", forever=False)


# patterns


def indexes(pages: int, **fields: object) -> Indexes:
    return Indexes(Access("r", **fields), pages, random())  # type: ignore[arg-type]


def test_sequential_goes_from_end_to_end() -> None:
    pattern = indexes(10, pattern="sequential")
    assert pattern.take(8).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert pattern.take(5).tolist() == [8, 9, 0, 1, 2]
    assert len(pattern.take(25)) == 25


@pytest.mark.parametrize(("count", "stride"), [(10, 3), (10, 5), (10, 10), (7, 1), (9, 4)])
def test_a_stride_visits_every_page_in_a_round(count: int, stride: int) -> None:
    taken = indexes(count, pattern="stride", stride=stride).take(2 * count).tolist()
    rounds = [page for first in range(stride) for page in range(first, count, stride)]
    assert taken == rounds * 2


def test_a_pointer_chase_visits_every_page_and_no_neighbour_after_another() -> None:
    taken = indexes(100, pattern="pointer-chase").take(200).tolist()
    assert sorted(taken[:100]) == list(range(100))
    assert taken[100:] == taken[:100]
    assert all(abs(a - b) > 1 for a, b in pairwise(taken))


def test_uniform_reaches_every_page_alike() -> None:
    counts = np.bincount(indexes(100, pattern="uniform").take(COUNT), minlength=100)
    assert counts.min() > 0.9 * COUNT / 100
    assert counts.max() < 1.1 * COUNT / 100


def test_hot_set_gets_its_share() -> None:
    taken = indexes(1000, pattern="hot-set", hot_pages=0.1, hot_accesses=0.9).take(COUNT)
    assert abs((taken < 100).mean() - 0.9) < 0.005
    assert set(range(1000)) == set(taken.tolist())
    assert set(indexes(8, pattern="hot-set", hot_pages=1.0, hot_accesses=0.1).take(1000)) == set(range(8))


@pytest.mark.parametrize("theta", [0.5, 0.99, 1.0, 1.5])
def test_zipf_falls_as_a_power_of_the_rank(theta: float) -> None:
    found = ranks(random().random(COUNT), theta, 10_000)
    assert found.min() == 0
    assert found.max() <= 9_999
    counts = np.bincount(found, minlength=10_000)
    # a decade higher in rank, a page has 10^theta times fewer accesses
    ratio = counts[100:200].mean() / counts[1000:2000].mean()
    assert ratio == pytest.approx(10**theta, rel=0.1)


@pytest.mark.parametrize("pages", [1, 2, 7, 1000, 4096])
def test_ranks_are_scattered_one_page_each(pages: int) -> None:
    assert sorted(scatter(np.arange(pages), pages).tolist()) == list(range(pages))
