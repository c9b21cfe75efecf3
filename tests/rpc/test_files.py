"""/proc and /sys over real servers: one tree, rendered from the snapshots of all nodes."""

from __future__ import annotations

import asyncio
import stat
import time

import pytest
from loopback import Loopback
from numa_client import (
    AsyncMachine,
    FailedPrecondition,
    InvalidRequest,
    Machine,
    NotFound,
    Policy,
    Unavailable,
)

from numa_service.machine.snapshot import assemble
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.node import ops
from numa_service.node.errors import PeerUnavailable
from numa_service.node.struct_views import cpu_time
from numa_service.procfs import tree

#: What they say is of the moment.
CLOCKS = ("proc/stat", "proc/uptime")

#: Of node 2, wholly RAM.
BLOCK = "/sys/devices/system/memory/memory5"


def now(demo: Loopback) -> MachineSnapshot:
    """The machine's snapshot, taken from the nodes without the network."""
    nodes = [demo.node(nid) for nid in demo.servers]
    return assemble(demo.spec, [node.machine.node_part(node.nid, cpu_time(node)) for node in nodes])


async def test_what_clients_read_is_what_the_nodes_are(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        await session.alloc(0, 3000, policy=Policy.interleave(0, 1, 2))
        here = now(demo)
        found = {file.path: file for file in await client.read_tree()}
        theirs = {path: (file.mode, file.target, file.text) for path, file in found.items()}
        ours = {path: (entry.mode, entry.target, text) for path, entry, text in tree.walk(here)}
        assert {path for path in theirs if theirs[path] != ours.get(path)} == set(CLOCKS)
        assert theirs.keys() == ours.keys()
        for path in ("/proc/zoneinfo", "proc/vmstat", "/sys/devices/system/node/node2/meminfo"):
            assert await client.read_file(path) == found[path.lstrip("/")].text
        assert "numa_interleave 1000\n" in await client.read_file("/sys/devices/system/node/node2/vmstat")
        entries = await client.list_dir("/sys/devices/system/node/node0/cpu0")
        assert [entry.name for entry in entries] == ["node0", "topology"]
        assert (stat.S_ISLNK(entries[0].mode), entries[0].target) == (True, "../../node/node0")
        assert entries[1].is_dir
        only = await client.read_tree("/sys/devices/system/node/node1/distance")
        assert [file.text for file in only] == [found["sys/devices/system/node/node1/distance"].text]


async def test_one_file_alone_is_what_it_is_among_all(demo: Loopback, client: AsyncMachine) -> None:
    """A file is rendered from less than the whole machine, and a directory listed from less."""
    async with client.session(cpu=2) as session:
        filled = await session.alloc(0, 65_536, policy=Policy.bind(1), partial=True)
        task = await session.spawn("worker")  # its page tables are on another node than it
        await task.touch(await task.mmap(4 << 20), 4 << 20, write=True)
        assert set(demo.node(1).tasks.page_tables()) - {1}
        await client.write_file("/sys/devices/system/node/node2/memory5/state", "offline")
        files = {file.path: file for file in await client.read_tree()}
        slabs = [path for path in files if path.startswith("sys/kernel/slab/")]
        paths = {*files} - {*CLOCKS} - {*slabs} | {*slabs[:10]}
        for path in sorted(paths):
            by_offset = files[path].size > 0
            if not files[path].target and files[path].mode & stat.S_IRUSR and not by_offset:
                assert await client.read_file(path) == files[path].text, path
        whole = now(demo)
        for folder in sorted(
            {path.rsplit("/", 1)[0] for path in paths} | {"sys/devices/system/node", "proc"}
        ):
            if not folder.startswith("proc"):
                theirs = [(entry.name, entry.target) for entry in await client.list_dir(folder)]
                assert theirs == [(entry.name, entry.target) for entry in tree.listdir(whole, folder)], folder
        await task.exit()
        await session.free(filled)


async def test_only_nodes_that_a_file_shows_are_asked(demo: Loopback, client: AsyncMachine) -> None:
    nodes = "/sys/devices/system/node"
    needed = [
        f"{nodes}/node0/meminfo",
        f"{nodes}/node1/numastat",
        f"{nodes}/node2/distance",
        f"{nodes}/node2/cpulist",
        f"{nodes}/online",
        "/proc/sys/vm/swappiness",
        "/sys/devices/system/cpu/possible",
    ]
    before = [await client.read_file(path) for path in needed]
    await demo.kill(2)
    assert [await client.read_file(path) for path in needed] == before
    for path in f"{nodes}/node2/meminfo", "/proc/meminfo", f"{nodes}/node1/../node0/meminfo":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.read_file(path)
    await demo.revive(2)


def cpu_times(text: str) -> dict[str, list[int]]:
    return {name: [int(n) for n in times] for name, *times in map(str.split, text.splitlines())}


async def test_cpu_time_goes_on(demo: Loopback, client: AsyncMachine) -> None:
    """Since boot a CPU is idle while there are no requests, and busy for the time that requests take."""
    before = time.time()
    first = cpu_times(await client.read_file("/proc/stat"))
    assert before - 600 < first["btime"][0] <= before
    async with client.session(cpu=0) as session:
        for _ in range(10):
            pages = await session.alloc(0, 30_000)
            await session.free(pages)
        await asyncio.sleep(0.05)
        then = cpu_times(await client.read_file("/proc/stat"))
        busy = {cpu: ns // 10**7 for node in now(demo).nodes for cpu, ns in node.cpu_ns.items()}
    assert busy[0] > 0
    assert then["cpu0"][2] - first["cpu0"][2] == busy[0]
    assert then["cpu2"][3] > first["cpu2"][3]
    cpus = [f"cpu{cpu}" for cpu in demo.spec.cpus]
    for name in ("cpu", *cpus):
        assert all(a <= b for a, b in zip(first[name], then[name], strict=True))
    assert then["cpu"] == [sum(column) for column in zip(*(then[cpu] for cpu in cpus), strict=True)]
    up, idle = map(float, (await client.read_file("/proc/uptime")).split())
    assert 0 < idle <= len(cpus) * up
    assert up - 2 < time.time() - then["btime"][0] < up + 2


async def test_the_blocking_client_reads_the_same(demo: Loopback) -> None:
    def read() -> tuple[str, list[str], int, str]:
        with Machine.connect(demo.address) as machine:
            machine.write_file("/proc/sys/vm/swappiness", "7")
            names = [entry.name for entry in machine.list_dir()]
            size = len(machine.read_tree("/sys/devices/system/cpu"))
            return (
                machine.read_file("/proc/meminfo"),
                names,
                size,
                machine.read_file("/proc/sys/vm/swappiness"),
            )

    meminfo, names, size, swappiness = await asyncio.to_thread(read)
    here = now(demo)
    assert meminfo == tree.read(here, "/proc/meminfo")
    assert names == ["proc", "sys"]
    assert size == len(list(tree.walk(here, "/sys/devices/system/cpu")))
    assert swappiness == "7\n"


async def test_a_long_tree_comes_in_parts(
    demo: Loopback, client: AsyncMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("numa_service.rpc.files.CHUNK", 7)
    assert len(await client.read_tree("/proc")) == len(list(tree.walk(now(demo), "/proc"))) > 14


async def test_a_sysctl_is_written_on_every_node(demo: Loopback, client: AsyncMachine) -> None:
    await client.write_file("/proc/sys/vm/min_free_kbytes", " 90000\n")
    assert await client.read_file("/proc/sys/vm/min_free_kbytes") == "90000\n"
    for nid, server in demo.servers.items():
        assert server.node.machine.sysctls.min_free_kbytes == 90000
        assert len(demo.of(nid, ops.WriteSysctl)) == 1
    assert await client.write_file("proc/sys/vm/lowmem_reserve_ratio", "128 64") == ""
    assert await client.read_file("proc/sys/vm/lowmem_reserve_ratio") == "128\t64\t32\t0\t0\n"


async def test_a_write_without_effect_says_so(demo: Loopback, client: AsyncMachine) -> None:
    notes = [
        await client.write_file("/proc/sys/vm/zone_reclaim_mode", "7\n"),
        await client.write_sysctl("vm.zone_reclaim_mode", "7"),
    ]
    assert notes[0] == notes[1] != ""
    assert "node reclaim is not modelled" in notes[0]
    assert await client.read_file("/proc/sys/vm/zone_reclaim_mode") == "7\n"
    assert await client.write_sysctl("vm.zone_reclaim_mode", "0") == ""


async def test_a_memory_block_goes_and_comes(demo: Loopback, client: AsyncMachine) -> None:
    """valid_zones as captured around offline and online_movable (workloads/*/i-hotremove/blocks.json)."""

    async def seen() -> tuple[str, str, str]:
        state, online, zones = [
            await client.read_file(f"{BLOCK}/{n}") for n in ("state", "online", "valid_zones")
        ]
        return state, online, zones

    assert await seen() == ("online\n", "1\n", "DMA32\n")
    before = (await client.node(2)).free_pages
    await client.write_file(f"{BLOCK}/state", "offline\n")
    assert await seen() == ("offline\n", "0\n", "DMA32 Movable\n")
    assert (await client.node(2)).free_pages == before - 32768
    await client.write_file(f"{BLOCK}/online", "0")  # it is so already
    with pytest.raises(InvalidRequest, match="EINVAL"):
        await client.write_file(f"{BLOCK}/state", "offline")
    await client.write_file("/sys/devices/system/node/node2/memory5/state", "online_movable")
    assert await seen() == ("online\n", "1\n", "Movable\n")
    await client.write_file(f"{BLOCK}/online", "n")
    await client.write_file(f"{BLOCK}/online", "1\n")
    assert (await seen())[0] == "online\n"


@pytest.mark.parametrize(
    ("path", "text", "error", "reason"),
    [
        ("/proc/sys/vm/swappiness", "201", InvalidRequest, "EINVAL.*201 is not in 0 to 200"),
        ("/proc/sys/vm/swappiness", "much", InvalidRequest, "EINVAL.*not an integer"),
        ("/proc/sys/vm/swappiness", "", InvalidRequest, "EINVAL"),
        ("/proc/sys/vm/swappiness", "6é", InvalidRequest, "EINVAL.*not ASCII"),
        ("/proc/sys/vm/swappiness", "1" * 4097, InvalidRequest, "EFBIG"),
        ("/proc/sys/vm/percpu_pagelist_high_fraction", "7", InvalidRequest, "EINVAL"),
        ("/proc/sys/vm/drop_caches", "3", NotFound, "ENOENT"),
        ("/proc/sys/vm/compact_memory", "1", NotFound, "ENOENT"),
        ("/proc/zoneinfo", "1", FailedPrecondition, "EACCES"),
        ("/proc/sys/vm", "1", FailedPrecondition, "EISDIR"),
        ("/sys/devices/system/memory/auto_online_blocks", "online", FailedPrecondition, "EACCES"),
        (f"{BLOCK}/state", "of", InvalidRequest, "EINVAL.*online_movable"),
        (f"{BLOCK}/online", "2", InvalidRequest, "EINVAL"),
        ("/sys/devices/system/memory/memory99/state", "offline", NotFound, "ENOENT"),
        # zones of two kinds, and a page that stays
        ("/sys/devices/system/memory/memory0/state", "offline", InvalidRequest, "EINVAL"),
    ],
)
async def test_what_cannot_be_written(
    demo: Loopback, client: AsyncMachine, path: str, text: str, error: type[Exception], reason: str
) -> None:
    before = demo.digests()
    with pytest.raises(error, match=reason):
        await client.write_file(path, text)
    assert demo.digests() == before


async def test_a_block_in_use_is_busy(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(node=0) as session:
        await session.alloc(0, 60_000, policy=Policy.bind(2))
        with pytest.raises(FailedPrecondition, match="EBUSY"):
            await client.write_file(f"{BLOCK}/state", "offline")
        assert await client.read_file(f"{BLOCK}/state") == "online\n"


@pytest.mark.parametrize(
    ("path", "error", "reason"),
    [
        ("/proc/sys/vm/compact_memory", NotFound, "ENOENT"),
        ("/proc", FailedPrecondition, "EISDIR"),
        ("/proc/zoneinfo/x", FailedPrecondition, "ENOTDIR"),
        ("/" + "x" * 5000, InvalidRequest, "ENAMETOOLONG"),
        *(
            (f"/proc/{pid}/{name}", NotFound, "ENOENT")
            for pid in (2**32, 10**200)
            for name in ("maps", "pagemap", "oom_score_adj")
        ),
    ],
)
async def test_what_cannot_be_read(
    client: AsyncMachine, path: str, error: type[Exception], reason: str
) -> None:
    # a directory is what the others are for
    calls = (client.read_file, client.list_dir, client.read_tree)[: 1 if reason == "EISDIR" else 3]
    for call in calls:
        with pytest.raises(error, match=reason):
            await call(path)


@pytest.mark.parametrize("look", ["read_file", "list_dir", "read_tree"])
async def test_a_node_that_is_away_is_waited_for(demo: Loopback, client: AsyncMachine, look: str) -> None:
    path = "/sys/devices/system/node" if look == "list_dir" else "/proc/zoneinfo"
    before = await getattr(client, look)(path)
    await demo.kill(1)
    looking = asyncio.create_task(getattr(client, look)(path))
    await asyncio.sleep(0.1)
    assert not looking.done()
    await demo.revive(1)
    assert len(await looking) == len(before)
    assert await client.read_file("/proc/zoneinfo") == tree.read(now(demo), "/proc/zoneinfo")


async def test_and_not_for_ever(demo: Loopback) -> None:
    def read() -> None:
        # no time is left to wait for as long as the service says
        with Machine.connect(demo.address, timeout=PeerUnavailable.retry_seconds) as machine:
            for look in machine.read_file, machine.read_tree:
                with pytest.raises(Unavailable, match="node 1"):
                    look("/proc/zoneinfo")

    await demo.kill(1)
    await asyncio.to_thread(read)
