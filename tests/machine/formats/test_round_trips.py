"""What two formats can both express is not lost between them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from machines import drafts, shape, specs, times

from numa_service.machine.formats.detect import read_source
from numa_service.machine.formats.draft import Draft, draft_of, q35_sizes
from numa_service.machine.formats.export import EXPORTS, export, write
from numa_service.machine.formats.hwloc_synthetic import read_synthetic
from numa_service.machine.formats.hwloc_xml import read_hwloc_xml
from numa_service.machine.formats.machine_toml import to_spec, to_toml
from numa_service.machine.formats.qemu import read_qemu
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.presets import list_presets
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.machine.zones import q35_ram

#: What numa=fake has cut is exported as nodes like others: their zones and distances are not those of a cut.
PRESETS = [preset.name for preset in list_presets() if preset.name != "zoo/fake-numa"]


def _preset(name: str) -> MachineSpec:
    return next(preset for preset in list_presets() if preset.name == name).load()


def _checked(draft: Draft) -> MachineSpec:
    draft.check()
    return to_spec(draft, "round trip")


@pytest.mark.parametrize("name", PRESETS)
def test_a_machine_file_says_every_preset_exactly(name: str) -> None:
    spec = _preset(name)
    again = parse_machine(to_toml(draft_of(spec)), "x", "x")
    whole = replace(spec, source="x", latency=again.latency)
    assert again == whole
    assert times(again) == times(spec)
    assert again.latency.memory_curve == spec.latency.memory_curve
    assert again.latency.curves == spec.latency.curves


@given(specs())
@settings(max_examples=60, deadline=None)
def test_a_machine_file_says_every_machine_exactly(spec: MachineSpec) -> None:
    again = parse_machine(to_toml(draft_of(spec)), "x", "x")
    assert again == replace(spec, source="x", name=again.name)


@given(specs())
@settings(max_examples=60, deadline=None)
def test_hwloc_xml_keeps_nodes_cpus_memory_distances_and_latencies(spec: MachineSpec) -> None:
    text, _ = export(spec, "hwloc-xml")
    again = _checked(read_hwloc_xml(text.encode(), "x.xml", "x"))
    assert shape(again) == shape(spec)
    if spec.latency.read_ns:
        assert times(again) == times(spec)


@given(specs(gaps=False))
@settings(max_examples=60, deadline=None)
def test_qemu_arguments_keep_nodes_cpus_memory_distances_and_latencies(spec: MachineSpec) -> None:
    text, _ = export(spec, "qemu")
    again = _checked(read_qemu(text, "x", "x"))
    assert shape(again) == shape(spec)
    if spec.latency.read_ns:
        assert times(again) == times(spec)


@given(drafts(latency=False))
@settings(max_examples=60, deadline=None)
def test_a_synthetic_string_keeps_what_it_can_say_or_refuses(draft: Draft) -> None:
    owners = [node for node in draft.nodes if node.cpus]
    if len({len(node.cpus) for node in owners}) > 1 or len({node.bytes for node in owners}) > 1:
        with pytest.raises(SpecError, match="write hwloc-xml instead"):
            write(draft, "synthetic")
        return
    text, notes = write(draft, "synthetic")
    again = read_synthetic(text, "x", "x")
    assert notes
    assert {node.nid: (node.cpus, node.bytes) for node in again.nodes} == {
        node.nid: (node.cpus, node.bytes) for node in draft.nodes
    }


@given(drafts())
@settings(max_examples=100, deadline=None)
def test_sizes_are_found_again_behind_the_places_that_they_gave(draft: Draft) -> None:
    ram = q35_ram([node.memory >> 12 for node in draft.nodes])
    sizes = q35_sizes(ram)
    assert sizes is not None
    assert q35_ram(sizes) == ram


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("form", [form for form in EXPORTS if form not in ("dot", "svg", "synthetic")])
def test_what_is_written_of_a_preset_is_found_out_and_read(name: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name.replace('/', '-')}.export"
    path.write_text(export(_preset(name), form)[0])
    again = to_spec(read_source(str(path)), str(path))
    assert again.distances == _preset(name).distances
    assert again.cpus == _preset(name).cpus


def test_memory_placed_by_hand_survives_in_xml() -> None:
    text = """
[[node]]
cpus = "0"
ranges = [["1GiB", "2GiB"], ["0x100000000", "0x180000000"]]
[[node]]
id = 9
ranges = [["40GiB", "41GiB"]]
"""
    spec = parse_machine(text, "x", "x")
    again = _checked(read_hwloc_xml(export(spec, "hwloc-xml")[0].encode(), "x.xml", "x"))
    assert shape(again) == shape(spec)


def test_movable_and_what_the_command_line_did_are_kept_in_a_machine_file() -> None:
    text = 'cmdline = "movablecore=512M cma=64M"\n[[node]]\ncpus = "0-1"\nmemory = "6GiB"\n'
    spec = parse_machine(text, "x", "x")
    draft = draft_of(spec)
    again = parse_machine(to_toml(draft), "x", "x")
    assert again.nodes == spec.nodes
    assert again.cmdline == "cma=64M"
    assert any("movablecore=512M" in note for note in draft.notes)
