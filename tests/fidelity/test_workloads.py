from __future__ import annotations

import pytest
from fidelity.workloads import compare_workload
from groundtruth import GROUNDTRUTH


@pytest.mark.parametrize(
    ("workload", "kinds", "numbers", "exact", "pages_off"),
    [
        ("numa-4n-ring/a-local-spill", {"pages per zone", "numastat", "spill point"}, 37, 5, 13_901),
        ("numa-4n-ring/e-zone-reclaim", {"pages per zone", "numastat"}, 4, 1, 57),
    ],
)
def test_the_steps_of_a_workload_go_where_the_kernel_put_them(
    workload: str, kinds: set[str], numbers: int, exact: int, pages_off: int
) -> None:
    """The expected numbers of exact steps and of pages off were measured; steps are deterministic."""
    fields = list(compare_workload(GROUNDTRUTH / "workloads" / workload))
    assert {field.kind for field in fields} == kinds
    assert [field for field in fields if not field.explained] == []
    counted = [field for field in fields if field.number]
    assert len(counted) == numbers
    assert sum(field.equal for field in counted) >= exact
    assert sum(abs(field.captured - field.computed) for field in counted) <= pages_off
