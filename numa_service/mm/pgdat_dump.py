"""A node's memory as plain data: what a digest covers, and what has to be given back to go on from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from numa_service.mm.page_table import PageTables
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdat_memory import ZoneExtent
from numa_service.mm.pgdata import SCRATCH_FIELDS


def dump_pgdat(pgdat: Pgdat) -> dict[str, Any]:
    """Arrays by name and page tables by owner, as bytes; and the zones as memory hotplug has left them."""
    arrays = {
        name: array.tobytes() for name, array in pgdat.pg._asdict().items() if name not in SCRATCH_FIELDS
    }
    extents = [
        (e.name, e.index, e.start_pfn, e.spanned, e.present, e.managed, e.freed_late) for e in pgdat.extents
    ]
    tables = [
        (owner, indexes.tobytes(), pages.tobytes())
        for owner in pgdat.tables.owners()
        for indexes, pages in pgdat.tables.mapped(pgdat.pg, owner)
    ]
    at_init = sorted(pgdat.managed_at_init.items())
    return {"arrays": arrays, "tables": tables, "extents": extents, "at_init": at_init}


def load_pgdat(pgdat: Pgdat, dumped: dict[str, Any]) -> None:
    """Take over what :func:`dump_pgdat` gave, in a node that was booted alike; ValueError for another one."""
    ours = {name: array for name, array in pgdat.pg._asdict().items() if name not in SCRATCH_FIELDS}
    sizes = {name: len(data) for name, data in dumped["arrays"].items()}
    if sizes != {name: array.nbytes for name, array in ours.items()}:
        raise ValueError(f"it is not of node {pgdat.nid} of this machine")
    for name, array in ours.items():
        array[...] = np.frombuffer(dumped["arrays"][name], dtype=array.dtype).reshape(array.shape)
    pgdat.tables = PageTables()
    for owner, indexes, pages in dumped["tables"]:
        entries = np.frombuffer(indexes, np.uint32).copy(), np.frombuffer(pages, np.int64).copy()
        pgdat.tables.enter(pgdat.pg, owner, *entries)
    pgdat.extents = tuple(ZoneExtent(*extent) for extent in dumped["extents"])
    pgdat.managed_at_init = dict(dumped["at_init"])
