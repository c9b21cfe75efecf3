"""Pictures: graphviz takes the graph, an XML parser the SVG, and both show every node."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import given, settings
from lxml import etree
from machines import drafts
from skips import needs

from numa_service.machine.formats.draft import Draft, draft_of
from numa_service.machine.formats.picture import sockets, to_dot, to_svg
from numa_service.machine.presets import load_preset


@needs("dot")
@pytest.mark.parametrize("name", ["nps4", "cxl-tier", "uma"])
def test_graphviz_draws_the_graph(name: str) -> None:
    draft = draft_of(load_preset(name))
    done = subprocess.run(
        ["dot", "-Tdot_json"], input=to_dot(draft), capture_output=True, text=True, timeout=60, check=True
    )
    graph = json.loads(done.stdout)
    labels = [item["label"] for item in graph["objects"] if item["name"].startswith("node")]
    assert sorted(label.split("\\n")[0] for label in labels) == sorted(f"node {n.nid}" for n in draft.nodes)
    count = len(draft.nodes)
    assert len(graph.get("edges", [])) == count * (count - 1) // 2
    clusters = [item for item in graph["objects"] if item["name"].startswith("cluster")]
    assert len(clusters) == len(sockets(draft))


@given(drafts())
@settings(max_examples=30, deadline=None)
def test_svg_is_xml_and_shows_every_node_and_distance(draft: Draft) -> None:
    root = etree.fromstring(to_svg(draft).encode())
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for node in draft.nodes:
        assert f"node {node.nid}" in texts
    if len(draft.nodes) > 1:
        wanted = sorted(str(draft.distance(a.nid, b.nid)) for a in draft.nodes for b in draft.nodes)
        assert sorted(texts[-len(wanted) :]) == wanted


def test_sockets_are_guessed_by_distance() -> None:
    groups = sockets(draft_of(load_preset("nps4")))
    assert [[node.nid for node in group] for group in groups] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    groups = sockets(draft_of(load_preset("cxl-tier")))
    assert [[node.nid for node in group] for group in groups] == [[0, 2], [1, 3]]


def test_names_cannot_break_out() -> None:
    draft = draft_of(load_preset("uma"))
    draft.name = 'a"<script>&'
    assert "<script>" not in to_svg(draft)
    assert '"a\\"<script>&"' in to_dot(draft)
