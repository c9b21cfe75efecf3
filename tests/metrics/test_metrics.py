"""What Prometheus reads, against what gRPC says."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator

import aiohttp
import pytest
from loopback import Loopback
from numa_client import AsyncMachine, InvalidRequest, NotFound, Policy, PolicyMode
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from numa_service.metrics.discovery import TargetServer

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def scrape(http: aiohttp.ClientSession, url: str, accept: str = "") -> str:
    async with http.get(url, headers={"Accept": accept} if accept else None) as response:
        assert response.status == 200
        return await response.text()


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


async def load(demo: Loopback, client: AsyncMachine) -> None:
    """Some of everything: spill, reclaim, a refused call, an expired lease."""
    async with client.session(cpu=0) as session:
        await session.alloc(count=100)
        region = await session.map_region("anon", 55_000, Policy(PolicyMode.BIND, (0,)))
        await region.touch(0, 55_000)
        await demo.kswapd(0)
        await session.alloc(count=20_000)
        with pytest.raises(InvalidRequest):
            await session.alloc(count=0)
    doomed = client.session(cpu=1, lease_seconds=60)
    await doomed.open()
    await doomed.alloc(count=10)
    demo.clock.now_ns += 61_000_000_000
    demo.servers[0].check_leases()
    await demo.until(lambda: not demo.node(0).sessions)
    await doomed.close()


async def test_refused_frees_are_counted(
    demo: Loopback, client: AsyncMachine, http: aiohttp.ClientSession
) -> None:
    async with client.session(cpu=0) as session:
        blocks = await session.alloc(count=3)
        await session.free(blocks)
        with pytest.raises(NotFound, match=r"page is free, on a pageset \(VM_BUG_ON_PAGE"):
            await session.free(blocks)
    found = samples(await scrape(http, demo.addresses[0].metrics_url))
    counted = {
        dict(labels)["reason"]: n for (name, labels), n in found.items() if name == "numa_bad_pages_total"
    }
    assert {reason: n for reason, n in counted.items() if n} == {"page is free, on a pageset": 1}
    assert counted["block is of another order"] == 0


async def test_every_number_is_that_of_get_node(
    demo: Loopback, client: AsyncMachine, http: aiohttp.ClientSession
) -> None:
    await load(demo, client)
    keeper = client.session(cpu=0)
    await keeper.open()
    await keeper.alloc(count=1234)
    for nid in (0, 1, 2):
        state = await client.node(nid)
        found = samples(await scrape(http, demo.addresses[nid].metrics_url))
        node = str(nid)
        for zone in state.zones:
            at = {"node": node, "zone": zone.zone}
            assert value(found, "numa_zone_pages", **at, state="free") == zone.free_pages
            assert value(found, "numa_zone_pages", **at, state="managed") == zone.managed_pages
            assert value(found, "numa_zone_watermark_pages", **at, level="low") == zone.low_pages
            for order, blocks in enumerate(zone.free_blocks):
                assert value(found, "numa_zone_free_blocks", **at, order=str(order)) == blocks
            assert value(found, "numa_pcp_pages", **at) == zone.pageset_pages
            assert value(found, "numa_lru_pages", **at, list="inactive_anon") == zone.inactive_anon_pages
        for item in ("numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node"):
            assert value(found, "numa_stat_total", node=node, item=item) == getattr(state.numa_stat, item)
        for event, count in state.vm_events.items():
            assert value(found, "numa_vm_events_total", node=node, event=event) == count
        assert value(found, "numa_sessions", node=node) == state.sessions
        assert value(found, "numa_held_pages", node=node) == state.held_pages
        assert value(found, "numa_swap_pages", node=node, state="total") == state.swap_total_pages
        assert value(found, "numa_swap_pages", node=node, state="used") == state.swap_used_pages
        assert value(found, "numa_kswapd_wakeups_total", node=node) == state.kswapd.wakeups
        assert value(found, "numa_kswapd_reclaimed_pages_total", node=node) == state.kswapd.reclaimed_pages
        assert value(found, "numa_log_ops_total", node=node) == state.log_length
        info = {"node": node, "machine": "demo", "profile": "linux-6.1", "incarnation": "1"}
        assert value(found, "numa_node_info", **info) == 1
    assert (await client.node(0)).held_pages == 1234
    await keeper.close()


async def test_what_happened_is_counted(
    demo: Loopback, client: AsyncMachine, http: aiohttp.ClientSession
) -> None:
    await load(demo, client)
    found = samples(await scrape(http, demo.addresses[0].metrics_url))
    spilled = value(found, "numa_fallback_pages_total", node="0", target_node="2")
    assert spilled == (await client.node(2)).numa_stat.numa_miss > 0
    assert value(found, "numa_lease_expiries_total", node="0") == 1
    # two requests were served locally, one spilled, and the refused one took no time
    assert value(found, "numa_alloc_virtual_seconds_count", node="0", source="local") == 2
    assert value(found, "numa_alloc_virtual_seconds_count", node="0", source="remote") == 1
    alloc = {"grpc_service": "numa.v1.MemoryService", "grpc_method": "AllocPages", "grpc_type": "unary"}
    assert value(found, "grpc_server_started_total", **alloc) == 4
    assert value(found, "grpc_server_handled_total", **alloc, grpc_code="OK") == 3
    assert value(found, "grpc_server_handled_total", **alloc, grpc_code="INVALID_ARGUMENT") == 1
    assert value(found, "grpc_server_handling_seconds_count", **alloc) == 4
    states = {
        s: value(found, "numa_kswapd_state", node="0", state=s) for s in ("asleep", "running", "hopeless")
    }
    assert states == {"asleep": 1, "running": 0, "hopeless": 0}
    peer = samples(await scrape(http, demo.addresses[2].metrics_url))
    lookups = {"grpc_service": "numa.v1.ZonelistService", "grpc_method": "Lookup", "grpc_type": "unary"}
    assert value(peer, "grpc_server_handled_total", **lookups, grpc_code="OK") >= 1


async def test_the_load_of_memories_and_links(
    demo: Loopback, client: AsyncMachine, http: aiohttp.ClientSession
) -> None:
    async with client.session(cpu=2) as session:
        for nid in (0, 1, 2):
            node, load = str(nid), demo.node(nid).load
            region = await session.map_region("anon", 4096, Policy(PolicyMode.BIND, (nid,)))
            for _ in range(12):
                await region.touch(0, 4096)
            memory = samples(await scrape(http, demo.addresses[nid].metrics_url))
            assert value(memory, "numa_memory_utilisation_ratio", node=node) == load.memory.utilisation > 0.1
            assert value(memory, "numa_memory_wait_seconds", node=node) == load.memory.waiting / 1e9 > 0
            bandwidth = value(memory, "numa_memory_bandwidth_bytes_per_second", node=node)
            assert bandwidth == load.memory.mb_per_s * 1e6
            mine = samples(await scrape(http, demo.addresses[1].metrics_url))
            moved = value(mine, "numa_memory_traffic_bytes_total", node="1", target_node=node)
            assert moved == 12 * 4096 * 4096
            if nid != 1:
                link, used = {"node": "1", "target_node": node}, demo.node(1).load.link(nid).utilisation
                assert value(mine, "numa_link_utilisation_ratio", **link) == used > 0.1
                assert value(mine, "numa_link_bandwidth_bytes_per_second", **link) == 8500e6
    assert not any(name.startswith("numa_link") and ("target_node", "1") in labels for name, labels in mine)
    demo.check()


async def test_openmetrics_when_the_scraper_asks_for_it(demo: Loopback, http: aiohttp.ClientSession) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    text = await scrape(http, demo.addresses[0].metrics_url, accept)
    assert text.endswith("# EOF\n")
    names = {family.name for family in parse_openmetrics(text)}
    assert {"numa_stat", "numa_zone_pages", "grpc_server_started"} <= names
    assert not any(
        name.endswith("_created") for name, _ in samples(await scrape(http, demo.addresses[0].metrics_url))
    )


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (package prometheus)")
async def test_promtool_has_nothing_to_say(
    demo: Loopback, client: AsyncMachine, http: aiohttp.ClientSession
) -> None:
    await load(demo, client)
    text = await scrape(http, demo.addresses[0].metrics_url)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_targets_for_http_sd(demo: Loopback, http: aiohttp.ClientSession) -> None:
    server = TargetServer(demo.info)
    url = await server.start()
    async with http.get(url) as response:
        assert response.content_type == "application/json"
        groups = await response.json()
    await server.stop()
    assert [group["labels"]["node"] for group in groups] == ["0", "1", "2"]
    for group in groups:
        assert group["labels"]["machine"] == "demo"
        (target,) = group["targets"]
        text = await scrape(http, f"http://{target}{group['labels']['__metrics_path__']}")
        assert f'numa_node_info{{incarnation="1",machine="demo",node="{group["labels"]["node"]}"' in text
