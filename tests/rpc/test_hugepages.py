"""Pools of huge pages over gRPC: files are written, nodes ask each other, files show what there is."""

from __future__ import annotations

import pytest
from loopback import Loopback
from numa_client import AsyncMachine, FailedPrecondition, InvalidRequest, NotFound

from numa_service.mm.hugetlb.hstate import PMD_KB
from numa_service.node.hugetlb import reserve_huge_pages, take_huge_page

POOLS = "/sys/kernel/mm/hugepages/hugepages-2048kB"
NODE = "/sys/devices/system/node/node{}/hugepages/hugepages-2048kB/{}_hugepages"


async def number(client: AsyncMachine, path: str) -> int:
    return int(await client.read_file(path))


async def line(client: AsyncMachine, name: str) -> int:
    lines = (await client.read_file("/proc/meminfo")).splitlines()
    return next(int(text.split()[1]) for text in lines if text.startswith(f"{name}:"))


async def test_a_write_makes_pools_and_files_show_them(demo: Loopback, client: AsyncMachine) -> None:
    free = await line(client, "MemFree")
    await client.write_file("/proc/sys/vm/nr_hugepages", "7\n")
    assert await number(client, "/proc/sys/vm/nr_hugepages") == 7
    assert await number(client, f"{POOLS}/nr_hugepages") == 7
    assert [await number(client, NODE.format(nid, "nr")) for nid in (0, 1, 2)] == [3, 2, 2]
    assert await line(client, "HugePages_Total") == await line(client, "HugePages_Free") == 7
    assert await line(client, "Hugetlb") == 7 * 2048
    taken = free - await line(client, "MemFree")
    assert 7 * 2048 <= taken <= (7 + 3) * 2048  # a pageset of each node may have one
    assert "htlb_buddy_alloc_success 7\n" in await client.read_file("/proc/vmstat")
    await client.write_file(NODE.format(1, "nr"), "5")
    assert await number(client, "/proc/sys/vm/nr_hugepages_mempolicy") == 10
    meminfo = await client.read_file("/sys/devices/system/node/node1/meminfo")
    assert "Node 1 HugePages_Total:     5\n" in meminfo
    await client.write_file(f"{POOLS}/nr_hugepages", "0")
    assert await line(client, "MemFree") > free - taken
    assert await line(client, "HugePages_Total") == 0
    demo.check()


async def test_a_write_gets_what_can_be_got(demo: Loopback, client: AsyncMachine) -> None:
    await client.write_file(NODE.format(2, "nr"), "1000000")
    got = await number(client, NODE.format(2, "nr"))
    assert 0 < got < 1_000_000
    assert await number(client, NODE.format(2, "free")) == got
    assert "htlb_buddy_alloc_fail 1\n" in await client.read_file("/proc/vmstat")
    demo.check()


async def test_promises_and_pages_of_a_session_of_another_node(demo: Loopback, client: AsyncMachine) -> None:
    await client.write_file(f"{POOLS}/nr_overcommit_hugepages", "2\n")
    assert await number(client, "/proc/sys/vm/nr_overcommit_hugepages") == 2
    async with client.session(node=1) as session:
        server = demo.servers[1]
        inbox = server._requests.inbox
        id = session.info.session
        assert await server._peers.run(reserve_huge_pages(inbox, id, PMD_KB, 2)) == 2
        assert await number(client, f"{POOLS}/resv_hugepages") == 2
        assert await number(client, f"{POOLS}/surplus_hugepages") == 2
        pfn = await server._peers.run(take_huge_page(inbox, id, PMD_KB, (1, 0), True))
        assert demo.node(1).pgdat.hugetlb.pools[PMD_KB].used.keys() == {pfn}
        assert await line(client, "HugePages_Rsvd") == 1
    assert await line(client, "HugePages_Rsvd") == 0
    # the page that was in use has left the pool, the one that was only promised is free
    assert await number(client, NODE.format(1, "nr")) == await number(client, NODE.format(1, "free")) == 1
    demo.check()


@pytest.mark.parametrize(
    ("path", "text", "error"),
    [
        ("/proc/sys/vm/nr_hugepages", "many", InvalidRequest),
        ("/proc/sys/vm/nr_hugepages", "-1", InvalidRequest),
        (f"{POOLS}/nr_hugepages", str(1 << 64), InvalidRequest),
        (f"{POOLS}/nr_overcommit_hugepages", "x", InvalidRequest),
        (f"{POOLS}/free_hugepages", "1", FailedPrecondition),
        (POOLS.replace("2048", "1048576") + "/nr_hugepages", "1", NotFound),
    ],
)
async def test_bad_writes(client: AsyncMachine, path: str, text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await client.write_file(path, text)
    assert await line(client, "HugePages_Total") == 0
