"""The OOM killer over real servers: question and kill cross the wire, and clients see what they should."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from loopback import Loopback
from numa_client import NotFound, Policy, TaskResult

from numa_service.machine.formats.mem_info import parse_mem_info
from numa_service.machine.presets import load_preset

MIB = 1 << 20


def touched(result: TaskResult) -> int:
    """Pages that a touch came to: a fault maps 512 of them at a time where there are huge pages."""
    return result.fault_pages + result.hit_pages


async def test_a_task_of_another_home_is_killed_and_the_machine_s_log_says_so() -> None:
    machine = Loopback(replace(load_preset("demo"), swap_pages=0))
    await machine.start()
    try:
        async with await machine.client() as client:
            async with client.session(cpu=2) as there, client.session(cpu=0) as here:
                victim = await there.spawn("victim", cpu=2)
                asker = await here.spawn("asker", cpu=0)
                # as a write to /proc/PID/oom_score_adj would
                machine.node(1).tasks[victim.pid].oom_score_adj = 900
                mine = await victim.mmap(150 * MIB)
                await victim.mbind(mine, 150 * MIB, Policy.bind(1))
                assert touched(await victim.touch(mine, 150 * MIB, write=True)) == 150 * MIB >> 12
                wanted = await asker.mmap(190 * MIB)
                await asker.mbind(wanted, 190 * MIB, Policy.bind(1))
                assert touched(await asker.touch(wanted, 190 * MIB, write=True)) == 190 * MIB >> 12
                assert not machine.node(1).tasks
                with pytest.raises(NotFound):
                    await victim.touch(mine, 4096, write=True)
                # the machine is not full, but the node is: the task itself goes for the rest
                more = await asker.mmap(100 * MIB)
                await asker.mbind(more, 100 * MIB, Policy.bind(1))
                with pytest.raises(OSError, match="killed by the OOM killer") as gone:
                    await asker.touch(more, 100 * MIB, write=True)
                assert gone.value.errno == errno.ESRCH
                report = parse_mem_info(await client.read_file("/proc/kmsg"), "kmsg")
                assert (report.killed, report.request.comm) == (["victim"], "asker")
                assert (report.request.constraint, report.request.nodemask) == ("MEMORY_POLICY", (1,))
                assert {task.pid for task in report.tasks} == {victim.pid, asker.pid}
                assert "\noom_kill 2\n" in await client.read_file("/proc/vmstat")
                assert await client.check() == {}
            assert await client.check() == {}
        machine.check()
    finally:
        await machine.stop()
