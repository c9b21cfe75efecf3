"""What a client may ask a node to run: plain data, as on the wire. :mod:`plan` says what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from numa_service.node.mempolicy import Policy


class DistributionKind(IntEnum):
    """Shapes of lifetimes and think times; the values are those of the wire."""

    UNSPECIFIED = 0
    FIXED = 1
    UNIFORM = 2
    EXPONENTIAL = 3
    LOGNORMAL = 4
    PARETO = 5
    FOREVER = 6


class Unit(IntEnum):
    """What a lifetime is measured in."""

    #: Virtual seconds.
    SECONDS = 0
    #: Multiples of the home node's managed pages, counted as the program allocates them.
    MEMORY = 1


class Pattern(IntEnum):
    """Which pages of a region are accessed."""

    UNSPECIFIED = 0
    SEQUENTIAL = 1
    UNIFORM = 2
    ZIPF = 3
    HOT_SET = 4


@dataclass(frozen=True, slots=True)
class Distribution:
    """How long things last. Which numbers count depends on the kind."""

    kind: DistributionKind
    #: fixed, exponential, lognormal, pareto.
    mean: float = 0.0
    #: uniform.
    low: float = 0.0
    high: float = 0.0
    #: lognormal: standard deviation of the logarithm.
    sigma: float = 0.0
    #: pareto: the tail's exponent, above 1.
    alpha: float = 0.0
    unit: Unit = Unit.SECONDS


FOREVER = Distribution(DistributionKind.FOREVER)


@dataclass(frozen=True, slots=True)
class Mix:
    """Blocks of one kind: how they are asked for, and how long they live."""

    name: str = ""
    order: int = 0
    #: As the kernel prints flags; empty is GFP_KERNEL.
    gfp: str = ""
    policy: Policy = field(default_factory=Policy)
    #: Share of the phase's events; 0 is 1.
    weight: float = 0.0
    lifetime: Distribution = FOREVER
    #: Virtual time that passes before each block is asked for.
    think: Distribution | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """Pageable memory, mapped for as long as phases use it."""

    name: str = ""
    #: LRU_KIND_*.
    kind: int = 0
    #: Size in pages, or as a multiple of the home node's managed pages: one of the two.
    pages: int = 0
    memory: float = 0.0
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True)
class Access:
    """Accesses to single pages of a region."""

    region: str = ""
    name: str = ""
    pattern: Pattern = Pattern.UNSPECIFIED
    weight: float = 0.0
    #: Share of accesses that write, 0 to 1.
    write: float = 0.0
    #: zipf: exponent of the power law over ranks.
    theta: float = 0.0
    #: hot set: this share of the pages gets that share of the accesses.
    hot_pages: float = 0.0
    hot_accesses: float = 0.0
    think: Distribution | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """Events of several kinds together, until the first of the ends that are given."""

    name: str = ""
    #: Ends: virtual seconds; events (blocks asked for, pages accessed); pages of all events, as a multiple of
    #: the home node's managed pages.
    seconds: float = 0.0
    events: int = 0
    memory: float = 0.0
    #: Events per virtual second; 0: as fast as costs and think times allow. A machine that cannot keep up
    #: takes longer.
    rate: float = 0.0
    #: Events that are issued together, kind after kind; 0: as many as are fit.
    batch: int = 0
    mixes: tuple[Mix, ...] = ()
    accesses: tuple[Access, ...] = ()
    #: Once for every node with memory, everything bound to it.
    each_node: bool = False
    #: Free at its end what all mixes so far still hold.
    release: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the program is cut; 0 is the server's default."""

    max_live_pages: int = 0
    max_events: int = 0
    max_virtual_seconds: float = 0.0
    max_real_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Program:
    """Phases, one after the other. The same program on the same state gives the same state and results."""

    name: str = ""
    seed: int = 0
    phases: tuple[Phase, ...] = ()
    regions: tuple[Region, ...] = ()
    limits: Limits = field(default_factory=Limits)
    #: A block that is not to be had ends the program; otherwise it is counted.
    stop_on_failure: bool = False
    #: Leave to the session what is still held at the end; otherwise it is freed.
    keep: bool = False
