"""Workload programs: what a node is to run, as dataclasses and as TOML files, whose keys are their fields.

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
#: Of a program's text; the largest of the library has 3 KiB.
MAX_PROGRAM_BYTES = 256 << 10
#: tomllib takes time and memory that are quadratic in the parts of a key; those of a program have three.
_LONG_KEY = re.compile(
    r"""(?:^|[{,])[ \t]*(?:\[{1,2}[ \t]*)?(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){16}""",
    re.MULTILINE,
)


DistributionKind: TypeAlias = Literal["fixed", "uniform", "exponential", "lognormal", "pareto", "forever"]
LifetimeUnit: TypeAlias = Literal["seconds", "memory"]
AccessPattern: TypeAlias = Literal["sequential", "uniform", "zipf", "hot-set"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Lifetimes and think times. Which numbers count depends on the kind."""

    kind: DistributionKind
    #: fixed (the value), exponential, lognormal, pareto.
    mean: float = 0.0
    #: uniform.
    low: float = 0.0
    high: float = 0.0
    #: lognormal: standard deviation of the logarithm.
    sigma: float = 0.0
    #: pareto: exponent of the tail, above 1.
    alpha: float = 0.0
    #: Virtual seconds, or multiples of the session's node's memory, counted as the program allocates it.
    unit: LifetimeUnit = "seconds"


@dataclass(frozen=True, slots=True)
class Mix:
    """Blocks of one kind: how they are asked for, and how long they live."""

    name: str = ""
    order: int = 0
    gfp: str = "GFP_KERNEL"
    policy: Policy | None = None
    #: Share of the phase's events, relative to the others'.
    weight: float = 1.0
    #: None is forever: until the program ends.
    lifetime: Distribution | None = None
    #: Virtual seconds that pass before each block is asked for.
    think: Distribution | None = None


@dataclass(frozen=True, slots=True)
class ProgramRegion:
    """Pageable memory, mapped while phases use it."""

    name: str
    kind: RegionKind
    #: Size in pages, or as a multiple of the memory of the session's node: one of the two.
    pages: int = 0
    memory: float = 0.0
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """Accesses to single pages of a region."""

    region: str
    pattern: AccessPattern
    name: str = ""
    weight: float = 1.0
    #: Share of accesses that write, 0 to 1.
    write: float = 0.0
    #: zipf: the exponent.
    theta: float = 0.0
    #: hot-set: this share of the pages gets that share of the accesses.
    hot_pages: float = 0.0
    hot_accesses: float = 0.0
    think: Distribution | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """Events of several kinds together, until the first of the ends that are given: at least one of three."""

    name: str = ""
    #: End: virtual seconds.
    seconds: float = 0.0
    #: End: blocks asked for and pages accessed.
    events: int = 0
    #: End: pages of all events, as a multiple of the memory of the session's node.
    memory: float = 0.0
    #: Events per virtual second; 0: as fast as costs and think times allow.
    rate: float = 0.0
    #: Events issued together, kind after kind. Fewer is finer, and slower; 0: 4096, or a 64th of the node's
    #: memory if that is less.
    batch: int = 0
    mixes: tuple[Mix, ...] = ()
    accesses: tuple[Access, ...] = ()
    #: Once for every node with memory, mixes and regions bound to it.
    each_node: bool = False
    #: Free at its end what all mixes so far still hold.
    release: bool = False


@dataclass(frozen=True, slots=True)
class ProgramLimits:
    """Where the program is cut; 0 is the server's default."""

    max_live_pages: int = 0
    max_events: int = 0
    max_virtual_seconds: float = 0.0
    max_real_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Program:
    """Phases, one after the other. The same program on the same state gives the same state and results."""

    phases: tuple[Phase, ...]
    name: str = ""
    #: One line: what it models.
    summary: str = ""
    seed: int = 0
    regions: tuple[ProgramRegion, ...] = ()
    limits: ProgramLimits = field(default_factory=ProgramLimits)
    #: A block or page that is not to be had ends the program; otherwise it is counted.
    stop_on_failure: bool = False
    #: Leave to the session what mixes still hold at the end; otherwise it is freed.
    keep: bool = False

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read a program; InvalidRequest names the key that is wrong. Values are for the service to judge."""
        if _LONG_KEY.search(text):
            raise InvalidRequest("not a program: a key of more than 16 parts", field="program")
        try:
            table = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # also a number of more digits than int() takes
            raise InvalidRequest(f"not TOML: {error}", field="program") from None
        return _table(cls, table, "")

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """A program of the library by its name, or a TOML file by its path."""
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
    """A program's text; OSError, or ValueError for what is no regular file, too large or not UTF-8."""
    if not path.is_file():
        path.stat()
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_PROGRAM_BYTES + 1)
    if len(content) > MAX_PROGRAM_BYTES:
        raise ValueError(f"more than {MAX_PROGRAM_BYTES >> 10} KiB")
    return content.decode("utf-8-sig")


def list_programs() -> tuple[str, ...]:
    """Names of the library."""
    return tuple(sorted(p.name.removesuffix(".toml") for p in _LIBRARY.iterdir() if p.name.endswith(".toml")))


def program_text(name: str) -> str:
    """TOML of a program of the library, with its comments."""
    return (_LIBRARY / f"{name}.toml").read_text(encoding="utf-8")


_TABLES: dict[type, dict[str, type]] = {
    Program: {"limits": ProgramLimits},
    Mix: {"lifetime": Distribution, "think": Distribution},
    Access: {"think": Distribution},
}
_LISTS: dict[type, dict[str, type]] = {
    Program: {"phases": Phase, "regions": ProgramRegion},
    Phase: {"mixes": Mix, "accesses": Access},
}
#: Which there are is the service's business to judge.
_WORDS = ("DistributionKind", "LifetimeUnit", "RegionKind", "AccessPattern")
_SCALARS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


def _table(cls: type[T], table: object, path: str) -> T:
    """A dataclass from a TOML table, whose keys are its fields."""
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
