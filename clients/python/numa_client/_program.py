"""Workload programs, which a node runs: as dataclasses, and as TOML files whose keys are their fields.

A library of them is in ``programs/``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar

from numa_client._errors import InvalidRequest
from numa_client._policy import Policy
from numa_client._types import RegionKind

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_LIBRARY = resources.files("numa_client") / "programs"
#: Largest text of a program; the largest one in the library has 3 KiB.
MAX_PROGRAM_BYTES = 256 << 10
#: Matches keys with more than 16 dotted parts; a program's have at most three. The time and memory that
#: tomllib takes are quadratic in that number.
_LONG_KEY = re.compile(
    r"""(?:^|[{,])[ \t]*(?:\[{1,2}[ \t]*)?(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){16}""",
    re.MULTILINE,
)


DistributionKind: TypeAlias = Literal["fixed", "uniform", "exponential", "lognormal", "pareto", "forever"]
LifetimeUnit: TypeAlias = Literal["seconds", "memory"]
AccessPattern: TypeAlias = Literal["sequential", "uniform", "zipf", "hot-set", "stride", "pointer-chase"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution of lifetimes or think times. The kind decides which of the parameters are used."""

    kind: DistributionKind
    #: For exponential, lognormal and pareto the mean; for fixed the value.
    mean: float = 0.0
    #: For uniform: the bounds.
    low: float = 0.0
    high: float = 0.0
    #: For lognormal: standard deviation of the logarithm.
    sigma: float = 0.0
    #: For pareto: exponent of the tail, above 1.
    alpha: float = 0.0
    #: Virtual seconds, or multiples of the memory of the session's node that the program allocates meanwhile.
    unit: LifetimeUnit = "seconds"


@dataclass(frozen=True, slots=True)
class Mix:
    """One kind of allocation: how blocks are asked for, and how long they live."""

    name: str = ""
    order: int = 0
    gfp: str = "GFP_KERNEL"
    policy: Policy | None = None
    #: Share of the phase's events, relative to the weights of the others.
    weight: float = 1.0
    #: None means until the program ends.
    lifetime: Distribution | None = None
    #: Virtual seconds that pass before each block is asked for.
    think: Distribution | None = None


@dataclass(frozen=True, slots=True)
class ObjectMix:
    """One kind of slab objects: how they are asked for, and how long they live."""

    name: str = ""
    #: Name of a slab cache (kmem_cache_alloc); or else `size`, bytes of kmalloc.
    cache: str = ""
    size: int = 0
    gfp: str = "GFP_KERNEL"
    #: The node that objects are asked of; -1: the CPU's own, or what it has at hand (NUMA_NO_NODE).
    node: int = -1
    #: Share of the phase's events, relative to the weights of the others.
    weight: float = 1.0
    #: In seconds; None means until the program ends.
    lifetime: Distribution | None = None
    #: Virtual seconds that pass before each object is asked for.
    think: Distribution | None = None


@dataclass(frozen=True, slots=True)
class VmallocMix:
    """One kind of areas of kernel addresses: how they are asked for (vmalloc), and how long until vfree."""

    #: Bytes of an area, without its guard page.
    size: int
    name: str = ""
    #: The node that its pages should be of; -1: that of the CPU.
    node: int = -1
    #: Share of the phase's events, relative to the weights of the others.
    weight: float = 1.0
    #: In seconds; None means until the program ends.
    lifetime: Distribution | None = None
    #: Virtual seconds that pass before each area is asked for.
    think: Distribution | None = None


@dataclass(frozen=True, slots=True)
class TaskMix:
    """One kind of tasks: each maps memory, touches it, forks children that do so too, and exits with them."""

    #: Pages of anonymous memory that a task maps (mmap), 1 to 65536.
    pages: int
    #: Also the name of its tasks, of which 15 characters count.
    name: str = ""
    #: Policy of that memory (mbind); None is the default policy.
    policy: Policy | None = None
    #: Accesses to pages of it, as of :class:`Access`. 0 accesses are as many as it has pages.
    accesses: int = 0
    pattern: AccessPattern = "sequential"
    #: Share of accesses that write, 0 to 1.
    write: float = 1.0
    theta: float = 0.0
    hot_pages: float = 0.0
    hot_accesses: float = 0.0
    stride: int = 0
    #: Children that it forks, at most 64, and the accesses that each of them goes on with: what a child
    #: writes to is copied.
    children: int = 0
    child_accesses: int = 0
    #: Share of the phase's events, relative to the weights of the others. An event is a task with its
    #: children.
    weight: float = 1.0
    #: In seconds, until it exits; None means until the program ends.
    lifetime: Distribution | None = None
    #: Virtual seconds that pass before each task begins.
    think: Distribution | None = None


@dataclass(frozen=True, slots=True)
class ProgramRegion:
    """A region of pageable memory, which is mapped while phases use it."""

    name: str
    kind: RegionKind
    #: The size, either in pages, or as a multiple of the memory of the session's node.
    pages: int = 0
    memory: float = 0.0
    policy: Policy | None = None
    #: Page size in KiB by which accesses are translated: 4, 2048 or 1048576; 0 is 4. It decides what the TLBs
    #: reach; memory is taken in pages of 4 KiB all the same.
    tlb_page_kb: int = 0


@dataclass(frozen=True, slots=True)
class Access:
    """Accesses to single pages of a region."""

    region: str
    pattern: AccessPattern
    name: str = ""
    weight: float = 1.0
    #: Share of accesses that write, 0 to 1.
    write: float = 0.0
    #: For zipf: the exponent.
    theta: float = 0.0
    #: For hot-set: `hot_pages` of the pages get `hot_accesses` of the accesses; both are shares.
    hot_pages: float = 0.0
    hot_accesses: float = 0.0
    #: For stride: how many pages it is.
    stride: int = 0
    think: Distribution | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """Events of several kinds at the same time, until the first of its ends: seconds, events or memory.

    At least one of the three must be given.
    """

    name: str = ""
    #: Ends the phase after so many virtual seconds.
    seconds: float = 0.0
    #: Ends the phase after so many blocks, objects and areas asked for, tasks begun, and pages accessed.
    events: int = 0
    #: Ends the phase after so many pages of all events, as a multiple of the memory of the session's node.
    memory: float = 0.0
    #: Events per virtual second; 0 means as many as costs and think times allow.
    rate: float = 0.0
    #: Events issued together, kind after kind. A smaller batch mixes the kinds more finely, and is slower. 0
    #: is 4096, or a 64th of the node's memory if that is less.
    batch: int = 0
    mixes: tuple[Mix, ...] = ()
    accesses: tuple[Access, ...] = ()
    objects: tuple[ObjectMix, ...] = ()
    vmallocs: tuple[VmallocMix, ...] = ()
    tasks: tuple[TaskMix, ...] = ()
    #: Run the phase once for every node with memory, with mixes and regions bound to that node.
    each_node: bool = False
    #: At the end of the phase, free all blocks, objects and areas that are still held, and end all tasks.
    release: bool = False


@dataclass(frozen=True, slots=True)
class ProgramLimits:
    """Limits at which the program is stopped; 0 is the server's default."""

    max_live_pages: int = 0
    max_events: int = 0
    max_virtual_seconds: float = 0.0
    max_real_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Program:
    """Phases, one after the other. A run is deterministic in the program and the state of the machine."""

    phases: tuple[Phase, ...]
    name: str = ""
    #: One line that says what it models.
    summary: str = ""
    seed: int = 0
    regions: tuple[ProgramRegion, ...] = ()
    limits: ProgramLimits = field(default_factory=ProgramLimits)
    #: Whether a failed allocation or access ends the program; otherwise failures are counted.
    stop_on_failure: bool = False
    #: Whether what mixes, objects, vmallocs and tasks hold at the end stays with the session; else it is
    #: freed.
    keep: bool = False

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Parse a program. InvalidRequest names an unknown or missing key; the service checks the values."""
        if _LONG_KEY.search(text):
            raise InvalidRequest("not a program: a key of more than 16 parts", field="program")
        try:
            table = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # also a number of more digits than int() takes
            raise InvalidRequest(f"not TOML: {error}", field="program") from None
        return _table(cls, table, "")

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """Load a program of the library by its name, or a TOML file by its path. InvalidRequest."""
        if source in list_programs():
            return cls.from_toml(program_text(str(source)))
        try:
            text = _read(Path(source))
        except (OSError, ValueError) as error:
            message = (
                f"{source} is no program of the library ({', '.join(list_programs())}), nor a file: {error}"
            )
            raise InvalidRequest(message, field="program") from None
        return cls.from_toml(text)


def _read(path: Path) -> str:
    """The text of a file. OSError; ValueError if it is no regular file, too large or not UTF-8."""
    if not path.is_file():
        path.stat()
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_PROGRAM_BYTES + 1)
    if len(content) > MAX_PROGRAM_BYTES:
        raise ValueError(f"more than {MAX_PROGRAM_BYTES >> 10} KiB")
    return content.decode("utf-8-sig")


def list_programs() -> tuple[str, ...]:
    """The names of the programs in the library."""
    return tuple(sorted(p.name.removesuffix(".toml") for p in _LIBRARY.iterdir() if p.name.endswith(".toml")))


def program_text(name: str) -> str:
    """The TOML text of a program of the library, with its comments."""
    return (_LIBRARY / f"{name}.toml").read_text(encoding="utf-8")


_TABLES: dict[type, dict[str, type]] = {
    Program: {"limits": ProgramLimits},
    Mix: {"lifetime": Distribution, "think": Distribution},
    Access: {"think": Distribution},
    ObjectMix: {"lifetime": Distribution, "think": Distribution},
    VmallocMix: {"lifetime": Distribution, "think": Distribution},
    TaskMix: {"lifetime": Distribution, "think": Distribution},
}
_LISTS: dict[type, dict[str, type]] = {
    Program: {"phases": Phase, "regions": ProgramRegion},
    Phase: {
        "mixes": Mix,
        "accesses": Access,
        "objects": ObjectMix,
        "vmallocs": VmallocMix,
        "tasks": TaskMix,
    },
}
#: Types whose values are words; the service checks whether it knows them.
_WORDS = ("DistributionKind", "LifetimeUnit", "RegionKind", "AccessPattern")
_SCALARS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


def _table(cls: type[T], table: object, path: str) -> T:
    """Make a dataclass of a TOML table whose keys are its fields; `path` names the table in errors."""
    if not isinstance(table, Mapping):
        raise InvalidRequest(f"{path}: a table", field=path)
    known = {f.name: f for f in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        at = f"{path}.{key}" if path else key
        if key not in known:
            raise InvalidRequest(f"{at}: unknown key; known are {', '.join(known)}", field=at)
        if key in _TABLES.get(cls, {}):
            values[key] = _table(_TABLES[cls][key], value, at)
        elif key in _LISTS.get(cls, {}):
            if not isinstance(value, list):
                raise InvalidRequest(f"{at}: a list of tables", field=at)
            values[key] = tuple(_table(_LISTS[cls][key], v, f"{at}[{i}]") for i, v in enumerate(value))
        else:
            values[key] = _scalar(str(known[key].type), value, at)
    try:
        return cls(**values)
    except TypeError:
        missing = next(f.name for f in known.values() if f.name not in values and _is_required(f))
        at = f"{path}.{missing}" if path else missing
        raise InvalidRequest(f"{at}: is missing", field=at) from None


def _is_required(f: Any) -> bool:
    return repr(f.default) == repr(f.default_factory)  # both are MISSING


def _scalar(kind: str, value: object, path: str) -> Any:
    if kind == "Policy | None":
        return Policy.parse(_scalar("str", value, path))
    if kind in _WORDS:
        return _scalar("str", value, path)
    if not isinstance(value, _SCALARS[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise InvalidRequest(f"{path}: {value!r} is no {kind}", field=path)
    return value
