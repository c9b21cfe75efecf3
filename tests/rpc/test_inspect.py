"""pg_data_t, struct zone and struct page over real servers."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from loopback import Loopback
from numa_client import AsyncMachine, InvalidRequest, NotFound

from numa_service.node.struct_views import page_view, pgdat_view, section_view, zone_view


def as_json(view: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(view)))


async def test_a_client_sees_what_the_node_is(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        blocks = await session.alloc(2, 3)
        [(nid, pfns)] = blocks.pages.items()
        node = demo.servers[nid].node
        pfn = int(pfns[0])
        assert await client.inspect(nid) == as_json(pgdat_view(node))
        assert await client.inspect(nid, zone="dma32") == as_json(zone_view(node, "DMA32"))
        page = await client.inspect(nid, pfn=pfn)
        assert page == as_json(page_view(node, pfn))
        assert page["_count"] == 1
        assert page["virtual"] == 0xFFFF888000000000 + (pfn << 12)
        assert (await client.inspect(nid, pfn=pfn + 1))["first_page"] == pfn
        assert await client.inspect(nid, section=0) == as_json(section_view(node, 0))


async def test_what_is_not_there(demo: Loopback, client: AsyncMachine) -> None:
    with pytest.raises(NotFound, match="node 0 has DMA, DMA32"):
        await client.inspect(0, zone="HighMem")
    with pytest.raises(NotFound, match="no page of node 0"):
        await client.inspect(0, pfn=1 << 40)
    with pytest.raises(InvalidRequest, match="no node 7"):
        await client.inspect(7)
    with pytest.raises(NotFound, match="no section of node 1"):
        await client.inspect(1, section=0)
    with pytest.raises(NotFound, match="all memory has an address"):
        await client.inspect(0, highmem=True)
    with pytest.raises(InvalidRequest, match="only one of zone, pfn, section, highmem"):
        await client.inspect(0, zone="DMA", pfn=1)
