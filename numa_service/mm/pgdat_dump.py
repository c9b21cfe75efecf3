"""A node's memory as plain data: what a digest covers, and what has to be given back to go on from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdat_memory import ZoneExtent
from numa_service.mm.pgdata import SCRATCH_FIELDS


def dump_pgdat(pgdat: Pgdat) -> dict[str, Any]:
    """Arrays by name, as bytes; and the zones as memory hotplug has left them."""
    arrays = {
        name: array.tobytes() for name, array in pgdat.pg._asdict().items() if name not in SCRATCH_FIELDS
    }
    extents = [
        (e.name, e.index, e.start_pfn, e.spanned, e.present, e.managed, e.freed_late) for e in pgdat.extents
    ]
    return {"arrays": arrays, "extents": extents, "at_init": sorted(pgdat.managed_at_init.items())}


def load_pgdat(pgdat: Pgdat, dumped: dict[str, Any]) -> None:
    """Take over what :func:`dump_pgdat` gave, in a node that was booted alike; ValueError for another one."""
    ours = {name: array for name, array in pgdat.pg._asdict().items() if name not in SCRATCH_FIELDS}
    sizes = {name: len(data) for name, data in dumped["arrays"].items()}
    if sizes != {name: array.nbytes for name, array in ours.items()}:
        raise ValueError(f"it is not of node {pgdat.nid} of this machine")
    for name, array in ours.items():
        array[...] = np.frombuffer(dumped["arrays"][name], dtype=array.dtype).reshape(array.shape)
    pgdat.extents = tuple(ZoneExtent(*extent) for extent in dumped["extents"])
    pgdat.managed_at_init = dict(dumped["at_init"])
