"""QEMU's arguments: read as QEMU reads them, and accepted when written; the ACPI tables it makes of them."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
import qtest
from groundtruth import topologies
from hypothesis import assume, given, settings
from machines import specs, times
from skips import needs

from numa_service.machine.captured_tree import Directory
from numa_service.machine.formats.acpi import find_tables, read_acpi
from numa_service.machine.formats.detect import read_source
from numa_service.machine.formats.draft import draft_of, linux_numbers
from numa_service.machine.formats.export import export
from numa_service.machine.formats.machine_toml import to_spec
from numa_service.machine.formats.qemu import read_qemu
from numa_service.machine.formats.qemu_write import to_qemu
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.presets import list_presets, load_preset
from numa_service.machine.source import load
from numa_service.machine.spec import MachineSpec, SpecError

needs_qemu = needs(qtest.QEMU)


def _from_tables(tables: dict[str, bytes], folder: Path) -> MachineSpec:
    for name, content in tables.items():
        (folder / name).write_bytes(content)
    draft = read_acpi(find_tables(Directory(folder)), "tables", str(folder))
    draft.check()
    return to_spec(draft, "tables")


#: The zoo's machines have more memory or nodes than QEMU takes here, or node numbers with gaps.
_PRESETS = [preset.name for preset in list_presets() if not preset.broke]


@needs_qemu
@pytest.mark.parametrize("name", _PRESETS)
def test_qemu_makes_the_same_machine_of_what_is_written(name: str, tmp_path: Path) -> None:
    spec = load_preset(name)
    text, _ = export(spec, "qemu")
    again = _from_tables(qtest.acpi_tables(text), tmp_path)
    assert [node.cpus for node in again.nodes] == [node.cpus for node in spec.nodes]
    assert again.distances == spec.distances
    # the SRAT has the RAM of each node as q35 places it; the 128 KiB of ACPI tables are not holes of it
    for ours, theirs in zip(spec.nodes, again.nodes, strict=True):
        there = sum(end - start for start, end in theirs.ram)
        here = sum(end - start for start, end in ours.ram)
        assert 0 <= there - here <= 32
    if spec.latency.read_ns:
        assert times(again) == times(spec)


@needs_qemu
def test_qemu_refuses_what_it_cannot_take() -> None:
    text, _ = export(load_preset("two-socket"), "qemu")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        qtest.acpi_tables(text.replace("nodeid=1", "nodeid=5"))
    assert "5" in caught.value.stderr


@needs_qemu
@pytest.mark.slow
@given(specs(gaps=False, latency=False))
@settings(max_examples=40, deadline=None)
def test_qemu_takes_every_machine(spec: MachineSpec) -> None:
    # with less memory QEMU has no room for its ACPI tables
    assume(sum(zone.present for node in spec.nodes for zone in node.zones) >= 16 << 8)
    text, _ = export(spec, "qemu")
    assert "SRAT" in qtest.acpi_tables(text)


def test_nodes_and_cpus_are_numbered_anew_and_said() -> None:
    draft = read_source("numa:2(memory=1GiB indexes=3,5) pu:2(indexes=0,2,5,9)")
    text, notes = export(to_spec(draft, "x"), "qemu")
    again = read_qemu(text, "x", "x")
    assert [(node.nid, node.cpus) for node in again.nodes] == [(0, (0, 1)), (1, (2, 3))]
    assert sum("without gaps" in note for note in notes) == 2


def test_arguments_that_booted_a_kernel_give_the_machine_that_it_saw() -> None:
    compared = 0
    for folder in topologies():
        scenario = json.loads((folder / "scenario.json").read_text())
        arguments = shlex.join(scenario["qemu_argv"])
        if "numa=" in arguments or "kernelcore=" in arguments or "movablecore=" in arguments:
            continue
        seen = load(str(folder))
        if seen.arch != "x86_64":
            continue
        draft = read_qemu(arguments, folder.name, folder.name)
        draft.check()
        if any("numbers nodes with CPUs first" in note for note in draft.notes):
            draft.renumber(linux_numbers(draft.nodes))
            draft.check()
            cpus = {node.nid: node.cpus for node in seen.nodes}
            assert {node.nid: node.cpus for node in draft.nodes} == cpus, folder.name
            continue
        spec = to_spec(draft, folder.name)
        assert [(n.nid, n.cpus) for n in spec.nodes] == [(n.nid, n.cpus) for n in seen.nodes], folder.name
        assert spec.distances == seen.distances, folder.name
        ours, theirs = ([span for n in machine.nodes for span in n.ram] for machine in (spec, seen))
        assert [start for start, _ in ours] == [start for start, _ in theirs], folder.name
        # with eight nodes ACPI's tables at the end of low memory take one page more
        assert sum(abs(a - b) for (_, a), (_, b) in zip(ours, theirs, strict=True)) <= 1, folder.name
        compared += 1
    assert compared > 5


def test_cpus_by_socket_and_core_and_sizes_in_every_way() -> None:
    draft = read_qemu(
        "-smp 8,sockets=2,cores=2,threads=2 -m size=6G,slots=2,maxmem=8G "
        '-object \'{"qom-type":"memory-backend-ram","id":"ram0","size":2147483648}\' '
        "-object memory-backend-file,id=ram1,size=4096M,mem-path=/x "
        "-numa node,nodeid=0,memdev=ram0 -numa node,nodeid=1,memdev=ram1 "
        "-numa cpu,node-id=0,socket-id=0 -numa cpu,node-id=1,socket-id=1,core-id=0 "
        "-numa cpu,node-id=0,socket-id=1,core-id=1 -numa dist,src=0,dst=1,val=15 -numa hmat-cache,node-id=0",
        "x",
        "x",
    )
    assert [(node.cpus, node.memory >> 30) for node in draft.nodes] == [((0, 1, 2, 3, 6, 7), 2), ((4, 5), 4)]
    assert draft.distance(1, 0) == 15
    assert any("hmat-cache" in note for note in draft.notes)


def test_cpus_that_are_nowhere_are_dealt_out_by_socket() -> None:
    draft = read_qemu("-smp 4,sockets=4 -m 1G -numa node,mem=512M -numa node,mem=512", "x", "x")
    assert [node.cpus for node in draft.nodes] == [(0, 2), (1, 3)]


def test_no_numa_is_one_node_and_the_command_line_is_kept() -> None:
    draft = read_qemu('qemu-system-x86_64 -m 2G -smp 3 -append "ro cma=16M" -name box', "x", "x")
    draft.check()
    assert [(node.cpus, node.memory) for node in draft.nodes] == [((0, 1, 2), 2 << 30)]
    assert (draft.name, draft.cmdline) == ("box", "ro cma=16M")


BAD = {
    "-numa node,nodeid=0,memdev=m7": "there is no such -object",
    "-numa node,nodeid=0 -numa node,nodeid=0": "a second one",
    "-numa node,nodeid=1024": "nodeid: '1024' is not a number from 0 to 1023",
    "-numa node,cpus=0-x": "'0-x' is not a CPU or a range",
    "-numa node,cpus=0 -numa node,cpus=0": "CPU 0 is on node 0 already",
    "-numa node -numa dist,src=0,dst=3,val=20": "there is no node 3",
    "-numa node -numa dist,src=0,dst=0,val=900": "val: '900' is not a number",
    "-numa node -numa cpu,node-id=4": "there is no such node",
    "-numa node -numa hmat-lb,initiator=0,target=0,data-type=access-latency,latency=soon": "is not ns",
    "-numa sideways": "not node, cpu, dist, hmat-lb or hmat-cache",
    "-numa node -m lots": "-m: 'lots' is not a size",
    "-numa node -smp many": "-smp cpus: 'many' is not a number",
    "-numa node -smp 99999": "99999 CPUs, 1 to 8192",
    "-numa": "-numa: a value is missing",
    '-numa node -append "x': "No closing quotation",
    "-numa '{\"type\":'": "JSON",
    "-object memory-backend-ram,id=a -numa node": "id or size is missing",
}


@pytest.mark.parametrize("text", BAD)
def test_wrong_arguments_are_named(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_qemu(text, "x", "x").check()
    assert BAD[text] in str(caught.value)
    assert str(caught.value).startswith("x: ")


def test_sockets_cores_and_threads() -> None:
    """They are numbered in a row; without a word of them, or if every node is a socket, none are noted."""
    draft = read_qemu("qemu-system -smp 8,sockets=2,cores=2,threads=2 -m 1G", "x", "x")
    draft.check()
    assert draft.packages == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert draft.cores == [(0, 1), (2, 3), (4, 5), (6, 7)]
    for smp in ("-smp 8", "-smp 8,sockets=2"):
        draft = read_qemu(f"{smp} -numa node,cpus=0-3 -numa node,cpus=4-7 -m 1G", "x", "x")
        draft.check()
        assert (draft.packages, draft.cores) == ([], [])


def test_packages_and_cores_are_exported() -> None:
    text = 'packages = ["0-3", "4-7"]\ncores = ["0-1", "2-3", "4-5", "6-7"]\n'
    text += '[[node]]\ncpus = "0-7"\nmemory = "1GiB"\n'
    spec = parse_machine(text, "m", "m")
    written, notes = to_qemu(draft_of(spec))
    assert "-smp 8,sockets=2,cores=2,threads=2,maxcpus=8" in written
    assert not notes
    again = read_qemu(written, "x", "m")
    again.check()
    assert (again.packages, again.cores) == (list(spec.packages), list(spec.cores))
    written, notes = to_qemu(draft_of(parse_machine(text.replace('"0-3", "4-7"', '"0-5", "6-7"'), "m", "m")))
    assert "-smp 8,maxcpus=8" in written
    assert any("sockets and cores" in note for note in notes)


def test_fake_nodes_are_exported_as_what_they_were_cut_from() -> None:
    nodes = ('[[node]]\ncpus = "0-1"\nmemory = "2GiB"\n', '[[node]]\ncpus = "2"\nmemory = "2GiB"\n')
    text = 'cmdline = "numa=fake=4 quiet"\ndistances = [[10, 21], [21, 10]]\n' + "".join(nodes)
    fake = parse_machine(text, "m", "m")
    assert len(fake.nodes) == 4
    written, notes = export(fake, "qemu")
    assert written.endswith("-append 'quiet numa=fake=4'\n")
    assert notes == ["these are the real nodes: the kernel cuts them by numa=fake=4", "-append needs -kernel"]
    again = read_qemu(written, "x", "m")
    again.check()
    assert (again.cmdline, to_spec(again, "x").nids) == ("quiet numa=fake=4", fake.nids)
    whole = read_qemu(written.replace("numa=fake=4", ""), "x", "m")
    whole.check()
    assert [(node.cpus, node.bytes >> 30) for node in whole.nodes] == [((0, 1), 2), ((2,), 2)]
    assert whole.distance(0, 1) == 21


def test_memory_of_devices_comes_after_boot() -> None:
    draft = read_qemu(
        "qemu-system -smp 2 -m 1G -object memory-backend-ram,id=a,size=1G -numa node,cpus=0-1,memdev=a "
        "-numa node -object memory-backend-ram,id=b,size=512M -device pc-dimm,id=d,memdev=b,node=1 "
        "-object memory-backend-ram,id=c,size=4G -device virtio-mem-pci,memdev=c,node=1,requested-size=256M",
        "x",
        "x",
    )
    draft.check()
    assert [(node.memory >> 20, node.added) for node in draft.nodes] == [(1024, False), (768, True)]


def test_cxl_is_no_memory_at_boot() -> None:
    draft = read_qemu(
        "qemu-system -smp 2 -m 1G -object memory-backend-ram,id=v,size=16G "
        "-device cxl-type3,volatile-memdev=v -M cxl-fmw.0.targets.0=c,cxl-fmw.0.size=4G",
        "x",
        "x",
    )
    draft.check()
    assert [node.memory >> 20 for node in draft.nodes] == [1024]
    assert any("cxl-type3 (v 16GiB) behind cxl-fmw (4GiB)" in note for note in draft.notes)
