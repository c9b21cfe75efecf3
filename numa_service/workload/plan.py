"""Plans: programs that are checked, and resolved for a node (flags as bits, shares as pages, limits set)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import numa_client
from numa_client import (
    Access,
    Distribution,
    Mix,
    ObjectMix,
    Phase,
    Program,
    ProgramLimits,
    ProgramRegion,
    TaskMix,
    VmallocMix,
)

from numa_service.machine.tlb import PAGE_KB
from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, gfp_zone, parse_gfp
from numa_service.mm.mmzone import NR_ORDERS, PAGE_SHIFT
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.slab.pages import NUMA_NO_NODE
from numa_service.node.errors import InvalidRequest, NotFound
from numa_service.node.mempolicy import Policy, PolicyMode, checked_policy, policy_walk
from numa_service.node.node import Node
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.ops.fields import MAX_REGION_PAGES
from numa_service.node.ops.task import MAX_COMM
from numa_service.workload.distributions import check_distribution
from numa_service.workload.patterns import check_pattern

MAX_PHASES = 64
#: Most mixes, accesses, objects, vmallocs and kinds of tasks of a phase together.
MAX_KINDS = 32
MAX_REGIONS = 32
#: Most children that a task forks, and accesses of one task.
MAX_CHILDREN = 64
MAX_TASK_ACCESSES = 1 << 20
#: Most phases of a plan, in which a phase with `each_node` counts once for each node.
MAX_PLANNED_PHASES = 1024
MAX_NAME = 64
MAX_SEED = (1 << 64) - 1
MIN_RATE = 1e-6
MAX_RATE = 1e12
#: Most that a phase may allocate or access, as a multiple of the node's memory.
MAX_MEMORY = 1e6
DEFAULT_BATCH = 4096
#: Largest share of the node's memory that a batch allocates, unless the program gives its size: so small
#: machines behave as large ones do.
BATCH_SHARE = 1 / 64
#: Most events of a batch, during which the node serves nobody else: some milliseconds.
MAX_BATCH = 16384
_LRU_KINDS = {"anon": LRU_KIND_ANON, "file": LRU_KIND_FILE}

#: Limits of a program that asks for none, and the highest it may ask for. To keep account of 2^26 live pages
#: takes 1 GiB.
DEFAULT_LIMITS = ProgramLimits(
    max_live_pages=1 << 26, max_events=1 << 32, max_virtual_seconds=3600.0, max_real_seconds=60.0
)
MAX_LIMITS = ProgramLimits(
    max_live_pages=1 << 26, max_events=1 << 40, max_virtual_seconds=1e6, max_real_seconds=3600.0
)


@dataclass(frozen=True, slots=True)
class MixPlan:
    """A mix, with its gfp flags as bits."""

    name: str
    order: int
    gfp: int
    policy: Policy
    weight: float
    #: None: blocks live until the program ends.
    lifetime: Distribution | None
    think: Distribution | None

    @property
    def pages(self) -> int:
        """Pages that one event allocates."""
        return 1 << self.order


@dataclass(frozen=True, slots=True)
class AccessPlan:
    """An access, with the region that it is to."""

    name: str
    access: Access
    #: Index in :attr:`Plan.regions`.
    region: int
    weight: float
    think: Distribution | None

    @property
    def pages(self) -> int:
        """Pages that one event accesses."""
        return 1


@dataclass(frozen=True, slots=True)
class ObjectPlan:
    """A kind of objects, with its cache and its gfp flags as bits."""

    name: str
    #: The cache's own name.
    cache: str
    #: Bytes that kmalloc is asked for; 0: objects are asked of the cache.
    size: int
    gfp: int
    #: The node that objects are asked of, or NUMA_NO_NODE.
    nid: int
    weight: float
    #: None: objects live until the program ends.
    lifetime: Distribution | None
    think: Distribution | None
    #: Pages that one event allocates: an object's part of its slab.
    pages: float


@dataclass(frozen=True, slots=True)
class VmallocPlan:
    """A kind of areas of kernel addresses."""

    name: str
    #: Bytes of an area.
    size: int
    #: The node that pages should be of, or NUMA_NO_NODE.
    nid: int
    weight: float
    #: None: areas live until the program ends.
    lifetime: Distribution | None
    think: Distribution | None

    @property
    def pages(self) -> int:
        """Pages that one event allocates, without those of page pointers."""
        return -(-self.size >> PAGE_SHIFT)


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A kind of tasks."""

    name: str
    #: What /proc/PID/comm of them says.
    comm: str
    nr_pages: int
    policy: Policy
    #: Its pattern and its share of writes.
    access: Access
    accesses: int
    children: int
    child_accesses: int
    weight: float
    #: None: tasks live until the program ends.
    lifetime: Distribution | None
    think: Distribution | None

    @property
    def pages(self) -> int:
        """Pages that one event accesses."""
        return self.accesses + self.children * self.child_accesses

    @property
    def held(self) -> int:
        """Most pages of their memory that a task and its children have together."""
        return self.nr_pages + self.children * min(self.nr_pages, self.child_accesses)


Kind: TypeAlias = MixPlan | AccessPlan | ObjectPlan | VmallocPlan | TaskPlan


@dataclass(frozen=True, slots=True)
class RegionPlan:
    """A region, with its size in pages."""

    name: str
    kind: int
    nr_pages: int
    policy: Policy
    #: Page size in KiB by which it is translated.
    tlb_page_kb: int
    #: Index of the last phase of the plan that uses it, after which it is unmapped.
    last_phase: int = -1


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """A phase. It ends when one of its ends is reached; those that the program does not give are infinite."""

    name: str
    end_ns: float
    end_events: float
    end_pages: float
    rate: float
    batch: int
    kinds: tuple[Kind, ...]
    release: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """A program as its node runs it."""

    program: Program
    phases: tuple[PhasePlan, ...]
    regions: tuple[RegionPlan, ...]
    limits: ProgramLimits
    #: Managed pages of the node that runs the program; amounts of `memory` are multiples of it.
    memory_pages: int


def make_plan(program: Program, node: Node) -> Plan:
    """The plan of a program for `node`.

    InvalidRequest names the field that is wrong, as ``phases[1].mixes[0].lifetime.mean``.
    """
    _check_name("name", program.name)
    if not 0 <= program.seed <= MAX_SEED:
        raise InvalidRequest("seed", f"{program.seed} is not a number of 64 bits")
    _check_count("phases", len(program.phases), MAX_PHASES)
    if len(program.regions) > MAX_REGIONS:
        raise InvalidRequest("regions", f"{len(program.regions)}: at most {MAX_REGIONS}")
    memory_pages = sum(extent.managed for extent in node.pgdat.extents)
    limits = _limits(program.limits)
    regions = {
        region.name: _region(region, f"regions[{i}]", memory_pages, node)
        for i, region in enumerate(program.regions)
    }
    if len(regions) < len(program.regions):
        raise InvalidRequest("regions", "two have the same name")
    plan = _Planner(node, memory_pages, regions)
    for i, phase in enumerate(program.phases):
        plan.add(phase, f"phases[{i}]")
    _check_sums(program, limits)
    return Plan(program, tuple(plan.phases), tuple(plan.used), limits, memory_pages)


class _Planner:
    """Collects the phases of a plan one after the other, and the regions that they use."""

    def __init__(self, node: Node, memory_pages: int, regions: dict[str, RegionPlan]) -> None:
        self._node = node
        self._memory_pages = memory_pages
        self._regions = regions
        self.phases: list[PhasePlan] = []
        self.used: list[RegionPlan] = []
        #: Index in `used` by the name of a region and the nid it is bound to (None: it has its own policy).
        self._index: dict[tuple[str, int | None], int] = {}

    def add(self, phase: Phase, field: str) -> None:
        """Check a phase and add it, once for each node with memory if it has `each_node`."""
        _check_phase(phase, field)
        targets: list[int | None] = [None]
        if phase.each_node:
            managed = self._node.machine.managed
            targets = [*sorted({nid for (nid, _), pages in managed.items() if pages})]
        if len(self.phases) + len(targets) > MAX_PLANNED_PHASES:
            raise InvalidRequest(field, f"more than {MAX_PLANNED_PHASES} phases, those of each node included")
        for nid in targets:
            kinds: list[Kind] = [
                self._mix(mix, f"{field}.mixes[{i}]", nid) for i, mix in enumerate(phase.mixes)
            ]
            kinds += [
                self._access(access, f"{field}.accesses[{i}]", nid) for i, access in enumerate(phase.accesses)
            ]
            kinds += [self._objects(mix, f"{field}.objects[{i}]", nid) for i, mix in enumerate(phase.objects)]
            kinds += [
                self._vmalloc(mix, f"{field}.vmallocs[{i}]", nid) for i, mix in enumerate(phase.vmallocs)
            ]
            kinds += [self._tasks(mix, f"{field}.tasks[{i}]", nid) for i, mix in enumerate(phase.tasks)]
            name = phase.name or f"phase {field.removeprefix('phases[').removesuffix(']')}"
            self.phases.append(
                PhasePlan(
                    name=name if nid is None else f"{name}, node {nid}",
                    end_ns=phase.seconds * 1e9 or math.inf,
                    end_events=phase.events or math.inf,
                    end_pages=math.ceil(phase.memory * self._memory_pages) or math.inf,
                    rate=phase.rate,
                    batch=phase.batch or self._batch(kinds),
                    kinds=tuple(kinds),
                    release=phase.release,
                )
            )

    def _batch(self, kinds: list[Kind]) -> int:
        pages_per_event = sum(k.weight * k.pages for k in kinds) / sum(k.weight for k in kinds)
        return max(1, min(DEFAULT_BATCH, int(self._memory_pages * BATCH_SHARE / pages_per_event)))

    def _mix(self, mix: Mix, field: str, nid: int | None) -> MixPlan:
        _check_name(f"{field}.name", mix.name)
        if not 0 <= mix.order < NR_ORDERS:
            raise InvalidRequest(f"{field}.order", f"{mix.order} is not in 0…{NR_ORDERS - 1}")
        policy = _policy(mix.policy, field, self._node)
        if nid is not None:
            policy = Policy(PolicyMode.BIND, (nid,))
        gfp = self._gfp(mix.gfp, field)
        _check_policy(policy, gfp, self._node, field)
        lifetime = mix.lifetime
        if lifetime is not None:
            check_distribution(lifetime, f"{field}.lifetime")
            lifetime = lifetime if lifetime.kind != "forever" else None
        _check_think(mix.think, field)
        name = mix.name or f"order {mix.order}"
        return MixPlan(name, mix.order, gfp, policy, _weight(mix.weight, field), lifetime, mix.think)

    def _gfp(self, text: str, field: str) -> int:
        try:
            gfp = parse_gfp(text)
            gfp_zone(gfp, self._node.pgdat.arch)
        except ValueError as e:
            raise InvalidRequest(f"{field}.gfp", str(e)) from None
        return gfp

    def _objects(self, mix: ObjectMix, field: str, nid: int | None) -> ObjectPlan:
        _check_name(f"{field}.name", mix.name)
        gfp, kmem = self._gfp(mix.gfp, field), self._node.kmem
        if bool(mix.cache) == bool(mix.size):
            raise InvalidRequest(f"{field}.cache", "give either cache or size")
        try:
            cache = kmem.name(mix.cache or kmem.kmalloc_name(mix.size, gfp))
        except NotFound as error:
            raise InvalidRequest(f"{field}.cache", str(error)) from None
        except InvalidRequest as error:
            raise InvalidRequest(f"{field}.size", error.reason) from None
        nid = self._kernel_node(mix.node if nid is None else nid, field)
        lifetime = _seconds(mix.lifetime, field)
        _check_think(mix.think, field)
        weight, pages = _weight(mix.weight, field), kmem.pages_per_object(cache)
        name = mix.name or mix.cache or f"{mix.size} bytes"
        return ObjectPlan(name, cache, mix.size, gfp, nid, weight, lifetime, mix.think, pages)

    def _vmalloc(self, mix: VmallocMix, field: str, nid: int | None) -> VmallocPlan:
        _check_name(f"{field}.name", mix.name)
        if not 1 <= mix.size <= MAX_COUNT << PAGE_SHIFT:
            raise InvalidRequest(f"{field}.size", f"{mix.size} is not in 1…{MAX_COUNT << PAGE_SHIFT}")
        nid = self._kernel_node(mix.node if nid is None else nid, field)
        lifetime = _seconds(mix.lifetime, field)
        _check_think(mix.think, field)
        name = mix.name or f"vmalloc {mix.size}"
        return VmallocPlan(name, mix.size, nid, _weight(mix.weight, field), lifetime, mix.think)

    def _tasks(self, mix: TaskMix, field: str, nid: int | None) -> TaskPlan:
        _check_name(f"{field}.name", mix.name)
        for name, value, least, most in (
            ("pages", mix.pages, 1, MAX_COUNT),
            ("accesses", mix.accesses, 0, MAX_TASK_ACCESSES),
            ("children", mix.children, 0, MAX_CHILDREN),
            ("child_accesses", mix.child_accesses, 0, MAX_TASK_ACCESSES),
        ):
            if not least <= value <= most:
                raise InvalidRequest(f"{field}.{name}", f"{value} is not in {least}…{most}")
        if mix.child_accesses and not mix.children:
            raise InvalidRequest(f"{field}.child_accesses", "there are no children")
        policy = _policy(mix.policy, field, self._node)
        if nid is not None:
            policy = Policy(PolicyMode.BIND, (nid,))
        _check_policy(policy, GFP_HIGHUSER_MOVABLE, self._node, field)
        access = Access(
            "",
            mix.pattern,
            write=mix.write,
            theta=mix.theta,
            hot_pages=mix.hot_pages,
            hot_accesses=mix.hot_accesses,
            stride=mix.stride,
        )
        check_pattern(access, mix.pages, field)
        lifetime = _seconds(mix.lifetime, field)
        _check_think(mix.think, field)
        comm = mix.name[:MAX_COMM] or "task"
        if not comm.isprintable():
            raise InvalidRequest(f"{field}.name", "it is the name of tasks: printable characters only")
        return TaskPlan(
            mix.name or f"tasks of {mix.pages} pages",
            comm,
            mix.pages,
            policy,
            access,
            mix.accesses or mix.pages,
            mix.children,
            mix.child_accesses,
            _weight(mix.weight, field),
            lifetime,
            mix.think,
        )

    def _kernel_node(self, nid: int, field: str) -> int:
        """The node that something of the kernel's is asked of; NUMA_NO_NODE for none."""
        if nid not in (NUMA_NO_NODE, *self._node.machine.spec.nids):
            raise InvalidRequest(f"{field}.node", f"there is no node {nid}")
        return nid

    def _access(self, access: Access, field: str, nid: int | None) -> AccessPlan:
        _check_name(f"{field}.name", access.name)
        if access.region not in self._regions:
            raise InvalidRequest(f"{field}.region", f"there is no region {access.region!r}")
        check_pattern(access, self._regions[access.region].nr_pages, field)
        _check_think(access.think, field)
        key = access.region, nid
        if key not in self._index:
            region = self._regions[access.region]
            if nid is not None:
                region = replace(region, policy=Policy(PolicyMode.BIND, (nid,)))
            self._index[key] = len(self.used)
            self.used.append(region)
        at = self._index[key]
        self.used[at] = replace(self.used[at], last_phase=len(self.phases))
        name = access.name or access.region
        return AccessPlan(name, access, at, _weight(access.weight, field), access.think)


def _check_phase(phase: Phase, field: str) -> None:
    _check_name(f"{field}.name", phase.name)
    kinds = sum(map(len, (phase.mixes, phase.accesses, phase.objects, phase.vmallocs, phase.tasks)))
    if not kinds:
        raise InvalidRequest(f"{field}.mixes", "nothing to do: no mixes, accesses, objects, vmallocs, tasks")
    if kinds > MAX_KINDS:
        reason = f"more than {MAX_KINDS} mixes, accesses, objects, vmallocs and tasks"
        raise InvalidRequest(f"{field}.mixes", reason)
    _check_range(f"{field}.seconds", phase.seconds, MAX_LIMITS.max_virtual_seconds)
    _check_range(f"{field}.events", phase.events, MAX_LIMITS.max_events)
    _check_range(f"{field}.memory", phase.memory, MAX_MEMORY)
    _check_range(f"{field}.rate", phase.rate, MAX_RATE)
    if 0 < phase.rate < MIN_RATE:
        raise InvalidRequest(f"{field}.rate", f"{phase.rate:g} is below {MIN_RATE:g}")
    _check_range(f"{field}.batch", phase.batch, MAX_BATCH)
    if not (phase.seconds or phase.events or phase.memory):
        raise InvalidRequest(f"{field}.seconds", "the phase has no end: give seconds, events or memory")


def _region(region: ProgramRegion, field: str, memory_pages: int, node: Node) -> RegionPlan:
    if not region.name:
        raise InvalidRequest(f"{field}.name", "is not set")
    _check_name(f"{field}.name", region.name)
    _check_range(f"{field}.memory", region.memory, MAX_MEMORY)
    if bool(region.pages) == bool(region.memory):
        raise InvalidRequest(f"{field}.pages", "give either pages or memory")
    pages = region.pages or min(MAX_REGION_PAGES, max(1, round(region.memory * memory_pages)))
    if not 1 <= pages <= MAX_REGION_PAGES:
        raise InvalidRequest(f"{field}.pages", f"{pages} is not in 1…{MAX_REGION_PAGES}")
    policy = _policy(region.policy, field, node)
    _check_policy(policy, GFP_HIGHUSER_MOVABLE, node, field)
    page_kb = region.tlb_page_kb or 4
    if page_kb not in PAGE_KB:
        raise InvalidRequest(f"{field}.tlb_page_kb", f"{page_kb} is none of {', '.join(map(str, PAGE_KB))}")
    return RegionPlan(region.name, _LRU_KINDS[region.kind], pages, policy, page_kb)


def _policy(asked: numa_client.Policy | None, field: str, node: Node) -> Policy:
    """A client's policy as the node's type; None is the default policy."""
    if asked is None:
        return Policy()
    try:
        return checked_policy(asked, node.machine.spec.nids, node.machine.profile)
    except InvalidRequest as e:
        raise InvalidRequest(f"{field}.{e.field}", e.reason) from None


def _check_policy(policy: Policy, gfp: int, node: Node, field: str) -> None:
    """InvalidRequest if the policy leaves no zonelist to walk for these flags."""
    try:
        policy_walk(node.machine.zonelists, node.nid, policy, gfp, gfp_zone(gfp, node.pgdat.arch))
    except InvalidRequest as e:
        raise InvalidRequest(f"{field}.policy", e.reason) from None


def _limits(asked: ProgramLimits) -> ProgramLimits:
    """The limits asked for, with defaults for those that are 0; InvalidRequest above MAX_LIMITS."""
    numbers = {}
    for name in ProgramLimits.__slots__:
        value, most = getattr(asked, name), getattr(MAX_LIMITS, name)
        _check_range(f"limits.{name}", value, most)
        numbers[name] = value or getattr(DEFAULT_LIMITS, name)
    return ProgramLimits(**numbers)


def _check_sums(program: Program, limits: ProgramLimits) -> None:
    """InvalidRequest if the phases certainly exceed a limit: those that have one end only are summed."""
    seconds, events = 0.0, 0
    for i, phase in enumerate(program.phases):
        if not phase.events and not phase.memory:
            seconds += phase.seconds
        if not phase.seconds and not phase.memory:
            events += phase.events
        for name, value, most in (
            ("seconds", seconds, limits.max_virtual_seconds),
            ("events", events, limits.max_events),
        ):
            if value > most:
                limit = "max_virtual_seconds" if name == "seconds" else "max_events"
                raise InvalidRequest(f"phases[{i}].{name}", f"{value:g} in all: {limit} is {most:g}")


def _seconds(lifetime: Distribution | None, field: str) -> Distribution | None:
    """A lifetime that is in seconds; None: until the program ends."""
    if lifetime is None:
        return None
    check_distribution(lifetime, f"{field}.lifetime")
    if lifetime.unit != "seconds":
        raise InvalidRequest(f"{field}.lifetime.unit", "only lifetimes of blocks can be in memory")
    return lifetime if lifetime.kind != "forever" else None


def _check_think(think: Distribution | None, field: str) -> None:
    if think is not None:
        check_distribution(think, f"{field}.think", forever=False)
        if think.unit != "seconds":
            raise InvalidRequest(f"{field}.think.unit", "think times are in seconds")


def _weight(weight: float, field: str) -> float:
    _check_range(f"{field}.weight", weight, 1e9)
    return weight or 1.0


def _check_name(field: str, name: str) -> None:
    if len(name) > MAX_NAME:
        raise InvalidRequest(field, f"more than {MAX_NAME} characters")


def _check_count(field: str, count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise InvalidRequest(field, f"{count}: 1 to {most}")


def _check_range(field: str, value: float, most: float) -> None:
    if not 0 <= value <= most:  # false for nan too
        raise InvalidRequest(field, f"{value:g} is not in 0…{most:g}")
