"""The picture of docs/scaling.md is of the numbers beside it."""

from __future__ import annotations

import importlib.util
import json
import re
import xml.etree.ElementTree as ElementTree

from doc_blocks import ROOT, page

# by its path: other folders have files of the same names as benchmarks/
_SPEC = importlib.util.spec_from_file_location("draw_scaling", ROOT / "benchmarks" / "draw_scaling.py")
assert _SPEC
assert _SPEC.loader
_DRAWING = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_DRAWING)
DATA, PICTURE, draw = _DRAWING.DATA, _DRAWING.PICTURE, _DRAWING.draw

CURVES = {
    "pages_per_call": ("pages", 32768),
    "nodes": ("nodes", 1024),
    "memory": ("gib", 1024),
    "requests_in_flight": ("in_flight", 64),
}


#: Points of the picture. The last digit of six that are written depends on the CPU's vector instructions.
CLOSE = 1e-5
_NUMBER = re.compile(r"-?\d+\.\d+")


def same(one: str, other: str) -> bool:
    """Whether two pictures are of the same numbers."""
    if _NUMBER.sub("#", one) != _NUMBER.sub("#", other):
        return False
    pairs = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    return all(abs(float(a) - float(b)) < CLOSE for a, b in pairs)


def test_the_picture_is_drawn_from_the_numbers() -> None:
    assert same(draw(json.loads(DATA.read_text())), PICTURE.read_text()), "make plots, or scaling.py draw"


def test_other_numbers_give_another_picture() -> None:
    data = json.loads(DATA.read_text())
    data["memory"][0]["boot_s"] *= 1.01
    assert not same(draw(data), PICTURE.read_text())


def test_curves_reach_as_far_as_the_page_says() -> None:
    data = json.loads(DATA.read_text())
    for name, (x, least) in CURVES.items():
        points = [row[x] for row in data[name]]
        assert points == sorted(points)
        assert points[-1] >= least
        assert len(points) >= 5


def test_the_page_shows_it_and_it_is_small() -> None:
    assert f"]({PICTURE.name})" in page("docs/scaling.md")
    assert PICTURE.stat().st_size < 100_000
    assert ElementTree.fromstring(PICTURE.read_text()).tag.endswith("svg")
