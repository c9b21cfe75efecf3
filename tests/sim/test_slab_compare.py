"""One trace through the three slab allocators: counts that can be computed by hand, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from numa_client import Program
from typer.testing import CliRunner

from numa_service.cli import compare_slab as command
from numa_service.machine.source import load
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.node.errors import InvalidRequest
from numa_service.sim.program_objects import program_slab_events
from numa_service.sim.slab_compare import replay_slab_trace
from numa_service.trace.slab_events import SlabEvent

ALLOCATORS = ("slub", "slab", "slob")


def alloc(number: int, cpu: int, cache: str = "", size: int = 64, ms: int = 0, node: int = -1) -> SlabEvent:
    return SlabEvent(True, ms * 10**6, cpu, number, cache, size, int(GFP_KERNEL), node)


def free(number: int, cpu: int, cache: str = "", ms: int = 0) -> SlabEvent:
    return SlabEvent(False, ms * 10**6, cpu, number, cache)


@pytest.mark.parametrize(
    ("allocator", "pages"),
    [
        ("slub", 2),  # 64 objects a page
        ("slab", 2),
        ("slob", 3),  # 72 bytes with the size in front, aligned to 64 bytes: 128 bytes an object
    ],
)
def test_objects_of_kmalloc(allocator: str, pages: int) -> None:
    events = [alloc(number, 0) for number in range(1, 97)]
    use = replay_slab_trace(allocator, load("demo"), events)
    assert (use.allocations, use.failed) == (96, 0)
    assert use.page_allocations == pages
    assert use.by_order == {0: pages}
    assert use.peak_bytes == use.end_bytes == pages * 4096
    assert use.end_requested == 96 * 64
    assert use.wasted_at_peak == use.peak_bytes - use.peak_requested
    assert use.access_ns == 96 * load("demo").latency.local_read_ns


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_a_free_on_another_node_is_remote(allocator: str) -> None:
    spec = load("demo")
    near, far = (spec.node(nid).cpus[0] for nid in (0, 1))
    events = [alloc(1, near, "dentry", 192), alloc(2, near, "dentry", 192), alloc(3, far, "dentry", 192)]
    events += [free(1, far, "dentry"), free(2, near, "dentry"), free(9, near, "dentry")]
    use = replay_slab_trace(allocator, spec, events)
    # SLOB has lists for the machine: the third object is in the page of the first two
    assert use.by_node == ({0: 1} if allocator == "slob" else {0: 1, 1: 1})
    assert (use.frees, use.remote_frees, use.freed_before) == (2, 1, 1)
    assert use.end_requested == 192


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_everything_comes_back(allocator: str) -> None:
    """Objects of all kinds, of a cache that the kernel does not have and of whole pages, too."""
    kinds = [("", 40), ("", 20_000), ("filp", 256), ("my_cache", 300), ("names_cache", 4096)]
    numbered = [(number, *kinds[number % len(kinds)]) for number in range(400)]
    events = [alloc(n + 1, n % 4, cache, size, ms=n) for n, cache, size in numbered]
    events += [free(n + 1, n * 3 % 4, cache, ms=400 + n) for n, cache, _ in numbered]
    use = replay_slab_trace(allocator, load("demo"), events)
    assert (use.allocations, use.frees, use.failed, use.end_requested) == (400, 400, 0, 0)
    # SLOB keeps no page without objects; the others keep some slabs, and here far less than they had
    assert use.end_bytes == 0 if allocator == "slob" else use.end_bytes < use.peak_bytes // 2


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_the_same_trace_gives_the_same_numbers(allocator: str) -> None:
    events = [alloc(number % 50 + 1, number % 4, "dentry", 192, ms=number * 7) for number in range(300)]
    assert replay_slab_trace(allocator, load("demo"), events) == replay_slab_trace(
        allocator, load("demo"), events
    )


PROGRAM = """
name = "small"
[[phases]]
name = "only"
events = 600
[[phases.objects]]
cache = "dentry"
[[phases.objects]]
size = 60
node = 1
lifetime = { kind = "exponential", mean = 0.0001 }
"""


def test_a_program_is_a_trace_of_its_objects(tmp_path: Path) -> None:
    spec = load("demo")
    events = program_slab_events(spec, Program.from_toml(PROGRAM), 2)
    assert events == program_slab_events(spec, Program.from_toml(PROGRAM), 2)
    taken = [event for event in events if event.alloc]
    assert len(taken) == 600
    assert len(events) == 1200
    kinds = {(event.cache, event.size, event.node, event.cpu) for event in taken}
    assert kinds == {("dentry", 192, -1, 2), ("", 60, 1, 2)}
    live: set[int] = set()
    for event in events:  # the machine's own allocator gives no object twice
        assert (event.address in live) != event.alloc
        live ^= {event.address}
    assert live == set()
    assert [event.time_ns for event in events] == sorted(event.time_ns for event in events)
    uses = [replay_slab_trace(allocator, spec, events) for allocator in ALLOCATORS]
    assert [(use.allocations, use.frees, use.end_requested) for use in uses] == [(600, 600, 0)] * 3
    of_node = sum(event.node == 1 for event in taken)
    assert uses[0].remote_frees == 0  # CPU 2 is of node 1, as all of its objects are
    assert 0 < of_node < 600
    with pytest.raises(InvalidRequest, match="cpu: 99"):
        program_slab_events(spec, Program.from_toml(PROGRAM), 99)
    with pytest.raises(InvalidRequest, match="no objects of slab caches"):
        program_slab_events(
            spec,
            Program.from_toml(
                'name = "p"\n[[phases]]\nname = "q"\nevents = 5\n[[phases.mixes]]\nname = "m"\n'
            ),
            0,
        )
    app = typer.Typer(pretty_exceptions_enable=False)
    command.register(app)
    path = tmp_path / "small.toml"
    path.write_text(PROGRAM)
    done = CliRunner().invoke(app, [str(path), "--machine", "demo", "--cpu", "2", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["program"], found["events"]) == (str(path), 1200)
    assert [found["allocators"][use.allocator]["by_order"] for use in uses] == [
        {str(order): count for order, count in use.by_order.items()} for use in uses
    ]
    for wrong, text in (
        (["no such.toml"], "nor a file"),
        ([str(path), "--cpu", "77"], "77 is not a CPU of demo"),
        (["stream"], "has no objects of slab caches"),
        (["some.trace", "--cpu", "1"], "a trace has CPUs of its own"),
    ):
        refused = CliRunner().invoke(app, [*wrong, "--machine", "demo"])
        assert refused.exit_code > 0
        assert text in " ".join(refused.stderr.split())
    shown = CliRunner().invoke(app, [str(path), "--machine", "demo", "--progress"])
    assert "objects allocated" in shown.stdout
    assert "running small" in shown.stderr


def test_the_command(tmp_path: Path) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    command.register(app)
    trace = tmp_path / "slab.trace"
    fields = "bytes_req=100 bytes_alloc=128 gfp_flags=GFP_KERNEL node=-1"
    lines = (f"x-1 [000] ..... 1.{at:06}: kmalloc: call_site=a ptr={at:x} {fields}\n" for at in range(1, 41))
    trace.write_text("".join(lines))
    done = CliRunner().invoke(app, [str(trace), "--machine", "demo", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["allocators"]
    assert list(found) == list(ALLOCATORS)
    assert [found[name]["page_allocations"] for name in ALLOCATORS] == [2, 2, 2]
    done = CliRunner().invoke(app, [str(trace), "--machine", "demo", "--progress"])
    assert "objects allocated" in done.stdout
    assert "replaying with SLAB" in done.stderr
    done = CliRunner().invoke(app, [str(trace), "--machine", "i386-highmem", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["allocators"]
    assert [found[name]["page_allocations"] for name in ALLOCATORS] == [2, 2, 2]
