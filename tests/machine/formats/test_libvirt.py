"""Libvirt's XML: domains with cells, distances, an HMAT and memory devices; capabilities of hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from numa_service.machine.formats.detect import read_source
from numa_service.machine.formats.libvirt import read_libvirt
from numa_service.machine.formats.machine_toml import to_spec
from numa_service.machine.spec import SpecError

DOMAIN = """<?xml version='1.0'?>
<!-- a guest --><!-- with HBM -->
<domain type='kvm'>
  <name>hbm guest</name>
  <memory unit='GiB'>4</memory>
  <vcpu placement='static' current='6'>8</vcpu>
  <cpu>
    <topology sockets='2' dies='1' cores='2' threads='2'/>
    <numa>
      <cell id='0' cpus='0-3' memory='2' unit='GiB'>
        <distances><sibling id='1' value='21'/><sibling id='2' value='13'/></distances>
      </cell>
      <cell id='1' cpus='4-7' memory='1048576'/>
      <cell id='2' memory='1024' unit='MiB'/>
      <interconnects>
        <latency initiator='0' target='0' type='access' value='72'/>
        <bandwidth initiator='0' target='2' type='write' value='2097152' unit='KiB'/>
        <latency initiator='0' target='0' cache='1' type='access' value='7'/>
      </interconnects>
    </numa>
  </cpu>
</domain>
"""
HOST = """<capabilities><host><topology><cells num='2'>
<cell id='0'><memory unit='KiB'>4000000</memory><distances><sibling id='0' value='10'/>
<sibling id='1' value='21'/></distances><cpus num='2'><cpu id='0' socket_id='0' core_id='0' siblings='0,2'/>
<cpu id='2' socket_id='0' core_id='0' siblings='0,2'/></cpus></cell>
<cell id='1'><memory unit='KiB'>2000000</memory><distances><sibling id='0' value='21'/>
<sibling id='1' value='10'/></distances><cpus num='2'><cpu id='1' socket_id='1' core_id='0' siblings='1,3'/>
<cpu id='3' socket_id='1' core_id='0' siblings='1,3'/></cpus></cell>
</cells></topology></host></capabilities>"""


def test_a_host_tells_what_its_hmat_says(tmp_path: Path) -> None:
    path = tmp_path / "hmat.xml"
    told = """</cells><interconnects>
<latency initiator='0' target='1' type='read' value='11'/>
<latency initiator='0' target='1' type='write' value='12'/>
<bandwidth initiator='0' target='1' type='read' value='103424' unit='KiB'/></interconnects>"""
    cache = "<memory unit='KiB'>2000000</memory><cache level='1'><size value='10' unit='KiB'/></cache>"
    text = HOST.replace("</cells>", told).replace("<memory unit='KiB'>2000000</memory>", cache)
    path.write_text(text)
    draft = read_source(str(path))
    assert (draft.latency.read_ns, draft.latency.write_ns) == ({(0, 1): 11}, {(0, 1): 12})
    # 101 MiB/s, in MB/s
    assert draft.latency.read_mb_per_s == {(0, 1): 106}
    assert "memory-side caches are not modelled" in draft.notes
    path.write_text(text.replace("target='1' type='read'", "target='9' type='read'"))
    with pytest.raises(SpecError, match=r"<latency>: initiator or target: there is no such node"):
        read_source(str(path))


def test_a_domain(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(DOMAIN)
    draft = read_source(str(path))
    assert draft.name == "hbm-guest"
    assert [(node.cpus, node.bytes >> 20) for node in draft.nodes] == [
        ((0, 1, 2, 3), 2048),
        ((4, 5), 1024),
        ((), 1024),
    ]
    assert [draft.distance(*pair) for pair in ((0, 1), (1, 0), (0, 2), (1, 2))] == [21, 21, 13, 20]
    assert draft.latency.read_ns == {(0, 0): 72}
    assert draft.latency.write_mb_per_s == {(0, 2): 2148}
    assert draft.packages == [(0, 1, 2, 3), (4, 5)]
    assert draft.cores == [(0, 1), (2, 3), (4, 5)]
    assert [note.split(":")[0] for note in draft.notes] == [
        "2 CPUs to be plugged later are left out",
        "CPUs 6-7 are not there at start",
        "memory-side caches are not modelled",
    ]


def test_nodes_that_straddle_sockets_are_noted() -> None:
    text = DOMAIN.replace(" current='6'", "").replace("'0-3'", "'0-1,4-5'").replace("'4-7'", "'2-3,6-7'")
    draft = read_libvirt(text.encode(), "x", "x")
    assert any("nodes 0-1 each have CPUs of several sockets" in note for note in draft.notes)


def test_memory_devices_come_after_boot() -> None:
    device = "<memory model='{}'><target><size unit='MiB'>512</size><node>{}</node></target></memory>"
    devices = device.format("dimm", 2) + device.format("virtio-mem", 2) + device.format("nvdimm", 0)
    text = DOMAIN.replace("<cell id='2' memory='1024' unit='MiB'/>", "<cell id='2' memory='0'/>")
    draft = read_libvirt(
        text.replace("</domain>", f"<devices>{devices}</devices></domain>").encode(), "x", "x"
    )
    draft.check()
    assert (draft.nodes[2].memory >> 20, draft.nodes[2].added) == (1024, True)
    assert to_spec(draft, "x").node(2).added
    assert any("model nvdimm is left out" in note for note in draft.notes)


def test_a_host(tmp_path: Path) -> None:
    path = tmp_path / "host.xml"
    path.write_text(HOST)
    draft = read_source(str(path))
    assert [(node.cpus, node.managed) for node in draft.nodes] == [((0, 2), 4096000000), ((1, 3), 2048000000)]
    assert (draft.distance(0, 1), draft.cores) == (21, [(0, 2), (1, 3)])


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("memory='1048576'", "memory='x'", "x:13: <cell>: memory: 'x' is not a number"),
        ("unit='MiB'/>", "unit='furlong'/>", "x:14: <cell>: unit: 'furlong' is not one of libvirt's"),
        ("id='1' cpus", "id='0' cpus", "x:13: <cell>: node 0 is there already"),
        ("'4-7'", "'3-7'", "x:13: <cell>: cpus: CPU 3 is on node 0 already"),
        ("'4-7'", "'4-'", "x:13: <cell>: cpus: "),
        ("sibling id='2'", "sibling id='9'", "x:11: <sibling>: id: there is no node 9"),
        ("value='13'", "value='256'", "x:11: <sibling>: value: '256' is not a number below 256"),
        ("target='2'", "target='5'", "x:17: <bandwidth>: initiator or target: there is no such node"),
        ("current='6'", "current='99999'", "x:6: <vcpu>: current: '99999' is not a number below 8193"),
    ],
)
def test_errors_name_line_and_element(old: str, new: str, error: str) -> None:
    assert old in DOMAIN
    with pytest.raises(SpecError) as caught:
        read_libvirt(DOMAIN.replace(old, new, 1).encode(), "x", "x")
    assert str(caught.value).startswith(error)
    with pytest.raises(SpecError, match="capabilities without a <cell>"):
        read_libvirt(b"<capabilities/>", "x", "x")
