from __future__ import annotations

from pathlib import Path

import pytest
from fidelity.compare import compare
from groundtruth import topologies


@pytest.mark.parametrize("capture", topologies(), ids=lambda path: path.name)
def test_every_static_field_of_a_captured_kernel_is_computed(capture: Path) -> None:
    fields = list(compare(capture))
    assert {field.kind for field in fields} >= {"min", "low", "high", "protection", "pageset batch"}
    assert [field for field in fields if not field.equal] == []
