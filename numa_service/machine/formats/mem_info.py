"""Mem-Info: what a kernel prints at an OOM kill, at a failed page allocation, and for sysrq-m.

The text is that of ``dump_header``, ``warn_alloc``, ``show_mem`` and ``show_free_areas``, of any kernel since
2.6.30. It is found wherever it stands in a line, so that prefixes (syslog, journald, ``dmesg -T``, a mail's
``> ``) do not matter, and a zone's fields may go on in the next line, as mail programs wrap them. A report
may be cut: what is not printed is None. Numbers stay those printed: kB for fields of zones and nodes, pages
for the counters of the machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

from numa_service.machine.formats.gfp_eras import gfp_of_names, gfp_of_number
from numa_service.machine.input_files import split_lines
from numa_service.machine.notation import MAX_NUMNODES, parse_cpulist
from numa_service.machine.spec import SpecError

#: What made the kernel print.
OOM = "oom"
ALLOC_FAILURE = "alloc-failure"
SYSRQ = "sysrq"

_STARTS = (
    (re.compile(r"(\S{1,64}) invoked oom-killer:"), OOM),
    (re.compile(r"(\S{1,64}): page allocation failure[:.]"), ALLOC_FAILURE),
    (re.compile(r"(\S{1,64}): page allocation stalls for"), ALLOC_FAILURE),
    (re.compile(r"(\S{1,64}): vmalloc(?: error|: allocation failure)"), ALLOC_FAILURE),
    (re.compile(r"([Ss]ys[Rr]q ?): Show Memory", re.ASCII), SYSRQ),
)
_ZONES = "DMA32|DMA|Normal|HighMem|Movable|Device"
_ZONE = re.compile(rf"(?:\bNode (\d{{1,5}}) )?\b({_ZONES}) (free:\s?\d)", re.ASCII)
_NODE = re.compile(r"\bNode (\d{1,5}) (?=active_anon:)", re.ASCII)
_RESERVE = re.compile(r"\b(?:lowmem_reserve|protections)\[\]:((?: \d{1,12})+)", re.ASCII)
_FREE_LIST = re.compile(rf"(?:\bNode (\d{{1,5}}) )?\b({_ZONES}): (?=\d+\*\d+kB)", re.ASCII)
_BLOCKS = re.compile(r"\b(\d{1,12})\*(\d{1,8})kB(?: \(([A-Z]{1,8})\))?", re.ASCII)
#: The end of a free list, which a mail may have wrapped and quoted.
_LIST_SUM = re.compile(r"=[ >]+(\d{1,15})kB", re.ASCII)
_KB_FIELD = re.compile(r"\b([a-z_]+(?:\([a-z]+\))?): ?(\d{1,15})[kK]B", re.ASCII)
_COUNTER = re.compile(r"\b([A-Za-z_]+):(\d{1,15})\b(?![kK]B)", re.ASCII)
_TOTAL = re.compile(
    r"\b(\d{1,15}) (?:total pagecache pages|pages (RAM|HighMem/MovableOnly|reserved)\b)", re.ASCII
)
_SWAP = re.compile(r"\b(Free|Total) swap += (\d{1,15})kB", re.ASCII)
_VERSION = re.compile(r"(?:Not t|T)ainted\b.{0,160}?\s((\d{1,3})\.(\d{1,3})[.\d]*[-+~\w.]*)", re.ASCII)
_CPU = re.compile(
    r"\bCPU: (\d{1,5}) (?:UID: \d+ )?PID: (\d{1,8}) Comm: (.{1,64}?) (?:Kdump: \w+ )?(?:Not t|T)ainted",
    re.ASCII,
)
_OLD_CPU = re.compile(r"\bPid: (\d{1,8}), comm: (.{1,64}?) (?:Not t|T)ainted", re.ASCII)
_GFP = re.compile(r"\b(?:gfp_mask=|mode:)0x([0-9a-f]{1,8})(?:\(([A-Za-z_0-9|x]{1,400})\))?", re.ASCII)
_ORDER = re.compile(r"\border[=:](-?\d{1,2})\b|\bpage order (\d{1,2})\b", re.ASCII)
_NODEMASK = re.compile(r"\bnodemask=(\d[\d,-]*)", re.ASCII)
_MEMS = re.compile(r"\bcpuset=([^\s,]+)[ ,]+mems_allowed=(\d[\d,-]*)", re.ASCII)
_CONSTRAINT = re.compile(r"\bconstraint=CONSTRAINT_([A-Z_]+)", re.ASCII)
_KILLED = re.compile(r"(?:[Kk]illed|Kill) process (\d{1,8}) \(([^)]{1,64})\)", re.ASCII)
_TASK_HEAD = re.compile(r"\[ *pid *\] +(uid +tgid +total_vm.*)")
_TASK = re.compile(r"\[ *(\d{1,8})\]((?: +-?\d{1,15}){3,12})(?: +(\S.{0,63}))?")
_MOST_TASKS = 1 << 16
_MOST_ORDERS = 16
#: Most lines of others between two of a report.
_LONGEST_PAUSE = 5000
#: A kernel's line has at most some 1000 characters; a log may join several.
_LONGEST_LINE = 8192
#: What is in every line of a report, and in one that a report may begin with: only such are looked at.
_WORTH = re.compile(
    r"[kK]B|_reserve\[|pages |pagecache|swap|ainted|gfp_|mode:|order|nodemask|allowed|constraint=|[Kk]ill"
    r"|\[ *\d+\] +-?\d|_anon:|_file:|free:|slab|unevictable:|mapped:|pid"
)
_BEGINS = re.compile(r"oom-killer:|page allocation|vmalloc|Show Memory|Mem-Info:| free:| active_anon:")


@dataclass(frozen=True, slots=True)
class Task:
    """One row of the task table; `columns` are its numbers by the names in the table's head (``rss`` …)."""

    pid: int
    name: str
    columns: dict[str, int]


@dataclass(slots=True)
class ReportedZone:
    """One zone as printed."""

    nid: int
    name: str
    #: Fields by name ("free", "min", "isolated(anon)" …), in kB.
    kb: dict[str, int] = field(default_factory=dict)
    #: Pages kept from requests by the index of their highest zone.
    lowmem_reserve: tuple[int, ...] | None = None
    #: Free blocks by order, and the letters of the migratetypes that have some; None: the list is not there.
    blocks: tuple[int, ...] | None = None
    types: tuple[str, ...] = ()
    #: What the list ends with, in kB: it is counted later than ``free``.
    list_sum_kb: int | None = None


@dataclass(slots=True)
class Request:
    """The request that failed, as far as it is printed."""

    kind: str | None = None
    #: The command that asked, and its CPU and pid.
    comm: str = ""
    cpu: int | None = None
    pid: int | None = None
    #: Blocks of 2^order pages; -1: the kill was asked for by hand (sysrq-f).
    order: int | None = None
    #: As printed: ``0x201da``, or with names ``0xcc0(GFP_KERNEL)``.
    gfp_text: str = ""
    #: With this project's bits; None: not printed.
    gfp: int | None = None
    #: Names of flags that are not known here.
    unknown_gfp: tuple[str, ...] = ()
    #: Nodes that its policy, and its cpuset, allow; None: not printed, or all.
    nodemask: tuple[int, ...] | None = None
    mems_allowed: tuple[int, ...] | None = None
    cpuset: str = ""
    #: "MEMORY_POLICY", "CPUSET", "MEMCG", "NONE", or empty.
    constraint: str = ""
    #: vmalloc() found no range of addresses, which has nothing to do with pages.
    no_addresses: bool = False


@dataclass(slots=True)
class Report:
    """One report."""

    request: Request = field(default_factory=Request)
    #: As printed: ``6.1.1-arch1-1``; empty if not there.
    kernel: str = ""
    version: tuple[int, int] | None = None
    zones: list[ReportedZone] = field(default_factory=list)
    #: Fields of nodes, by nid, in kB.
    nodes: dict[int, dict[str, int]] = field(default_factory=dict)
    #: Counters of the whole machine by lower-case name, in pages ("free", "slab_reclaimable" …).
    counters: dict[str, int] = field(default_factory=dict)
    #: "RAM", "HighMem/MovableOnly", "reserved" and "pagecache", in pages.
    totals: dict[str, int] = field(default_factory=dict)
    #: "Free" and "Total", in kB.
    swap_kb: dict[str, int] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    #: Names of those that were killed.
    killed: list[str] = field(default_factory=list)
    #: kB of a page.
    page_kb: int = 4
    #: Reports in the text after this one.
    others: int = 0

    def pages(self, zone: ReportedZone, name: str) -> int | None:
        """A field of a zone in pages; None if it is not printed."""
        kb = zone.kb.get(name)
        return None if kb is None else kb // self.page_kb

    @property
    def has_highmem(self) -> bool:
        """Whether it is a 32-bit machine with high memory."""
        names = {zone.name for zone in self.zones}
        high = self.totals.get("HighMem/MovableOnly", 0) > 0
        return "HighMem" in names or (high and names <= {"DMA", "Normal"})

    @property
    def zone_names(self) -> tuple[str, ...]:
        """The zone types of that kernel, in the order of the columns of ``lowmem_reserve[]``."""
        if self.has_highmem:
            return ("DMA", "Normal", "HighMem", "Movable")
        return ("DMA", "DMA32", "Normal", "Movable", "Device")


def is_mem_info(text: str) -> bool:
    """Whether a text has the line of a zone in it."""
    return _ZONE.search(text) is not None and "min:" in text


def parse_mem_info(text: str, source: str) -> Report:
    """The first report of a text. SpecError if there is no line of a zone in it, or one is there twice."""
    reader = _Reader(source)
    for number, line in enumerate(split_lines(text.replace("#012", "\n"), source), 1):
        reader.line(number, line)
    return reader.finish()


class _Reader:
    """Reads lines into a report."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.report = Report()
        self._zone: dict[tuple[int, str], ReportedZone] = {}
        #: Where fields of the lines to come go.
        self._fields: dict[str, int] | None = None
        self._last: ReportedZone | None = None
        self._list: ReportedZone | None = None
        self._blocks: list[tuple[int, int, str]] = []
        #: The end of the last line, if a free list goes on in the next one.
        self._unfinished = ""
        self._columns: list[str] = []
        self._begun = False
        self._over = False
        #: Number of the last line that only a report has.
        self._seen = 0

    def line(self, number: int, line: str) -> None:
        """Read one line."""
        line = line[:_LONGEST_LINE]
        if not (_BEGINS if self._over or not self._begun else _WORTH).search(line):
            return
        self._begun = True
        if self._begins(line):
            return
        if (
            self._read_zone(number, line)
            or self._read_list(number, line)
            or self._read_reserve(line)
            or self._read_task(line)
        ):
            self._seen = number
            return
        self._read_fields(line)
        # what comes long after the zones is the rest of the log, of which only further reports count
        self._over = bool(self._zone) and number > self._seen + _LONGEST_PAUSE

    def _begins(self, line: str) -> bool:
        """Read the line that a report begins with; says whether the line is of no interest."""
        if not self._over and "Mem-Info:" in line and self._zone:
            self._over = True
            self.report.others += 1
        for pattern, kind in _STARTS:
            if match := pattern.search(line):
                if self._zone and not self._over:
                    self._over = True
                if self._over:
                    self.report.others += 1
                    return True
                request = self.report.request
                request.kind, request.comm = kind, match[1]
                request.no_addresses = "vm_struct allocation failed" in line
        if not self._over:
            self._read_request(line)
        return self._over

    def _read_request(self, line: str) -> None:
        request = self.report.request
        if (match := _GFP.search(line)) and request.gfp is None:
            request.gfp_text = f"0x{match[1]}" + (f"({match[2]})" if match[2] else "")
            if match[2]:
                request.gfp, request.unknown_gfp = gfp_of_names(match[2])
            else:
                request.gfp = int(match[1], 16)  # its bits are known when the version is
        if request.kind and request.order is None and (match := _ORDER.search(line)):
            request.order = int(match[1] or match[2])
            if request.order == -1:
                request.kind = SYSRQ
        if match := _NODEMASK.search(line):
            request.nodemask = self._nids(match[1])
        if match := _MEMS.search(line):
            request.cpuset, request.mems_allowed = match[1], self._nids(match[2])
        if match := _CONSTRAINT.search(line):
            request.constraint = match[1]
        if match := _CPU.search(line):
            request.cpu, request.pid, request.comm = int(match[1]), int(match[2]), match[3]
        elif match := _OLD_CPU.search(line):
            request.pid, request.comm = int(match[1]), match[2]
        if not self.report.kernel and (match := _VERSION.search(line)):
            self.report.kernel, self.report.version = match[1], (int(match[2]), int(match[3]))
        if match := _KILLED.search(line):
            name = match[2]
            if name not in self.report.killed and len(self.report.killed) < 64:
                self.report.killed.append(name)

    def _nids(self, text: str) -> tuple[int, ...]:
        try:
            return parse_cpulist(text.rstrip(",-"))
        except ValueError as error:
            raise SpecError(f"{self.source}: nodes {text[:40]!r}: {error}") from None

    def _nid(self, number: int, text: str | None) -> int:
        nid = int(text or 0)
        if nid >= MAX_NUMNODES:
            raise SpecError(f"{self.source}:{number}: node {nid}: there are at most {MAX_NUMNODES} nodes")
        return nid

    def _read_zone(self, number: int, line: str) -> bool:
        match = _ZONE.search(line)
        if match is None:
            if match := _NODE.search(line):
                self._fields = self.report.nodes.setdefault(self._nid(number, match[1]), {})
                self._take_fields(line[match.end() :])
            return match is not None
        key = self._nid(number, match[1]), match[2]
        if key in self._zone:
            raise SpecError(f"{self.source}:{number}: node {key[0]} zone {key[1]}: a second time")
        zone = self._zone[key] = ReportedZone(*key)
        self.report.zones.append(zone)
        self._fields, self._last = zone.kb, zone
        self._take_fields(line[match.start(3) :])
        return True

    def _take_fields(self, text: str) -> None:
        assert self._fields is not None
        for name, value in _KB_FIELD.findall(text):
            self._fields.setdefault(name, int(value))

    def _read_list(self, number: int, line: str) -> bool:
        match = _FREE_LIST.search(line)
        if match:
            key = self._nid(number, match[1]), match[2]
            # a zone that only has its free list is none: its marks are missing
            self._list = self._zone.get(key) or ReportedZone(*key)
            self._fields, self._blocks = None, []
            line = line[match.end() :]
        if self._list is None:
            return False
        found = _BLOCKS.findall(line)
        total = _LIST_SUM.search(self._unfinished + line)
        self._unfinished = "= " if line.rstrip().endswith("=") else ""
        if not found and not total:
            self._list = None  # it is cut off: what there is of it is no list
            return False
        self._blocks += [(int(count), int(kb), types) for count, kb, types in found]
        if total:
            self._end_list(number, int(total[1]))
        return True

    def _end_list(self, number: int, sum_kb: int) -> None:
        zone, self._list = self._list, None
        assert zone is not None
        sizes = [kb for _, kb, _ in self._blocks]
        if not sizes or len(sizes) > _MOST_ORDERS or any(b != 2 * a for a, b in pairwise(sizes)):
            raise SpecError(f"{self.source}:{number}: zone {zone.name}: sizes of free blocks do not double")
        if zone.blocks is None:
            self.report.page_kb = sizes[0]
            zone.blocks = tuple(count for count, _, _ in self._blocks)
            zone.types = tuple(types for _, _, types in self._blocks)
            zone.list_sum_kb = sum_kb

    def _read_reserve(self, line: str) -> bool:
        match = _RESERVE.search(line)
        if match and self._last is not None and self._last.lowmem_reserve is None:
            self._last.lowmem_reserve = tuple(map(int, match[1].split()))
            self._fields = None
        return match is not None

    def _read_task(self, line: str) -> bool:
        if match := _TASK_HEAD.search(line):
            self._columns = match[1].split()
            return True
        if not self._columns or len(self.report.tasks) >= _MOST_TASKS:
            return False
        match = _TASK.search(line)
        if match:
            columns = dict(zip(self._columns, map(int, match[2].split()), strict=False))
            self.report.tasks.append(Task(int(match[1]), (match[3] or "").strip(), columns))
        return match is not None

    def _read_fields(self, line: str) -> None:
        """Read totals, swap, counters, and fields of a zone that go on in a new line."""
        report = self.report
        for match in _TOTAL.finditer(line):
            report.totals.setdefault(match[2] or "pagecache", int(match[1]))
        for name, kb in _SWAP.findall(line):
            report.swap_kb.setdefault(name, int(kb))
        if self._fields is not None:
            self._take_fields(line)
        elif not self._zone:
            for name, pages in _COUNTER.findall(line):
                report.counters.setdefault(name.lower(), int(pages))

    def finish(self) -> Report:
        """The report, with what only the whole of it tells."""
        report, request = self.report, self.report.request
        if not report.zones:
            raise SpecError(f"{self.source}: no line of a zone ('Node 0 Normal free:… min:…'): no Mem-Info")
        free_kb = sum(zone.kb.get("free", 0) for zone in report.zones)
        if all(zone.blocks is None for zone in report.zones) and report.counters.get("free"):
            ratio = free_kb / report.counters["free"]
            report.page_kb = min((4, 8, 16, 64), key=lambda kb: abs(kb - ratio))
        if request.gfp is not None and "(" not in request.gfp_text:
            request.gfp = gfp_of_number(request.gfp, report.version)
        return report
