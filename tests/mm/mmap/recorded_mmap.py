"""Replays recorded calls on address spaces (``tests/testdata/mmap``) on the model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from mm.mmap.huge_pool import Pool
from mm.recorded_calls import recorded

from numa_service.mm.mmap import brk, hugetlb, madvise, mlock, mmap, mprotect, mremap, msync, munmap
from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.carry_out import carry_out, exit_process, fork
from numa_service.mm.mmap.effects import Effect
from numa_service.mm.mmap.errnos import Errno, Sigbus
from numa_service.mm.mmap.fault import touch
from numa_service.mm.mmap.frames import FILE, SHMEM, AddressSpace, Frames, Nids, Numbered, Pfns
from numa_service.mm.mmap.hugetlb_fault import truncate
from numa_service.mm.mmap.limits import (
    OVERCOMMIT_ALWAYS,
    OVERCOMMIT_GUESS,
    OVERCOMMIT_NEVER,
    Committed,
    Limits,
)
from numa_service.mm.mmap.mincore import mincore
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.pgtables import PageTables, Unlimited
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.remap_file_pages import remap_file_pages
from numa_service.mm.mmap.rules import PAGE_SHIFT, PAGE_SIZE, X86_64, rules_of
from numa_service.mm.mmap.vma import DEV_ZERO, File, Vma
from numa_service.mm.profile import Profile
from numa_service.procfs.pid_smaps import numa_line, numbers
from numa_service.procfs.pid_status import status_numbers

RECORDINGS = Path(__file__).parents[2] / "testdata" / "mmap"
#: Where scripts map, and how far what is printed goes.
HERE, WINDOW = 0x1000_0000_0000, 1 << 40
_ALL = (1 << 64) - 1
_UNITS = {"p": PAGE_SIZE, "h": 2 << 20}
_NAMES = {
    "A": HERE,
    "T": X86_64.task_size,
    "max": _ALL,
    "MAP_HUGE_64KB": 16 << hugetlb.MAP_HUGE_SHIFT,
    "PROT_NONE": 0,
    **{
        name: value
        for module in (hugetlb, madvise, mlock, mmap, mprotect, mremap, msync)
        for name, value in vars(module).items()
        if re.match("(MADV|MAP|MCL|MLOCK|MREMAP|MS|PROT)_", name)
    },
}
#: Pages of the file that the scripts map.
_FILE_PAGES = 16
_OVERCOMMIT = {"0": OVERCOMMIT_GUESS, "1": OVERCOMMIT_ALWAYS, "2": OVERCOMMIT_NEVER}
_AMOUNTS = ("Rss", "Anonymous", "Shared_Hugetlb", "Private_Hugetlb", "Locked")
_SIZES = ("KernelPageSize", "MMUPageSize")
#: Flags that the letters of maps say already.
_SAID = {"rd", "wr", "ex", "sh", "mr", "me", "ms"}


def on_node_0(vma: Vma, wanted: Pfns) -> Nids:
    """Every page comes from node 0."""
    return np.zeros(len(wanted), np.int16)


class Replay:
    """Processes that make recorded calls."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.rules = rules_of(profile)
        self.frames = Frames(Numbered())
        self.committed = Committed(total_ram=0)
        self.processes: dict[str, Process] = {}
        self.files: dict[str, File] = {}
        self.huge_files: dict[str, File] = {}
        #: Segments of shared memory by number, and where they are attached.
        self.segments: dict[int, File] = {}
        self.segments_made = 0
        self.pool = Pool()
        self.names: dict[str, int] = {}
        #: What was told of each process last.
        self.told: dict[str, str] = {}
        #: The last process that was told of, to which "same" refers.
        self.program = ""
        self.pages = AddressSpace(SHMEM)
        pfns = self.frames.alloc(np.zeros(_FILE_PAGES, np.int16), SHMEM)
        self.pages.add(np.arange(_FILE_PAGES), pfns)
        self.frames.belong(pfns, self.pages, np.arange(_FILE_PAGES))

    def answer(self, call: str, recording: str) -> str:
        """The model's answer to a call; what it has no part in is answered as recorded."""
        words = call.split()
        who = words.pop(0) if re.fullmatch(r"p\d", words[0]) else "p0"
        name, *arguments = words
        made: Callable[..., str] | None = getattr(self, f"call_{name}", None)
        if call == "read /proc/meminfo Commit":
            # what others of the machine were promised
            self.committed.pages = int(recording.split("Committed_AS:")[1].split()[0]) // 4
        if name == "begin":
            self.begin(recording)
            return recording
        if made is None or (name == "read" and "numa_maps" not in call):
            return recording
        process = self.processes[who]
        try:
            result = made(process, *arguments)
        except Errno as error:
            carry_out(process, error.effects, self.processes.values())
            result = f"-1 {error.number}"
        return result + self.state(who)

    # a process as it was recorded

    def begin(self, recording: str) -> None:
        """A new process p0, with the areas that the recorded one had."""
        for process in self.processes.values():
            exit_process(process)
        self.processes, self.files, self.told = {}, {}, {}
        self.program = recording if recording != "same" else self.program
        recording = self.program
        lines, state = recording.split(" ; ", 1)
        *areas, numbers_ = lines.removeprefix("=>").split(" |")
        bounds = [int(word, 16) for word in numbers_.split()]
        self.committed = Committed(total_ram=150_000)
        root = Limits(cap_ipc_lock=True, cap_sys_admin=True, cap_sys_rawio=True)
        mm = MmStruct(X86_64, self.rules, self.committed, root)
        mm.start_code, mm.end_code, mm.start_stack, mm.start_data, mm.end_data, mm.start_brk, mm.brk = bounds
        self.names["B"] = mm.brk
        mm.huge_pools = {self.pool.shift: self.pool}
        for area in areas:
            mm.tree.insert(_vma(area.split()))
        for vma in mm.tree:
            mm.stat_account(vma.flags, vma.pages)
            if vma.flags & vf.VM_ACCOUNT:
                self.committed.pages += vma.pages
        tables = PageTables(X86_64, Unlimited())
        self.processes["p0"] = Process(mm, tables, self.frames, on_node_0)
        assert self.state("p0") == f" ; {state}"

    def state(self, who: str) -> str:
        """What has changed of what the process has mapped from HERE on, and of its sizes."""
        if who not in self.processes:
            return ""
        process = self.processes[who]
        areas = [_shown(process, vma) for vma in process.mm.tree.intersecting(HERE, HERE + WINDOW)]
        sizes = status_numbers(process.mm, process.tables, process.rss, process.hiwater_rss)
        four = " ".join(str(sizes[name] // 4) for name in ("VmSize", "VmLck", "VmData", "HugetlbPages"))
        now = f"{', '.join(areas)} ; {four}" if areas else f"; {four}"
        before, self.told[who] = self.told.get(who), now
        return f" ; {now}" if now != before else ""

    def done(self, process: Process, effects: list[Effect], result: int = 0) -> str:
        """Carry out what a call leaves to be done."""
        carry_out(process, effects, self.processes.values())
        return f"{result:#x}" if result else "0"

    def number(self, word: str) -> int:
        """An argument, as the recorder reads it."""
        value = 0
        for part in word.split("|"):
            total = 0
            for sign, term in re.findall(r"([+-]?)([^+-]+)", part):
                known = self.names | _NAMES
                one = known[term] if term in known else _plain(term)
                total += -one if sign == "-" else one
            value |= total & _ALL
        return value

    # what a process is told

    def call_limit(self, process: Process, name: str, value: str) -> str:
        """setrlimit()."""
        field = {"AS": "address_space", "DATA": "data", "STACK": "stack", "MEMLOCK": "memlock"}[name]
        process.mm.limits = replace(process.mm.limits, **{field: self.number(value)})
        return "0"

    def call_user(self, process: Process) -> str:
        """No capabilities any more."""
        process.mm.limits = replace(
            process.mm.limits, cap_ipc_lock=False, cap_sys_admin=False, cap_sys_rawio=False
        )
        return "0"

    def call_open(self, process: Process, name: str, path: str, flags: str) -> str:
        """The file of the scripts, or what cannot be mapped."""
        if path.startswith("/huge/"):
            self.files[name] = self._huge_file(path, flags)
            return "0"
        file = File(path, 0, 2, 1, shmem=True, size=_FILE_PAGES, pages=self.pages)
        file.readable, file.writable = flags != "O_WRONLY", flags != "O_RDONLY"
        file.mappable = path == "/tmp/f"
        self.files[name] = file
        return "0"

    def _huge_file(self, path: str, flags: str) -> File:
        file = File(path, 0, 15, 1, readable=True, writable="O_RDWR" in flags)
        known = self.huge_files.setdefault(path, file)
        if known is file:
            hugetlb.make_huge(file, self.pool)
        file.huge, file.pages = known.huge, known.pages
        return file

    def call_write(self, process: Process, path: str, value: str) -> str:
        """Sysctls that calls look at."""
        name = path.rsplit("/", 1)[1]
        if name == "overcommit_memory":
            self.committed.mode = _OVERCOMMIT[value]
        elif name == "overcommit_kbytes":
            self.committed.kbytes = int(value)
        elif name == "overcommit_ratio":
            self.committed.kbytes, self.committed.ratio = 0, int(value)
        elif name == "max_map_count":
            for one in self.processes.values():
                one.mm.limits = replace(one.mm.limits, max_map_count=int(value))
        elif path == "/proc/sys/vm/nr_hugepages" and value.isdecimal():
            self.pool.set_max_huge_pages(int(value))
        elif path == "/proc/sys/vm/nr_overcommit_hugepages" and value.isdecimal():
            self.pool.overcommit = int(value)
        return "0 0"

    def call_fork(self, process: Process, name: str) -> str:
        """fork()."""
        self.processes[name] = fork(process, Unlimited())
        self.told[name] = self.told["p0"]
        return "0 0"

    def call_exit(self, process: Process) -> str:
        """The end of a process."""
        name = next(name for name, one in self.processes.items() if one is process)
        exit_process(self.processes.pop(name))
        return ""

    def call_touch(self, process: Process, at: str, count: str, how: str, step: str) -> str:
        """Accesses one after the other, until a signal."""
        start = self.number(at)
        for nth in range(int(count)):
            page = (start + nth * self.number(step)) & ~(PAGE_SIZE - 1)
            try:
                touch(process, page, page + PAGE_SIZE, write=how == "w")
            except Sigbus:
                return f"{nth} SIGBUS 2"  # BUS_ADRERR
            except Errno:
                # SEGV_ACCERR, SEGV_MAPERR
                return f"{nth} SIGSEGV {2 if process.mm.tree.lookup(page) else 1}"
        return count

    def call_pool(self, process: Process) -> str:
        """Huge pages of the machine, and free ones of its nodes."""
        free = [len(pool.free) for pool in self.pool.nodes.values()]
        return f"{' '.join(map(str, self.pool.counts))} ; {' '.join(map(str, free))}"

    def call_read(self, process: Process, path: str, *words: str) -> str:
        """numa_maps, of what is mapped from HERE on."""
        assert path == "/proc/self/numa_maps"
        areas = process.mm.tree.intersecting(HERE, HERE + WINDOW)
        return "".join(f"{numa_line(process, vma, 'default')} | " for vma in areas).rstrip()

    def call_ftruncate(self, process: Process, name: str, size: str) -> str:
        """ftruncate() of a file of huge pages."""
        file, length = self.files[name], self.number(size)
        if length % (1 << self.pool.shift):
            return "-1 22"
        restores = self.rules.zap_restores_huge
        truncate(self.frames, file, length >> self.pool.shift, restores=restores)
        return "0"

    # calls

    def call_shmget(self, process: Process, key: str, size: str, flags: str) -> str:
        """shmget(), of huge pages."""
        length = hugetlb.align(self.number(size), self.pool.shift)
        if not length:
            return "-1 22"
        file = File("/SYSV00000000 (deleted)", 0, 15, 7)
        hugetlb.make_huge(file, self.pool, size=length, reserve="SHM_NORESERVE" not in flags)
        number = self.segments_made
        self.segments_made += 1
        self.segments[number] = file
        self.names["shmid"] = number
        return self.done(process, [], number)

    def call_shmat(self, process: Process, number: str, at: str, flags: str) -> str:
        """shmat()."""
        address, file = self.number(at), self.segments[self.number(number)]
        if address % (1 << 12):
            return "-1 22"
        length = file.huge.size << self.pool.shift
        flags_ = mmap.MAP_SHARED | mmap.MAP_FIXED
        if process.mm.tree.intersecting(address, address + length):
            return "-1 22"
        address, effects = mmap.mmap(process.mm, address, length, 3, flags_, file)
        return self.done(process, effects, address)

    def call_shmdt(self, process: Process, at: str) -> str:
        """shmdt()."""
        vma = process.mm.tree.lookup(self.number(at))
        if vma is None:
            return "-1 22"
        return self.done(process, munmap.munmap(process.mm, vma.start, vma.end - vma.start))

    def call_shmctl(self, process: Process, number: str, command: str, buffer: str) -> str:
        """shmctl(IPC_RMID): the segment ends with its last mapping."""
        file = self.segments.pop(self.number(number))
        file.unlinked = True
        if not file.mappings:
            truncate(self.frames, file, 0, restores=False)
        return "0"

    def call_mmap(self, process: Process, *words: str) -> str:
        """mmap()."""
        hint, length, prot, flags = (self.number(word) for word in words[:4])
        file = self.files.get(words[4])
        if flags & mmap.MAP_ANONYMOUS:
            file = File(DEV_ZERO, 0, 1, 7, shmem=True, pages=AddressSpace(SHMEM), unlinked=True)
            if flags & hugetlb.MAP_HUGETLB:
                file = File(hugetlb.ANON_HUGEPAGE, 0, 15, 7, unlinked=True)
        address, effects = mmap.mmap(process.mm, hint, length, prot, flags, file, self.number(words[5]))
        return self.done(process, effects, address)

    def call_munmap(self, process: Process, *words: str) -> str:
        """munmap()."""
        return self.done(process, munmap.munmap(process.mm, *map(self.number, words)))

    def call_mprotect(self, process: Process, *words: str) -> str:
        """mprotect()."""
        return self._with_effects(process, mprotect.mprotect, *words)

    def call_madvise(self, process: Process, *words: str) -> str:
        """madvise()."""
        return self._with_effects(process, madvise.madvise, *words)

    def _with_effects(self, process: Process, call: Callable[..., None], *words: str) -> str:
        effects: list[Effect] = []
        try:
            call(process.mm, *map(self.number, words), effects)
        except Errno as error:
            error.effects = effects
            raise
        return self.done(process, effects)

    def call_mremap(self, process: Process, *words: str) -> str:
        """mremap()."""
        address, effects = mremap.mremap(process.mm, *map(self.number, words))
        return self.done(process, effects, address)

    def call_brk(self, process: Process, word: str) -> str:
        """brk()."""
        address, effects = brk.brk(process.mm, self.number(word))
        return self.done(process, effects, address)

    def call_mlock(self, process: Process, *words: str) -> str:
        """mlock()."""
        return self.done(process, mlock.mlock(process.mm, *map(self.number, words)))

    def call_mlock2(self, process: Process, *words: str) -> str:
        """mlock2()."""
        return self.call_mlock(process, *words)

    def call_munlock(self, process: Process, *words: str) -> str:
        """munlock()."""
        mlock.munlock(process.mm, *map(self.number, words))
        return "0"

    def call_mlockall(self, process: Process, word: str) -> str:
        """mlockall()."""
        return self.done(process, mlock.mlockall(process.mm, self.number(word)))

    def call_munlockall(self, process: Process) -> str:
        """munlockall()."""
        mlock.munlockall(process.mm)
        return "0"

    def call_msync(self, process: Process, *words: str) -> str:
        """msync()."""
        msync.msync(process.mm, *map(self.number, words))
        return "0"

    def call_mincore(self, process: Process, start: str, length: str, vector: str) -> str:
        """mincore(), with what it writes."""
        found: list[bool] = []
        result = "0"
        try:
            mincore(process, self.number(start), self.number(length), found)
        except Errno as error:
            result = f"-1 {error.number}"
        if vector == "0":
            return "-1 14" if found else result
        return " ".join([result, "->", *("1" if one else "0" for one in found)])

    def call_remap_file_pages(self, process: Process, *words: str) -> str:
        """remap_file_pages()."""
        return self.done(process, remap_file_pages(process.mm, *map(self.number, words)))


def replayed(name: str, kernel: str, profile: Profile) -> list[tuple[str, str, str]]:
    """(call, recorded answer, the model's answer) of a recording."""
    replay = Replay(profile)
    return [
        (call, answer, replay.answer(call, answer)) for call, answer in recorded(name, kernel, RECORDINGS)
    ]


def _plain(term: str) -> int:
    return int(term[:-1], 0) * _UNITS[term[-1]] if term[-1] in _UNITS else int(term, 0)


def _vma(words: list[str]) -> Vma:
    """A line of /proc/PID/maps as a VMA."""
    start, end = (int(part, 16) for part in words[0].split("-"))
    path = words[5] if len(words) > 5 else ""
    bits = {"r": vf.VM_READ, "w": vf.VM_WRITE, "x": vf.VM_EXEC}
    flags = sum(bits.get(letter, 0) for letter in words[1]) | vf.VM_MAY_ACCESS
    file = special = None
    if path.startswith("/"):
        device = [int(part, 16) for part in words[3].split(":")]
        shmem = path == DEV_ZERO
        file = File(path, *device, int(words[4]), writable=shmem, shmem=shmem)
        file.pages = AddressSpace(SHMEM if shmem else FILE)
    elif path in ("[vvar]", "[vdso]", "[vvar_vclock]"):
        special = path
    if words[1].endswith("s"):
        flags |= vf.VM_SHARED | vf.VM_MAYSHARE
    elif flags & vf.VM_WRITE:
        flags |= vf.VM_ACCOUNT
    if path == "[stack]":
        flags |= vf.VM_GROWSDOWN
    if special:
        flags |= vf.VM_DONTEXPAND
    offset = int(words[2], 16) >> PAGE_SHIFT
    return Vma(start, end, flags, offset if file else start >> PAGE_SHIFT, file, special=special)


def _shown(process: Process, vma: Vma) -> str:
    """An area as the recorder prints it."""
    flags = vf.flags_text(vma.flags, unnamed=process.mm.rules.unnamed_flags).split()
    letters = "".join(
        letter if vma.flags & bit else "-"
        for letter, bit in (("r", vf.VM_READ), ("w", vf.VM_WRITE), ("x", vf.VM_EXEC))
    )
    parts = [f"{(vma.start - HERE) >> PAGE_SHIFT}+{vma.pages}"]
    parts.append(letters + ("s" if vma.flags & vf.VM_MAYSHARE else "p"))
    for label, kb in numbers(process, vma).items():
        if (label in _AMOUNTS and kb) or (label in _SIZES and kb != 4):
            parts.append(f"{label}={kb}")
    return " ".join([*parts, *(flag for flag in flags if flag not in _SAID)])
