"""A sweep of every kind of path measures the curve that the machine has for it."""

from __future__ import annotations

import dataclasses

import pytest

from numa_service.cli.latency import expected_ns
from numa_service.machine.presets import list_presets, load_preset
from numa_service.machine.spec import MachineSpec
from numa_service.sim.loaded_latency import Idle, Path, kinds, paths, sweep

#: make test sweeps the preset with nodes of every kind, make test-slow all of them.
QUICK = "cxl-tier"
NAMES = [
    pytest.param(preset.name, marks=() if preset.name == QUICK else pytest.mark.slow)
    for preset in list_presets()
]


def _agrees(spec: MachineSpec, idle: Idle) -> None:
    points = list(sweep(spec, idle.path))
    assert points[0].mb_per_s == pytest.approx(0.05 * idle.mb_per_s, rel=0.02)
    # a single CPU reaches nine tenths: at the top of the curve its accesses take too long for more
    assert max(point.mb_per_s for point in points) > 0.9 * idle.mb_per_s
    assert points[-1].latency_ns > 1.3 * idle.read_ns
    for point in points:
        assert point.latency_ns == pytest.approx(expected_ns(spec.latency, idle, point.mb_per_s), rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_the_sweep_gives_the_preset_s_curve(name: str) -> None:
    spec = load_preset(name)
    limited = [idle for idle in kinds(spec) if idle.mb_per_s]
    assert limited
    for idle in limited:
        _agrees(spec, idle)


def test_a_curve_of_one_s_own() -> None:
    spec = load_preset("demo")
    model = dataclasses.replace(
        spec.latency,
        curves={"steps": ((0, 0), (30, 5), (50, 150), (100, 200))},
        memory_curve={0: "steps", 1: "steps", 2: "steps"},
    )
    spec = dataclasses.replace(spec, latency=model)
    for idle in paths(spec)[:2]:
        _agrees(spec, idle)


def test_the_same_sweep_twice_gives_the_same_points() -> None:
    spec = load_preset("demo")
    assert list(sweep(spec, Path(1, 2), (40, 100))) == list(sweep(spec, Path(1, 2), (40, 100)))


def test_a_path_without_a_limit_has_no_sweep() -> None:
    spec = load_preset("uma")
    model = dataclasses.replace(spec.latency, memory_mb_per_s={0: 0})
    with pytest.raises(ValueError, match="no limit"):
        next(sweep(dataclasses.replace(spec, latency=model), Path(0, 0)))
