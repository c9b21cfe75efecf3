"""Captured runs of NUMA balancing, done again: hint faults, migrations and where pages are after each scan.

A subject maps an area, touches it on one node and then reads or writes all of it again and again, on CPUs of
its own. That is done here tick by tick. How long accesses, faults and scans take is not computed but measured
in the captures, whose kernels ran in an emulator; it decides when things happen, and in `threads` who of two
threads comes first to a page of both. Taken over, too, is how many pages of the area the CPU still had in its
batch for the LRU lists: as many as never move.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from fidelity.compare import Field
from fidelity.process_steps import Step, steps

from numa_service.mm.balancing.fault import hint_faults
from numa_service.mm.balancing.fork import init_numa_balancing
from numa_service.mm.balancing.parameters import TICK_NSEC
from numa_service.mm.balancing.rules import rules_of
from numa_service.mm.balancing.scan import account_scan, task_numa_work, task_tick_numa
from numa_service.mm.balancing.task import NumaBalancing, NumaMm, NumaTask
from numa_service.mm.balancing.topology import Topology
from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.entries import NUMA, pfns_of
from numa_service.mm.mmap.fault import touch
from numa_service.mm.mmap.frames import SHMEM, AddressSpace, Frames, Nids, Numbered, Pfns
from numa_service.mm.mmap.limits import Committed
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.pgtables import PageTables, Unlimited
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import PAGE_SHIFT, PAGE_SIZE, X86_64
from numa_service.mm.mmap.rules import rules_of as mmap_rules_of
from numa_service.mm.mmap.thp import Thp
from numa_service.mm.mmap.thp_rules import thp_rules_of
from numa_service.mm.mmap.vma import File, Vma
from numa_service.mm.profile import profile_named

MS = 1_000_000
#: In the time of the captured emulator, ns: an access that finds its page (from the passes of `threads`); a
#: hint fault that moves nothing (less than half of a first touch there), one that moves a page, or a huge one
#: (from the dumps of `wrong-node`); and a scan for each hint, from how late the next scan of 6.12 comes,
#: which waits for 32 times as long.
ACCESS, LOCAL, MOVED, MOVED_HUGE, SCANNED = 410, 10_000, 114_000, 18 * MS, 1_200
#: How finely threads take turns.
SLICE = 200_000
#: Pages that the program has of its own, on its first node: data, .bss, heap and stack.
OWN = ((0x4BC000, 3), (0x4BF000, 4), (0x21D9000, 2), (0x7FFE_AB90_6000, 5))
_PID = 142


@dataclass(slots=True)
class Loop:
    """A thread that goes through a part of an area again and again, until a time in ms."""

    task: NumaTask
    start: int
    end: int
    until_ms: float
    at: int
    owed: int = 0


@dataclass(slots=True)
class Balanced:
    """What was seen at a moment: counters, scans that came round, pages of the area by node."""

    counters: dict[str, int]
    scan_seq: int
    nodes: dict[int, int]


@dataclass(slots=True)
class _Moves:
    """Pages keep their numbers when they move."""

    source: Numbered

    def migrate_misplaced(self, pfns: Pfns, nid: int) -> bool:
        self.source.migrate(pfns, nid)
        return True


@dataclass
class Scenario:
    """A captured script, run until its loops end."""

    capture: Path
    now_ns: int = 0
    seen: list[Balanced] = field(default_factory=list)

    def run(self) -> Balanced:
        """What is there when the first loops are over; `seen` has the same after each scan."""
        done = steps(self.capture)
        kernel = profile_named("linux-6.12" if self.capture.parent.name.endswith("k612") else "linux-6.1")
        rules = rules_of(kernel)
        assert rules
        source = Numbered()
        topology = Topology({(0, 0): 10, (0, 1): 20, (1, 0): 20, (1, 1): 10}, (0, 1))
        cpu_node = {0: 0, 1: 0, 2: 1, 3: 1}
        self.balancing = NumaBalancing(rules, topology, cpu_node, _Moves(source))
        mm = MmStruct(X86_64, mmap_rules_of(kernel), Committed(1 << 20, 0))
        huge = Thp(thp_rules_of(kernel), source) if self.capture.name.endswith("thp") else None
        frames = Frames(source, huge)
        self.process = Process(mm, PageTables(X86_64, Unlimited()), frames, self._place)
        self.mm = NumaMm(self.process)
        self.main = init_numa_balancing(self.balancing.parameters, self.mm, _PID, 2, 0)
        for start, pages in OWN:
            self._area(start, pages)
            touch(self.process, start, start + pages * PAGE_SIZE, write=True)
        self.loops: list[Loop] = []
        for number, step in enumerate(done):
            if step.command[0] == "wait":
                break
            self._command(step)
            until = done[number + 1].t_ms if number + 1 < len(done) else 0
            if self.loops:
                self._pass(until)
            else:
                self.now_ns = max(self.now_ns, int(until * MS))
        return self._now()

    def _place(self, vma: Vma, numbers: Pfns) -> Nids:
        return np.full(len(numbers), self.balancing.cpu_node[self.main.cpu], np.int16)

    def _area(self, start: int, pages: int, *, shared: bool = False) -> None:
        flags = vf.VM_READ | vf.VM_WRITE | vf.VM_MAY_ACCESS | (vf.VM_SHARED | vf.VM_MAYSHARE) * shared
        vma = Vma(start, start + pages * PAGE_SIZE, flags, 0 if shared else start >> PAGE_SHIFT)
        if shared:
            vma.file = File("/dev/zero (deleted)", 0, 1, 1, shmem=True, pages=AddressSpace(SHMEM))
        self.process.mm.tree.insert(vma)

    def _command(self, step: Step) -> None:
        words = step.command
        if words[0] not in ("p0", "p0&"):
            return
        name, arguments = words[1], words[2:]
        if name == "map":
            self.pages = int(arguments[2])
            self.base = step.address or _area_of(self.capture, self.pages)
            self._area(self.base, self.pages, shared=arguments[1] == "as")
        elif name == "touch":
            touch(self.process, self.base, self.base + self.pages * PAGE_SIZE, write=True)
            # not copied: pages of PTEs that were made together lie behind each other
            ((_, self.entries),) = self.process.chunks(self.base, self.base + self.pages * PAGE_SIZE)
            waiting = _stay(self.capture)
            if waiting:
                self.balancing.batched = set(pfns_of(self.entries[-waiting:]).tolist())
            self.main.sum_exec_runtime = int(_run_ms(self.capture, step.number) * MS)
        elif name == "cpu":
            self.main.cpu = int(arguments[0])
        elif name in ("loop", "tloop"):
            self._loop(name, arguments, step.t_ms)

    def _loop(self, name: str, arguments: list[str], at_ms: float) -> None:
        start = self.base + int(arguments[1]) * PAGE_SIZE
        end = start + int(arguments[2]) * PAGE_SIZE
        task = self.main
        if name == "tloop":
            cpu, pid = int(arguments[5]), _PID + 1 + len(self.loops)
            if not self.loops:
                self.mm.users = 1
            task = init_numa_balancing(
                self.balancing.parameters, self.mm, pid, cpu, int(at_ms * MS), self.main
            )
        self.balancing.running[task.cpu] = task
        self.loops.append(Loop(task, start, end, at_ms + int(arguments[3]), start))

    def _pass(self, until_ms: float) -> None:
        """Let time pass; ticks come every 4 ms."""
        while self.now_ns < until_ms * MS:
            hinted = bool((self.entries & NUMA).any())
            tick_at = (self.now_ns // TICK_NSEC + 1) * TICK_NSEC
            upto = min(tick_at, self.now_ns + SLICE) if hinted else tick_at
            for loop in self.loops:
                if self.now_ns < loop.until_ms * MS:
                    self._go_on(loop, upto - self.now_ns)
            self.now_ns = upto
            if upto == tick_at:
                self._tick()

    def _tick(self) -> None:
        for loop in self.loops:
            task = loop.task
            if self.now_ns < loop.until_ms * MS and task_tick_numa(self.balancing, task, self.now_ns):
                before = self._now()
                hints = task_numa_work(self.balancing, task, self.now_ns)
                if hints:
                    self.seen.append(before)
                    huge = self._now().counters["numa_huge_pte_updates"]
                    huge -= before.counters["numa_huge_pte_updates"]
                    spent = (hints - 511 * huge) * SCANNED
                    account_scan(task, spent)
                    loop.owed += spent

    def _go_on(self, loop: Loop, ns: int) -> None:
        """A thread goes on for some time."""
        loop.task.sum_exec_runtime += ns
        left = ns - loop.owed
        while left > 0:
            offset = (loop.at - self.base) >> PAGE_SHIFT
            last = (loop.end - self.base) >> PAGE_SHIFT
            ahead = np.flatnonzero(self.entries[offset:last] & NUMA)
            if len(ahead) and int(ahead[0]) * ACCESS < left:
                left -= int(ahead[0]) * ACCESS
                loop.at += int(ahead[0]) * PAGE_SIZE
                found = hint_faults(
                    self.balancing, loop.task, loop.at, loop.at + PAGE_SIZE, self.now_ns + ns - left
                )
                moved = MOVED_HUGE if found.migrated_pages > 1 else MOVED
                left -= moved if found.migrated_pages else LOCAL
                continue
            steps_left = min(left // ACCESS + 1, (loop.end - loop.at) >> PAGE_SHIFT)
            left -= steps_left * ACCESS
            loop.at += steps_left * PAGE_SIZE
            if loop.at >= loop.end:
                loop.at = loop.start
        loop.owed = -left

    def nids(self) -> Nids:
        """The node of each page of the area."""
        return self.process.frames.source.nids_of(pfns_of(self.entries))

    def _now(self) -> Balanced:
        nids, counts = np.unique(self.nids(), return_counts=True)
        nodes = dict(zip(nids.tolist(), counts.tolist(), strict=True))
        return Balanced(asdict(self.balancing.counters), self.mm.scan_seq, nodes)


def captured(capture: Path) -> tuple[Balanced, list[Balanced]]:
    """What the kernel had when the first loops were over, and the same before each scan but the first."""
    counters = dict.fromkeys(_COUNTERS, 0)
    others = _OTHERS.get(f"{capture.parent.name}/{capture.name}", 0)
    states: list[Balanced] = []
    end_ms = None
    for step in steps(capture):
        words = step.command
        if words[0] in ("p0", "p0&") and words[1] in ("loop", "tloop"):
            end_ms = end_ms or step.t_ms + int(words[5])
        if words[0] == "wait" or (end_ms and step.t_ms > end_ms):
            break
        counters |= {name: value for name, value in step.vmstat.items() if name in counters}
        if step.vmstat.get("numa_pte_updates", 0) > others:
            counters["numa_pte_updates"] -= others
        text = _text(capture, step.number)
        seq = re.search(r"numa_scan_seq\s*:\s*(\d+)", text)
        lines = [line for line in step.subjects["p0"].numa_maps if "=" in line] if step.subjects else []
        if seq is None or not lines:
            continue
        largest = max(lines, key=lambda line: sum(_by_node(line).values()))
        states.append(Balanced(dict(counters), int(seq[1]), _by_node(largest)))
    scans = [
        before
        for before, after in pairwise(states)
        if after.counters["numa_pte_updates"] - before.counters["numa_pte_updates"] > 20
    ]
    return states[-1], scans


#: Entries of the script's controller that got hints while the subject began: a step after which 4,607 more
#: have one, and nothing of the subject has faulted.
_OTHERS = {"2n2c-k612/threads": 4607}
_COUNTERS = (
    "numa_pte_updates",
    "numa_huge_pte_updates",
    "numa_hint_faults",
    "numa_hint_faults_local",
    "numa_pages_migrated",
    "pgmigrate_success",
    "pgmigrate_fail",
)


def _by_node(line: str) -> dict[int, int]:
    return {int(nid): int(pages) for nid, pages in re.findall(r" N(\d+)=(\d+)", line)}


def _text(capture: Path, number: int) -> str:
    return (capture / "steps" / f"step{number:03}.txt").read_text()


def _run_ms(capture: Path, number: int) -> float:
    found = re.search(r"sum_exec_runtime\s*:\s*([\d.]+)", _text(capture, number))
    assert found
    return float(found[1])


def _area_of(capture: Path, pages: int) -> int:
    """Where the area came to lie."""
    for step in steps(capture):
        for line in step.subjects["p0"].numa_maps if step.subjects else ():
            if sum(_by_node(line).values()) == pages:
                return int(line.split()[0], 16)
    raise AssertionError(f"{capture}: no area of {pages} pages")


def _stay(capture: Path) -> int:
    """Pages of the area that never move: those in the CPU's batch."""
    if not capture.name.startswith("wrong-node"):
        return 0
    last, _ = captured(capture)
    return last.nodes.get(1, 0)


#: What is compared after each scan.
_PLAIN = ("numa_pte_updates", "numa_huge_pte_updates", "numa_hint_faults")
#: A subject's own pages that are seen in a counter beside those of its area: its program has about so many.
_OWN_PAGES = 20
_WITHIN = "within 10 %, or pages of the program itself"
_CHANCE = "which of two threads comes first to a page of both"


def compare_balancing(capture: Path) -> list[Field]:
    """All fields of one capture."""
    name = f"balancing/{capture.parent.name}/{capture.name}"
    last, scans = captured(capture)
    run = Scenario(capture)
    end = run.run()
    if len(run.seen) > len(scans):
        end = run.seen[len(scans)]  # after as many scans as there were
    # pages of which chance decides, each at every scan
    shared = _shared(run) if capture.name == "threads" else 0
    fields = []

    def add(at: str, kind: str, there: int, here: int, chance: int = 0) -> None:
        slack = max(there // 10, _OWN_PAGES, chance)
        fields.append(Field(name, at, kind, "area", there, here, slack, _CHANCE if chance else _WITHIN))

    moments = [*zip(scans, run.seen, strict=False), (last, end)]
    for number, (there, here) in enumerate(moments):
        for kind in _PLAIN:
            at = "end" if number == len(moments) - 1 else f"before scan {number + 1}"
            add(at, kind, there.counters[kind], here.counters[kind])
    for kind in ("numa_hint_faults_local", "numa_pages_migrated"):
        add("end", kind, last.counters[kind], end.counters[kind], shared * len(scans))
    for nid in (0, 1):
        add("end", f"pages on node {nid}", last.nodes.get(nid, 0), end.nodes.get(nid, 0), shared)
    if shared:
        there, here = _placed(capture, run.base, run.pages), run.nids()
        for nid, part in enumerate(_of_one(run)):
            kind = f"pages of one thread, on its node {nid}"
            add("end", kind, int((there[part] == nid).sum()), int((here[part] == nid).sum()))
    return fields


def _of_one(run: Scenario) -> tuple[slice, slice]:
    """Pages of the area that only the first thread, and only the second one uses."""
    one, two = run.loops
    low, high = (two.start - run.base) >> PAGE_SHIFT, (one.end - run.base) >> PAGE_SHIFT
    return slice(0, low), slice(high, run.pages)


def _shared(run: Scenario) -> int:
    one, two = _of_one(run)
    return two.start - one.stop


def _placed(capture: Path, base: int, pages: int) -> Nids:
    """The node of each page of the area, as the last step shows them."""
    lines = steps(capture)[-1 - 1].subjects["p0"].pages
    start, nids = 0, np.full(pages, -1, np.int16)
    for line in lines:
        if found := re.match(r"([0-9a-f]+)-[0-9a-f]+ ", line):
            start = int(found[1], 16)
        elif found := re.match(r" (\d+)\+\d+ ", line):
            at = (start - base >> PAGE_SHIFT) + int(found[1])
            for nid, count in re.findall(r" N(\d+)\*(\d+)", line):
                nids[max(at, 0) : max(at + int(count), 0)] = int(nid)
                at += int(count)
    return nids


def balancing_captures(root: Path) -> Iterator[Path]:
    """Captured runs; those of tiering are not modelled."""
    for path in sorted(root.glob("balancing/*/*/scenario.json")):
        if path.parent.name != "tiering":
            yield path.parent
