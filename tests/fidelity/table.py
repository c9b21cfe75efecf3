"""``make fidelity``: the comparison with every capture as a table; exit code 1 on a difference."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fidelity.balancing import balancing_captures
from fidelity.balancing_table import balancing_section
from fidelity.compare import Field, compare
from fidelity.hotplug import compare_hotplug
from fidelity.hugepages import compare_hugepages
from fidelity.oom_table import oom_section
from fidelity.processes_table import process_captures, process_section
from fidelity.public import public_section
from fidelity.rows import COLUMNS, causes, kinds, row, rows
from fidelity.slab_table import slab_section, work_section
from fidelity.traces import TraceResult, event_row, placement_row, replay_trace, trace_fields, trace_rows
from fidelity.vmalloc_table import vmalloc_captures, vmalloc_section
from fidelity.workloads import compare_workload, machine_of_workload
from groundtruth import GROUNDTRUTH

#: Characters of a difference that are printed.
_LONG = 500
_HEADER = """# Fidelity: computed against captured

Made by `make fidelity` from the captures in `tests/testdata/groundtruth`; with `make fidelity
GROUNDTRUTH=DIR` it compares with those in DIR, and writes no document. Each captured kernel's machine is
booted here from its zone spans, present and managed pages, CPUs, distances, sysctls, command line and boot
log; the numbers below are then **computed** and compared with what the kernel printed, at boot and after
each change of sysctls. Steps of captured workloads start from the captured free blocks, pagesets and marks,
and run under the same CPU and policy. Zones after memory hot-plug are computed from the list of blocks that
changed. Traces are replayed from the captured occupancy.

"compared" is everything that was. "numbers" are distinct numbers that are computed here: what is taken over
(`managed` of a boot) is none, what a file repeats for every CPU is one, and so is what stands in a later
file of the same capture as it stood in an earlier one; 0 beside 0 is none. A number is "exact" if it is
wherever it stands.

No number of a boot, of a changed sysctl or of a hot-plug has a tolerance. A boot computes its numbers
before it frees initrd and init memory: which pages those are is read from the boot log and iomem, and left
out.

"explained" are numbers of steps and traces within a tolerance, each listed with its cause; "different" are
outside one, and there must be none. Tolerances are computed from the captures alone: what was done here
does not widen them. A step's is computed from the snapshots around it: the pages allocated meanwhile by
others (`pgalloc_*` less the step's and page tables), what pagesets of the zones left may have kept (a
capture counts their pages, not their types), and for each zone left, two batches, the vmstat thresholds
and, where they apply, two huge pages or a pageblock (`tests/fidelity/workloads.py` says why). A trace's is
what was allocated between the captures around it and is not in the trace. Only the orders after a trace
have a guard that no mechanism gives: the goal, or for the two zones that miss it what was measured.

What is compared is where pages go and the marks, reserves, pagesets and lists that decide it. **Not
compared** is what a kernel does when memory is short: reclaim, swap, page cache, compaction, and in which
step memory is out (who is killed then is, below). Steps in which the captured kernel did any of that are
listed at the end. Pageset `high` of 6.12 is tuned at run time and is not compared.

"""


def _part(field: Field) -> str:
    if field.file == "boot" or field.file.startswith("after-"):
        return "boots and changed sysctls"
    return {"step": "steps of workloads", "trace": "traces"}.get(field.file, "memory hot-plug")


def _captures(folder: Path, depth: str) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"{depth}/zoneinfo.txt"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make fidelity",
        description="Compare with captured kernels, field by field; exit code 1 if one differs.",
        epilog="make fidelity GROUNDTRUTH=DIR compares with those in DIR, and writes no document.",
    )
    parser.add_argument(
        "captures",
        nargs="?",
        type=Path,
        default=GROUNDTRUTH,
        metavar="DIR",
        help="a folder with topologies/, workloads/, traces/, slab/, vmalloc/, processes/ and balancing/, "
        "any of which may be missing, or a folder of topologies; default: $NUMA_GROUNDTRUTH, else those of "
        "the repository (here %(default)s)",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there too")
    return parser.parse_args()


def _fields(capture: Path, skipped: list[str]) -> list[Field]:
    """Compare one topology or workload."""
    if capture.parent.parent.name != "workloads":
        return list(compare(capture))
    name = f"{capture.parent.name}/{capture.name}"
    spec = machine_of_workload(capture)
    if spec is None:
        skipped.append(f"{name}: all of it: its topology was not captured by itself")
        return []
    return [
        *compare_workload(capture, skipped),
        *compare_hotplug(capture, spec),
        *compare_hugepages(capture, spec),
    ]


def main() -> int:
    """Print the table, and the differences that nothing explains."""
    arguments = _arguments()
    write, root = arguments.write, arguments.captures.resolve()
    parts = {"topologies", "workloads", "traces", "slab", "vmalloc", "processes", "balancing"}
    whole = any((root / part).is_dir() for part in parts)
    topologies = _captures(root / "topologies" if whole else root, "*")
    workloads = _captures(root / "workloads", "*/*") if whole else []
    traces = sorted({p.parent for p in (root / "traces").glob("*/*/t.*trace*")}) if whole else []
    memory = (
        [
            *root.glob("slab/*/*/scenario.json"),
            *vmalloc_captures(root),
            *process_captures(root),
            *balancing_captures(root),
        ]
        if whole
        else []
    )
    total = len(topologies) + len(workloads) + len(traces)
    if not total and not memory:
        print(f"no captures in {root}: set GROUNDTRUTH or name a folder of them", file=sys.stderr)
        return 1
    skipped: list[str] = []
    unreadable: list[str] = []
    everything: list[Field] = []
    replayed: list[TraceResult] = []
    for number, capture in enumerate([*topologies, *workloads, *traces], 1):
        name = capture.name if capture in topologies else f"{capture.parent.name}/{capture.name}"
        print(f"\r{number}/{total} {name:<50}", end="", file=sys.stderr)
        try:
            if capture in traces:
                result = replay_trace(capture)
                fields = list(trace_fields(result)) if result else []
                if result:
                    replayed.append(result)
                else:
                    skipped.append(f"{name}: all of it: its topology, or the captures around it, are missing")
            else:
                fields = _fields(capture, skipped)
        except Exception as error:  # one bad capture must not keep the others from being compared
            unreadable.append(f"{name}: {type(error).__name__}: {error}")
            continue
        everything += fields
    print(file=sys.stderr)
    text = _HEADER + f"| | {COLUMNS}"
    for part in dict.fromkeys(map(_part, everything)):
        text += row(part, [field for field in everything if _part(field) == part])
    text += row("**all**", everything)
    text += rows("capture", everything, lambda field: field.capture)
    text += kinds(everything)
    text += causes(everything)
    if replayed:
        text += (
            "\nReplayed traces. Pages; off: in percent of managed, the orders as sum of |difference in free "
            "pages|; goals 1 % and 2 %. At the last event: free here and, by its own events, in the traced "
            "kernel. Settled: the capture was made later, and meanwhile the kernel drained pagesets; ours "
            "are drained to the captured counts before the two are compared.\n\n"
            "| trace | zone | managed | free here | free traced | off % | settled here | captured | off % | "
            "orders off % | goals met |\n"
            f"|---|---|---|---|---|---|---|---|---|---|---|\n{''.join(map(trace_rows, replayed))}"
            "\nWhere their allocations went. A node that a policy or the caller named is read off the trace "
            "and followed: that it is the same says nothing, and one that is not was short here. All others "
            "are computed: those of a CPU whose node was above LOW could go nowhere else; "
            '"elsewhere" are what the traced kernel took from another node because '
            "the CPU's own was short.\n\n"
            "| trace | same node: policies followed | same node: computed | of these, elsewhere | same "
            "zone | same page |\n"
            f"|---|---|---|---|---|---|\n{''.join(map(placement_row, replayed))}"
            "\nWhat was done, here / in the trace, and what was inferred: the trace has no event for it.\n\n"
            "| trace | pageblock steals | blocks drained | blocks refilled | inferred allocations | inferred "
            f"pages drained |\n|---|---|---|---|---|---|\n{''.join(map(event_row, replayed))}"
        )
    for section in (
        (slab_section, work_section, vmalloc_section, process_section, balancing_section, oom_section)
        if memory
        else ()
    ):
        part, fields = section(root, skipped, unreadable)
        text += part
        everything += fields
    if root == GROUNDTRUTH.resolve():
        part, fields = public_section()
        text += part
        everything += fields
    if skipped:
        text += "\n## Not compared\n\n" + "".join(f"- {line}\n" for line in skipped)
    print(text)
    if write:
        write.write_text(text)
    different = [field for field in everything if not field.explained]
    for field in different:
        print(f"DIFFERENT {field}"[:_LONG])
    for line in unreadable:
        print(f"UNREADABLE {line}")
    return 1 if different or unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
