"""hwloc XML as it is found: versions 1 to 3, odd trees, and hostile ones."""

from __future__ import annotations

import pytest

from numa_service.machine.boot import start_kernel
from numa_service.machine.formats.draft import Draft
from numa_service.machine.formats.hwloc_xml import read_hwloc_xml
from numa_service.machine.formats.machine_toml import to_spec
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
    """CPUs, and what is managed: local_memory, or the RAM where nothing says how much that is."""
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
    assert draft.profile == "linux-3.0"
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
    "not a topology": ("<html/>", "<html> is not a topology"),
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
