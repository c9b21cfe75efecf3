"""The plan of an attacked run: faults of the network, and actions at virtual times, all drawn from a seed.

A plan is data, so that a failing run can be shortened by leaving out actions.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import MachineSpec
from numa_service.machine.thp_files import THP_PREFIX
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.slab.pages import NUMA_NO_NODE
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.sim.network import Faults

MS = 1_000_000
SECOND = 1_000 * MS

#: The machine that is attacked, small enough that requests fall back to other nodes, reclaim and fail.
MACHINE = """
swap = "8MiB"
cmdline = "slub_debug=F,filp"
[[node]]
cpus = "0-1"
memory = "72MiB"
[[node]]
cpus = "2-3"
memory = "16MiB"
[[node]]
cpus = "4-5"
memory = "16MiB"
"""
NODES = 3
#: Sysctls that are written while a run goes on: they move watermarks and the start of reclaim. Of
#: vm.min_free_kbytes nothing below what the kernel wants (946): whether that stays depends on the order of
#: events (machine/record.py).
SYSCTLS = {
    "vm.min_free_kbytes": ("1200", "2500", "4000"),
    "vm.watermark_scale_factor": ("10", "100", "1000"),
    "vm.swappiness": ("0", "60", "100"),
    "vm.zone_reclaim_mode": ("0", "1", "7"),
}


#: Slab caches: one of small objects, one whose pages can be reclaimed, one whose pages are freed a grace
#: period later, and one with checks, whose objects go to the slab one by one.
CACHES = ("kmalloc-64", "dentry", "sighand_cache", "filp")


#: Names of caches that are made while a run goes on, and of one that is shared with an earlier cache.
MADE_CACHES = ("made-first", "made-second")
SHARED_CACHE = "made-shared"
#: Slab allocators, by seed.
ALLOCATORS = ("slub", "slab", "slub", "slob")


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that is done at a virtual time, with all the numbers that it needs."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class Open(Action):
    """A client opens a session on a node."""

    client: int
    nid: int
    lease_ns: int


@dataclass(frozen=True, slots=True)
class Alloc(Action):
    """A client allocates blocks."""

    client: int
    order: int
    count: int
    policy: Policy


@dataclass(frozen=True, slots=True)
class Free(Action):
    """A client frees a share of its blocks."""

    client: int
    share: float


@dataclass(frozen=True, slots=True)
class Map(Action):
    """A client maps a region."""

    client: int
    lru_kind: int
    pages: int
    policy: Policy


@dataclass(frozen=True, slots=True)
class Touch(Action):
    """A client accesses a part of its last region."""

    client: int
    first: float
    share: float
    write: bool


@dataclass(frozen=True, slots=True)
class Unmap(Action):
    """A client unmaps its last region."""

    client: int


@dataclass(frozen=True, slots=True)
class AllocObjects(Action):
    """A client allocates objects of a slab cache, from a node if `nid` is one."""

    client: int
    cache: str
    count: int
    nid: int


@dataclass(frozen=True, slots=True)
class FreeObjects(Action):
    """A client frees a share of its objects."""

    client: int
    share: float


@dataclass(frozen=True, slots=True)
class CreateCache(Action):
    """A slab cache is made for the whole machine."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class DestroyCache(Action):
    """A slab cache is needed no more: it goes if nobody has objects of it."""

    name: str


@dataclass(frozen=True, slots=True)
class Spawn(Action):
    """A client begins a task on a CPU, of any node."""

    client: int
    cpu: int


@dataclass(frozen=True, slots=True)
class TaskAction(Action):
    """One of a client's tasks does something."""

    client: int
    #: Which of them, as a share of their number.
    which: float


@dataclass(frozen=True, slots=True)
class TaskMap(TaskAction):
    """A task maps memory, binds it, and touches a share of it."""

    pages: int
    shared: bool
    #: A mode and a nodemask of mbind; mode 0 leaves the task's policy.
    policy: tuple[int, int]
    share: float


@dataclass(frozen=True, slots=True)
class TaskTouch(TaskAction):
    """A task touches a part of what it has mapped last."""

    first: float
    share: float
    write: bool


@dataclass(frozen=True, slots=True)
class TaskUnmap(TaskAction):
    """A task unmaps a part of what it has mapped last, or gives its pages back."""

    share: float
    dont_need: bool


@dataclass(frozen=True, slots=True)
class TaskFork(TaskAction):
    """A task forks."""


@dataclass(frozen=True, slots=True)
class TaskMigrate(TaskAction):
    """A task's pages move from some nodes to others."""

    old: int
    new: int


@dataclass(frozen=True, slots=True)
class TaskExit(TaskAction):
    """A task ends."""


@dataclass(frozen=True, slots=True)
class Close(Action):
    """A client closes its session."""

    client: int


@dataclass(frozen=True, slots=True)
class Evict(Action):
    """A node has the session of a client closed without the client's consent."""

    client: int
    by_nid: int


@dataclass(frozen=True, slots=True)
class Vanish(Action):
    """A client dies: it sends nothing more, and its lease runs out."""

    client: int


@dataclass(frozen=True, slots=True)
class Crash(Action):
    """A node crashes after so many further events, and reboots with empty memory after `back_ns`."""

    nid: int
    events: int
    back_ns: int


@dataclass(frozen=True, slots=True)
class Cut(Action):
    """Some nodes are cut off from the others for `for_ns`."""

    nids: frozenset[int]
    for_ns: int


@dataclass(frozen=True, slots=True)
class KillKswapd(Action):
    """The kswapd of a node dies, wherever its run stands, and is replaced after `back_ns`."""

    nid: int
    back_ns: int


@dataclass(frozen=True, slots=True)
class WriteSysctl(Action):
    """A sysctl of the machine is written; each node has it in the end, also one that is away now."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that determines one run."""

    seed: int
    faults: Faults
    #: By nid: ns that the node's clock is ahead, and the rate at which it runs.
    clocks: tuple[tuple[int, float], ...]
    #: The machine's slab allocator.
    slab: str
    actions: tuple[Action, ...] = field(default=())


def machine(slab: str) -> MachineSpec:
    """Return the machine that is attacked, with a slab allocator."""
    return parse_machine(f'slab = "{slab}"\n{MACHINE}', source="attacked", default_name="attacked")


def draw(seed: int) -> Plan:
    """Draw the plan of a seed; the same seed always gives the same plan."""
    dice = random.Random(seed)
    faults = Faults(
        lose=dice.choice((0.0, 0.02, 0.1)),
        duplicate=dice.choice((0.0, 0.1, 0.3)),
        jitter=dice.choice((0.0, 2.0, 50.0)),
        timeout_ns=dice.choice((1, 5, 2000)) * MS,
    )
    clocks = tuple((dice.randrange(20) * SECOND, dice.choice((0.97, 1.0, 1.03))) for _ in range(NODES))
    actions: list[Action] = []
    for client in range(dice.randrange(2, 5)):
        actions += _life(dice, client)
    end_ns = max(action.at_ns for action in actions)
    for _ in range(dice.choice((0, 1, 1, 2))):
        crash_ns = dice.randrange(end_ns)
        actions.append(Crash(crash_ns, dice.randrange(NODES), dice.randrange(40), _between(dice, 50, 3000)))
    for _ in range(dice.choice((0, 0, 1, 2))):
        nids = frozenset({dice.randrange(NODES)})
        actions.append(Cut(dice.randrange(end_ns), nids, _between(dice, 10, 20_000)))
    for _ in range(dice.choice((0, 1, 2))):
        killed_ns = dice.randrange(end_ns)
        actions.append(KillKswapd(killed_ns, dice.randrange(NODES), _between(dice, 1, 1000)))
    for _ in range(dice.choice((0, 0, 1, 4))):
        key = dice.choice(tuple(SYSCTLS))
        actions.append(WriteSysctl(dice.randrange(end_ns), key, dice.choice(SYSCTLS[key])))
    opened = [action for action in actions if isinstance(action, Open)]
    actions += _slab_lives(seed, actions)
    actions += _cache_lives(seed, actions)
    actions += _task_lives(seed, opened)
    actions += _huge_pages(seed, opened, end_ns)
    return Plan(
        seed,
        faults,
        clocks,
        ALLOCATORS[seed % len(ALLOCATORS)],
        tuple(sorted(actions, key=lambda action: action.at_ns)),
    )


def _slab_lives(seed: int, actions: list[Action]) -> list[Action]:
    """Draw what the clients do with slab objects while they live; it disturbs no other draw of the seed."""
    dice = random.Random(f"slab {seed}")
    slab: list[Action] = []
    for opened in [action for action in actions if isinstance(action, Open)]:
        caches = dice.sample(CACHES, dice.choice((1, 2)))
        now = opened.at_ns
        for _ in range(dice.randrange(12)):
            now += dice.choice((0, 1, 1, 20, 300)) * MS
            if dice.random() < 0.6:
                count = dice.randrange(1, dice.choice((4, 60, 600)))
                nid = dice.choice((NUMA_NO_NODE, NUMA_NO_NODE, *range(NODES)))
                slab.append(AllocObjects(now, opened.client, dice.choice(caches), count, nid))
            else:
                slab.append(FreeObjects(now, opened.client, dice.choice((0.1, 0.5, 1.0))))
    return slab


def _cache_lives(seed: int, actions: list[Action]) -> list[Action]:
    """Draw caches that come and go, and clients that use them; it disturbs no other draw of the seed."""
    dice = random.Random(f"caches {seed}")
    made: list[Action] = []
    opened = [action for action in actions if isinstance(action, Open)]
    for name in (*MADE_CACHES, SHARED_CACHE)[: dice.choice((0, 0, 1, 3))]:
        first = dice.choice(opened)
        now = max(0, first.at_ns - _between(dice, 1, 200))
        for _ in range(dice.choice((1, 2))):
            made.append(CreateCache(now, name, dice.choice((64, 700, 5000))))
            for _ in range(dice.randrange(4)):
                now += _between(dice, 1, 300)
                client, count = dice.choice(opened).client, dice.randrange(1, 80)
                made.append(AllocObjects(now, client, name, count, dice.choice((NUMA_NO_NODE, 0, 1, 2))))
                if dice.random() < 0.5:
                    made.append(FreeObjects(now + _between(dice, 1, 300), client, 1.0))
            now += _between(dice, 1, 2000)
            made.append(DestroyCache(now, name))
            now += _between(dice, 1, 2000)
    return made


def _task_lives(seed: int, opened: list[Open]) -> list[Action]:
    """Draw what tasks of the clients do, for half of them; it disturbs no other draw of the seed."""
    dice = random.Random(f"tasks {seed}")
    actions: list[Action] = []
    for client in opened:
        if dice.random() < 0.5:
            continue
        now, who = client.at_ns + dice.randrange(3) * MS, client.client
        for nth in range(dice.randrange(2, 12)):
            now += dice.choice((0, 1, 1, 20, 300)) * MS
            which = dice.random()
            match dice.randrange(12) if nth else 0:
                case 0:
                    actions.append(Spawn(now, who, dice.randrange(2 * NODES)))
                case 1 | 2 | 3:
                    pages = dice.randrange(1, dice.choice((20, 600, 3000)))
                    policy = dice.choice(((0, 0), (0, 0), (2, 0b001), (1, 0b100), (3, 0b111), (5, 0b110)))
                    share = dice.choice((0.2, 1.0))
                    actions.append(TaskMap(now, who, which, pages, dice.random() < 0.2, policy, share))
                case 4 | 5 | 6:
                    first, share = dice.random(), dice.choice((0.1, 1.0))
                    actions.append(TaskTouch(now, who, which, first, share, dice.random() < 0.6))
                case 7:
                    share = dice.choice((0.3, 1.0))
                    actions.append(TaskUnmap(now, who, which, share, dice.random() < 0.3))
                case 8 | 9:
                    actions.append(TaskFork(now, who, which))
                case 10:
                    old, new = dice.choice(((0b001, 0b010), (0b111, 0b001), (0b110, 0b101)))
                    actions.append(TaskMigrate(now, who, which, old, new))
                case _:
                    actions.append(TaskExit(now, who, which))
    return actions


def _huge_pages(seed: int, opened: list[Open], end_ns: int) -> list[Action]:
    """Draw whether tasks get huge pages, which machines so small have not, and tasks that use them.

    It disturbs no other draw of the seed.
    """
    dice = random.Random(f"huge {seed}")
    if dice.random() < 0.5:
        return []
    settings = {
        "enabled": "always",
        "defrag": dice.choice(("always", "madvise", "never")),
        "use_zero_page": dice.choice(("0", "1")),
        "khugepaged.scan_sleep_millisecs": dice.choice(("20", "300")),
        "khugepaged.alloc_sleep_millisecs": "100",
    }
    written: list[Action] = [WriteSysctl(0, f"{THP_PREFIX}{name}", value) for name, value in settings.items()]
    if dice.random() < 0.3:
        written.append(WriteSysctl(dice.randrange(end_ns), f"{THP_PREFIX}enabled", "never"))
    for client in opened:
        now, who = client.at_ns + dice.randrange(3) * MS, client.client
        written.append(Spawn(now, who, dice.randrange(2 * NODES)))
        for _ in range(dice.randrange(6)):
            now += dice.choice((1, 20, 300)) * MS
            which, share = dice.random(), dice.choice((0.3, 1.0))
            policy = dice.choice(((0, 0), (2, 0b001), (1, 0b100), (3, 0b111)))
            mapped = TaskMap(now, who, which, dice.randrange(512, 1600), False, policy, share)
            touched = TaskTouch(now, who, which, dice.random(), share, dice.random() < 0.6)
            unmapped = TaskUnmap(now, who, which, share, dice.random() < 0.3)
            moved = TaskMigrate(now, who, which, 0b111, dice.choice((0b001, 0b010)))
            written.append(dice.choice((mapped, mapped, touched, unmapped, moved, TaskFork(now, who, which))))
    return written


def _between(dice: random.Random, least_ms: int, most_ms: int) -> int:
    return dice.randrange(least_ms, most_ms) * MS


def _policy(dice: random.Random) -> Policy:
    a, b = sorted(dice.sample(range(NODES), 2))
    return dice.choice(
        (
            Policy(),
            Policy(),
            Policy(PolicyMode.BIND, (a,)),
            Policy(PolicyMode.PREFERRED, (b,)),
            Policy(PolicyMode.INTERLEAVE, tuple(range(NODES))),
            Policy(PolicyMode.PREFERRED_MANY, (a, b)),
        )
    )


def _life(dice: random.Random, client: int) -> list[Action]:
    """Draw what one client does, from the opening of its session to the session's end."""
    now = _between(dice, 0, dice.choice((500, 4000)))
    actions: list[Action] = [Open(now, client, dice.randrange(NODES), _between(dice, 2000, 15_000))]
    for _ in range(dice.randrange(4, 16)):
        now += dice.choice((0, 0, 1, 1, 20, 300)) * MS
        match dice.randrange(10):
            case 0 | 1 | 2 | 3:
                order = dice.choice((0, 0, 0, 1, 3, 9))
                count = dice.randrange(1, dice.choice((500, 2000, 6000)) >> order or 2)
                actions.append(Alloc(now, client, order, count, _policy(dice)))
            case 4 | 5:
                actions.append(Free(now, client, dice.choice((0.3, 1.0))))
            case 6:
                kind = dice.choice((LRU_KIND_ANON, LRU_KIND_FILE))
                actions.append(Map(now, client, kind, dice.randrange(1, 4000), _policy(dice)))
            case 7 | 8:
                first, share = dice.random(), dice.choice((0.1, 0.5, 1.0))
                actions.append(Touch(now, client, first, share, dice.random() < 0.5))
            case _:
                actions.append(Unmap(now, client))
    now += _between(dice, 1, 500)
    match dice.randrange(8):
        case 0:
            actions.append(Vanish(now, client))
        case 1:
            actions.append(Evict(now, client, dice.randrange(NODES)))
        case 2 | 3:
            actions.append(Close(now, client))
    return actions
