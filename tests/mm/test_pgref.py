"""A PgData as one pointer: kernels read what the arrays contain, and wrong arrays are refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

from numa_service.mm.buddy import page_zone
from numa_service.mm.pgdata import LAYOUT, PgData, alloc_pgdata
from numa_service.mm.pgref import PGREF, pgdata_at


def node() -> PgData:
    """Arrays for three zones and two CPUs, each with other numbers in it."""
    pg = alloc_pgdata(0, 1 << 12, 3, 2)
    for number, array in enumerate(pg):
        array.reshape(-1)[:] = np.arange(array.size) % 100 + number
    return pg


@numba.njit
def _read(pg, zone):
    """Read an element, a row and a length of arrays of one, two and three dimensions."""
    return pg.flags[5], pg.watermark[zone, 1], pg.pcp_tuning[1, zone].sum(), pg.next.shape[0], pg.looks.size


@numba.njit
def _write_at(address, cpu, zone):
    pg = pgdata_at(address)
    pg.pcp_tuning[cpu, zone, 2] = -7
    pg.owner[3:5] = 9


def test_kernels_see_the_arrays() -> None:
    pg = node()
    expected = (
        pg.flags[5],
        pg.watermark[2, 1],
        pg.pcp_tuning[1, 2].sum(),
        len(pg.next),
        pg.looks.size,
    )
    assert _read(pg, 2) == expected
    _write_at(pg.address, 1, 0)
    assert pg.pcp_tuning[1, 0, 2] == -7
    assert pg.owner[2:6].tolist() == [2 + list(LAYOUT).index("owner"), 9, 9, 5 + list(LAYOUT).index("owner")]


def test_every_array_has_its_words() -> None:
    pg = node()
    assert tuple(LAYOUT) == PgData._fields
    for name, (_, ndim, at) in LAYOUT.items():
        array = getattr(pg, name)
        assert pg.table[at : at + 1 + ndim].tolist() == [array.ctypes.data, *array.shape]
    assert len(pg.table) == sum(1 + array.ndim for array in pg)
    assert pg.address == pg.table.ctypes.data


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("managed", np.zeros(3, dtype=np.int32)),
        ("managed", np.zeros((3, 1), dtype=np.int64)),
        ("managed", np.zeros(6, dtype=np.int64)[::2]),
        ("nr_free", np.asfortranarray(np.zeros((3, 11), dtype=np.int64))),
        ("managed", np.frombuffer(bytes(24), dtype=np.int64)),
        ("managed", np.zeros(25, dtype=np.uint8)[1:].view(np.int64)),
    ],
    ids=["dtype", "dimensions", "strided", "Fortran", "read-only", "unaligned"],
)
def test_an_array_that_kernels_would_misread_is_refused(name: str, wrong: Any) -> None:
    pg = node()._replace(**{name: wrong})
    with pytest.raises(TypeError, match=rf"PgData\.{name}"):
        page_zone(pg, 0)
    with pytest.raises(TypeError, match=rf"PgData\.{name}"):
        assert pg.address


def test_another_array_makes_another_table() -> None:
    pg = node()
    before = pg.address
    other = pg._replace(flags=np.full_like(pg.flags, 77))
    assert isinstance(other, PgData)
    assert (_read(pg, 0)[0], _read(other, 0)[0]) == (pg.flags[5], 77)
    assert (pg.address, other.address != before) == (before, True)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda pg: pickle.loads(pickle.dumps(pg))])
def test_a_copy_has_a_table_of_its_own(copied: Any) -> None:
    pg = node()
    assert pg.address
    twin = copied(pg)
    assert isinstance(twin, PgData)
    assert "table" not in vars(twin)
    assert twin.address != pg.address
    assert _read(twin, 1) == _read(pg, 1)


def test_cached_code_finds_the_type() -> None:
    """Numba's cache index has the pickled types of arguments, so the type must survive pickling."""
    assert pickle.loads(pickle.dumps(PGREF)) == PGREF
    assert numba.typeof(node()) is PGREF


def test_a_field_that_is_none_does_not_compile() -> None:
    @numba.njit
    def misspelt(pg):
        return pg.flag[0]

    with pytest.raises(TypingError, match="Unknown attribute 'flag'"):
        misspelt(node())
