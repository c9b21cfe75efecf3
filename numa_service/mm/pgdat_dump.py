"""Saving and restoring a :class:`Pgdat`: its state as plain data that a snapshot of a node contains."""

from __future__ import annotations

from typing import Any

import numpy as np

from numa_service.mm.page_table import PageTables, parts_of
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdat_memory import ZoneExtent
from numa_service.mm.pgdata import SCRATCH_FIELDS


def dump_pgdat(pgdat: Pgdat) -> dict[str, Any]:
    """Save a node's state: arrays by name and page tables by owner, as bytes; and its zones' extents."""
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
    return {
        "arrays": arrays,
        "tables": tables,
        "extents": extents,
        "at_init": at_init,
        "locks": [pgdat.size_locked, list(pgdat.span_sequence)],
    }


def load_pgdat(pgdat: Pgdat, dumped: dict[str, Any]) -> None:
    """Restore what :func:`dump_pgdat` returned into a node that was booted in the same way.

    ValueError if the arrays have other sizes, so that it must be another node.
    """
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
        huge = pgdat.pg.order[entries[1]] > 0
        if huge.any():
            pgdat.tables.enter(pgdat.pg, owner, *parts_of(entries[0][huge], entries[1][huge]))
    pgdat.extents = tuple(ZoneExtent(*extent) for extent in dumped["extents"])
    pgdat.size_locked, pgdat.span_sequence = dumped["locks"]
    pgdat.managed_at_init = dict(dumped["at_init"])
