"""The metrics that Prometheus reads, compared with the answers of gRPC."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator

import aiohttp
import pytest
from loopback import Loopback
from numa_client import (
    AsyncMachine,
    Distribution,
    InvalidRequest,
    Mix,
    NotFound,
    OutOfMemory,
    Phase,
    Policy,
    PolicyMode,
    Program,
)
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from skips import needs

from numa_service.metrics.discovery import MachineCollector, TargetServer

SOON = Distribution("exponential", mean=1e-4)

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
    """Cause fallback, reclaim, a refused call and an expired lease."""
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
        info = {"node": node, "machine": "demo", "profile": "linux-6.1", "lineage": "1"}
        assert value(found, "numa_node_info", **info) == 1
    assert (await client.node(0)).held_pages == 1234
    await keeper.close()


async def test_slab_caches_are_counted_and_few(
    demo: Loopback, client: AsyncMachine, http: aiohttp.ClientSession
) -> None:
    async with client.session(cpu=0) as session:
        single = [c for c in await client.slabinfo() if c.order == 0 and c.objects_per_slab < 100]
        for i, cache in enumerate(single[:15], start=1):
            await session.kmem_cache_alloc(cache.name, i * cache.objects_per_slab)
        found = samples(await scrape(http, demo.addresses[0].metrics_url))
        slabs = {
            dict(labels)["cache"]: n for (name, labels), n in found.items() if name == "numa_slab_cache_slabs"
        }
        used = {info.name: info for info in await client.slabinfo(0) if info.slabs}
        assert len(slabs) == 11
        largest = sorted(used, key=lambda name: -used[name].slabs)[:10]
        assert {name: n for name, n in slabs.items() if name != "others"} == {
            name: used[name].slabs for name in largest
        }
        assert sum(slabs.values()) == sum(info.slabs for info in used.values())
        objects = [n for (name, _), n in found.items() if name == "numa_slab_cache_objects"]
        assert sum(objects) == sum(info.objects for info in used.values())
        pages = sum(
            value(found, "numa_slab_pages", node="0", state=s) for s in ("reclaimable", "unreclaimable")
        )
        assert pages == sum(slabs.values())  # of order 0
        assert value(found, "numa_slab_held_objects", node="0") == demo.node(0).kmem.held > 0


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
    received, sent = "grpc_server_msg_received_total", "grpc_server_msg_sent_total"
    assert (value(found, received, **alloc), value(found, sent, **alloc)) == (4, 3)
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


@needs("promtool")
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
    metrics = demo.machine_server.registry
    metrics.register(MachineCollector(demo.info))
    server = TargetServer(demo.info, metrics)
    url = await server.start()
    async with http.get(url) as response:
        assert response.content_type == "application/json"
        groups = await response.json()
    *nodes, machine = groups
    assert machine["labels"] == {"machine": "demo", "__metrics_path__": "/metrics"}
    found = samples(await scrape(http, f"http://{machine['targets'][0]}/metrics"))
    assert {value(found, "numa_machine_node_up", node=nid) for nid in "012"} == {1}
    assert {value(found, "numa_machine_node_restarts_total", node=nid) for nid in "012"} == {0}
    await server.stop()
    assert [group["labels"]["node"] for group in nodes] == ["0", "1", "2"]
    for group in nodes:
        assert group["labels"]["machine"] == "demo"
        (target,) = group["targets"]
        text = await scrape(http, f"http://{target}{group['labels']['__metrics_path__']}")
        assert f'numa_node_info{{lineage="1",machine="demo",node="{group["labels"]["node"]}"' in text


async def test_metrics_and_targets_answer_to_their_own_names_only(
    demo: Loopback, http: aiohttp.ClientSession
) -> None:
    """By DNS rebinding a web page must not be able to read them through a browser on this host."""
    server = TargetServer(demo.info, demo.machine_server.registry)
    url = await server.start()
    for served in (url, url.replace("/targets", "/metrics"), demo.addresses[0].metrics_url):
        for host, status in {"rebound.example": 403, "10.0.0.1:9100": 403, "localhost:9100": 200}.items():
            assert (await http.get(served, headers={"Host": host})).status == status, (served, host)
    await server.stop()
    # as on a cluster: another address of this host
    server = TargetServer(demo.info, demo.machine_server.registry)
    url = await server.start("127.0.0.2")
    groups = await (await http.get(url)).json()
    assert groups[-1]["targets"] == [url.removeprefix("http://").removesuffix("/targets")]
    assert (await http.get(f"http://{groups[-1]['targets'][0]}/metrics")).status == 200
    await server.stop()


async def test_what_was_not_to_be_had_is_counted(
    demo: Loopback, client: AsyncMachine, http: aiohttp.ClientSession
) -> None:
    async with client.session(cpu=0) as session:
        with pytest.raises(OutOfMemory):
            await session.alloc(count=1000, order=10)
        got = await session.alloc(count=1000, order=10, partial=True)
    found = samples(await scrape(http, demo.addresses[0].metrics_url))
    failed = value(found, "numa_alloc_failed_blocks_total", node="0", order="10")
    assert failed == 2 * (1000 - got.count) > 0
    assert value(found, "numa_alloc_failed_blocks_total", node="0", order="0") == 0


async def test_a_node_that_owes_answers_is_told(
    demo: Loopback, client: AsyncMachine, http: aiohttp.ClientSession
) -> None:
    async def owed() -> dict[str, float]:
        found = samples(await scrape(http, demo.addresses[0].metrics_url))
        return {nid: value(found, "numa_peer_owed_answers", node="0", target_node=nid) for nid in "12"}

    session = client.session(cpu=0)
    await session.open()
    await session.alloc(count=10, policy=Policy(PolicyMode.BIND, (1,)))
    assert await owed() == {"1": 0, "2": 0}
    await demo.kill(1)
    await session.close()
    assert await owed() == {"1": 1, "2": 0}
    await demo.revive(1)
    async with asyncio.timeout(30):
        while (await owed())["1"]:
            await asyncio.sleep(0.05)


async def test_programs_by_phase(demo: Loopback, client: AsyncMachine, http: aiohttp.ClientSession) -> None:
    phase = Phase(name="churn", events=1 << 32, mixes=(Mix(lifetime=SOON),))
    endless = Program((phase,), name="endless")
    async with client.session(cpu=0) as session:
        reports = session.run_program(endless)
        await anext(reports)
        found = samples(await scrape(http, demo.addresses[0].metrics_url))
        assert value(found, "numa_programs", node="0", program="endless", phase="churn") == 1
        await reports.aclose()
    found = samples(await scrape(http, demo.addresses[0].metrics_url))
    assert not any(name == "numa_programs" for name, _ in found)
