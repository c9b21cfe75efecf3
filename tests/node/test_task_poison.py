"""Errors of the memory of pages that tasks have: who gets SIGBUS and when, as captured in misc/hwpoison."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from node.test_task import ANON, RW, Tasks

from numa_service.mm.mempolicy.policy import Mode
from numa_service.mm.mmap.errnos import EHWPOISON
from numa_service.mm.mmap.madvise import MADV_DONTNEED
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_SHARED
from numa_service.mm.mmzone import HUGE_INDEX, PAGEBLOCK_NR_PAGES
from numa_service.node import ops
from numa_service.node.memory_failure import memory_failure, soft_offline_page
from numa_service.node.node import Node
from numa_service.node.page_state import Ask, Question, answer
from numa_service.node.requests import close
from numa_service.node.task_state import SIG_DFL

CAPTURE = Path(__file__).resolve().parents[1] / "testdata" / "hwpoison.txt"
HANDLER = 0x401000
SHARED = MAP_SHARED | MAP_ANONYMOUS


class Poisoning(Tasks):
    """A machine of which memory goes bad; its tasks have a handler for SIGBUS unless they are told so."""

    def begin(self, handler: int = HANDLER) -> int:
        pid = self.spawn()
        self.do(pid, "rt_sigaction", signal.SIGBUS, handler)
        return pid

    def where(self, pid: int, address: int) -> tuple[Node, int]:
        """The node and the pfn of the page at an address."""
        task = self.node.tasks[pid]
        frame = int(task.process.mapped_entries(address, address + 4096)[0]) >> 8
        node = self.sim.nodes[int(self.node.tasks.source.nids[frame])]
        part = frame % PAGEBLOCK_NR_PAGES
        # of a huge page the first one alone is found, by the name of all of it
        for number, offset in ((frame, 0), ((frame - part) | HUGE_INDEX, part)):
            for owner in self.node.tasks.owners:
                wanted = np.array([number], np.uint32)
                if owner in node.slots:
                    pfn = int(node.pgdat.region_pfns(node.slots[owner], wanted)[0])
                    if pfn >= 0:
                        return node, pfn + offset
        raise AssertionError(f"frame {frame} is nowhere")

    def hard(self, pid: int, address: int) -> str:
        """MADV_HWPOISON: the last line that is printed of it."""
        node, pfn = self.where(pid, address)
        self.sim.call(node.nid, memory_failure(node, pfn))
        line = list(node.kernel_log)[-1].text
        assert line.startswith(f"Memory failure: {pfn:#x}: ")
        return line.split(": ", 2)[2]

    def soft(self, pid: int, address: int) -> None:
        node, pfn = self.where(pid, address)
        self.sim.call(node.nid, soft_offline_page(node, pfn))

    def touches(self, pid: int, address: int, pages: int, write: bool = False) -> list[int]:
        """The errno of an access to each page."""
        return [self.run(pid, "touch", address + (at << 12), 4096, write).errno for at in range(pages)]

    def corrupted(self) -> int:
        """HardwareCorrupted in kB."""
        return 4 * sum(len(node.pgdat.memory_failure.pages) for node in self.sim.nodes.values())

    def end_poisoned(self) -> None:
        """Close the session: what was bad is nobody's, and everything else is free."""
        self.sim.call(self.nid, close(self.inbox, self.session))
        self.node.apply(ops.ShrinkHuge())
        self.sim.advance(5_000_000_000)
        self.check()
        assert self.here() == dict.fromkeys(self.sim.nodes, 0)
        bad = {nid: len(node.pgdat.memory_failure.pages) for nid, node in self.sim.nodes.items()}
        assert self.free() == {nid: pages - bad[nid] for nid, pages in self.before.items()}
        assert not any(node.pgdat.memory_failure.untold for node in self.sim.nodes.values())
        assert not any(node.swap_used for node in self.sim.nodes.values())

    def log(self, nid: int) -> list[str]:
        return [line.text for line in self.sim.nodes[nid].kernel_log]


@pytest.fixture
def poison() -> Poisoning:
    return Poisoning()


def test_it_ends_as_captured(poison: Poisoning) -> None:
    """misc/2n2c-k61/hwpoison, command by command: answers, HardwareCorrupted, and what is printed."""
    p0, at = poison.begin(), {}
    pids = {"p0": p0}
    kinds = {"ap": ANON, "as": SHARED, "fp": 2, "fs": 1}
    mine = 0
    for line in CAPTURE.read_text().splitlines()[2:]:
        command, ended, corrupted, printed = (part.strip() for part in line.split("|"))
        who, what, *words = command.split()
        pid = pids[who]
        before = mine
        match what, words:
            case "map", [name, kind, pages, *path]:
                path = f"/mnt/{name}" if path else ""
                at[name] = poison.map(pid, int(pages) << 12, kinds[kind], text=path)
            case "touch", [name, first, pages, how]:
                done = poison.touches(pid, at[name] + (int(first) << 12), int(pages), how == "w")
                assert set(done) <= {0, EHWPOISON}
                assert f"{done.count(0)} {done.count(EHWPOISON)}" == ended, command
            case "madvise", [name, first, pages, "4"]:
                poison.do(pid, "madvise", at[name] + (int(first) << 12), int(pages) << 12, MADV_DONTNEED)
            case "madvise", [name, first, pages, advice]:
                for page in range(int(first), int(first) + int(pages)):
                    address = at[name] + (page << 12)
                    if advice == "101":
                        poison.soft(pid, address)
                    else:
                        assert poison.hard(pid, address) == printed, command
            case "fork", [_]:
                pids["p1"] = poison.do(pid, "fork").value
            case "exit", _:
                poison.do(pid, "exit")
        mine = poison.corrupted()
        assert mine - before == int(corrupted), command
        poison.check()
    poison.end_poisoned()


def test_a_task_dies_of_its_next_access_unless_it_has_a_handler(poison: Poisoning) -> None:
    for handler in (SIG_DFL, HANDLER):
        pid = poison.begin(handler)
        area = poison.map(pid, 8 << 12)
        poison.do(pid, "touch", area, 8 << 12, 1)
        rss = sum(poison.node.tasks[pid].process.rss)
        poison.hard(pid, area + (3 << 12))
        assert sum(poison.node.tasks[pid].process.rss) == rss - 1
        shown = answer(poison.node, Question(Ask.PAGEMAP, area >> 12, 8, pid=pid)).words
        assert [int(word) >> 62 for word in np.frombuffer(shown, np.uint64)] == [2, 2, 2, 1, 2, 2, 2, 2]
        ran = poison.run(pid, "touch", area, 8 << 12, 0)
        assert ran.errno == EHWPOISON
        assert ran.hits == 3
        killed = f"MCE: Killing subj:{pid} due to hardware memory corruption fault at {area + (3 << 12):x}"
        assert poison.log(0)[-1] == killed
        assert (pid in poison.node.tasks) == (handler == HANDLER)
        poison.check()
    # the page of zeros that madvise() leaves is a new one
    poison.do(pid, "madvise", area, 8 << 12, MADV_DONTNEED)
    poison.do(pid, "touch", area, 8 << 12, 1)
    poison.end_poisoned()


def test_early_kill_is_at_once(poison: Poisoning) -> None:
    """prctl(PR_MCE_KILL) of the parent, which its child has, too; who has a handler lives on."""
    pid = poison.begin(SIG_DFL)
    assert poison.do(pid, "prctl", 34, 0, 0, 0, 0).value == 2
    poison.do(pid, "prctl", 33, 1, 1, 0, 0)
    assert poison.do(pid, "prctl", 34, 0, 0, 0, 0).value == 1
    assert poison.run(pid, "prctl", 33, 1, 3, 0, 0).errno == 22
    area = poison.map(pid, 4 << 12)
    poison.do(pid, "mbind", area, 4 << 12, Mode.BIND, 2, 0)
    poison.do(pid, "touch", area, 4 << 12, 1)
    child = poison.do(pid, "fork").value
    poison.do(child, "rt_sigaction", signal.SIGBUS, HANDLER)
    late = poison.do(pid, "fork").value
    poison.do(late, "prctl", 33, 1, 0, 0, 0)
    node, pfn = poison.where(pid, area)
    assert node.nid == 1
    poison.hard(pid, area)
    assert list(poison.node.tasks) == [child, late]
    sent = "Sending SIGBUS to subj:{} due to hardware memory corruption"
    assert poison.log(0) == [f"Memory failure: {pfn:#x}: {sent.format(one)}" for one in (pid, child)]
    assert poison.touches(child, area, 2) == [EHWPOISON, 0]
    poison.check()
    poison.end_poisoned()


def test_a_huge_page_is_split_first() -> None:
    poison = Poisoning(machine="demo")
    pid = poison.begin()
    area = poison.do(pid, "mmap", 0, 4 << 21, RW, ANON, 0).value + (1 << 21) - 1 & -(1 << 21)
    poison.do(pid, "madvise", area, 1 << 21, 14)
    poison.do(pid, "touch", area, 1 << 21, 1)
    assert poison.node.tasks.thp is not None
    assert len(poison.node.tasks.thp.huge) == 1
    poison.hard(pid, area + (5 << 12))
    assert not poison.node.tasks.thp.huge
    assert poison.touches(pid, area, 8) == [0] * 5 + [EHWPOISON] + [0] * 2
    poison.check()
    poison.end_poisoned()


def test_a_home_that_does_not_answer_hears_of_it_later() -> None:
    """And another page that has got the frame's number meanwhile is left alone."""
    poison = Poisoning()
    pid = poison.begin()
    area = poison.map(pid, 4 << 12)
    poison.do(pid, "mbind", area, 4 << 12, Mode.BIND, 2, 0)
    poison.do(pid, "touch", area, 4 << 12, 1)
    places = [poison.where(pid, area + (at << 12)) for at in (0, 1)]
    node = places[0][0]
    poison.sim.network.partition = frozenset((1,))
    for _, pfn in places:
        poison.sim.call(1, memory_failure(node, pfn))
    assert len(node.pgdat.memory_failure.untold) == 2
    assert poison.sim.check() == []
    poison.sim.network.partition = frozenset()
    poison.sim.advance(5_000_000_000)
    assert poison.touches(pid, area, 4) == [EHWPOISON, EHWPOISON, 0, 0]
    assert not node.pgdat.memory_failure.untold
    poison.check()
    poison.end_poisoned()


def test_snapshots_and_replay_have_it(poison: Poisoning) -> None:
    pid = poison.begin()
    area = poison.map(pid, 4 << 12, SHARED)
    poison.do(pid, "touch", area, 4 << 12, 1)
    poison.hard(pid, area)
    # a page of shmem stays lost to who maps it later
    poison.do(pid, "madvise", area, 4 << 12, MADV_DONTNEED)
    assert poison.touches(pid, area, 2) == [EHWPOISON, 0]
    node = poison.node
    copy = Node.boot(poison.sim.spec, 0)
    copy.restore(node.snapshot())
    assert copy.digest() == node.digest()
    assert copy.tasks.check() == []
    assert Node.replay(poison.sim.spec, 0, list(node.log)).digest() == node.digest()
    poison.end_poisoned()
