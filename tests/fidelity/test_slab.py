"""Slab caches of captured kernels: every static number of every cache is computed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fidelity.compare import Field
from fidelity.slab import compare_slab, compare_slob, compare_slub, slab_captures


def distinct(fields: list[Field]) -> int:
    """How many distinct computed numbers that is."""
    return len({field.number for field in fields if field.number})


@pytest.mark.parametrize("capture", slab_captures("slub"), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_attribute_of_every_cache_of_slub_is_computed(capture: Path) -> None:
    fields = list(compare_slub(capture))
    assert [field for field in fields if not field.equal] == []
    assert distinct(fields) > 900


@pytest.mark.parametrize("capture", slab_captures("slab"), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_line_of_slabinfo_of_slab_is_computed(capture: Path) -> None:
    fields = list(compare_slab(capture))
    assert [field for field in fields if not field.equal] == []
    if (capture / "slabinfo.txt").exists():
        assert distinct(fields) > 350


def test_what_objects_of_slob_take_is_computed() -> None:
    fields = [field for capture in slab_captures("slob") for field in compare_slob(capture)]
    assert [field for field in fields if not field.equal] == []
    assert distinct(fields) > 100
