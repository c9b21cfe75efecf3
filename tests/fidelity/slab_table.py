"""The sections on slab allocators of ``make fidelity``: what caches look like, and what they do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from fidelity.compare import Field
from fidelity.kmem_events import kmem_workloads
from fidelity.rows import COLUMNS, causes, kinds, row
from fidelity.slab import COMPARE, guest_of, slab_captures
from fidelity.slab_dynamic import bulk, reaper_fields, slab_fields, slob_fields, slub_fields, slub_row
from fidelity.slub_work import replays, work_captures

_STATIC = """
## Slab caches

What a cache looks like is computed from the arguments of kmem_cache_create, the CPUs, the nodes and the
command line. Of kernels with SLUB that is every static attribute in /sys/kernel/slab, which caches merge, and
/proc/slabinfo; with SLAB slabinfo, and sizes and colours in traces; with SLOB sizes and alignment in traces.
Arguments were read off a capture of each kernel: they are compared in all, and are no numbers here.

These numbers are not in the tables above, as most are the same in many boots: "different ones" counts such a
number once. None has a tolerance.

"""

_DYNAMIC = """
## Slab allocators at work

Captured traces of objects and pages are replayed: each object is allocated and freed on its CPU, and slabs,
arrays and lists are computed. The allocators get the pages that the kernel got when they ask for some. What
CPUs and lists had when a trace began is unknown; so is when a grace period ends. Tolerances are of that
kind: what one CPU can have had at hand, and slabs that wait. Where that is as much as the number itself, as
in many rounds of the reaper, only too much would be seen. Of SLOB, one object in a hundred may be elsewhere
in its page and one in fifty in another: a guard that no mechanism gives.

"""

_SLUB = (
    "\nSLUB: objects allocated, and of these at the predicted address and in the predicted slab; slabs made "
    "and given back, by the kernel, by the model, and by both at the same event.\n\n"
    "| trace | cache | objects | same address | same slab | made: kernel | model | same event | "
    "given back: kernel | model | same event |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
)
_SLAB = (
    "\nSLAB: objects allocated from a cache's first new slab on, and of these at the predicted address; "
    "slabs added and given back by the kernel, and of these at the same event by the model.\n\n"
    "| trace | cache | objects | same address | added | same event | given back | same event |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
_SLOB = (
    "\nSLOB: objects in pages of the trace, and of these at the predicted place in their page and in the "
    "predicted page, too; objects in pages of before; pages given back, and of these at the same event.\n\n"
    "| trace | objects | same place | same address | in pages of before | pages given back | same event |\n"
    "|---|---|---|---|---|---|---|\n"
)


def collected(
    name: str, fields: Callable[[], Iterator[Field]], skipped: list[str], unreadable: list[str]
) -> list[Field]:
    """The fields of one comparison; a file that is missing and one that cannot be read are noted."""
    print(f"\r{name:<70}", end="", file=sys.stderr)
    try:
        return list(fields())
    except FileNotFoundError as error:
        skipped.append(f"{name}: there is no {Path(str(error.filename)).name}")
    except Exception as error:  # one bad capture must not keep the others from being compared
        unreadable.append(f"{name}: {type(error).__name__}: {error}")
    return []


def slab_section(root: Path, skipped: list[str], unreadable: list[str]) -> tuple[str, list[Field]]:
    """What caches look like: text and fields."""
    found: dict[tuple[str, str], list[Field]] = {}
    for allocator, compared in COMPARE.items():
        for capture in slab_captures(allocator, root):
            name = f"slab/{capture.parent.name}/{capture.name}"
            if fields := collected(name, lambda of=compared, at=capture: of(at), skipped, unreadable):
                found.setdefault((allocator, guest_of(capture).profile), []).extend(fields)
    columns = COLUMNS.replace("|---", "|---|---|---", 1)
    text = f"{_STATIC}| allocator and kernel | boots | different ones | {columns}"
    for (allocator, kernel), same in found.items():
        boots = len({field.capture for field in same})
        ones = len({field.number[1:] for field in same if field.number})
        text += row(f"{allocator.upper()}, {kernel} | {boots} | {ones}", same)
    everything = [field for same in found.values() for field in same]
    return (text + kinds(everything) if everything else ""), everything


def work_section(root: Path, skipped: list[str], unreadable: list[str]) -> tuple[str, list[Field]]:
    """What allocators do with objects: text and fields."""
    rows: dict[str, list[str]] = {_SLUB: [], _SLAB: [], _SLOB: []}
    found: dict[str, list[Field]] = {"SLUB": [], "SLAB": [], "SLAB's reaper": [], "SLOB": []}

    def of_slub(capture: Path) -> Iterator[Field]:
        for replay in replays(capture):
            if bulk(replay):
                where = f"slab/{capture.parent.name}/{capture.name}: {replay.workload} {replay.cache.name}"
                skipped.append(f"{where}: it is allocated in bulk, which has no event")
                continue
            rows[_SLUB].append(slub_row(replay))
            yield from slub_fields(replay)

    for capture in work_captures(root):
        name = f"slab/{capture.parent.name}/{capture.name}"
        found["SLUB"] += collected(name, lambda at=capture: of_slub(at), skipped, unreadable)
    for allocator, what, fields in (
        ("slab", "SLAB", lambda at, workload: slab_fields(at, workload, rows[_SLAB])),
        ("slab", "SLAB's reaper", reaper_fields),
        ("slob", "SLOB", lambda at, workload: slob_fields(at, workload, rows[_SLOB])),
    ):
        for capture in slab_captures(allocator, root):
            for workload in kmem_workloads(capture):
                name = f"slab/{capture.parent.name}/{capture.name}/{workload}"
                found[what] += collected(
                    name, lambda of=fields, at=capture, work=workload: of(at, work), skipped, unreadable
                )
    everything = [field for fields in found.values() for field in fields]
    if not everything:
        return "", []
    text = f"{_DYNAMIC}| allocator | {COLUMNS}"
    text += "".join(row(what, fields) for what, fields in found.items() if fields)
    text += kinds(everything) + causes(everything)
    return text + "".join(head + "".join(lines) for head, lines in rows.items() if lines), everything
