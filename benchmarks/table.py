"""The rows that benchmarks give, each with a value of the same run to compare with; their table and file."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement, and one that it is compared with.

    `goal` is for the ratio of both if `goal_of_ratio`, else for the value. It is a minimum if `at_least`,
    else a maximum.
    """

    name: str
    value: float
    unit: str
    against: str = ""
    against_value: float | None = None
    goal: float | None = None
    goal_of_ratio: bool = True
    at_least: bool = True
    #: Why the host was too busy to trust this row (host.py); empty if it was not.
    doubt: str = ""

    @property
    def ratio(self) -> float | None:
        """The value divided by the one it is compared with."""
        return self.value / self.against_value if self.against_value else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal, without a value to compare with, or in doubt."""
        found = self.ratio if self.goal_of_ratio else self.value
        if self.goal is None or found is None or self.doubt:
            return None
        return found >= self.goal if self.at_least else found <= self.goal

    def as_json(self) -> dict[str, object]:
        """The row as results files have it."""
        row = asdict(self)
        of, least = row.pop("goal_of_ratio"), row.pop("at_least")
        text = f"{'≥' if least else '≤'} {self.goal:g}{' ×' if of else ''}" if self.goal is not None else None
        return row | {"ratio": self.ratio, "goal": text, "met": self.met}


def machine() -> dict[str, object]:
    """The properties of the host."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    model = next(names, platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": model,
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


@contextmanager
def compiling(what: str, cached: bool) -> Iterator[None]:
    """Print on stderr that the body compiles something, and how long it took; nothing if it is `cached`."""
    began = time.monotonic()
    if not cached:
        print(f"    compiling {what}: once, minutes", file=sys.stderr, flush=True)
    yield
    if not cached:
        print(f"    compiled in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def number(value: float | None) -> str:
    """A number with three significant digits."""
    if value is None:
        return "–"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.2f} M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.1f} k"
    return f"{value:.3g}"


def show(rows: Sequence[Row]) -> None:
    """Print the table of rows, and which of them are not to be trusted."""
    print(f"{'':<34}{'value':>10} {'unit':<10}{'against':>10}  {'ratio':>7} {'goal':>9}  met  against what")
    for row in rows:
        json_row = row.as_json()
        met = "?" if row.doubt else "–" if row.met is None else "yes" if row.met else "NO"
        print(
            f"{row.name:<34}{number(row.value):>10} {row.unit:<10}{number(row.against_value):>10}  "
            f"{number(row.ratio):>7} {json_row['goal'] or '–':>9}  {met:<4} {row.against}"
        )
    for reason in dict.fromkeys(row.doubt for row in rows if row.doubt):
        names = ", ".join(row.name for row in rows if row.doubt == reason)
        print(f"? not to be trusted, as {reason}: {names}")


def result(rows: Sequence[Row]) -> dict[str, object]:
    """The content of a results file: the host's properties, and every row."""
    return {"machine": machine(), "rows": [row.as_json() for row in rows]}


def save(name: str, rows: Sequence[Row]) -> Path:
    """Write benchmarks/results/NAME.json; returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result(rows), indent=1, ensure_ascii=False) + "\n")
    return path
