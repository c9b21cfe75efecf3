"""What is done to a machine in one run: a list of actions at virtual times, drawn from a seed.

A plan is data, so that a run that fails can be made shorter by leaving actions out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import MachineSpec
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.sim.network import Faults

MS = 1_000_000
SECOND = 1_000 * MS

#: Two CPUs a node; small, so that requests spill, reclaim and fail.
MACHINE = """
swap = "8MiB"
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


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that is done, at a virtual time; the numbers it needs are drawn with it."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class Open(Action):
    """A client opens a session on a node."""

    client: int
    nid: int
    lease_ns: int


@dataclass(frozen=True, slots=True)
class Alloc(Action):
    """A client asks for blocks."""

    client: int
    order: int
    count: int
    policy: Policy


@dataclass(frozen=True, slots=True)
class Free(Action):
    """A client gives a share of its blocks back."""

    client: int
    share: float


@dataclass(frozen=True, slots=True)
class Map(Action):
    """A client makes a region."""

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
    """A client ends its last region."""

    client: int


@dataclass(frozen=True, slots=True)
class Close(Action):
    """A client closes its session."""

    client: int


@dataclass(frozen=True, slots=True)
class Evict(Action):
    """Another node has the session of a client closed, whatever that says."""

    client: int
    by_nid: int


@dataclass(frozen=True, slots=True)
class Vanish(Action):
    """A client dies: it says nothing more, and its lease runs out."""

    client: int


@dataclass(frozen=True, slots=True)
class Crash(Action):
    """A node dies, after so many further events, and comes back empty."""

    nid: int
    events: int
    back_ns: int


@dataclass(frozen=True, slots=True)
class Cut(Action):
    """Some nodes do not reach the others for a while."""

    nids: frozenset[int]
    for_ns: int


@dataclass(frozen=True, slots=True)
class KillKswapd(Action):
    """The kswapd of a node dies, wherever it is, and another one comes."""

    nid: int
    back_ns: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    seed: int
    faults: Faults
    #: By node: ns that its clock is ahead, and the rate at which it runs.
    clocks: tuple[tuple[int, float], ...]
    actions: tuple[Action, ...] = field(default=())


def machine() -> MachineSpec:
    """The machine that is attacked."""
    return parse_machine(MACHINE, source="attacked", default_name="attacked")


def draw(seed: int) -> Plan:
    """The plan of a seed."""
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
    return Plan(seed, faults, clocks, tuple(sorted(actions, key=lambda action: action.at_ns)))


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
    """What one client does, from its session to the end of it."""
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
