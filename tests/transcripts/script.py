"""Runs scenarios: scripts that drive a machine, with the expected transcript (like the tests of etcd's raft).

A scenario is a text of cases. A case has commands, one a line, then ``----``, then what they print, up to an
empty line. Each method named ``do_…`` is a command.
"""

from __future__ import annotations

import dataclasses
import errno
import shlex
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numa_service.machine.source import load
from numa_service.mm.gfp import parse_gfp
from numa_service.mm.mmzone import PAGE_SIZE
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.cma import cma_alloc
from numa_service.node.cost import Cost
from numa_service.node.errors import NodeError
from numa_service.node.explanation_recorder import migratetype_name
from numa_service.node.free_pages import begin_free
from numa_service.node.inbox import Call, Inbox
from numa_service.node.kmem import kmem_cache_alloc, kmem_cache_free, kmem_cache_shrink
from numa_service.node.memory_hotplug import memory_blocks
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import begin_alloc
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import map_region
from numa_service.node.requests import close, touch, unmap
from numa_service.node.restart import node_restarted
from numa_service.node.task import Asked, Ran, spawn
from numa_service.node.task_program import Step, run_program
from numa_service.node.transcript import Transcript
from numa_service.sim.simulation import Simulation

SECOND = 1_000_000_000
SEPARATOR = "----"


@dataclasses.dataclass
class Case:
    """Some commands, with their expected output, and the comments and empty lines before them."""

    before: str
    commands: list[str]
    expected: str

    def text(self, output: str) -> str:
        commands = "".join(f"{command}\n" for command in self.commands)
        return f"{self.before}{commands}{SEPARATOR}\n{output}\n"


def cases(text: str) -> Iterator[Case]:
    """Yield the cases of a scenario."""
    before, commands, expected = "", list[str](), None
    for line in text.splitlines():
        if expected is not None:
            if line:
                expected += f"{line}\n"
                continue
            yield Case(before, commands, expected)
            before, commands, expected = "", [], None
        elif line == SEPARATOR:
            expected = ""
        elif not commands and (not line or line.startswith("#")):
            before += f"{line}\n"
        else:
            commands.append(line)
    assert not commands or expected is not None, f"{commands}: no {SEPARATOR} follows"
    if expected is not None:
        yield Case(before, commands, expected)


class Session:
    """A client's session in a script."""

    def __init__(self, nid: int, number: int) -> None:
        self.nid = nid
        self.number = number
        self.regions: dict[str, int] = {}
        #: Tasks by name: pid, and address of what was mapped last.
        self.tasks: dict[str, int] = {}
        self.mapped: dict[str, int] = {}
        #: Addresses of objects by cache, in the order of allocation.
        self.objects: dict[str, list[int]] = {}
        #: Held blocks: (nid, order) → pfns, in the order of allocation.
        self.blocks: dict[tuple[int, int], list[int]] = {}
        self.requests = 0


class Script:
    """One machine and its sessions."""

    def __init__(self) -> None:
        self.sim: Simulation
        self.sessions: dict[str, Session] = {}
        self._transcript = Transcript()
        self._lose: list[bool] = []

    def run(self, commands: list[str]) -> str:
        """Run commands; return what they print: the ops that nodes applied, and results."""
        self._transcript.lines.clear()
        for command in commands:
            words = shlex.split(command)
            positional = [word for word in words[1:] if "=" not in word]
            options = dict(word.split("=", 1) for word in words[1:] if "=" in word)
            act: Callable[..., None] = getattr(self, f"do_{words[0].replace('-', '_')}")
            try:
                act(*positional, **options)
            except NodeError as error:
                self._say(f"{type(error).__name__}: {error}")
        return self._transcript.text

    def _say(self, text: str) -> None:
        self._transcript.lines.append(f"-> {text}")

    # the machine

    def do_machine(self, name: str, profile: str = "", cmdline: str = "") -> None:
        spec = load(name)
        spec = dataclasses.replace(spec, profile=profile or spec.profile, cmdline=cmdline or spec.cmdline)
        self.sim = Simulation(spec)
        for node in self.sim.nodes.values():
            node.observer = self._transcript.observe
        loses = self.sim.network.loses
        self.sim.network.loses = lambda: self._lose.pop(0) if self._lose else loses()  # type: ignore[method-assign]
        free = " ".join(f"node{nid}={self._free(node)}" for nid, node in self.sim.nodes.items())
        self._say(f"{spec.name}, {spec.profile}; free pages: {free}")

    @staticmethod
    def _free(node: Node) -> int:
        return sum(node.pgdat.free_pages(extent.index) for extent in node.pgdat.extents)

    def do_zones(self, node: str) -> None:
        """Print free pages and watermarks of a node's zones."""
        pgdat = self.sim.nodes[int(node)].pgdat
        for extent in pgdat.extents:
            if extent.managed:
                low, least, high = (int(pgdat.pg.watermark[extent.index, mark]) for mark in (1, 0, 2))
                boost = int(pgdat.pg.watermark_boost[extent.index])
                free = pgdat.free_pages(extent.index)
                pagesets = int(pgdat.pg.pcp_count[:, extent.index].sum())
                marks = f"min={least} low={low} high={high} boost={boost}"
                self._say(f"{extent.name} free={free} pagesets={pagesets} {marks}")

    def do_pageblocks(self, node: str, zone: str) -> None:
        """Print the pageblocks of a zone by migratetype, as /proc/pagetypeinfo counts them."""
        pgdat = self.sim.nodes[int(node)].pgdat
        (shown,) = [z for z in pgdat.snapshot().zones if z.name == zone]
        kinds = " ".join(
            f"{migratetype_name(pgdat.profile, kind)}={count}"
            for kind, count in enumerate(shown.pageblocks)
            if count
        )
        self._say(f"{zone} pageblocks: {kinds}")

    def do_sysctl(self, key: str, value: str, node: str = "0") -> None:
        self.sim.nodes[int(node)].apply(ops.WriteSysctl(key, value))

    def do_run(self) -> None:
        """Run everything that is under way to its end, including kswapd."""
        self.sim.run()

    def do_advance(self, seconds: str) -> None:
        self.sim.advance(int(float(seconds) * SECOND))

    def do_check(self) -> None:
        self._say("; ".join(self.sim.check()) or "no violations")

    def do_held(self) -> None:
        """Print the pages that owners have on each node, and the number of unanswered questions."""
        held = " ".join(f"node{nid}={node.held_pages()}" for nid, node in self.sim.nodes.items())
        owed = {nid: node.outbox.owed() for nid, node in self.sim.nodes.items() if node.outbox.owed()}
        self._say(f"held: {held}" + (f"; owed: {owed}" if owed else ""))

    def do_numastat(self) -> None:
        for nid, node in self.sim.nodes.items():
            stat = " ".join(f"{name}={n}" for name, n in node.pgdat.snapshot().numastat.items() if n)
            self._say(f"node{nid} {stat}")

    # faults

    def do_lose(self, what: str) -> None:
        """Lose the next question between nodes, or the answer to it."""
        self._lose = {"question": [True], "answer": [False, True]}[what]

    def do_crash(self, node: str) -> None:
        self.sim.crash(int(node))

    def do_restart(self, node: str) -> None:
        """Reboot a node that has crashed, with empty memory, and tell the other nodes."""
        again = self.sim.restart(int(node)).node
        again.observer = self._transcript.observe
        for other in self.sim.nodes.values():
            if other is not again:
                self.sim.call(other.nid, node_restarted(other, again.nid, again.lineage))
                other.apply(ops.PeerBack(again.nid, self.sim.now_ns))

    # clients

    def do_open(self, name: str, node: str = "0", lease: str = "3600") -> None:
        lease_ns = int(float(lease) * SECOND)
        home = self.sim.nodes[int(node)]
        op = ops.OpenSession(name, lease_ns, home.clock())
        self.sessions[name] = Session(int(node), home.apply(op))

    def do_alloc(
        self,
        name: str,
        *flags: str,
        count: str = "1",
        order: str = "0",
        gfp: str = "GFP_KERNEL",
        policy: str = "",
        id: str = "",
    ) -> None:
        session = self.sessions[name]
        cpu = self.sim.nodes[session.nid].pgdat.cpus[0]
        wanted = AllocRequest(
            session.number, parse_gfp(gfp), int(order), int(count), cpu, _policy(policy), "partial" in flags
        )
        got = self._ask(session, wanted, lambda inbox: begin_alloc(inbox.node, wanted), id)
        for nid, pfns in got.pages:
            session.blocks.setdefault((nid, int(order)), []).extend(np.frombuffer(pfns, "<u8").tolist())
        where = " ".join(f"node{nid}={len(pfns) // 8}" for nid, pfns in got.pages)
        self._say(f"got {where}, {got.remote_lookups} lookups, {got.cost.latency_ns} ns")

    def do_free(self, name: str, count: str = "", order: str = "0", node: str = "") -> None:
        """Free the oldest blocks of one order: `count` of each node or all, of one node or of all nodes."""
        session = self.sessions[name]
        pages = []
        for (nid, of_order), pfns in session.blocks.items():
            if of_order == int(order) and (not node or nid == int(node)):
                some = pfns[: int(count)] if count else list(pfns)
                del pfns[: len(some)]
                pages.append((nid, np.array(some, "<u8").tobytes()))
        cpu, number = self.sim.nodes[session.nid].pgdat.cpus[0], session.number
        freed = self._ask(
            session, pages, lambda inbox: begin_free(inbox.node, number, int(order), pages, cpu, "f")
        )
        self._say(f"freed {freed.pages} pages")

    def do_map(self, name: str, region: str, kind: str, pages: str, policy: str = "") -> None:
        session = self.sessions[name]
        lru_kind = {"anon": LRU_KIND_ANON, "file": LRU_KIND_FILE}[kind]
        node = self.sim.nodes[session.nid]
        session.regions[region] = map_region(node, session.number, lru_kind, int(pages), _policy(policy))

    def do_touch(self, name: str, region: str, *flags: str, first: str = "0", count: str = "1") -> None:
        session = self.sessions[name]
        number, at = session.number, session.regions[region]
        cpu, write = self.sim.nodes[session.nid].pgdat.cpus[0], "write" in flags
        wanted = ("touch", at, first, count, write)
        got = self._ask(
            session, wanted, lambda inbox: touch(inbox, number, at, int(first), int(count), write, cpu)
        )
        self._say(f"hits={got.hits} faults={got.faults} major={got.major_faults}")

    def do_unmap(self, name: str, region: str) -> None:
        session = self.sessions[name]
        at = session.regions.pop(region)
        freed = self._ask(session, ("unmap", at), lambda inbox: unmap(inbox, session.number, at))
        self._say(f"freed {freed} pages")

    def do_close(self, name: str) -> None:
        session = self.sessions.pop(name)
        mine = session.number, f"{session.requests + 1}"
        freed = self._ask(session, "close", lambda inbox: close(inbox, session.number, mine))
        self._say(f"freed {freed} pages")

    # tasks

    def do_spawn(self, name: str, task: str) -> None:
        """Begin a task of the session, on the first CPU of the session's node."""
        session = self.sessions[name]
        cpu, number = self.sim.nodes[session.nid].pgdat.cpus[0], session.number
        ran = self._ask(session, ("spawn", task), lambda inbox: spawn(inbox.node, number, cpu, task))
        session.tasks[task] = ran.value
        self._say(f"pid {ran.value}")

    def do_mmap(self, name: str, task: str, pages: str) -> None:
        """Map private anonymous memory, read and write."""
        ran = self._call(name, task, "mmap", 0, int(pages) * PAGE_SIZE, 3, 0x22, 0)
        self.sessions[name].mapped[task] = ran.value
        self._say(f"at {ran.value:#x}")

    def do_write(self, name: str, task: str, first: str = "0", count: str = "1") -> None:
        """Write to pages of what the task has mapped last."""
        at = self.sessions[name].mapped[task] + int(first) * PAGE_SIZE
        ran = self._call(name, task, "touch", at, int(count) * PAGE_SIZE, 1)
        self._say(f"hits={ran.hits} faults={ran.faults}, {ran.cost.latency_ns} ns")

    def do_exit(self, name: str, task: str) -> None:
        self._call(name, task, "exit")

    def _call(self, name: str, task: str, call: str, *numbers: int) -> Ran:
        session = self.sessions[name]
        pid, number = session.tasks[task], session.number
        program = [Step(Asked(call, numbers))]
        (ran,) = self._ask(
            session, (pid, call, numbers), lambda inbox: run_program(inbox, number, pid, program)
        )
        if ran.errno:
            self._say(f"{errno.errorcode[ran.errno]}: {ran.reason}")
        return ran  # type: ignore[no-any-return]  # what steps return is not known to _ask

    # slab caches

    def do_cache_alloc(self, name: str, cache: str, count: str = "1", gfp: str = "GFP_KERNEL") -> None:
        session = self.sessions[name]
        cpu, number = self.sim.nodes[session.nid].pgdat.cpus[0], session.number
        got = self._ask(
            session,
            (cache, count, gfp),
            lambda inbox: kmem_cache_alloc(inbox.node, number, cache, parse_gfp(gfp), int(count), cpu),
        )
        session.objects.setdefault(cache, []).extend(got)
        self._say(f"got {len(got)} objects")

    def do_cache_free(self, name: str, cache: str, count: str = "") -> None:
        """Free the oldest objects of a cache: `count`, or all."""
        session = self.sessions[name]
        cpu, number = self.sim.nodes[session.nid].pgdat.cpus[0], session.number
        held = session.objects[cache]
        some = held[: int(count)] if count else list(held)
        del held[: len(some)]
        self._ask(session, some, lambda inbox: kmem_cache_free(inbox.node, number, cache, some, cpu, Cost()))
        self._say(f"freed {len(some)} objects")

    def do_shrink(self, cache: str) -> None:
        """kmem_cache_shrink on every node, twice: CPUs give slabs to nodes that were asked before."""
        for nid in [*self.sim.nodes] * 2:
            self.sim.call(nid, kmem_cache_shrink(self.sim.nodes[nid], cache))

    def do_slabs(self, cache: str) -> None:
        """Print what each node has of a cache."""
        for nid, node in self.sim.nodes.items():
            of = node.kmem.count(cache)
            self._say(f"node{nid} slabs={of.slabs} objects={of.objects} free={of.free} partial={of.partial}")

    # memory that comes and goes

    def do_offline(self, node: str, block: str) -> None:
        """Take a node's memory block off-line, given by its place: 0 is the first, -1 the last."""
        state = self.sim.change_memory_block(self._block(node, block), "offline")
        self._say(f"node{state.nid} has {sum(present for _, present, _ in state.zones)} pages")

    def do_online(self, node: str, block: str, kind: str = "online") -> None:
        state = self.sim.change_memory_block(self._block(node, block), kind)
        self._say(f"node{state.nid} has {sum(present for _, present, _ in state.zones)} pages")

    def _block(self, node: str, place: str) -> int:
        return memory_blocks(self.sim.nodes[int(node)])[int(place)]

    def do_cma(self, name: str, count: str, area: str = "0", align: str = "0") -> None:
        """Allocate contiguous pages from an area of the session's own node."""
        session = self.sessions[name]
        node = self.sim.nodes[session.nid]
        start, end = self.sim.call(
            session.nid, cma_alloc(node, session.number, int(area), int(count), int(align))
        )
        session.blocks.setdefault((session.nid, 0), []).extend(range(start, end))
        self._say(f"got pfns {start:#x}-{end:#x}")

    def _ask(
        self, session: Session, about: object, begin: Callable[[Inbox], Any], request_id: str = ""
    ) -> Any:
        """Send a request to the session's node, run it to its end, and return or raise its result."""
        session.requests += 1
        digest = zlib.crc32(repr(about).encode())
        call = Call(session.number, request_id or f"{session.requests}", digest)
        outcome: list[tuple[Any, NodeError | None]] = []
        host = self.sim.hosts[session.nid]
        self.sim.request(host, call, lambda: begin(host.inbox), lambda *answer: outcome.append(answer))
        while not outcome:
            self.sim.next()
        value, error = outcome[0]
        if error is not None:
            raise error
        return value


def _policy(text: str) -> Policy:
    """Return the policy of a text like ``bind:0,2``; "" is the default policy."""
    if not text:
        return Policy()
    mode, _, nodes = text.partition(":")
    return Policy(PolicyMode[mode.upper().replace("-", "_")], tuple(map(int, nodes.split(","))))
