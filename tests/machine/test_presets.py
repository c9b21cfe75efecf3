"""Presets load, and are what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest

from numa_service.machine.presets import Preset, list_presets, load_preset
from numa_service.machine.source import load
from numa_service.machine.spec import SpecError
from numa_service.mm.mmzone import ZONE_NAMES

NAMES = ["cxl-tier", "demo", "eight-node", "four-ring", "i386-highmem", "nps4", "two-socket", "uma"]


def test_list() -> None:
    presets = list_presets()
    assert [preset.name for preset in presets] == NAMES
    for preset in presets:
        assert 20 < len(preset.description) <= 100
        assert preset.description.endswith(".")


@pytest.mark.parametrize("preset", list_presets(), ids=lambda preset: preset.name)
def test_every_preset_loads_under_its_name(preset: Preset) -> None:
    spec = preset.load()
    assert spec == load_preset(preset.name) == load(preset.name)
    assert spec.name == spec.source == preset.name
    for node in spec.nodes:
        assert sum(zone.present for zone in node.zones) == sum(end - start for start, end in node.ram)
        assert [zone.name for zone in node.zones] == [
            name for name in ZONE_NAMES[spec.arch] if name in {zone.name for zone in node.zones}
        ]


def test_shapes() -> None:
    assert len(load_preset("nps4").nodes) == len(load_preset("eight-node").nodes) == 8
    assert {value for row in load_preset("nps4").distances for value in row} == {10, 12, 32}
    assert load_preset("four-ring").distances[0] == (10, 16, 22, 16)
    assert [len(node.cpus) for node in load_preset("cxl-tier").nodes] == [2, 2, 0, 0]
    assert [zone.name for zone in load_preset("i386-highmem").nodes[0].zones] == ["DMA", "Normal", "HighMem"]
    demo = load_preset("demo")
    assert [bool(node.cpus) for node in demo.nodes] == [True, True, False]
    assert demo.swap_pages == 65536


def test_slower_than_its_distance_says() -> None:
    cxl = load_preset("cxl-tier")
    assert cxl.distance(0, 2) < cxl.distance(0, 1)
    assert cxl.latency.read_latency_ns(0, 2, 17) > cxl.latency.read_latency_ns(0, 1, 21)


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "box.toml").write_text("[[node]]\ncpus = [0]\nmemory = 4096_000\n")
    assert load("box.toml").name == "box"
    # A preset's name is the preset whatever lies here; a path is the path.
    (tmp_path / "uma").write_text("[[node]]\ncpus = [0]\n")
    assert load("uma").name == "uma"
    with pytest.raises(SpecError, match=r"^uma:1: node\[0\]: neither memory nor ranges"):
        load("./uma")
    known = ", ".join(NAMES)
    for source in ("nowhere", "no/where", "a\0b"):
        with pytest.raises(SpecError, match="neither a machine file, nor .*, nor a preset: " + known):
            load(source)
    with pytest.raises(SpecError, match="no preset 'nowhere': " + known):
        load_preset("nowhere")
