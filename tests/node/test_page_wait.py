"""lock_page and writeback: who waits is hashed into the wait table, seen in inspect, and woken in order."""

from __future__ import annotations

import dataclasses

import pytest

from numa_service.machine.source import load
from numa_service.mm.structs import wait_table_hash_nr_entries
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest, NotFound, Precondition
from numa_service.node.node import Node
from numa_service.node.page_bits import LOCKED, WRITEBACK
from numa_service.node.page_wait import hash_ptr
from numa_service.node.region import close_session
from numa_service.node.requests import (
    close,
    end_writeback,
    lock_page,
    start_writeback,
    unlock_page,
    wait_on_page,
)
from numa_service.node.struct_views import page_view, zone_view
from numa_service.sim.simulation import Simulation, Task

SPEC = load("demo")
OLD = dataclasses.replace(SPEC, profile="linux-3.0")


class Sleepers:
    """Sessions on node 0, and pages that they lock."""

    def __init__(self, spec: object = SPEC) -> None:
        self.sim = Simulation(spec)  # type: ignore[arg-type]  # a MachineSpec
        self.node, self.inbox = self.sim.nodes[0], self.sim.hosts[0].inbox
        self.sessions = [self.node.apply(ops.OpenSession(f"s{i}", 10**15, 0)) for i in range(4)]
        self.zone = max(self.node.pgdat.extents, key=lambda extent: extent.managed)
        self.pfn = self.zone.start_pfn + 4096

    def lock(self, at: int, pfn: int | None = None) -> Task[None]:
        task = self.sim.spawn(0, lock_page(self.inbox, self.sessions[at], pfn or self.pfn))
        self.sim.run()
        return task

    def unlock(self, at: int) -> None:
        unlock_page(self.inbox, self.sessions[at], self.pfn)
        self.sim.run()

    def table(self) -> dict[str, str]:
        return zone_view(self.node, self.zone.name).wait_table


def shifted(address: int, bits: int) -> int:
    """hash_64() of 3.0 as it is written there: the products as shifts."""
    mask, n = (1 << 64) - 1, address
    total = address
    for shift, sign in ((18, -1), (33, -1), (3, 1), (3, -1), (4, 1), (2, 1)):
        n = n << shift & mask
        total = total + sign * n & mask
    return total >> 64 - bits


@pytest.mark.parametrize("pfn", [0, 1, 4097, 0x12345, 0xFFFFF])
def test_the_hash_of_old_kernels(pfn: int) -> None:
    address = 0xFFFF_EA00_0000_0000 + 56 * pfn
    assert hash_ptr(address, 12, golden_ratio=False) == shifted(address, 12)


def test_hashes_fill_the_queues() -> None:
    numbers = {hash_ptr(0xFFFF_EA00_0000_0000 + 64 * pfn, 8, golden_ratio=True) for pfn in range(4096)}
    assert numbers == set(range(256))
    assert hash_ptr(1, 8, golden_ratio=True) == 0x61
    assert hash_ptr(1, 8, golden_ratio=True, long_bits=32) == 0x61


@pytest.mark.parametrize("spec", [SPEC, OLD], ids=["6.1", "3.0"])
def test_waiters_are_in_the_queue_of_their_page(spec: object) -> None:
    sleepers = Sleepers(spec)
    assert sleepers.table() == {}
    assert sleepers.lock(0).done
    assert sleepers.table() == {}
    second, third = sleepers.lock(1), sleepers.lock(2)
    assert not second.done
    assert not third.done
    zone, number = sleepers.node.page_wait.queue_of(sleepers.pfn)
    entries = wait_table_hash_nr_entries(sleepers.zone.spanned) if spec is OLD else 256
    assert 0 <= number < entries
    assert zone == (sleepers.zone.index if spec is OLD else -1)
    _, b, c, _ = sleepers.sessions
    what = f"{sleepers.pfn:#x} locked exclusive"
    assert sleepers.table() == {str(number): f"session {b}: {what}, session {c}: {what}"}
    assert {"locked", "waiters"} <= set(page_view(sleepers.node, sleepers.pfn).flags)
    sleepers.unlock(0)  # one is woken, in order
    assert second.done
    assert not third.done
    assert sleepers.table() == {str(number): f"session {c}: {what}"}
    sleepers.unlock(1)
    assert third.done
    assert sleepers.table() == {}
    sleepers.unlock(2)
    assert not {"locked", "waiters"} & set(page_view(sleepers.node, sleepers.pfn).flags)


def test_who_waits_without_the_lock_is_woken_with_the_first_who_wants_it() -> None:
    for spec, order in ((OLD, [2, 1, 3]), (SPEC, [1, 2, 3])):
        sleepers = Sleepers(spec)
        sleepers.lock(0)
        wants = sleepers.lock(1)
        waits = sleepers.sim.spawn(
            0, wait_on_page(sleepers.inbox, sleepers.sessions[2], sleepers.pfn, LOCKED)
        )
        sleepers.sim.run()
        last = sleepers.lock(3)
        [queue] = sleepers.table().values()
        assert [int(text.split(":")[0].split()[1]) for text in queue.split(", ")] == [
            sleepers.sessions[at] for at in order
        ]
        sleepers.unlock(0)
        assert wants.done
        assert not last.done
        assert waits.done == (spec is OLD)  # else it waits for the one who has the lock now


def test_the_end_of_a_write_wakes_all() -> None:
    sleepers = Sleepers()
    a, b, c, d = sleepers.sessions
    sleepers.sim.call(0, start_writeback(sleepers.inbox, a, sleepers.pfn))
    tasks = [
        sleepers.sim.spawn(0, wait_on_page(sleepers.inbox, session, sleepers.pfn, WRITEBACK))
        for session in (b, c)
    ]
    again = sleepers.sim.spawn(0, start_writeback(sleepers.inbox, d, sleepers.pfn))
    locked = sleepers.lock(3)  # a page under writeback may be locked
    assert locked.done
    assert not any(task.done for task in (*tasks, again))
    end_writeback(sleepers.inbox, a, sleepers.pfn)
    sleepers.sim.run()
    assert all(task.done for task in (*tasks, again))
    assert sleepers.node.page_bits.holder(sleepers.pfn, WRITEBACK) == d


def test_the_end_of_a_session_unlocks_and_wakes() -> None:
    sleepers = Sleepers()
    sleepers.lock(0)
    waits, ends = sleepers.lock(1), sleepers.lock(2)
    sleepers.sim.call(0, close(sleepers.inbox, sleepers.sessions[2]))
    sleepers.sim.run()
    with pytest.raises(NotFound):
        _ = ends.result
    assert not waits.done
    sleepers.sim.call(0, close(sleepers.inbox, sleepers.sessions[0]))
    sleepers.sim.run()
    assert waits.done
    assert sleepers.table() == {}
    sleepers.sim.call(0, close_session(sleepers.node, sleepers.sessions[1]))
    assert not sleepers.node.page_bits.names(sleepers.pfn)


def test_pages_of_one_queue_do_not_wake_each_other() -> None:
    sleepers = Sleepers()
    queue = sleepers.node.page_wait.queue_of
    first = sleepers.pfn
    other = next(pfn for pfn in range(first + 1, first + 4096) if queue(pfn) == queue(first))
    sleepers.lock(0)
    sleepers.lock(1, other)
    waits = sleepers.lock(2)
    waits_too = sleepers.lock(3, other)
    assert len(sleepers.table()) == 1
    sleepers.unlock(0)
    assert waits.done
    assert not waits_too.done


def test_bad_requests_change_nothing() -> None:
    sleepers = Sleepers()
    a, b, *_ = sleepers.sessions
    sleepers.lock(0)
    digest = sleepers.node.digest()
    for op, error in (
        (ops.SetPageBit(a, sleepers.pfn, LOCKED), Precondition),
        (ops.ClearPageBit(b, sleepers.pfn, LOCKED), Precondition),
        (ops.SetPageBit(a, 1 << 40, LOCKED), NotFound),
        (ops.SetPageBit(99, sleepers.pfn, LOCKED), NotFound),
    ):
        with pytest.raises(error):
            sleepers.node.apply(op)
    with pytest.raises(InvalidRequest):
        ops.SetPageBit(a, sleepers.pfn, "dirty").check(sleepers.node)
    assert sleepers.node.digest() == digest
    copy = Node.boot(SPEC, 0)
    copy.restore(sleepers.node.snapshot())
    assert copy.digest() == digest
