"""Captured /proc/vmallocinfo, replayed: areas are asked for again, and where they come to lie is computed.

Taken over from a capture are: what was asked for (size, caller, kind of area, node of areas that lie on one
node), which areas are gone in the next section, the distances of percpu areas, and the size of a module's
file. The order of requests is that of addresses, which is that of time as long as nothing is freed.

Computed are: the address of each area, its end with the guard page, holes that alignment leaves, the array of
page pointers as an area of its own, pages by node of interleaved areas, and the text of the whole file.

Areas that came and went before a section was captured left holes that it does not explain. Where a captured
area lies behind such a hole, the hole is filled until the section is done, and the area counts as
`BEHIND_HOLE`, not as computed. Stacks are searched with an alignment of four pages, and which hole such a
search finds depends on the shape of the tree, and that on all that the kernel had done before. One that lies
lower than the search here finds is put there, where it has to be free, and counts as `OTHER_HOLE`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from numa_service.mm.profile import profile_of_version
from numa_service.mm.vmalloc.modules import module_alloc
from numa_service.mm.vmalloc.pages import NUMA_NO_NODE, Interleave
from numa_service.mm.vmalloc.percpu import pcpu_get_vm_areas
from numa_service.mm.vmalloc.rules import (
    PAGE_SHIFT,
    PAGE_SIZE,
    AddressLayout,
    i386_layout,
    rules_of,
    x86_64_layout,
)
from numa_service.mm.vmalloc.stacks import ThreadStacks
from numa_service.mm.vmalloc.vmalloc import Vmalloc
from numa_service.mm.vmalloc.vmap_area import VmapArea
from numa_service.procfs.vmallocinfo import areas

_LINE = re.compile(r"0x([0-9a-f]+)-0x([0-9a-f]+) +(\d+) (.+)")
_STACK = re.compile(r"(kernel_clone|fork_idle)\+")
_MODULE = re.compile(r"load_module\+")


@dataclass(frozen=True, slots=True)
class Line:
    """A captured area."""

    text: str
    start: int
    end: int
    caller: str
    pages: int
    nodes: tuple[tuple[int, int], ...]
    phys: int
    words: frozenset[str]

    @property
    def kind(self) -> str:
        """What the counts call it."""
        if self.caller.startswith("pcpu_get_vm_areas"):
            return "percpu chunk"
        if _STACK.match(self.caller):
            return "stack"
        if _MODULE.match(self.caller):
            return "module"
        return next((word for word in ("ioremap", "vmap") if word in self.words), "vmalloc")


def parse_line(text: str) -> Line | None:
    """One line; None for an area that waits for a purge."""
    match = _LINE.fullmatch(text.rstrip("\n"))
    assert match, text
    start, end, size, rest = int(match[1], 16), int(match[2], 16), int(match[3]), match[4]
    assert end - start == size, text
    if rest == "unpurged vm_area":
        return None
    caller, *_ = re.split(r" (?=pages=|phys=|vmalloc|vmap|ioremap)", rest, maxsplit=1)
    words = rest[len(caller) :].split()
    values = dict(word.split("=") for word in words if "=" in word)
    return Line(
        text=text,
        start=start,
        end=end,
        caller=caller,
        pages=int(values.get("pages", "0")),
        nodes=tuple((int(key[1:]), int(n)) for key, n in values.items() if re.fullmatch(r"N\d+", key)),
        phys=int(values.get("phys", "0"), 16),
        words=frozenset(words),
    )


@dataclass(frozen=True, slots=True)
class Section:
    """The file at one moment."""

    name: str
    #: Areas in use; those that wait for a purge are left out.
    lines: tuple[Line, ...]


def sections(capture: Path) -> list[Section]:
    """Every section of a capture."""
    parts = re.split(r"^== (.*)\n", (capture / "vmallocinfo.txt").read_text(), flags=re.M)[1:]
    found = []
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        lines = [parse_line(line) for line in text.splitlines(keepends=True)]
        found.append(Section(name, tuple(line for line in lines if line is not None)))
    return found


class Pages:
    """A page source with endless pages: `local` is the node of who asks for none."""

    def __init__(self) -> None:
        self.local = 0
        self._given = 0

    def alloc_pages(self, node: int, order: int, count: int) -> Sequence[int]:
        """Pages of the node asked for."""
        first = self._given
        self._given += count << order
        nid = self.local if node == NUMA_NO_NODE else node
        return [nid << 40 | first + (nth << order) for nth in range(count)]

    def free_pages(self, pfns: Sequence[int], order: int) -> None:
        """Nothing is kept."""

    def page_to_nid(self, pfn: int) -> int:
        """The node that a page was made for."""
        return pfn >> 40


#: The address is computed from what was asked for alone.
COMPUTED = "computed"
#: It is, once holes of areas that came and went were filled.
BEHIND_HOLE = "behind a hole"
#: It is free and aligned, but the search finds a higher one.
OTHER_HOLE = "another hole"


@dataclass(slots=True)
class Counts:
    """What agreed."""

    #: Areas by moment ("boot" or "later"), kind, and how their addresses came about.
    placed: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    #: Areas of page pointers that came with another area.
    page_arrays: int = 0
    #: Interleaved areas whose pages divide among the nodes, and those where the first node in turn was taken
    #: over.
    interleaved: int = 0
    interleaved_from: int = 0
    #: Sections whose every line, in order, is as captured.
    sections: int = 0
    #: What differs, in words.
    different: list[str] = field(default_factory=list)


def _layout(capture: Path, first: Section) -> AddressLayout:
    scenario = json.loads((capture / "scenario.json").read_text())
    if scenario.get("arch") == 32:
        asked = re.search(r"\bvmalloc=(\d+)M\b", scenario["kernel_cmdline"])
        ram = scenario.get("mem") or sum(node["mem"] for node in scenario["nodes"])
        return i386_layout(ram << 20 >> PAGE_SHIFT, int(asked[1]) << 20 if asked else None)
    if "nokaslr" in scenario["kernel_cmdline"]:
        return x86_64_layout()
    # KASLR is taken over: the first area of each range is where that range begins
    base = x86_64_layout()
    modules = min(line.start for line in first.lines if line.start >= base.modules_vaddr)
    return x86_64_layout(min(line.start for line in first.lines), modules - base.modules_vaddr)


class Replay:
    """A capture's areas, asked for again section by section."""

    def __init__(self, capture: Path) -> None:
        self.capture = capture
        self.sections = sections(capture)
        scenario = json.loads((capture / "scenario.json").read_text())
        self.numa = scenario.get("arch") != 32
        self.nodes = range(len(scenario.get("nodes") or [0]))
        spec = scenario.get("smp_spec") or scenario.get("smp")
        cpus = int(str(spec or sum(node.get("cpus", 0) for node in scenario["nodes"])).split(",")[0])
        self.layout = _layout(capture, self.sections[0])
        self.pages = Pages()
        self.vmalloc = Vmalloc(
            self.layout,
            rules_of(profile_of_version(scenario["kernel_version"])),
            self.pages,
            online_nodes=len(self.nodes),
            possible_cpus=cpus,
            totalram_pages=1 << 18,
        )
        self.stacks = ThreadStacks(self.vmalloc, cpus) if self.layout.vmap_stack else None
        self.file_pages = _file_sizes(capture)
        self.counts = Counts()
        self._moment = "boot"
        self._fillings: list[VmapArea] = []
        self._stand_ins: dict[str, int] = {}

    def run(self) -> Counts:
        """Replay all sections and count what agrees."""
        before: set[str] = set()
        for section in self.sections:
            for text in sorted(before - {line.text for line in section.lines}):
                line = parse_line(text)
                assert line is not None
                self._remove(line)
            self.vmalloc.areas.reclaim_and_purge_vmap_areas()
            buffer = self._file_buffer(section)
            self._allocate([line for line in section.lines if line.text not in before])
            if buffer is not None:
                self.vmalloc.vfree(buffer)
            for area in self._fillings:
                self.vmalloc.areas.free_vmap_area(area)
            self._fillings.clear()
            self.vmalloc.areas.reclaim_and_purge_vmap_areas()
            self._compare(section)
            before = {line.text for line in section.lines}
            self._moment = "later"
        return self.counts

    def _compare(self, section: Section) -> None:
        captured = "".join(line.text for line in section.lines)
        computed = areas(self.vmalloc.snapshot(), numa=self.numa)
        if captured == computed:
            self.counts.sections += 1
            return
        here, there = computed.splitlines(), captured.splitlines()
        for text in sorted(set(here) ^ set(there)):
            self.counts.different.append(
                f"{section.name} {'captured' if text in there else 'computed'} {text}"
            )
        if set(here) == set(there):
            self.counts.different.append(f"{section.name} has its lines in another order")

    def _file_buffer(self, section: Section) -> int | None:
        """A module's file while it is loaded: an area too, among the others where they share a range."""
        _, what, *module = section.name.split("-", 2)
        if what != "insmod" or self.layout.modules_vaddr != self.layout.vmalloc_start:
            return None
        return self.vmalloc.vmalloc(self.file_pages[module[0]], "load_module").addr

    def _remove(self, line: Line) -> None:
        area = self.vmalloc.find_vm_area(line.start)
        if area is not None and area.caller == line.caller:
            if line.kind == "ioremap":
                self.vmalloc.iounmap(line.start)
            else:
                self.vmalloc.vfree(line.start)

    def _allocate(self, new: list[Line]) -> None:
        """The new areas of a section, by address. An array of page pointers comes with the area it is for."""
        parents = {
            (line.caller, _array_pages(line, self.layout)): line for line in new if "vpages" in line.words
        }
        chunk = [line for line in new if line.kind == "percpu chunk"]
        done: set[str] = set()
        for line in sorted(new, key=lambda line: line.start):
            parent = parents.get((line.caller, line.pages))
            if line.text in done or line in chunk:
                continue
            if parent is not None and parent is not line:
                if self._in_modules(parent) and not self._in_modules(line):
                    self._allocate_one(parent)
                    done.add(parent.text)
                    self.counts.page_arrays += 1
                else:
                    # it comes with a later area: until then the place is taken
                    self._stand_ins[parent.text] = self.vmalloc.areas.take(line.start, line.end).va_start
                    self.counts.page_arrays += 1
                continue
            self._allocate_one(line)
        if chunk:
            base = min(line.start for line in chunk)
            areas = pcpu_get_vm_areas(
                self.vmalloc,
                [line.start - base for line in chunk],
                [line.end - line.start for line in chunk],
                PAGE_SIZE if self.layout.huge_order is None else PAGE_SIZE << self.layout.huge_order,
                chunk[0].caller,
            )
            right = sum(area.addr == line.start for area, line in zip(areas, chunk, strict=True))
            self.counts.placed[self._moment, "percpu chunk", COMPUTED] += right

    def _in_modules(self, line: Line) -> bool:
        inside = self.layout.modules_vaddr <= line.start < self.layout.modules_end
        return inside and (line.kind == "module" or self.layout.modules_vaddr != self.layout.vmalloc_start)

    def _allocate_one(self, line: Line) -> None:
        stand_in = self._stand_ins.pop(line.text, None)
        if stand_in is not None:
            area = self.vmalloc.areas.find_vmap_area(stand_in)
            assert area is not None
            self.vmalloc.areas.free_vmap_area(area)
            self.vmalloc.areas.purge_vmap_area_lazy()
        how = COMPUTED
        while (addr := self._ask(line)) < line.start:
            # back, and the hole is not to be had
            self.vmalloc.vfree(addr)
            self.vmalloc.areas.reclaim_and_purge_vmap_areas()
            hole = self.vmalloc.areas.free.enclosing(addr)
            assert hole is not None
            end = min(hole.va_end, line.start)
            self._fillings.append(self.vmalloc.areas.take(addr, end))
            how = BEHIND_HOLE
        if addr > line.start and line.kind == "stack":
            self.vmalloc.vfree(addr)
            self.vmalloc.areas.reclaim_and_purge_vmap_areas()
            addr = self._ask(line, only_there=True)
            how = OTHER_HOLE
        if addr == line.start:
            self.counts.placed[self._moment, line.kind, how] += 1
            self._count_nodes(line)

    def _ask(self, line: Line, *, only_there: bool = False) -> int:
        """Ask for what a captured line was asked for; the address that it gets, if need be where it was."""
        size = line.end - line.start - PAGE_SIZE
        if line.kind == "ioremap":
            return self.vmalloc.ioremap(line.phys, size, line.caller)
        if line.kind == "vmap":
            return self.vmalloc.vmap(size >> PAGE_SHIFT, line.caller).addr
        policy = None
        self.pages.local = line.nodes[0][0] if line.nodes else 0
        if len(line.nodes) > 1:
            policy = Interleave(self.nodes, previous=self._first_in_turn(line) - 1)
        if only_there:
            area = self.vmalloc.vmalloc(size, line.caller, start=line.start, end=line.end)
            return area.addr
        if line.kind == "stack" and self.stacks is not None:
            return self.stacks.alloc(0, line.caller, policy=policy).addr
        if self._in_modules(line):
            return module_alloc(self.vmalloc, size, line.caller, policy=policy).addr
        return self.vmalloc.vmalloc(size, line.caller, policy=policy).addr

    def _first_in_turn(self, line: Line) -> int:
        """The node that an interleaved area began with: the first of those that gave a page more."""
        pages = dict(line.nodes)
        most = max(pages.values())
        turn = [pages.get(node, 0) == most for node in self.nodes]
        return next((node for node in self.nodes if turn[node] and not turn[node - 1]), 0)

    def _count_nodes(self, line: Line) -> None:
        if len(line.nodes) > 1:
            if len({pages for _, pages in line.nodes}) == 1 and len(line.nodes) == len(self.nodes):
                self.counts.interleaved += 1
            else:
                self.counts.interleaved_from += 1


def _array_pages(line: Line, layout: AddressLayout) -> int:
    return -(-line.pages * layout.pointer // PAGE_SIZE)


def _file_sizes(capture: Path) -> dict[str, int]:
    lines = (capture / "module-files.txt").read_text().split("\n")
    return {Path(line.split()[1]).stem: int(line.split()[0]) for line in lines if line}


def vmalloc_used_kb(capture: Path) -> Iterator[tuple[str, int]]:
    """VmallocUsed of each section of a capture's meminfo, in kB."""
    name = ""
    for line in (capture / "meminfo.txt").read_text().splitlines():
        if line.startswith("== "):
            name = line[3:]
        elif line.startswith("VmallocUsed:"):
            yield name, int(line.split()[1])
