"""Sampling of lifetimes and think times, as arrays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numa_client import Distribution

from numa_service.node.errors import InvalidRequest

#: Largest mean, low or high: 11 days in virtual seconds, or that many times a node's memory.
MAX_VALUE = 1e6
#: Largest sigma of a lognormal: with a larger one the mean of no feasible sample is near the distribution's.
MAX_SIGMA = 5.0


def check_distribution(d: Distribution, field: str, *, forever: bool = True) -> None:
    """InvalidRequest, naming the part of `field` that is wrong; `forever`: that kind is allowed."""
    kind = d.kind
    if kind == "forever":
        if not forever:
            raise InvalidRequest(f"{field}.kind", "forever is no time to think")
        return
    if kind == "uniform":
        _check(f"{field}.low", d.low, 0, MAX_VALUE)
        _check(f"{field}.high", d.high, d.low, MAX_VALUE)
        return
    _check(f"{field}.mean", d.mean, 0, MAX_VALUE)
    if kind != "fixed" and not d.mean:
        raise InvalidRequest(f"{field}.mean", f"{kind} needs a mean above 0")
    if kind == "lognormal":
        _check(f"{field}.sigma", d.sigma, 0, MAX_SIGMA)
    if kind == "pareto" and not 1 < d.alpha < math.inf:
        raise InvalidRequest(f"{field}.alpha", f"{d.alpha:g}: must be above 1, or there is no mean")


def _check(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for nan too
        raise InvalidRequest(field, f"{value:g} is not in {low:g}…{high:g}")


def sample(d: Distribution, random: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """`count` random values in the distribution's unit; ValueError for the kind "forever"."""
    match d.kind:
        case "fixed":
            return np.full(count, d.mean)
        case "uniform":
            return random.uniform(d.low, d.high, count)
        case "exponential":
            return random.exponential(d.mean, count)
        case "lognormal":
            return random.lognormal(math.log(d.mean) - d.sigma**2 / 2, d.sigma, count)
        case "pareto":
            # NumPy's pareto is the Lomax distribution: plus one, it is Pareto's with a minimum of 1
            return (random.pareto(d.alpha, count) + 1) * (d.mean * (d.alpha - 1) / d.alpha)
    raise ValueError(f"no values of {d.kind}")
