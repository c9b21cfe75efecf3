"""Captured scripts of mmap, fork, mprotect, mbind, mremap, brk …, done again: the VMAs are computed.

Taken over from a capture are: the program as it was loaded (VMAs of the first step, with their flags), the
device and inode of a file that is mapped, whether mbind and homenode succeeded (that is the policies' part,
and that of pages), and that a fault took place.

Computed are: every address, each line of maps after each step, flags of changed VMAs as smaps shows them,
sizes in status and statm, and errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fidelity.process_steps import Area, Seen, Step, area, steps

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.anon_vma import anon_vma_prepare
from numa_service.mm.mmap.attributes import mbind_range
from numa_service.mm.mmap.brk import brk
from numa_service.mm.mmap.effects import Effect, Populate, Protect
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.fork import dup_mm, vma_needs_copy
from numa_service.mm.mmap.limits import RLIM_INFINITY, Committed, Limits
from numa_service.mm.mmap.madvise import madvise
from numa_service.mm.mmap.mlock import mlock, munlock
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.mmap import (
    MAP_ANONYMOUS,
    MAP_FIXED_NOREPLACE,
    MAP_LOCKED,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    mmap,
)
from numa_service.mm.mmap.mprotect import mprotect
from numa_service.mm.mmap.mremap import MREMAP_MAYMOVE, mremap
from numa_service.mm.mmap.munmap import exit_mmap, munmap
from numa_service.mm.mmap.pgtables import PageTables, Unlimited
from numa_service.mm.mmap.rules import PAGE_SHIFT, X86_64, rules_of
from numa_service.mm.mmap.stack import expand_stack
from numa_service.mm.mmap.vma import DEV_ZERO, File, Vma
from numa_service.mm.profile import profile_of_version
from numa_service.procfs.pid_maps import map_lines
from numa_service.procfs.pid_status import statm, status_numbers

_PAGE = 1 << PAGE_SHIFT
_PROT = {"r": 1, "w": 2, "x": 4}


@dataclass(slots=True)
class Compared:
    """One thing of a step: what the kernel had, and what is computed."""

    step: str
    #: The process, or "" of the machine.
    subject: str
    what: str
    captured: str
    computed: str


class Subject:
    """A process of a script: its address space, and its regions by name."""

    def __init__(self, mm: MmStruct, tables: PageTables) -> None:
        self.mm = mm
        self.tables = tables
        self.regions: dict[str, tuple[int, int]] = {}
        #: The stack pointer's page: where a stack that grows is touched next.
        self.stack_low = 0

    def at(self, words: list[str]) -> tuple[int, int]:
        """Address and length of `NAME START COUNT`."""
        start, _ = self.regions[words[0]]
        return start + int(words[1]) * _PAGE, int(words[2]) * _PAGE


class Replay:
    """A capture's script, done again step by step."""

    def __init__(self, capture: Path) -> None:
        scenario = json.loads((capture / "scenario.json").read_text())
        self.profile = profile_of_version(scenario["kernel_version"])
        self.rules = rules_of(self.profile)
        self.thp = capture.name == "thp"
        self.steps = steps(capture)
        if not self.steps[0].subjects["p0"].smaps:
            # the same program in another run: what smaps says of it as it was loaded
            other = steps(capture.with_name("basic"))[0].subjects["p0"]
            self.steps[0].subjects["p0"].smaps = other.smaps
        #: Pages of shared memory without reserve that were touched, by inode and number.
        self.unreserved: set[tuple[int, int]] = set()
        #: What the other processes of the machine were promised, in kB, and their page tables.
        self.others_kb = self.others_tables = 0
        self.committed = Committed(total_ram=1 << 18)
        self.table_pages = Unlimited()
        self.subjects: dict[str, Subject] = {}
        self.compared: list[Compared] = []
        self.effects: list[Effect] = []

    def run(self) -> list[Compared]:
        """Everything that was compared."""
        for step in self.steps:
            self._do(step)
            if "nr_page_table_pages" in step.vmstat:
                counted = sum(
                    one.tables.nr_page_table_pages(counts_pud=self.rules.counts_pud)
                    for one in self.subjects.values()
                )
                if step.number == 0:
                    self.others_tables = step.vmstat["nr_page_table_pages"] - counted
                computed = self.others_tables + counted
                self._note(step, "", "nr_page_table_pages", step.vmstat["nr_page_table_pages"], computed)
            self._compare_vmstat(step)
            if self.subjects and step.number == 0:
                self.others_kb = step.meminfo["Committed_AS"] - (self.committed.pages << 2)
            elif "Committed_AS" in step.meminfo:
                computed = self.others_kb + (self.committed.pages << 2)
                self._note(step, "", "Committed_AS", step.meminfo["Committed_AS"], computed)
            for name, seen in sorted(step.subjects.items()):
                self._compare(step, name, seen)
        return self.compared

    def _do(self, step: Step) -> None:
        who, *words = step.command
        if who == "spawn":
            self.subjects[f"p{words[0]}"] = self._spawn(step.subjects[f"p{words[0]}"])
            return
        if who not in self.subjects:
            return
        call: Callable[[Subject, list[str], Step], int] | None = getattr(self, f"_call_{words[0]}", None)
        if call is None:
            return
        subject = self.subjects[who]
        self.effects = []
        try:
            value, number = call(subject, words[1:], step), 0
        except Errno as error:
            value, number = -1, error.number
        self._apply(subject)
        if words[0] == "exit":
            self.subjects.pop(who).tables.release()
            return
        self._note(step, who, "errno", step.errno if step.rc < 0 else 0, number)
        if words[0] in ("map", "mremap", "brk") and not number:
            self._note(step, who, "address", f"{step.address:x}", f"{value:x}")

    def _note(self, step: Step, subject: str, what: str, captured: object, computed: object) -> None:
        self.compared.append(Compared(step.name, subject, what, str(captured), str(computed)))

    # what a subject is told

    def _call_map(self, subject: Subject, words: list[str], step: Step) -> int:
        name, kind, pages, *rest = words
        length = int(pages) * _PAGE
        flags = MAP_PRIVATE if kind[1] == "p" else MAP_SHARED
        file, offset, hint, prot = None, 0, 0, 3
        if kind[0] == "f":
            path, first, *rest = rest
            offset = int(first) * _PAGE
            file = self._file(step, path, writable=kind[1] == "s")
        else:
            flags |= MAP_ANONYMOUS
            if kind[1] == "s":
                file = self._file(step, DEV_ZERO, writable=True)
        for word in rest:
            if word.startswith("at="):
                hint, flags = int(word[3:], 16), flags | MAP_FIXED_NOREPLACE
            elif word == "align":
                where, _ = mmap(
                    subject.mm, 0, length + (4 << 20), 0, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
                )
                munmap(subject.mm, where, length + (4 << 20))
                hint, flags = -(-where // (2 << 20)) * (2 << 20), flags | MAP_FIXED_NOREPLACE
            elif word.startswith("prot="):
                prot = sum(_PROT.get(letter, 0) for letter in word[5:])
            else:
                flags |= {"noreserve": MAP_NORESERVE, "populate": MAP_POPULATE, "locked": MAP_LOCKED}[word]
        address, effects = mmap(subject.mm, hint, length, prot, flags, file, offset)
        self.effects += effects
        subject.regions[name] = address, int(pages)
        return address

    def _file(self, step: Step, path: str, *, writable: bool) -> File:
        """An open file; its device and inode are those of the captured line."""
        known = {
            area(line).line for seen in self.steps[step.number - 1].subjects.values() for line in seen.maps
        }
        lines = [line for seen in step.subjects.values() for line in seen.maps]
        new = [found for found in map(area, lines) if found.name == path and found.line not in known]
        assert new, (step.name, path)
        major, minor = (int(part, 16) for part in new[0].device.split(":"))
        return File(path, major, minor, new[0].inode, writable=writable, shmem=path == DEV_ZERO)

    def _call_touch(self, subject: Subject, words: list[str], step: Step) -> int:
        start, _ = subject.at(words)
        stride = int(words[4]) if len(words) > 4 else 1
        for nth in range(int(words[2])):
            address = start + nth * stride * _PAGE
            self._touch(subject, address, write=words[3] == "w")
        return 0

    def _touch(self, subject: Subject, address: int, *, write: bool) -> None:
        if write or self._huge(subject, address):
            self._write(subject, address, address + _PAGE)
        subject.tables.fault(address, huge=self._huge(subject, address))
        self._charge_unreserved(subject, address)

    def _charge_unreserved(self, subject: Subject, address: int) -> None:
        """Shared memory without reserve is promised page by page, as it is faulted in (shmem_acct_block)."""
        vma = subject.mm.tree.lookup(address)
        if vma is None or vma.file is None or not (vma.file.shmem and vma.flags & vf.VM_NORESERVE):
            return
        page = (vma.file.inode, vma.pgoff + ((address - vma.start) >> PAGE_SHIFT))
        if page not in self.unreserved:
            self.unreserved.add(page)
            subject.mm.charge(1)
            vma.file.promised += 1

    def _huge(self, subject: Subject, address: int) -> bool:
        """Whether a first touch takes a huge page, for which even a read has an anon_vma."""
        vma = subject.mm.tree.lookup(address)
        low = address >> 21 << 21
        return self.thp and vma is not None and vma.start <= low and low + (2 << 20) <= vma.end

    def _write(self, subject: Subject, start: int, end: int) -> None:
        """Faults: what they do to VMAs is that private ones get an anon_vma."""
        for vma in subject.mm.tree.intersecting(start, end):
            if not vma.flags & vf.VM_SHARED and vma.flags & vf.VM_WRITE:
                anon_vma_prepare(subject.mm.tree, vma)

    def _call_stack(self, subject: Subject, words: list[str], step: Step) -> int:
        """Pages touched from the top down; where they are depends on the program, and is taken over."""
        line = next(found for found in map(area, step.subjects["p0"].maps) if found.name == "[stack]")
        for nth in reversed(range(int(words[0]))):
            self._touch_stack(subject, line.start + nth * _PAGE)
        return 0

    def _touch_stack(self, subject: Subject, page: int) -> None:
        expand_stack(subject.mm, page + 8)
        subject.tables.fault(page)

    def _call_mprotect(self, subject: Subject, words: list[str], step: Step) -> int:
        prot = sum(_PROT.get(letter, 0) for letter in words[3])
        mprotect(subject.mm, *subject.at(words), prot, self.effects)
        return 0

    def _call_munmap(self, subject: Subject, words: list[str], step: Step) -> int:
        self.effects += munmap(subject.mm, *subject.at(words))
        return 0

    def _call_madvise(self, subject: Subject, words: list[str], step: Step) -> int:
        madvise(subject.mm, *subject.at(words), int(words[3]), self.effects)
        return 0

    def _call_mlock(self, subject: Subject, words: list[str], step: Step) -> int:
        self.effects += mlock(subject.mm, *subject.at(words))
        return 0

    def _call_mlock2(self, subject: Subject, words: list[str], step: Step) -> int:
        mlock(subject.mm, *subject.at(words), 1)
        return 0

    def _call_munlock(self, subject: Subject, words: list[str], step: Step) -> int:
        munlock(subject.mm, *subject.at(words))
        return 0

    def _call_mremap(self, subject: Subject, words: list[str], step: Step) -> int:
        start, pages = subject.regions[words[0]]
        flags = MREMAP_MAYMOVE if "maymove" in words else 0
        address, effects = mremap(subject.mm, start, pages * _PAGE, int(words[1]) * _PAGE, flags)
        self.effects += effects
        subject.regions[words[0]] = address, int(words[1])
        return address

    def _call_brk(self, subject: Subject, words: list[str], step: Step) -> int:
        old = subject.mm.brk
        new, effects = brk(subject.mm, old + int(words[0]) * _PAGE)
        self.effects += effects
        assert new == old + int(words[0]) * _PAGE
        if new > old:
            subject.regions["H"] = old, int(words[0])
        return old

    def _call_mbind(self, subject: Subject, words: list[str], step: Step) -> int:
        if step.rc < 0:
            raise Errno(step.errno, "taken over")
        policy = None if words[3] == "default" else (words[3], words[4], None)
        mbind_range(subject.mm, *subject.at(words), policy)
        return 0

    def _call_homenode(self, subject: Subject, words: list[str], step: Step) -> int:
        if step.rc < 0:
            raise Errno(step.errno, "taken over")
        start, length = subject.at(words)
        for vma in subject.mm.tree.intersecting(start, start + length):
            if isinstance(vma.policy, tuple):
                low, high = max(vma.start, start), min(vma.end, start + length)
                mbind_range(subject.mm, low, high - low, (*vma.policy[:2], words[3]))
        return 0

    def _call_fork(self, subject: Subject, words: list[str], step: Step) -> int:
        child = self._forked(subject)
        child.regions = dict(subject.regions)
        self.subjects[f"p{words[0]}"] = child
        return 0

    def _forked(self, subject: Subject) -> Subject:
        child = Subject(dup_mm(subject.mm), PageTables(X86_64, self.table_pages))
        for vma in subject.mm.tree:
            if vma_needs_copy(vma) and not vma.flags & vf.VM_DONTCOPY:
                subject.tables.copy_to(child.tables, vma.start, vma.end)
        return child

    def _call_exit(self, subject: Subject, words: list[str], step: Step) -> int:
        self.effects += exit_mmap(subject.mm)
        return 0

    def _apply(self, subject: Subject) -> None:
        """What a call left to be done to page tables, and pages that it faulted in."""
        subject.tables.apply(self.effects)
        for effect in self.effects:
            if isinstance(effect, Protect):
                subject.tables.split_huge(effect.start, effect.end)
            elif isinstance(effect, Populate):
                self._write(subject, effect.start, effect.end)
                for address in range(effect.start, effect.end, _PAGE):
                    subject.tables.fault(address, huge=self._huge(subject, address))

    def _compare_vmstat(self, step: Step) -> None:
        """What vmstat says of pages."""

    # the program, and what is seen

    def _spawn(self, seen: Seen) -> Subject:
        subject = Subject(self._loaded(seen), PageTables(X86_64, self.table_pages))
        for line, numbers in seen.smaps.items():
            # the tables of a program's parts, all of which are smaller than a table
            if "Rss" in numbers:
                found = area(line)
                subject.tables.fault(found.start)
                subject.tables.fault(found.end - _PAGE)
        return subject

    def _loaded(self, seen: Seen) -> MmStruct:
        """The program's VMAs as the kernel that was captured has loaded it."""
        limits = Limits(memlock=RLIM_INFINITY, cap_ipc_lock=True, cap_sys_admin=True, cap_sys_rawio=True)
        mm = MmStruct(X86_64, self.rules, self.committed, limits)
        program: File | None = None
        found = [area(line) for line in seen.maps]
        for one in found:
            numbers = seen.smaps[one.line]
            flags = vf.flags_of(numbers["VmFlags"])
            if one.name.startswith("/"):
                major, minor = (int(part, 16) for part in one.device.split(":"))
                program = program or File(one.name, major, minor, one.inode, writable=False)
            special = one.name if one.name in ("[vvar]", "[vdso]") else None
            of_file = one.name.startswith("/")
            pgoff = (one.offset if of_file else one.start) >> PAGE_SHIFT
            vma = Vma(one.start, one.end, flags, pgoff, program if of_file else None, special=special)
            mm.tree.insert(vma)
            mm.stat_account(flags, vma.pages)
            if flags & vf.VM_ACCOUNT:
                mm.charge(vma.pages)
            if "Anonymous" in numbers:
                anon_vma_prepare(mm.tree, vma)
        self._program(mm, found)
        mm.counters.hiwater_vm = int(seen.status["VmPeak"].split()[0]) >> 2
        return mm

    def _program(self, mm: MmStruct, found: list[Area]) -> None:
        text = next(one for one in found if "x" in one.allowed and one.name.startswith("/"))
        mm.start_code, mm.end_code = text.start, text.end
        heap = [one for one in found if one.name == "[heap]"][-1]
        mm.start_brk, mm.brk = heap.start, heap.end
        stack = next(one for one in found if one.name == "[stack]")
        mm.start_stack = stack.end - 256

    def _compare(self, step: Step, name: str, seen: Seen) -> None:
        if seen.died or name not in self.subjects or not seen.maps:
            return
        mm = self.subjects[name].mm
        computed = list(map_lines(mm))
        for nth in range(max(len(computed), len(seen.maps))):
            pair = [lines[nth] if nth < len(lines) else "nothing" for lines in (seen.maps, computed)]
            self._note(step, name, "maps", *pair)
        unnamed = self.rules.unnamed_flags
        flags = {
            line: vf.flags_text(vma.flags, unnamed=unnamed)
            for line, vma in zip(computed, mm.tree, strict=True)
        }
        for line, numbers in seen.smaps.items():
            captured = numbers["VmFlags"].strip()
            self._note(step, name, "VmFlags", captured, flags.get(line, "nothing").strip())
        tables = self.subjects[name].tables
        computed_kb = status_numbers(mm, tables, (0, 0, 0), 0)
        for label in ("VmPeak", "VmSize", "VmLck", "VmData", "VmStk", "VmExe", "VmLib", "VmPTE"):
            self._note(step, name, label, seen.status[label], f"{computed_kb[label]} kB")
        # all but what is resident
        numbers = [one.split() for one in (seen.status["statm"], statm(mm, (0, 0, 0)))]
        sizes = [" ".join((one[0], *one[3:])) for one in numbers]
        self._note(step, name, "statm", *sizes)
