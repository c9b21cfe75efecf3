"""Replays recorded policy calls (``tests/testdata/mempolicy``) on the model.

What the kernel does besides policies (areas that split and merge, pages that are there) is done page by page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from numa_service.mm.mempolicy.calls import (
    BAD_MASK,
    PAGE_SIZE,
    Area,
    Caller,
    Nodes,
    Pointer,
    UserMask,
    get_mempolicy,
    mbind,
    set_mempolicy,
    set_mempolicy_home_node,
)
from numa_service.mm.mempolicy.choice import PolicyZone, policy_nodemask
from numa_service.mm.mempolicy.interleave import interleave_nid, interleave_nodes, weight_of
from numa_service.mm.mempolicy.moves import NUMA_NO_NODE, PageState, Target, migrate_pages, move_pages
from numa_service.mm.mempolicy.nodemask import mask_of
from numa_service.mm.mempolicy.policy import (
    INTERLEAVES,
    CallError,
    Mempolicy,
    Mode,
    mpol_equal,
    mpol_rebind_policy,
)
from numa_service.mm.mempolicy.text import mpol_to_str, parse_weight
from numa_service.mm.profile import Profile
from numa_service.mm.zonelist import Topology, build_all_zonelists

RECORDINGS = Path(__file__).parents[1] / "testdata" / "mempolicy"
_DISTANCES = [[10, 20, 30, 20], [20, 10, 20, 30], [30, 20, 10, 20], [20, 30, 20, 10]]
#: Node 3 has no memory. ZONE_DMA32 is the highest zone of every node that has some.
_MEMORY, _NODES = 0b0111, Nodes(online=0b1111, memory=0b0111, nr_node_ids=4)
_ZONE = PolicyZone(policy_zone=1, zone_movable=3, n_high_memory=_MEMORY)
_WEIGHTS = "/sys/kernel/mm/mempolicy/weighted_interleave/node"


def recorded(name: str, kernel: str, folder: Path = RECORDINGS) -> Iterator[tuple[str, str]]:
    """The calls of a recording, each with the answer of one kernel."""
    call = ""
    for line in (folder / f"{name}.txt").read_text().splitlines():
        if line.startswith("  "):
            of, answer = line.split("=>", 1)
            if of.strip() == kernel:
                yield call, answer.strip()
            continue
        call, there, answer = line.partition(" =>")
        if there and not line.startswith("#"):
            yield call, answer.strip()


@dataclass
class Page:
    """A page of an address space."""

    policy: Mempolicy | None = None
    nid: int = NUMA_NO_NODE
    #: vm_pgoff and on: its place, by which it is interleaved.
    place: int = 0


@dataclass
class Replay:
    """A process that makes recorded calls."""

    profile: Profile
    caller: Caller = field(init=False)
    #: Pages by their number.
    pages: dict[int, Page] = field(default_factory=dict)
    starts: dict[str, tuple[int, int]] = field(default_factory=dict)
    weights: dict[int, int] = field(default_factory=dict)
    cpu: int = 0
    #: numa_hit and interleave_hit by node, and pgmigrate_success.
    hits: dict[int, int] = field(default_factory=dict)
    interleaved: dict[int, int] = field(default_factory=dict)
    moved: int = 0

    def __post_init__(self) -> None:
        self.caller = Caller(self.profile, _NODES, _MEMORY, cap_sys_nice=True)
        topology = Topology(
            nids=(0, 1, 2, 3),
            populated={nid: (1,) if _MEMORY >> nid & 1 else () for nid in range(4)},
            has_cpus=dict.fromkeys(range(4), True),
            distance=lambda a, b: _DISTANCES[a][b],
        )
        self.order = {nid: it.fallback for nid, it in build_all_zonelists(topology, self.profile).items()}

    # the address space

    @property
    def areas(self) -> list[Area]:
        """The areas: neighbours with one policy are one."""
        areas = list[Area]()
        for number in sorted(self.pages):
            page, at = self.pages[number], number * PAGE_SIZE
            if areas and areas[-1].end == at and mpol_equal(areas[-1].policy, page.policy):
                areas[-1] = areas[-1]._replace(end=at + PAGE_SIZE)
            else:
                areas.append(Area(at, at + PAGE_SIZE, page.policy))
        return areas

    def node_of(self, addr: int) -> int:
        """The node of a page; one that is missing becomes the zero page, which is on node 0."""
        return max(self.pages[addr // PAGE_SIZE].nid, 0)

    def misplaced(self, start: int, end: int, nodes: int) -> bool:
        """Whether a page in the range is on none of the nodes."""
        return any(
            page.nid >= 0 and not nodes >> page.nid & 1
            for number, page in self.pages.items()
            if start <= number * PAGE_SIZE < end
        )

    def node_for(self, page: Page) -> int:
        """The node on which a page is allocated, there being memory everywhere."""
        policy = page.policy or self.caller.policy
        # memory is plentiful: a wish is granted, and the first zone of the walk serves
        if policy is not None and policy.mode in INTERLEAVES:
            place, bits = np.array([page.place], dtype=np.uint64), self.profile.interleave_offset_bits
            nid, mask = int(interleave_nid(policy, place, self.weights, bits)[0]), None
            if policy.mode is Mode.INTERLEAVE:
                self.interleaved[nid] = self.interleaved.get(nid, 0) + 1
        else:
            choice = policy_nodemask(policy, self.cpu, 3, self.caller.mems_allowed, _ZONE)
            nid, mask = choice.nid, choice.nodemask
        allowed = self.caller.mems_allowed & (_MEMORY if mask is None else mask)
        got = next(ref.nid for ref in self.order[nid] if allowed >> ref.nid & 1)
        self.hits[got] = self.hits.get(got, 0) + 1
        return got

    # what the recorder does besides calls

    def map(self, name: str, pages: str, kind: str = "", *, answer: str) -> str:
        """Make an area where the recorded one was."""
        first = int(answer.split()[-1])
        self.starts[name] = first, int(pages)
        for at in range(int(pages)):
            self.pages[first + at] = Page(place=at if kind == "shared" else first + at)
        return answer

    def inode(self, name: str, *, answer: str) -> str:
        """Note the inode of shared memory: pages are interleaved by it, too."""
        first, count = self.starts[name]
        for number in range(first, first + count):
            self.pages[number].place += int(answer.split()[4])
        return answer

    def touch(self, name: str, start: str, count: str) -> str:
        """Fault pages in."""
        first = self.starts[name][0] + int(start)
        for number in range(first, first + int(count)):
            page = self.pages[number]
            if page.nid < 0:
                page.nid = self.node_for(page)
        return ""

    def where(self, name: str, start: str, count: str) -> str:
        """The nodes of pages."""
        first = self.starts[name][0] + int(start)
        nids = [self.pages[number].nid for number in range(first, first + int(count))]
        return "".join("." if nid < 0 else str(nid) for nid in nids)

    def numa_maps(self, name: str) -> str:
        """The policies of areas, with pages by node."""
        first, count = self.starts[name]
        rows = list[str]()
        inside = [number for number in range(first, first + count) if number in self.pages]
        areas = {n: i for i, area in enumerate(self.areas) for n in range(*_numbers(area))}
        for _, group in groupby(inside, key=lambda number: areas[number]):
            numbers = [*group]
            page, nids = self.pages[numbers[0]], [self.pages[n].nid for n in numbers]
            policy = page.policy if page.policy is not None else self.caller.policy
            counts = [f"N{nid}={nids.count(nid)}" for nid in sorted({*nids}) if nid >= 0]
            rows.append(" ".join([f"+{numbers[0] - first}", mpol_to_str(policy), *counts]))
        return " | ".join(rows)

    def read(self, path: str, *, answer: str) -> str:
        """The weight of a node, or a node's numastat."""
        if path.startswith(_WEIGHTS):
            known = "WEIGHTED_INTERLEAVE" in self.profile.mempolicies
            return f"{weight_of(self.weights, int(path[-1]))} |" if known else "-1 2"
        return answer

    def write(self, path: str, value: str) -> str:
        """Weights, and nodes of the cpuset."""
        if path.startswith(_WEIGHTS):
            if "WEIGHTED_INTERLEAVE" not in self.profile.mempolicies:
                return "-1 2"
            try:
                self.weights[int(path[-1])] = parse_weight(value)
            except CallError as error:
                return f"-1 {error.errno}"
        elif path.endswith("cpuset.mems"):
            spans = [part.split("-") for part in value.split(",")]
            self.rebind(mask_of(n for span in spans for n in range(int(span[0]), int(span[-1]) + 1)))
        return "0 0"

    def rebind(self, mems: int) -> None:
        """The cpuset allows other nodes: policies are bound anew, and pages moved (cgroup v2)."""
        old = self.caller.mems_allowed
        policy = mpol_rebind_policy(self.caller.policy, mems)
        for page in self.pages.values():
            page.policy = mpol_rebind_policy(page.policy, mems)
        # cgroup v2 migrates memory, by migrate_pages' rules
        whole = replace_caller(self.caller, mems_allowed=old | mems, policy=policy)
        plan = migrate_pages(whole, Target(old | mems), 64, UserMask((old,)), UserMask((mems,)))
        for source, dest in plan.pairs:
            for page in self.pages.values():
                if page.nid == source:
                    page.nid = dest
        self.caller = replace_caller(self.caller, mems_allowed=mems, policy=policy)

    def fill(self, count: str) -> str:
        """Pages that belong to no area, from the task's policy."""
        policy = self.caller.policy
        if policy is not None and policy.mode in INTERLEAVES:
            _, turn = interleave_nodes(policy, self.caller.turn, self.weights, int(count))
            self.caller = replace_caller(self.caller, turn=turn)
        return ""

    def set_cpu(self, cpu: str) -> str:
        """Run on another CPU: node N has CPU N."""
        self.cpu = int(cpu)
        return "0"

    def user(self) -> str:
        """Give root up."""
        self.caller = replace_caller(self.caller, cap_sys_nice=False)
        return "0"

    # calls

    def set_mempolicy(self, mode: str, nmask: str, maxnode: str) -> str:
        """set_mempolicy()."""
        policy, turn = set_mempolicy(self.caller, _int(mode), _mask(nmask), _long(maxnode))
        self.caller = replace_caller(self.caller, policy=policy, turn=turn)
        return "0 0"

    def get_mempolicy(self, mode: str, nmask: str, maxnode: str, addr: str, flags: str) -> str:
        """get_mempolicy(), with what it writes."""
        pointers = _pointer(mode), _pointer(nmask)
        at = 0 if addr == "null" else self.address(addr)
        told = get_mempolicy(self.caller, self.areas, self, *pointers, _long(maxnode), at, _long(flags))
        parts = [f"-1 {told.errno}" if told.errno else "0 0"]
        if mode == "mode":
            # printf("%#x") has no prefix for 0
            parts.append(f"-> {told.mode:#x}" if told.mode else "-> 0")
        if nmask == "out":
            parts += ["->", *(f"{word:x}" for word in [told.nodes, 0, 0][: told.words])]
        return " ".join(parts)

    def mbind(self, start: str, length: str, mode: str, nmask: str, maxnode: str, flags: str) -> str:
        """mbind()."""
        at, size = self.address(start), _long(length)
        rest = _long(mode), _mask(nmask), _long(maxnode), _long(flags)
        done = mbind(self.caller, self.areas, self, at, size, *rest)
        if done is None:
            return "0 0"
        within = [n for n in self.pages if done.start <= n * PAGE_SIZE < done.end]
        for number in within:
            self.pages[number].policy = done.policy
        for number in within if done.keeps is not None else ():
            page = self.pages[number]
            if page.nid >= 0 and not done.keeps >> page.nid & 1:
                page.nid = self.node_for(page)
                self.moved += 1
        return "0 0"

    def set_mempolicy_home_node(self, start: str, length: str, home_node: str, flags: str) -> str:
        """set_mempolicy_home_node()."""
        numbers = self.address(start), _long(length), _long(home_node), _long(flags)
        done = set_mempolicy_home_node(self.caller, self.areas, *numbers)
        for area in done.changed:
            for number in range(*_numbers(area)):
                self.pages[number].policy = area.policy
        return f"-1 {done.errno}" if done.errno else "0 0"

    def migrate_pages(self, pid: str, maxnode: str, old: str, new: str) -> str:
        """migrate_pages()."""
        target = self.target(pid)
        done = migrate_pages(self.caller, target, _long(maxnode), _mask(old), _mask(new))
        for source, dest in done.pairs if pid == "0" else ():
            for page in self.pages.values():
                if page.nid == source:
                    self.put(page, dest)
        return "0 0"

    def move_pages(self, pid: str, count: str, pages: str, nodes: str, status: str, flags: str) -> str:
        """move_pages(), with the status of each page."""
        addresses = pages.removeprefix("p:").split(",") if pages.startswith("p:") else None
        states = None if addresses is None else [self.state(one) for one in addresses]
        wanted: list[int] | Pointer | None = None
        if nodes != "null":
            wanted = Pointer.BAD if nodes == "bad" else [int(n) for n in nodes.removeprefix("i:").split(",")]
        done = move_pages(
            self.caller, self.target(pid), states, wanted, _pointer(status), int(count), _long(flags)
        )
        for at, nid in done.moves:
            assert addresses is not None
            self.put(self.pages[self.address(addresses[at]) // PAGE_SIZE], nid)
        told = "".join(f" {number}" for number in done.status) if status == "ints" else ""
        arrow = f" ->{told}" if status == "ints" else ""
        return (f"-1 {done.errno}" if done.errno else "0 0") + arrow

    def put(self, page: Page, nid: int) -> None:
        """Move a page to a node."""
        page.nid = nid
        self.hits[nid] = self.hits.get(nid, 0) + 1
        self.moved += 1

    def state(self, text: str) -> PageState:
        """What move_pages finds at an address."""
        page = self.pages.get(self.address(text) // PAGE_SIZE)
        return PageState(page.nid if page else NUMA_NO_NODE, mapped=page is not None)

    def target(self, pid: str) -> Target | None:
        """A process: 0 is the caller, 1 is init, 2 is a kernel thread."""
        if pid == "0":
            return Target(self.caller.mems_allowed)
        if pid not in ("1", "2"):
            return None
        return Target(_MEMORY, permitted=self.caller.cap_sys_nice, has_mm=pid == "1")

    def address(self, text: str) -> int:
        """An address: a name and an offset, or a number."""
        name, plus, offset = text.partition("+")
        if plus:
            return self.starts[name][0] * PAGE_SIZE + int(offset)
        return 0x10 if text == "bad" else _long(text)

    def answer(self, call: str, recorded: str) -> str:
        """The model's answer to a recorded call; what it has no part in is answered as recorded."""
        name, *arguments = call.split()
        made: Callable[..., str] | None = getattr(self, "set_cpu" if name == "cpu" else name, None)
        if made is None:
            return recorded
        if name in ("map", "inode", "read"):
            return made(*arguments, answer=recorded)
        try:
            return made(*arguments)
        except CallError as error:
            buffers = " ->" * sum(argument in ("mode", "out", "ints") for argument in arguments)
            return f"-1 {error.errno}{buffers}"


def replace_caller(caller: Caller, **changes: object) -> Caller:
    """The caller with other attributes."""
    return caller._replace(**changes)  # type: ignore[arg-type]  # whatever field it is


def comparable(call: str, answer: str) -> str:
    """An answer without what is no matter of policies: kinds and sizes of pages in numa_maps."""
    if not call.startswith("numa_maps"):
        return answer
    rows = [row.strip() for row in answer.split("|") if row.strip()]
    rows = [re.sub(r" (anon|dirty|mapped|mapmax|kernelpagesize_kB)=\d+", "", row) for row in rows]
    return " | ".join(re.sub(r" file=\S+", "", row) for row in rows)


def _numbers(area: Area) -> tuple[int, int]:
    return area.start // PAGE_SIZE, area.end // PAGE_SIZE


def _long(text: str) -> int:
    return int(text, 0) & ((1 << 64) - 1)


def _int(text: str) -> int:
    return int(text, 0) & 0xFFFFFFFF


def _mask(text: str) -> UserMask | None:
    if text == "null":
        return None
    if text == "bad":
        return BAD_MASK
    kind, _, words = text.partition(":")
    return UserMask(tuple(int(word, 16) for word in words.split(",")), ends=kind == "mend")


def _pointer(text: str) -> Pointer:
    return {"null": Pointer.NULL, "bad": Pointer.BAD}.get(text, Pointer.GOOD)
