from __future__ import annotations

import pytest
from fidelity.workloads import compare_workload
from groundtruth import GROUNDTRUTH


@pytest.mark.parametrize(
    ("workload", "kinds"),
    [
        ("numa-4n-ring/a-local-spill", {"pages per zone", "numastat", "spill point"}),
        ("numa-4n-ring/e-zone-reclaim", {"pages per zone", "numastat"}),
    ],
)
def test_the_steps_of_a_workload_go_where_the_kernel_put_them(workload: str, kinds: set[str]) -> None:
    fields = list(compare_workload(GROUNDTRUTH / "workloads" / workload))
    assert {field.kind for field in fields} == kinds
    assert [field for field in fields if not field.explained] == []
    assert sum(field.equal for field in fields) * 3 > len(fields)
