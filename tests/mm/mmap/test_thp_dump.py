"""Huge pages as plain data: what is loaded again goes on as what was dumped would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
from mm.mmap.inhabited import check, on_node_0
from mm.mmap.spaces import HERE, PAGE, place
from mm.mmap.test_huge_memory import NR, Machine, Pages, go, huge_of, inhabited

from numa_service.mm.mmap.carry_out import carry_out, exit_process, fork
from numa_service.mm.mmap.dump import dump_processes, load_processes
from numa_service.mm.mmap.frames import Frames
from numa_service.mm.mmap.huge_memory import deferred_split_scan
from numa_service.mm.mmap.khugepaged import Khugepaged
from numa_service.mm.mmap.limits import Committed, Limits
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.munmap import munmap
from numa_service.mm.mmap.pgtables import Unlimited
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import rules_of
from numa_service.mm.mmap.thp import Thp
from numa_service.mm.mmap.thp_dump import dump_thp, load_thp
from numa_service.mm.profile import profile_of_version


def state(one: Machine, processes: dict[int, Process]) -> list[Any]:
    return [dump_processes(processes, one.frames), dump_thp(one.thp, processes)]


def loaded(one: Machine, packed: bytes) -> tuple[Machine, dict[int, Process]]:
    """The same in another process: through msgpack, as a snapshot goes."""
    dumped = msgpack.unpackb(packed, strict_map_key=False)
    pages, tables = Pages(), Unlimited()
    # sources have dumps of their own; here they only must not give again what is out
    pages.alloc(np.zeros(one.pages._next, np.int16))
    pages.free_order(pages.alloc_order(0, 9, 0), 9)
    pages.out, tables.out, tables._next = one.pages.out, one.tables.out, one.tables._next
    thp = Thp(one.thp.rules, pages)
    frames = Frames(pages, thp)
    rules, layout = rules_of(profile_of_version(one.version)), one.layout
    made = load_processes(
        dumped[0], frames, tables, on_node_0, lambda limits, legacy: space_of(limits, legacy, layout, rules)
    )
    load_thp(thp, dumped[1], made)
    return Machine(pages, thp, frames, tables, one.version, one.layout), made


def space_of(limits: Limits, legacy: bool, layout: Any, rules: Any) -> MmStruct:
    return MmStruct(layout, rules, Committed(1 << 24), limits, legacy=legacy)


def lived() -> tuple[Machine, dict[int, Process]]:
    """Two processes with a bit of everything."""
    one, its = inhabited(huge=8)
    go(its, 0, 3 * NR)
    go(its, 3 * NR, write=False)
    one.pages.left = 0
    go(its, 4 * NR, 2 * NR)
    one.pages.left = 100
    child = fork(its, one.tables)
    go(child, 0)
    carry_out(its, munmap(its.mm, HERE + NR * PAGE, 7 * PAGE))
    carry_out(child, munmap(child.mm, HERE + NR * PAGE, 7 * PAGE))
    one.thp.settings.khugepaged_pages_to_scan = NR
    Khugepaged(one.frames).do_scan()
    return one, {7: its, 9: child}


def test_what_is_loaded_is_the_same() -> None:
    one, processes = lived()
    packed = msgpack.packb(state(one, processes))
    again, made = loaded(one, packed)
    assert one.thp.deferred
    assert one.thp.zero
    assert one.thp.scan.current is processes[7]
    assert again.thp.nr_anon == one.thp.nr_anon > 0
    assert msgpack.packb(state(again, made)) == packed
    check(list(made.values()))


def test_and_it_goes_on_the_same() -> None:
    """Each of these asks for something else of what was dumped."""
    steps: list[Callable[[Machine, dict[int, Process]], object]] = [
        lambda one, of: go(of[9], 2 * NR, NR),
        lambda one, of: Khugepaged(one.frames).do_scan(),
        lambda one, of: deferred_split_scan(one.frames, 1),
        lambda one, of: go(of[7], 2 * NR, NR),
        lambda one, of: huge_of(of[7]),
        lambda one, of: exit_process(of.pop(9)),
        lambda one, of: place(of[7].mm, 20 * NR, NR),
        lambda one, of: go(of[7], 20 * NR),
        lambda one, of: one.thp.events,
        lambda one, of: exit_process(of.pop(7)),
        lambda one, of: (one.thp.shrink_zero_page(), one.pages.out, one.tables.out),
    ]
    one, processes = lived()
    again, made = loaded(one, msgpack.packb(state(one, processes)))
    for step in steps:
        assert step(one, processes) == step(again, made)
    assert one.pages.out == 0
