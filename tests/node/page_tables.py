"""Reads where the pages of a region are from the page tables of the nodes that have them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from numa_service.node.node import Node


def pfns_of(nodes: Mapping[int, Node], home: int, region_id: int) -> npt.NDArray[np.int64]:
    """Return the pfn of each page of a region, -1 for pages that are on none of `nodes`."""
    region, owner = nodes[home].regions[region_id], nodes[home].owner(region_id)
    pfns = np.full(len(region.nids), -1, dtype=np.int64)
    for nid, node in nodes.items():
        there = np.flatnonzero(region.nids == nid + 1)
        pfns[there] = node.pgdat.region_pfns(node.slot_of(owner), there.astype(np.uint32))
    return pfns
