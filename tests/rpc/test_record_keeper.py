"""The keeper of the record: nodes that are away, hang or restart get every write in the end."""

from __future__ import annotations

import asyncio

import pytest
from loopback import Loopback
from numa_client import AsyncMachine, InvalidRequest
from numa_client._channel import async_channel
from numa_client._gen.numa.v1 import node_service_pb2
from numa_client._gen.numa.v1.node_service_pb2_grpc import NodeServiceStub

from numa_service.machine.presets import load_preset
from numa_service.machine.record import MachineRecord, MemoryState
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest as Refused
from numa_service.rpc import record_keeper
from numa_service.rpc.record_keeper import RecordKeeper

SPEC = load_preset("demo")
KEY = "vm.swappiness"


class Nodes:
    """Three nodes as the keeper sees them: each takes a record, hangs, or fails."""

    def __init__(self) -> None:
        self.has: dict[int, MachineRecord] = {}
        self.hanging: set[int] = set()
        self.failing: set[int] = set()
        self.memory: dict[int, MemoryState] = {}
        self.told = asyncio.Condition()
        self.happened: list[str] = []
        self.saved = MachineRecord().pack()

    async def tell(self, nid: int, record: MachineRecord) -> MemoryState | None:
        if nid in self.failing:
            raise ConnectionError("it is gone")
        if nid in self.hanging:
            await asyncio.Event().wait()
        self.happened.append(f"told {nid} {record.version}")
        async with self.told:
            self.has[nid] = record
            self.told.notify_all()
        return self.memory.get(nid)

    async def save(self, record: MachineRecord) -> None:
        await asyncio.sleep(0)
        self.happened.append(f"saved {record.version}")
        self.saved = record.pack()

    def keeper(self) -> RecordKeeper:
        return RecordKeeper(SPEC, self.tell, MachineRecord.unpack(self.saved), self.save)

    async def until_has(self, version: int, *nids: int) -> None:
        async with asyncio.timeout(30), self.told:
            await self.told.wait_for(
                lambda: all(nid in self.has and self.has[nid].version == version for nid in nids)
            )


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    monkeypatch.setattr(record_keeper, "TELL_SECONDS", 0.05)
    monkeypatch.setattr(record_keeper, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(record_keeper, "RETRY_SECONDS", 0.01)
    return Nodes()


async def test_a_write_is_saved_and_then_everybody_has_it(nodes: Nodes) -> None:
    keeper = nodes.keeper()
    for nid in (0, 1, 2):
        keeper.came_up(nid)
    await nodes.until_has(0, 0, 1, 2)
    nodes.happened.clear()
    assert await keeper.write_sysctl("vm/swappiness", " 7\n") == ""
    assert nodes.happened[0] == "saved 1"
    assert sorted(nodes.happened[1:]) == ["told 0 1", "told 1 1", "told 2 1"]
    assert {record.values()[KEY] for record in nodes.has.values()} == {"7"}
    assert "not modelled" in await keeper.write_sysctl("vm.zone_reclaim_mode", "7")


async def test_writes_at_the_same_time_have_a_version_each(nodes: Nodes) -> None:
    keeper = nodes.keeper()
    keeper.came_up(0)
    await asyncio.gather(*(keeper.write_sysctl(KEY, str(value)) for value in range(20)))
    await nodes.until_has(20, 0)
    assert MachineRecord.unpack(nodes.saved) == keeper.record == nodes.has[0]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [(KEY, "201", "not in 0 to 200"), (KEY, "much", "not an integer"), ("vm.no_such", "1", "unknown sysctl")],
)
async def test_what_is_refused_is_told_nobody(nodes: Nodes, key: str, value: str, why: str) -> None:
    keeper = nodes.keeper()
    with pytest.raises(Refused, match=why) as refused:
        await keeper.write_sysctl(key, value)
    assert refused.value.field == key
    assert (keeper.record, nodes.happened) == (MachineRecord(), [])


async def test_entries_that_are_not_written_stay(nodes: Nodes) -> None:
    keeper = nodes.keeper()
    await keeper.write_sysctl("vm.lowmem_reserve_ratio", "128 64")
    await keeper.write_sysctl("vm.lowmem_reserve_ratio", "32")
    assert keeper.record.values() == {"vm.lowmem_reserve_ratio": "32\t64\t32\t0\t0"}


async def test_a_write_does_not_fail_with_a_node_and_reaches_it_later(nodes: Nodes) -> None:
    """One node is away, one is cut off without a reset, one breaks the connection."""
    keeper = nodes.keeper()
    nodes.hanging.add(1)
    nodes.failing.add(2)
    for nid in (0, 1, 2):
        keeper.came_up(nid)
    await nodes.until_has(0, 0)
    keeper.went_away(0)
    await keeper.write_sysctl(KEY, "1")
    await keeper.write_sysctl(KEY, "2")
    assert nodes.has == {0: MachineRecord()}
    # none of them restarted: nobody says to the keeper that they are back
    nodes.hanging.clear()
    nodes.failing.clear()
    await nodes.until_has(2, 1, 2)
    assert nodes.has[0].version == 0
    keeper.came_up(0)
    await nodes.until_has(2, 0)


async def test_a_keeper_that_is_restarted_goes_on(nodes: Nodes) -> None:
    nodes.hanging.add(0)
    first = nodes.keeper()
    first.came_up(0)
    await first.write_sysctl(KEY, "1")
    first.close()
    nodes.hanging.clear()
    second = nodes.keeper()
    second.came_up(0)
    await nodes.until_has(1, 0)
    await second.write_sysctl("vm.vfs_cache_pressure", "50")
    assert second.record.version == 2
    assert nodes.has[0].values() == {KEY: "1", "vm.vfs_cache_pressure": "50"}


async def test_what_a_node_says_of_its_memory_the_others_hear(nodes: Nodes) -> None:
    keeper = nodes.keeper()
    for nid in (0, 1):
        keeper.came_up(nid)
    nodes.memory[2] = state = MemoryState(2, ((1, 10, 9),), True, 2 << 32)
    keeper.came_up(2)
    await nodes.until_has(1, 0, 1, 2)
    assert nodes.has[0].memory == {2: (1, state)}
    assert MachineRecord.unpack(nodes.saved) == keeper.record


async def test_who_reports_its_memory_knows_afterwards_that_all_who_are_up_have_heard(nodes: Nodes) -> None:
    keeper = nodes.keeper()
    for nid in (0, 1, 2):
        keeper.came_up(nid)
    await nodes.until_has(0, 0, 1, 2)
    nodes.hanging.add(1)
    state = MemoryState(2, ((1, 10, 9),), True, (1 << 32) + 1)
    await keeper.remember_memory(state)
    assert {nid: record.memory for nid, record in nodes.has.items()} == {
        0: {2: (1, state)},
        1: {},
        2: {2: (1, state)},
    }
    # the one that hangs delays it by WRITE_SECONDS, and hears of it later
    nodes.hanging.clear()
    await nodes.until_has(1, 1)


# with nodes that serve


async def test_files_are_written_while_a_node_is_away(demo: Loopback, client: AsyncMachine) -> None:
    await demo.kill(2)
    await client.write_file("/proc/sys/vm/swappiness", "7\n")
    assert await client.write_sysctl("vm.min_free_kbytes", "90000") == ""
    with pytest.raises(InvalidRequest, match="EINVAL"):
        await client.write_file("/proc/sys/vm/swappiness", "201")
    machines = {nid: demo.node(nid).machine for nid in (0, 1, 2)}
    assert [machine.sysctls.swappiness for machine in machines.values()] == [7, 7, 60]
    await demo.revive(2)
    await demo.until(lambda: demo.node(2).record_version == 2)
    assert machines[2].sysctls.as_dict() == machines[0].sysctls.as_dict()
    assert machines[2].watermarks == machines[0].watermarks
    assert await client.read_file("/proc/sys/vm/swappiness") == "7\n"
    demo.check()


async def test_a_nodes_own_door_leads_to_the_keeper(demo: Loopback) -> None:
    async with async_channel(demo.addresses[1].grpc) as channel:
        request = node_service_pb2.WriteSysctlRequest(key=KEY, value="9")
        await NodeServiceStub(channel).WriteSysctl(request)
    for nid in (0, 1, 2):
        assert demo.of(nid, ops.WriteSysctl) == [ops.WriteSysctl(KEY, "9", 1)]


async def test_a_node_that_restarts_has_sysctls_and_memory_before_it_serves(
    demo: Loopback, client: AsyncMachine
) -> None:
    booted = demo.node(0).machine.managed
    await client.change_memory_block(5, "offline")
    await client.write_sysctl("vm.watermark_scale_factor", "300")
    assert demo.keeper.record.memory.keys() == {2}
    before = demo.node(1).machine
    await demo.restart(0)
    first = list(demo.node(0).log)[:2]
    assert [type(op) for op in first] == [ops.MemoryNotify, ops.WriteSysctl]
    after = demo.node(0).machine
    assert (after.managed, after.watermarks) == (before.managed, before.watermarks)
    # that one booted with all of its memory the others hear
    await demo.restart(2)
    await demo.until(lambda: demo.node(0).machine.managed == demo.node(2).machine.managed)
    assert demo.node(0).machine.managed == booted
    demo.check()
