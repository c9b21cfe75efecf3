"""Equal operations give equal digests, and any change of state another digest."""

from __future__ import annotations

import numpy as np
import pytest
from mm.nodes import NORMAL, one_zone

from numa_service.mm.mmzone import MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, WMARK_LOW
from numa_service.mm.page_alloc import LRU_KIND_FILE, NUMA_HOW_HIT
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import SCRATCH_FIELDS, PgData


def take(node: Pgdat, order: int = 0, count: int = 10, cpu: int = 0, owner: int = 1, kind: int = 0) -> None:
    indexes = np.arange(count if kind else 0, dtype=np.uint32)
    node.alloc(
        [NORMAL], cpu, order, count, MIGRATE_UNMOVABLE, NORMAL, WMARK_LOW, NUMA_HOW_HIT, owner, kind, indexes
    )


def some_history(node: Pgdat) -> list[str]:
    """Digests after each step of a sequence of operations."""
    digests = [node.digest()]
    for order in (0, 1, 4, 9):
        got = node.alloc([NORMAL], 1, order, 7, MIGRATE_MOVABLE, NORMAL, WMARK_LOW, NUMA_HOW_HIT, 1, 0)
        digests.append(node.digest())
        node.free(0, order, 1, got[::-2])
        digests.append(node.digest())
    take(node, kind=LRU_KIND_FILE, count=500, owner=2)
    digests.append(node.digest())
    node.shrink(NORMAL, 0, 100)
    digests.append(node.digest())
    node.drain()
    digests.append(node.digest())
    return digests


def test_equal_histories_have_equal_digests_at_every_step() -> None:
    first, second = some_history(one_zone(swap=10)), some_history(one_zone(swap=10))
    assert first == second
    assert len(set(first)) == len(first)


def test_work_counters_are_not_state() -> None:
    node = one_zone()
    take(node)
    before = node.digest()
    assert node.take_path().any()
    assert node.digest() == before


def test_looking_changes_nothing() -> None:
    node = one_zone()
    take(node)
    before = node.digest()
    node.snapshot()
    node.balanced(0, NORMAL)
    node.free_pages(NORMAL)
    assert node.digest() == before


@pytest.mark.parametrize("field", [field for field in PgData._fields if field not in SCRATCH_FIELDS])
def test_every_array_counts(field: str) -> None:
    node = one_zone()
    before = node.digest()
    array = getattr(node.pg, field)
    array.reshape(-1)[-1] += 1
    assert node.digest() != before


@pytest.mark.parametrize("difference", [{"cpu": 1}, {"owner": 2}, {"count": 11}, {"order": 1}])
def test_another_operation_another_digest(difference: dict[str, int]) -> None:
    node, other = one_zone(), one_zone()
    take(node)
    take(other, **difference)
    assert node.digest() != other.digest()
