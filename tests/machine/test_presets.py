"""The presets load, and have the shapes that their names say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from numa_service.machine.boot import start_kernel
from numa_service.machine.presets import Preset, list_presets, load_preset
from numa_service.machine.source import load
from numa_service.machine.spec import SpecError
from numa_service.mm.mmzone import ZONE_NAMES
from numa_service.procfs import tree

NODE = "/sys/devices/system/node"
TIERS = "/sys/devices/virtual/memory_tiering"
NAMES = ["cxl-tier", "demo", "eight-node", "four-ring", "i386-highmem", "nps4", "two-socket", "uma"]


def test_list() -> None:
    presets = list_presets()
    assert [preset.name for preset in presets if not preset.broke] == NAMES
    assert all(preset.name.startswith("zoo/") == bool(preset.broke) for preset in presets)
    for preset in presets:
        assert 20 < len(preset.description) <= 100
        assert preset.description.endswith(".")
        assert not preset.broke or (preset.broke.endswith(".") and "http" in preset.source)


@pytest.mark.parametrize("preset", list_presets(), ids=lambda preset: preset.name)
def test_every_preset_loads_under_its_name(preset: Preset) -> None:
    spec = preset.load()
    assert spec == load_preset(preset.name) == load(preset.name)
    assert spec.source == preset.name
    assert spec.name == preset.name.replace("/", "-")
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


def test_shapes_of_the_zoo() -> None:
    """What broke software is there: nodes with and without CPUs and memory, and their numbers."""
    zoo = {p.name.removeprefix("zoo/"): p.load() for p in list_presets() if p.broke}

    def having(name: str, what: str) -> list[int]:
        return [node.nid for node in zoo[name].nodes if getattr(node, what)]

    assert {name: len(spec.nodes) for name, spec in zoo.items() if len(spec.nodes) > 8} == {
        "gb200": 34,
        "gb200-hbm": 34,
        "gh200": 9,
        "gh200-quad": 36,
        "ppc64-lpar": 32,
        "spr-hbm": 16,
    }
    assert having("gb200", "cpus") == having("gb200", "ram") == having("gb200-hbm", "cpus") == [0, 1]
    assert having("gb200-hbm", "ram") == [0, 1, 2, 10, 18, 26]
    assert (having("gh200", "cpus"), having("ppc64-lpar", "ram")) == ([0], [0])
    assert having("gh200-quad", "cpus") == [0, 1, 2, 3]
    assert having("spr-hbm", "cpus") == list(range(8))
    assert having("spr-hbm", "ram") == list(range(16))
    assert list(zoo["no-node-0"].nids) == [4, 5, 6, 7]
    assert (having("threadripper", "cpus"), having("threadripper", "ram")) == ([0, 1, 2, 3], [1, 2])
    assert having("node-0-without-memory", "ram") == [1]
    assert {node.cpus for node in zoo["fake-numa"].nodes} == {(0, 1, 2, 3)}
    assert [node.added for node in zoo["two-cxl"].nodes] == [False, False, True, True]
    assert zoo["possible-20"].node_ids == 20
    assert tree.read(start_kernel(zoo["possible-20"]).snapshot(), f"{NODE}/possible") == "0-19\n"
    with pytest.raises(FileNotFoundError):
        tree.listdir(start_kernel(zoo["no-node-directory"]).snapshot(), NODE)
    cards = start_kernel(zoo["two-cxl"]).snapshot()
    tiers = [entry.name for entry in tree.listdir(cards, TIERS) if entry.name.startswith("memory_tier")]
    assert {tree.read(cards, f"{TIERS}/{tier}/nodelist") for tier in tiers} == {"0-1\n", "2-3\n"}


def test_slower_than_its_distance_says() -> None:
    cxl = load_preset("cxl-tier")
    assert cxl.distance(0, 2) < cxl.distance(0, 1)
    assert cxl.latency.read_latency_ns(0, 2, 17) > cxl.latency.read_latency_ns(0, 1, 21)


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "box.toml").write_text("[[node]]\ncpus = [0]\nmemory = 4096_000\n")
    assert load("box.toml").name == "box"
    # the name of a preset means the preset, even if there is a file of that name
    (tmp_path / "uma").write_text("[[node]]\ncpus = [0]\n")
    assert load("uma").name == "uma"
    with pytest.raises(SpecError, match=r"^uma:1: node\[0\]: neither memory nor ranges"):
        load("./uma")
    known = re.escape(f"{', '.join(NAMES)}, zoo/… (presets --zoo)")
    for source in ("nowhere", "no/where", "a\0b"):
        with pytest.raises(SpecError, match="neither a machine file, nor .*, nor a preset: " + known):
            load(source)
    with pytest.raises(SpecError, match="no preset 'nowhere': " + known):
        load_preset("nowhere")
