"""The latency model: curves, defaults, and whether the values of each preset fit together."""

from __future__ import annotations

import pytest

from numa_service.machine.latency import CURVES, LatencyModel, queueing_ns
from numa_service.machine.presets import Preset, list_presets


def test_a_curve_goes_through_its_points_and_straight_between_them() -> None:
    curve = ((0.0, 0.0), (50.0, 10.0), (100.0, 210.0))
    assert [queueing_ns(curve, u) for u in (0, 0.25, 0.5, 0.75, 1)] == [0, 5, 10, 110, 210]
    assert queueing_ns(curve, 1.7) == 210, "what is beyond the bandwidth is not the curve's business"


def test_mlc_s_points_come_back() -> None:
    """The points, in MB/s and ns, are of the calibration data that "ddr4" cites; idle is 81.4 ns."""
    for mb_per_s, latency_ns in ((35264.8, 91.03), (68717.3, 94.46), (111587.4, 101.21), (160242.9, 121.92)):
        assert 81.4 + queueing_ns(CURVES["ddr4"], mb_per_s / 215_900) == pytest.approx(latency_ns, rel=0.01)
    assert 81.4 + queueing_ns(CURVES["ddr4"], 1) == pytest.approx(282.66, rel=0.01)


@pytest.mark.parametrize("name", CURVES)
def test_curves_ascend(name: str) -> None:
    points = CURVES[name]
    assert points[0] == (0, 0)
    assert points[-1][0] == 100
    assert list(points) == sorted(points)
    assert [ns for _, ns in points] == sorted(ns for _, ns in points)


def test_a_machine_that_says_nothing_has_the_numbers_of_a_socket() -> None:
    model = LatencyModel()
    assert (model.read_latency_ns(0, 1, 21), model.write_latency_ns(0, 1, 21)) == (189, 189)
    assert (model.memory_bandwidth(3), model.link_bandwidth(0, 3)) == (108_000, 51_000)
    assert model.link_bandwidth(3, 3) == 0
    assert (model.mode, model.time_dilation) == ("account", 0)
    own = LatencyModel(curves={"ddr4": ((0, 0), (100, 7))})
    assert own.curve(own.memory_curve_name(0)) == ((0, 0), (100, 7)), "a machine's own goes first"


@pytest.mark.parametrize(
    "preset", [preset for preset in list_presets() if not preset.broke], ids=lambda preset: preset.name
)
def test_presets_give_every_bandwidth_and_say_where_it_is_from(preset: Preset) -> None:
    spec = preset.load()
    model, nids = spec.latency, {node.nid for node in spec.nodes}
    assert set(model.memory_mb_per_s) == nids
    assert all(model.memory_mb_per_s.values())
    if len(nids) > 1:
        assert {to for _, to in model.link_mb_per_s} == nids
    comment = preset.text[preset.text.index("[latency]") :]
    assert any(source in comment for source in ("MLC", "nominal rate", "sources as in the preset"))
