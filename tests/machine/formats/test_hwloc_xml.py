"""hwloc's XML of versions 1 to 3, of odd machines, and of hostile authors."""

from __future__ import annotations

import pytest
from lxml import etree

from numa_service.machine.boot import start_kernel
from numa_service.machine.formats.draft import Draft, DraftNode
from numa_service.machine.formats.export import export, write
from numa_service.machine.formats.hwloc_xml import read_hwloc_xml
from numa_service.machine.formats.machine_toml import to_spec
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import SpecError


def _read(body: str, top: str = "topology") -> Draft:
    draft = read_hwloc_xml(f"<{top}>{body}</{top}>".encode(), "x.xml", "x")
    draft.check()
    managed = start_kernel(to_spec(draft, "x.xml")).managed
    for node in draft.nodes:
        if node.managed is not None:
            assert sum(pages for (nid, _), pages in managed.items() if nid == node.nid) << 12 == node.managed
    return draft


def _nodes(draft: Draft) -> dict[int, tuple[tuple[int, ...], int]]:
    """(CPUs, bytes) by nid: the managed memory (local_memory), or the RAM if that is not given."""
    return {n.nid: (n.cpus, n.memory if n.managed is None else n.managed) for n in draft.nodes}


def _pu(*numbers: int) -> str:
    return "".join(f'<object type="PU" os_index="{n}" cpuset="{1 << n:#x}"/>' for n in numbers)


GIB = 1 << 30


def test_version_1_nodes_contain_their_cpus() -> None:
    draft = _read(
        f"""<object type="Machine" os_index="0">
          <distances nbobjs="2" relative_depth="1" latency_base="10.000000">
            <latency value="1.000000"/><latency value="1.600000"/>
            <latency value="2.100000"/><latency value="1.000000"/>
          </distances>
          <object type="NUMANode" os_index="0" local_memory="{GIB}">
            <object type="Socket"><object type="Cache" depth="3"/><object type="Core">{
            _pu(0, 2)
        }</object></object>
          </object>
          <object type="NUMANode" os_index="4" local_memory="{2 * GIB}">{_pu(1, 3)}</object>
        </object>"""
    )
    assert _nodes(draft) == {0: ((0, 2), GIB), 4: ((1, 3), 2 * GIB)}
    assert draft.distance(0, 4) == 16
    assert draft.distance(4, 0) == 21


def test_version_0_9_counts_kilobytes_and_has_another_root() -> None:
    draft = _read(f'<object type="System" memory_kB="2097152">{_pu(0)}</object>', top="root")
    assert _nodes(draft) == {0: ((0,), 2 * GIB)}


def test_memory_on_the_machine_and_no_node_is_one_node() -> None:
    draft = _read(f'<object type="Machine" local_memory="{GIB}">{_pu(0, 1)}</object>')
    assert _nodes(draft) == {0: ((0, 1), GIB)}
    assert any("UMA" in note for note in draft.notes)


def test_memory_on_the_machine_is_shared_out_where_nodes_have_none() -> None:
    draft = _read(
        f"""<object type="Machine" local_memory="{2 * GIB}">
        <object type="NUMANode" os_index="0">{_pu(0)}</object>
        <object type="NUMANode" os_index="1">{_pu(1)}</object></object>"""
    )
    assert _nodes(draft) == {0: ((0,), GIB), 1: ((1,), GIB)}


def test_memory_on_the_machine_is_left_out_where_nodes_have_some() -> None:
    draft = _read(
        f"""<object type="Machine" local_memory="{2 * GIB}">
        <object type="NUMANode" os_index="0" local_memory="{GIB}">{_pu(0)}</object></object>"""
    )
    assert _nodes(draft) == {0: ((0,), GIB)}
    assert any("left out" in note for note in draft.notes)


def test_no_memory_anywhere_is_a_gibibyte_each_and_said() -> None:
    draft = _read(f'<object type="Machine"><object type="NUMANode" os_index="3">{_pu(0)}</object></object>')
    assert _nodes(draft) == {3: ((0,), GIB)}
    assert any("1GiB each was taken" in note for note in draft.notes)


def test_high_bandwidth_memory_has_no_cpus_whatever_its_number() -> None:
    draft = _read(
        f"""<object type="Machine"><object type="Group">
        <object type="NUMANode" os_index="0" subtype="MCDRAM" local_memory="{GIB}"/>
        <object type="MemCache" depth="1">
          <object type="NUMANode" os_index="1" local_memory="{4 * GIB}"/></object>
        <object type="L2Cache"><object type="Core">{_pu(0, 1)}</object></object>
        </object></object>"""
    )
    assert _nodes(draft) == {0: ((), GIB), 1: ((0, 1), 4 * GIB)}
    assert any("MemCache" in note for note in draft.notes)
    assert any("share the CPUs" in note for note in draft.notes)


def test_a_node_of_the_whole_machine_has_no_cpus_beside_nodes_of_packages() -> None:
    draft = _read(
        f"""<object type="Machine">
        <object type="NUMANode" os_index="2" local_memory="{8 * GIB}"/>
        <object type="Package"><object type="NUMANode" os_index="0" local_memory="{GIB}"/>{_pu(0)}</object>
        <object type="Package"><object type="NUMANode" os_index="1" local_memory="{GIB}"/>{_pu(1)}</object>
        </object>"""
    )
    assert _nodes(draft) == {0: ((0,), GIB), 1: ((1,), GIB), 2: ((), 8 * GIB)}


def test_a_node_with_an_empty_cpuset_has_no_cpus() -> None:
    draft = _read(
        f"""<object type="Machine" cpuset="0x3">
        <object type="Group" cpuset="0x3"><object type="NUMANode" os_index="0" cpuset="0x3"
          local_memory="{GIB}"/>{_pu(0, 1)}</object>
        <object type="Group" cpuset="0x0"><object type="NUMANode" os_index="16" cpuset="0x0"
          local_memory="{GIB}"/></object></object>
        <distances2 type="NUMANode" nbobjs="2" kind="5" indexing="os"><indexes length="5">0 16 </indexes>
        <u64values length="12">10 17 14 14 </u64values></distances2>"""
    )
    assert _nodes(draft) == {0: ((0, 1), GIB), 16: ((), GIB)}
    assert draft.distance(0, 16) == 17
    assert draft.distance(16, 16) == 10
    assert any("from node 16 to node 16 was made 10" in note for note in draft.notes)


def test_distances_by_gp_index_in_several_pieces_and_scaled() -> None:
    draft = _read(
        f"""<object type="Machine">
        <object type="Group"><object type="NUMANode" os_index="1" gp_index="7"
          local_memory="{GIB}"/>{_pu(0)}</object>
        <object type="Group"><object type="NUMANode" os_index="0" gp_index="9"
          local_memory="{GIB}"/>{_pu(1)}</object>
        </object>
        <distances2 type="PU" nbobjs="2" kind="5" indexing="os"><indexes>0 1</indexes><u64values>1 2 2
          1</u64values>
        </distances2>
        <distances2 type="NUMANode" nbobjs="2" kind="9" name="NUMABandwidth" indexing="gp">
        <indexes>7 9</indexes><u64values>1 2 2 1</u64values></distances2>
        <distances2 type="NUMANode" nbobjs="2" kind="5" name="NUMALatency" indexing="gp"><indexes
          length="2">7 </indexes>
        <indexes length="2">9 </indexes><u64values>20 42 </u64values><u64values>44
          20</u64values></distances2>"""
    )
    assert draft.distance(1, 0) == 21
    assert draft.distance(0, 1) == 22
    assert sum("left out" in note for note in draft.notes) == 2
    assert any("a node's own was 20" in note for note in draft.notes)


def test_memory_attributes_are_latencies_and_bandwidths() -> None:
    draft = _read(
        f"""<object type="Machine" cpuset="0x3">
        <object type="Group" gp_index="4"><object type="NUMANode" os_index="0" gp_index="7"
          local_memory="{GIB}"/>
          {_pu(0)}</object>
        <object type="Group" gp_index="5"><object type="NUMANode" os_index="1" gp_index="9"
          local_memory="{GIB}"/>
          {_pu(1)}</object></object>
        <memattr name="Latency" flags="6">
          <memattr_value target_obj_gp_index="7" target_obj_type="NUMANode" value="80"
            initiator_cpuset="0x1"/>
          <memattr_value target_obj_gp_index="9" target_obj_type="NUMANode" value="140"
            initiator_obj_gp_index="4"
            initiator_obj_type="Group"/>
          <memattr_value target_obj_gp_index="7" target_obj_type="NUMANode" value="150"
            initiator_obj_gp_index="9"
            initiator_obj_type="NUMANode"/></memattr>
        <memattr name="WriteLatency" flags="6">
          <memattr_value target_obj_gp_index="9" target_obj_type="NUMANode" value="170"
            initiator_cpuset="0x3"/>
        </memattr>
        <memattr name="Bandwidth" flags="5">
          <memattr_value target_obj_gp_index="7" target_obj_type="NUMANode" value="90000"
            initiator_cpuset="0x1"/>
          <memattr_value target_obj_gp_index="7" target_obj_type="NUMANode" value="30000"
            initiator_cpuset="0x2"/>
        </memattr>
        <memattr name="Sparkle" flags="1"><memattr_value target_obj_gp_index="7" value="1"/></memattr>"""
    )
    assert draft.latency.read_ns == {(0, 0): 80, (0, 1): 140, (1, 0): 150}
    assert draft.latency.write_ns == {(0, 0): 80, (0, 1): 170, (1, 1): 170, (1, 0): 150}
    # MiB/s in XML, MB/s here
    assert draft.latency.read_mb_per_s == {(0, 0): 94372, (1, 0): 31458}
    assert draft.latency.memory_bandwidth(0) == 94372
    assert draft.latency.link_bandwidth(1, 0) == 31458
    assert "memory attribute Sparkle is left out" in draft.notes


#: Two packages with HBM each, without distances: plain memory has nodes 0 and 1.
_HBM = f"""<object type="Machine" cpuset="0xf">
    <object type="Package" cpuset="0x3" gp_index="2">
      <object type="NUMANode" os_index="0" gp_index="3" local_memory="{GIB}" cpuset="0x3"/>
      <object type="NUMANode" os_index="3" gp_index="4" subtype="HBM" local_memory="{GIB}" cpuset="0x3"/>
      {_pu(0, 1)}</object>
    <object type="Package" cpuset="0xc" gp_index="5">
      <object type="NUMANode" os_index="1" gp_index="6" local_memory="{GIB}" cpuset="0xc"/>
      <object type="NUMANode" os_index="2" gp_index="7" subtype="HBM" local_memory="{GIB}" cpuset="0xc"/>
      {_pu(2, 3)}</object></object>"""


def _export(draft: Draft) -> tuple[dict[int, str], dict[str, dict[tuple[int, str], int]]]:
    """(cpuset by nid, attributes by name and (initiator's cpuset, nid)) of the XML that is written."""
    root = etree.fromstring(write(draft, "hwloc-xml")[0].encode())
    nodes = {int(e.get("os_index")): e for e in root.iter("object") if e.get("type") == "NUMANode"}
    nid_of = {element.get("gp_index"): nid for nid, element in nodes.items()}
    for nid, element in nodes.items():
        parent = element.getparent()
        assert parent is not None
        assert parent.get("cpuset") == element.get("cpuset"), f"node {nid}"
    attributes = {
        attr.get("name", ""): {
            (nid_of[value.get("target_obj_gp_index")], value.get("initiator_cpuset", "")): int(
                value.get("value", "")
            )
            for value in attr
        }
        for attr in root.findall("memattr")
    }
    return {nid: element.get("cpuset", "") for nid, element in nodes.items()}, attributes


def test_hbm_stays_by_its_cpus_without_distances() -> None:
    draft = _read(_HBM)
    assert _nodes(draft) == {0: ((0, 1), GIB), 1: ((2, 3), GIB), 2: ((), GIB), 3: ((), GIB)}
    assert [draft.distance(0, to) for to in range(4)] == [10, 20, 20, 15]
    assert [draft.distance(3, to) for to in range(4)] == [15, 20, 20, 10]
    assert any("memory-only nodes: 15 to the nodes whose CPUs" in note for note in draft.notes)
    cpusets, attributes = _export(draft)
    assert cpusets == {0: "0x00000003", 1: "0x0000000c", 2: "0x0000000c", 3: "0x00000003"}
    assert attributes == {}


def test_what_is_told_of_pairs_is_written_and_no_more() -> None:
    values = """<memattr name="Bandwidth" flags="5">
      <memattr_value target_obj_gp_index="4" value="90000" initiator_cpuset="0x3"/>
      <memattr_value target_obj_gp_index="4" value="7" initiator_cpuset="0xc"/>
      <memattr_value target_obj_gp_index="7" value="22500" initiator_cpuset="0xf"/></memattr>"""
    cpusets, attributes = _export(_read(_HBM + values))
    assert attributes == {
        "Bandwidth": {(3, "0x00000003"): 90000, (3, "0x0000000c"): 7, (2, "0x0000000f"): 22500}
    }
    # node 2 is now equally near to both packages: the HMAT decides, not the place in the tree
    assert cpusets == {0: "0x00000003", 1: "0x0000000c", 2: "0x0000000f", 3: "0x00000003"}


def test_reads_and_writes_have_numbers_of_their_own() -> None:
    def attr(name: str, value: int) -> str:
        return (
            f'<memattr name="{name}" flags="5"><memattr_value target_obj_gp_index="3" value="{value}" '
            'initiator_cpuset="0x3"/></memattr>'
        )

    told = {"Latency": 90, "ReadLatency": 80, "WriteLatency": 100}
    told |= {"Bandwidth": 950, "ReadBandwidth": 1000, "WriteBandwidth": 900}
    draft = _read(_HBM + "".join(attr(name, value) for name, value in told.items()))
    _, attributes = _export(draft)
    assert attributes == {name: {(0, "0x00000003"): value} for name, value in told.items()}


def test_memory_near_some_of_the_cpus_gets_a_group_and_what_crosses_it_is_the_machines() -> None:
    rows = [[10, 20, 20], [20, 10, 20], [20, 20, 10]]
    near = {3: (0, 1), 4: (1, 2), 5: (2,), 6: (0, 1, 2)}
    draft = Draft("x", [DraftNode(nid, (nid,), GIB) for nid in range(3)])
    draft.distances = {(a, b): rows[a][b] for a in range(3) for b in range(3)}
    for nid, by in near.items():
        draft.nodes.append(DraftNode(nid, (), GIB))
        draft.distances |= {(nid, of): 15 if of in by else 25 for of in range(3)}
    draft.check()
    cpusets, _ = _export(draft)
    assert [cpusets[nid] for nid in (3, 4, 5, 6)] == ["0x00000003", "0x00000007", "0x00000004", "0x00000007"]


def test_local_memory_is_what_the_machine_manages() -> None:
    """It is written as the machine's kernel shows it, and kept when the XML is read and written again."""
    for text in ('memory = "1GiB"', 'memory = "1GiB"\nmanaged = "900MiB"'):
        spec = parse_machine(f'[[node]]\ncpus = "0"\n{text}\n', "x", "x")
        document = export(spec, "hwloc-xml")[0]
        managed = sum(start_kernel(spec).managed.values())
        assert f'local_memory="{managed << 12}"' in document
        draft = read_hwloc_xml(document.encode(), "x.xml", "x")
        draft.check()
        assert to_spec(draft, "x").nodes == spec.nodes


def test_a_machine_too_small_to_boot_is_written() -> None:
    spec = parse_machine('[[node]]\ncpus = "0"\nmemory = "16MiB"\n', "x", "x")
    assert 'local_memory="16244736"' in export(spec, "hwloc-xml")[0]


def test_a_system_of_several_machines_gets_new_numbers() -> None:
    machine = (
        f'<object type="Machine"><object type="NUMANode" os_index="0" local_memory="{GIB}">'
        f"{_pu(0, 1)}</object>"
    )
    draft = _read(f'<object type="System">{machine}</object>{machine}</object></object>')
    assert _nodes(draft) == {0: ((0, 1), GIB), 1: ((2, 3), GIB)}
    assert sum("are now" in note for note in draft.notes) == 2


def test_offline_cpus_are_left_out_and_disallowed_ones_kept() -> None:
    draft = _read(
        f"""<object type="Machine" cpuset="0xf" online_cpuset="0x7" allowed_cpuset="0x3" local_memory="{GIB}">
        {_pu(0, 1, 2, 3)}</object>"""
    )
    assert _nodes(draft) == {0: ((0, 1, 2), GIB)}
    assert "off-line CPUs left out: 3" in draft.notes
    assert any("were not allowed" in note for note in draft.notes)


def test_numbers_beyond_the_model_are_made_smaller_and_said() -> None:
    draft = _read(
        f"""<object type="Machine"><object type="NUMANode" os_index="70000" local_memory="{GIB}">
        <object type="PU" os_index="131072"/></object></object>"""
    )
    assert _nodes(draft) == {0: ((0,), GIB)}
    assert len([note for note in draft.notes if "now 0-0" in note]) == 2


def test_the_kernel_and_what_is_foreign_are_said() -> None:
    draft = _read(
        f"""<object type="Machine"><info name="OSName" value="Linux"/><info name="OSRelease"
          value="2.6.32-5-ia64"/>
        <info name="Architecture" value="ia64"/>
        <object type="NUMANode" os_index="0" local_memory="{64 * GIB}"><page_type size="65536"
          count="1"/>{_pu(0)}
        </object></object>"""
    )
    assert draft.profile == "linux-2.6.32"
    assert any("architecture ia64" in note for note in draft.notes)
    assert "pages of 65536 bytes: they have 4096 here" in draft.notes


BAD = {
    "entity": (
        '<!DOCTYPE topology [<!ENTITY a "x">]><topology><object type="Machine">&a;</object></topology>',
        "entities",
    ),
    "laughs": (
        "<!DOCTYPE t ["
        + '<!ENTITY a "ha">'
        + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
        + "]><topology>&j;</topology>",
        "entity",
    ),
    "external entity": (
        '<!DOCTYPE topology [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
        '<topology><object type="PU" os_index="&a;"/></topology>',
        "",
    ),
    "parameter entity": (
        '<!DOCTYPE topology [<!ENTITY % a SYSTEM "http://127.0.0.1:1/x">%a;]><topology/>',
        "",
    ),
    "deep": ("<topology>" + '<object type="Group">' * 5000 + "</object>" * 5000 + "</topology>", "x.xml:"),
    "huge attribute": (f'<topology><object type="PU" os_index="{"9" * 12_000_000}"/></topology>', "x.xml:"),
    "cut off": ('<topology><object type="Machine">', "x.xml:1: XML"),
    "not a topology": ("<html/>", "<html> is neither a topology"),
    "empty": ("<topology/>", "no <object>"),
    "no cpu": ('<topology><object type="Machine" local_memory="1"/></topology>', "no CPU"),
    "number": (
        '<topology><object type="PU" os_index="many"/></topology>',
        "os_index: 'many' is not a number",
    ),
    "negative": (
        '<topology><object type="NUMANode" local_memory="-5"><object type="PU"/></object></topology>',
        "local_memory: '-5' is not a number",
    ),
    "bitmap": (
        '<topology><object type="Machine" allowed_cpuset="zebra"><object type="PU"/></object></topology>',
        "allowed_cpuset: 'zebra' is not a bitmap",
    ),
    "matrix": (
        '<topology><object type="Machine"><object type="NUMANode" os_index="0"><object type="PU"/>'
        "</object></object>"
        '<distances2 type="NUMANode" nbobjs="2" kind="5" indexing="os"><indexes>0</indexes>'
        "</distances2></topology>",
        "not a square",
    ),
    "foreign matrix": (
        '<topology><object type="Machine"><object type="NUMANode" os_index="0"><object type="PU"/>'
        "</object></object>"
        '<distances2 type="NUMANode" nbobjs="1" kind="5" indexing="os"><indexes>5</indexes>'
        "<u64values>10</u64values></distances2></topology>",
        "not those of the NUMANode objects",
    ),
    "ranges": (
        '<topology><object type="NUMANode" os_index="0"><info name="PhysicalRanges" value="0x1-0x2"/>'
        '<object type="PU"/></object></topology>',
        "PhysicalRanges: '0x1-0x2' is not a range",
    ),
    "many nodes": (
        "<topology>" + '<object type="NUMANode"><object type="PU"/></object>' * 1025 + "</topology>",
        "1025 nodes, at most 1024",
    ),
    "many cpus": ("<topology>" + '<object type="PU"/>' * 8193 + "</topology>", "8193 PUs, at most 8192"),
    "many distances": (
        '<topology><object type="Machine"><object type="NUMANode"/><object type="PU"/>'
        + "<distances/>" * 1001
        + "</object></topology>",
        "1001 <distances>, at most 1000",
    ),
    "encoding": ('<?xml version="1.0" encoding="nonsense"?><topology/>', "x.xml:1: XML"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_xml_is_an_error_of_one_line_with_file_and_field(case: str) -> None:
    text, reason = BAD[case]
    with pytest.raises(SpecError) as caught:
        read_hwloc_xml(text.encode(), "x.xml", "x")
    assert str(caught.value).startswith("x.xml")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "root:" not in str(caught.value)
