"""Captured scripts, done again with pages: what is mapped where, how often, and what smaps and numa_maps say.

Compared are the areas that a script maps, not those of the program, its heap and its stack, which it touches
on its own. Taken over is how numa_maps writes policies. Not compared are `active=` and which pages are
unevictable, as lists of reclaim are not modelled, and LazyFree, which waits for a CPU's batch of pages. Reads
from a disk are done at once here: of the capture in which they were under way, mappings of that file are left
out.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from fidelity.process_steps import Seen, Step, area
from fidelity.processes import Compared, Replay, Subject

from numa_service.mm.mmap.carry_out import carry_out, exit_process, fork
from numa_service.mm.mmap.effects import Zap
from numa_service.mm.mmap.entries import HUGE, PRESENT, ZERO, has, pfns_of
from numa_service.mm.mmap.fault import fault_in, touch
from numa_service.mm.mmap.frames import ANON, FILE, SHMEM, AddressSpace, Frames, Nids, Numbered, Pfns
from numa_service.mm.mmap.huge_memory import split_huge_page
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.pgtables import PageTables
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import PAGE_SHIFT, X86_64
from numa_service.mm.mmap.thp import Thp
from numa_service.mm.mmap.thp_rules import thp_rules_of
from numa_service.mm.mmap.vm_flags import VM_GROWSDOWN
from numa_service.mm.mmap.vma import DEV_ZERO, File, Vma
from numa_service.procfs.pid_maps import header
from numa_service.procfs.pid_smaps import numa_line, numbers

_PAGE = 1 << PAGE_SHIFT
#: Captures in which pages of a file were still being read when a step was seen.
UNDER_WAY = {"4n1c-k61/basic": "/mnt/f1"}
#: What needs more than is modelled: swap.
NOT_COMPARED = ("swap",)
#: Of the subject's own memory nothing is known in these steps: it does more than it is told.
_OWN = ("spawn", "fork", "exit")
#: Lines of smaps that are compared.
LABELS = (
    "Rss",
    "Pss",
    "Pss_Dirty",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Referenced",
    "Anonymous",
    "AnonHugePages",
    "Locked",
)


class Inhabited(Subject):
    """A process of a script with its pages, on a CPU."""

    def __init__(self, process: Process, node: int) -> None:
        super().__init__(process.mm, process.tables)
        self.process = process
        self.node = node
        process.place = self.place
        #: Faults that were seen and computed, and whether the program is done with its own.
        self.faults = (0, 0)
        self.settled = False
        #: By the line of maps: what smaps said of a VMA last.
        self.smaps: dict[str, dict[str, str]] = {}

    def place(self, vma: Vma, numbers: Pfns) -> Nids:
        if isinstance(vma.policy, tuple):
            nodes = [int(node) for node in str(vma.policy[1]).split(",") if node.isdigit()]
            if vma.policy[0].startswith(("interleave", "weighted")):
                return np.array(nodes, np.int16)[numbers % len(nodes)]
            if nodes and self.node not in nodes:
                return np.full(len(numbers), nodes[0], np.int16)
        return np.full(len(numbers), self.node, np.int16)


class ResidentReplay(Replay):
    """A capture's script, with pages."""

    def __init__(self, capture: Path) -> None:
        super().__init__(capture)
        self.source = Numbered()
        thp = Thp(thp_rules_of(self.profile), self.source) if self.thp else None
        self.frames = Frames(self.source, thp)
        self.caches: dict[tuple[str, int], AddressSpace] = {}
        self.left_out = UNDER_WAY.get(f"{capture.parent.name}/{capture.name}", "nothing")
        self.with_nodes = capture.name in ("basic", "thp")
        #: sparse shows neither smaps nor pages.
        self.with_pages = capture.name != "sparse"
        #: vmstat before a step, as captured and as computed.
        self.vmstat: dict[str, int] = {}
        self.counted: dict[str, int] = {}
        #: Addresses at which the last byte that was written is 0.
        self.zeros: set[int] = set()
        self.cpus_per_node = int(re.match(r"\dn(\d)c", capture.parent.name)[1])  # type: ignore[index]  # its name

    def run(self) -> list[Compared]:
        super().run()
        for subject in list(self.subjects.values()):
            exit_process(self.of(subject).process)
        return [
            one
            for one in self.compared
            if one.what.startswith(("smaps", "numa_maps", "pages", "faults", "thp_", "nr_anon"))
        ]

    def of(self, subject: Subject) -> Inhabited:
        assert isinstance(subject, Inhabited)
        return subject

    def _spawn(self, seen: Seen) -> Subject:
        mm = self._loaded(seen)
        process = Process(mm, PageTables(X86_64, self.table_pages), self.frames, lambda vma, numbers: numbers)
        subject = Inhabited(process, 0)
        for line, smaps in seen.smaps.items():
            if "Rss" in smaps:
                process.tables.fault(area(line).start)
                process.tables.fault(area(line).end - _PAGE)
        return subject

    def _loaded(self, seen: Seen) -> MmStruct:
        mm = super()._loaded(seen)
        for vma in mm.tree:
            if vma.file is not None:
                vma.file.pages = self._cache(vma.file)
        return mm

    def _file(self, step: Step, path: str, *, writable: bool) -> File:
        file = super()._file(step, path, writable=writable)
        file.pages = self._cache(file)
        file.unlinked = path == DEV_ZERO
        file.size = 0 if file.unlinked else 512
        return file

    def _cache(self, file: File) -> AddressSpace:
        key = (file.path, file.inode)
        if key not in self.caches:
            self.caches[key] = AddressSpace(SHMEM if file.path == DEV_ZERO else FILE)
        return self.caches[key]

    def _call_touch(self, subject: Subject, words: list[str], step: Step) -> int:
        if words[3] == "w" and len(words) == 4:
            start, length = subject.at(words)
            wrote = range(start, start + length, _PAGE)
            self.zeros -= set(wrote)
            self.zeros |= set(wrote[::256])
        return super()._call_touch(subject, words, step)

    def _call_holes(self, subject: Subject, words: list[str], step: Step) -> int:
        start, length = subject.at(words)
        stride = int(words[3]) * _PAGE
        self.effects += [Zap(at, at + _PAGE) for at in range(start, start + length, stride)]
        return 0

    def _call_mbind(self, subject: Subject, words: list[str], step: Step) -> int:
        super()._call_mbind(subject, words, step)
        if self.frames.thp is not None and words[-1] == "move" and words[4].isdigit():
            self._migrate(self.of(subject).process, *subject.at(words), int(words[4]))
        return 0

    def _migrate(self, process: Process, start: int, length: int, nid: int) -> None:
        """MPOL_MF_MOVE to one node: single pages move, huge ones that are queued are split first.

        Until 6.10 those are left where they are. Which pages of a split huge page hold nothing but zeros, and
        become the page of zeros then, is known from what was written.
        """
        thp = self.frames.thp
        assert thp is not None
        entries = process.all_entries(start, start + length)
        pfns = pfns_of(entries[entries != 0])
        if thp.rules.migration_splits_queued:
            for head in [head for head in thp.deferred if np.isin(pfns, head + np.arange(thp.nr)).any()]:
                split_huge_page(self.frames, head)
                for at in np.flatnonzero((pfns_of(entries) & -thp.nr) == head).tolist():
                    address = start + at * _PAGE
                    vma = process.mm.tree.lookup(address)
                    if address in self.zeros and vma is not None:
                        process.zap(vma, address, address + _PAGE)
                        fault_in(process, vma, address, address + _PAGE, write=False)
        single = pfns[~thp.compound(pfns)]
        self.source.migrate(single[self.frames.mapcount[single] > 0], nid)

    def _touch(self, subject: Subject, address: int, *, write: bool) -> None:
        touch(self.of(subject).process, address, address + _PAGE, write=write)

    def _call_stack(self, subject: Subject, words: list[str], step: Step) -> int:
        process = self.of(subject).process
        stack = next(vma for vma in process.mm.tree if vma.flags & VM_GROWSDOWN)
        before = process.minflt
        # of the program's own pages, what it has of its stack by now, and can write to
        for run in _by_area(self.steps[step.number - 1].subjects["p0"].pages)[stack.start]:
            first, count = map(int, run.split()[0].split("+"))
            low = stack.start + first * _PAGE
            touch(process, low, low + count * _PAGE, write=True)
        process.minflt = before
        return super()._call_stack(subject, words, step)

    def _touch_stack(self, subject: Subject, page: int) -> None:
        touch(self.of(subject).process, page, page + _PAGE, write=True)

    def _apply(self, subject: Subject) -> None:
        sharers = [self.of(one).process for one in self.subjects.values()]
        carry_out(self.of(subject).process, self.effects, sharers)

    def _forked(self, subject: Subject) -> Subject:
        return Inhabited(fork(self.of(subject).process, self.table_pages), self.of(subject).node)

    def _call_cpu(self, subject: Subject, words: list[str], step: Step) -> int:
        self.of(subject).node = int(words[0]) // self.cpus_per_node
        return 0

    def _call_movepages(self, subject: Subject, words: list[str], step: Step) -> int:
        start, length = subject.at(words)
        entries = self.of(subject).process.all_entries(start, start + length)
        self.source.migrate(pfns_of(entries[entries != 0]), int(words[3]))
        return 0

    def _compare(self, step: Step, name: str, seen: Seen) -> None:
        super()._compare(step, name, seen)
        if seen.died or name not in self.subjects or not seen.maps:
            return
        subject = self.of(self.subjects[name])
        subject.smaps |= seen.smaps
        self._compare_faults(step, name, subject, seen)
        if not self.with_pages:
            return
        mm = subject.mm
        numa = {line.split()[0]: line for line in seen.numa_maps}
        pages = _by_area(seen.pages)
        for vma in mm.tree:
            line = header(mm, vma)
            if area(line).name in ("[stack]", "[vdso]", "[vvar]", self.left_out) or vma.start < 1 << 32:
                continue
            captured = subject.smaps.get(line, {})
            for label, kb in numbers(subject.process, vma).items():
                if label in LABELS:
                    value = captured.get(label, "0 kB").strip()
                    self._note(step, name, f"smaps {label}", f"{line} {value}", f"{line} {kb} kB")
            self._compare_numa(step, name, subject, vma, numa[f"{vma.start:08x}"])
            runs = _runs(subject.process, vma, of_head=self.profile.series < (6, 11))
            seen_runs = pages.get(vma.start, [])
            if seen_runs[-1:] == ["…"]:
                runs = [*runs[: len(seen_runs) - 1], "…"]
            self._note(step, name, "pages", f"{line} {seen_runs}", f"{line} {runs}")

    def _call_exit(self, subject: Subject, words: list[str], step: Step) -> int:
        if self.frames.thp is not None:
            self.frames.thp.exit(self.of(subject).process)
        return super()._call_exit(subject, words, step)

    def _compare_vmstat(self, step: Step) -> None:
        """How vmstat has changed: events of huge pages, and mapped anonymous pages."""
        before, counted = dict(self.vmstat), dict(self.counted)
        self.vmstat |= step.vmstat
        self.counted["nr_anon_pages"] = int(((self.frames.mapcount > 0) & (self.frames.kind == ANON)).sum())
        thp = self.frames.thp
        if thp is not None:
            self.counted |= thp.events
            self.counted["nr_anon_transparent_hugepages"] = thp.nr_anon
        who, what = step.command[0], step.command[1]
        alone = who in self.subjects and self.of(self.subjects[who]).settled and what not in _OWN
        for name in self.vmstat if before else ():
            if name.startswith("thp_migration"):
                continue
            if (thp is not None and name.startswith(("thp_", "nr_anon_tr"))) or (
                name == "nr_anon_pages" and alone and self.with_pages is False
            ):
                changed = self.vmstat[name] - before.get(name, 0)
                self._note(step, "", name, changed, self.counted.get(name, 0) - counted.get(name, 0))

    def _compare_faults(self, step: Step, name: str, subject: Inhabited, seen: Seen) -> None:
        """Faults of a step, but of those in which the program has faults of its own."""
        captured = int(seen.status["minflt"]) + int(seen.status["majflt"])
        computed = subject.process.minflt
        before, mine = subject.faults
        subject.faults = captured, computed
        if subject.settled and step.command[1] != "fork":
            self._note(step, name, "faults", captured - before, computed - mine)
        # it is done with its own once it was told to touch something
        if step.command[1] == "fork":
            subject.settled = False
        elif step.command[0] == name and step.command[1] == "touch":
            subject.settled = True

    def _compare_numa(self, step: Step, name: str, subject: Inhabited, vma: Vma, captured: str) -> None:
        # what the policy is, and how it is written, is not computed here
        policy = re.sub(r" (file=|heap|stack|anon=|dirty=|mapped=).*", "", captured).split(" ", 1)[1]
        computed = numa_line(subject.process, vma, policy)
        captured = re.sub(r" active=\d+", "", captured)
        if not self.with_nodes:
            captured, computed = (re.sub(r" N\d+=\d+", "", line) for line in (captured, computed))
        self._note(step, name, "numa_maps", captured, computed)


def _by_area(lines: list[str]) -> dict[int, list[str]]:
    """Runs of alike pages by the start of their VMA, without nodes."""
    found: dict[int, list[tuple[int, int, str]]] = {}
    runs: list[tuple[int, int, str]] = []
    for line in lines:
        if match := re.match(r" (\d+)\+(\d+) (\S+) m(\d+)", line):
            what = f"{match[3].replace(',unevictable', '')} m{match[4]}"
            first, count = int(match[1]), int(match[2])
            if runs and runs[-1][2] == what and runs[-1][0] + runs[-1][1] == first:
                runs[-1] = (runs[-1][0], runs[-1][1] + count, what)
            else:
                runs.append((first, count, what))
        elif "more runs left out" in line:
            runs.append((-1, 0, ""))
        elif match := re.match(r"([0-9a-f]+)-", line):
            runs = found.setdefault(int(match[1], 16), [])
    return {
        start: ["…" if first < 0 else f"{first}+{count} {what}" for first, count, what in of]
        for start, of in found.items()
    }


def _runs(process: Process, vma: Vma, *, of_head: bool) -> list[str]:
    """The same of what is mapped here.

    `of_head`: pagemap says "exclusive" of a whole PMD entry as of its first page; since 6.11 of each page.
    """
    entries = process.all_entries(vma.start, vma.end)
    pfns, thp = pfns_of(entries), process.frames.thp
    asked = pfns.copy()
    huge = has(entries, HUGE)
    if thp is not None and of_head:
        asked[huge] &= -thp.nr
    parts = huge | thp.compound(pfns) if thp is not None else huge
    words = []
    for entry, zero, part, kind, count, alone in zip(
        entries.tolist(),
        has(entries, ZERO).tolist(),
        parts.tolist(),
        process.frames.kind[pfns].tolist(),
        process.frames.mapcount[pfns].tolist(),
        (process.frames.mapcount[asked] == 1).tolist(),
        strict=True,
    ):
        of_huge = ",thp" if part else ""
        if not entry & PRESENT:
            words.append("")
        elif zero:
            words.append(f"zero{of_huge} m0")
        else:
            words.append(f"{'anon' if kind == ANON else 'file'}{',excl' if alone else ''}{of_huge} m{count}")
    runs = []
    first = 0
    for at in range(1, len(words) + 1):
        if at == len(words) or words[at] != words[first]:
            if words[first]:
                runs.append(f"{first}+{at - first} {words[first]}")
            first = at
    return runs
