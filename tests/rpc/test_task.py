"""Tasks over real servers: what a client has them do, wrong programs, repeats, and the end of sessions."""

from __future__ import annotations

import errno

import pytest
from loopback import Loopback
from numa_client import AsyncMachine, FailedPrecondition, InvalidRequest, NotFound, Policy, TaskCall

from numa_service.node import ops
from numa_service.node.owners import PGTABLE_ID

MIB = 1 << 20


async def test_a_task_lives_in_a_session(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=2) as session:
        task = await session.spawn("worker", ["worker", "--fast"], cpu=2)
        address = await task.mmap(4 * MIB)
        await task.mbind(address, MIB, Policy.bind(0))
        touched = await task.touch(address, 4 * MIB, write=True)
        assert (touched.fault_pages, touched.hit_pages) == (1024, 0)
        assert await task.move_pages([address, address + MIB]) == (0, 1)
        async with await task.fork() as child:
            assert (await child.touch(address, MIB, write=True)).fault_pages == 256
            assert child.pid != task.pid
        assert await task.get_mempolicy(address) == (2, (0,))
        home = demo.node(1)
        assert list(home.tasks) == [task.pid]
        assert home.tasks[task.pid].cmdline == ("worker", "--fast")
        assert await client.check() == {}
        assert (await client.read_file(f"/proc/{task.pid}/cmdline")) == "worker\0--fast\0"
        assert f"N0=256 kernelpagesize_kB=4\n{address + MIB:x} default" in (
            await client.read_file(f"/proc/{task.pid}/numa_maps")
        )
        names = [entry.name for entry in await client.list_dir(f"/proc/{task.pid}")]
        assert names == sorted(
            ["cmdline", "comm", "maps", "numa_maps", "smaps", "smaps_rollup", "stat", "statm", "status"]
        )
        assert f"\nPid:\t{task.pid}\n" in await client.read_file(f"/proc/{task.pid}/status")
        counted = home.tasks[task.pid].process.tables.nr_page_table_pages(counts_pud=False)
        assert f"nr_page_table_pages {counted}\n" in await client.read_file("/proc/vmstat")
        with pytest.raises(NotFound):
            await client.read_file("/proc/299/maps")
    assert not home.tasks
    assert await client.check() == {}
    demo.check()


async def test_calls_that_linux_refuses_raise_its_errno(client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session, await session.spawn("worker") as task:
        with pytest.raises(OSError, match="EINVAL") as refused:
            await task.munmap(1, 4096)
        assert refused.value.errno == errno.EINVAL
        results = await task.run(
            TaskCall("mmap", (0x10000000, MIB, 3, 0x32, 0)),
            TaskCall("mprotect", (0, 4096, 1)),
            TaskCall("exit"),
        )
        assert [one.errno for one in results] == [0, errno.ENOMEM]
        assert (await task.touch(0x10000000, MIB, write=True)).fault_pages == 256


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (TaskCall("ptrace"), "calls.name"),
        (TaskCall("munmap", (1,)), "calls.numbers"),
        (TaskCall("munmap", (1, 1), nodes=(1,)), "calls.nodes"),
        (TaskCall("munmap", (1, 1), to_nodes=(1,)), "calls.to_nodes"),
        (TaskCall("mbind", (0, 4096, 2, 0), nodes=(5000,)), "calls.nodes"),
        (TaskCall("move_pages", (0, 4096), nodes=(1,)), "calls.nodes"),
        (TaskCall("exit", by=0), "calls.by"),
    ],
)
async def test_wrong_programs_are_refused(client: AsyncMachine, call: TaskCall, field: str) -> None:
    async with client.session(cpu=0) as session:
        task = await session.spawn("worker")
        with pytest.raises(InvalidRequest) as refused:
            await task.run(TaskCall("fork"), call) if field != "calls.by" else await task.run(call)
        assert refused.value.field == field
        assert (await task.run(TaskCall("brk", (0,))))[0].errno == 0


async def test_tasks_are_of_their_session(client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session, client.session(cpu=0) as other:
        task = await session.spawn("worker")
        with pytest.raises(FailedPrecondition):
            await other._run_task(task.pid, [TaskCall("exit")])
        with pytest.raises(NotFound):
            await other._run_task(5, [TaskCall("exit")])
        with pytest.raises(InvalidRequest) as refused:
            await session.spawn("a name that is too long")
        assert refused.value.field == "comm"
        with pytest.raises(InvalidRequest):
            await session.spawn("worker", cpu=4000)


async def test_page_tables_on_another_node_are_given_back(demo: Loopback, client: AsyncMachine) -> None:
    """A task on a CPU of a node that is not its home has its page tables there."""
    before = demo.free_pages()
    async with client.session(cpu=0) as session:
        task = await session.spawn("worker", cpu=2)
        address = await task.mmap(8 * MIB)
        await task.touch(address, 8 * MIB, write=True)
        await task.munmap(address, 8 * MIB)
        await task.exit()
        assert not demo.node(0).tasks
        freed = [op for op in demo.of(1, ops.Free) if op.owner.id == PGTABLE_ID]
        assert {op.cpu for op in freed} == {None}
    assert demo.free_pages() == before
    assert await client.check() == {}
    demo.check()


async def test_mlockall_passes_over_what_is_not_mapped(demo: Loopback, client: AsyncMachine) -> None:
    """128 TiB of holes, and reserved memory that may not be accessed."""
    async with client.session(cpu=0) as session:
        task = await session.spawn("worker", memlock_bytes=1 << 63)
        await task.mmap(1 << 40, "", flags=0x4000)  # MAP_NORESERVE
        begun = len(demo.of(0, ops.TaskTouch))
        for flags in (1, 5):
            (locked,) = await task.run(TaskCall("mlockall", (flags,)))
            assert locked.errno == 0
        assert len(demo.of(0, ops.TaskTouch)) - begun < 64
