"""SLAB at work: arrays, slabs and the reaper do what they did in captured traces."""

from __future__ import annotations

from pathlib import Path

import pytest
from fidelity.kmem_events import kmem_workloads
from fidelity.slab import guest_of, slab_captures
from fidelity.slab_replay import Idle, SlabReplay, captured_rounds, reaped, replay_slab
from groundtruth import GROUNDTRUTH

TRACES = [(capture, name) for capture in slab_captures("slab") for name in kmem_workloads(capture)]

#: Allocations of caches from their first new slab on, and how many of them have the predicted address; slabs
#: that were added, and at the predicted allocation; slabs that were given back, and the predicted ones at the
#: predicted free; allocations for which the model has nothing; slabs that it gives back at an earlier free
#: than the kernel, or alone. One slab goes late, as what the alien array of the other node held when the
#: trace began is not known; of `3n-memless`, where the CPU's node has no memory, neither is what other nodes
#: shared then: most slabs go some frees early there.
EXPECTED = {
    "1n1c-k61slab/trace/forks": (226, 226, 7, 7, 0, 0, 0, 0),
    "1n1c-k61slab/trace/messages": (2329, 2329, 351, 351, 268, 268, 0, 0),
    "1n1c-k61slab/trace/pipes": (3802, 3802, 392, 392, 341, 341, 0, 0),
    "1n1c-k61slab/trace/tmpfs": (5041, 5041, 249, 249, 227, 227, 0, 0),
    "1n1c-k61slab/trace/udp": (563, 563, 103, 103, 77, 77, 0, 0),
    "2n2c-k61slab/trace/forks": (535, 535, 21, 21, 0, 0, 0, 0),
    "2n2c-k61slab/trace/messages": (1924, 1924, 570, 570, 160, 160, 0, 0),
    "2n2c-k61slab/trace/pipes": (11441, 11441, 1194, 1194, 997, 997, 0, 0),
    "2n2c-k61slab/trace/remote": (4793, 4793, 236, 236, 203, 202, 0, 0),
    "2n2c-k61slab/trace/tmpfs": (14975, 14975, 832, 832, 732, 732, 0, 0),
    "2n2c-k61slab/trace/udp": (1184, 1183, 241, 241, 120, 120, 0, 0),
    "2n2c-k61slab/trace-noaliencache/remote": (1756, 1756, 117, 117, 71, 71, 0, 0),
    "2n2c-k61slab/trace-tunables/tmpfs": (1786, 1786, 117, 117, 75, 75, 0, 0),
    "3n-210-k61slab/trace/pipes": (3495, 3495, 378, 378, 174, 174, 0, 0),
    "3n-210-k61slab/trace/remote": (2351, 2351, 113, 113, 83, 83, 0, 0),
    "3n-memless-k61slab/trace/pipes": (3811, 3811, 406, 406, 265, 17, 0, 215),
    "3n-memless-k61slab/trace/remote": (2618, 2605, 177, 177, 140, 98, 8, 26),
}


def name_of(capture: Path, workload: str) -> str:
    return f"{capture.parent.name}/{capture.name}/{workload}"


def totals(replay: SlabReplay) -> tuple[int, ...]:
    tallies = replay.tallies.values()
    return tuple(
        sum(getattr(tally, kind) for tally in tallies)
        for kind in (
            "allocations",
            "same_address",
            "slabs_added",
            "same_growth",
            "slabs_freed",
            "same_free",
            "extra",
            "early",
        )
    )


@pytest.mark.parametrize(("capture", "workload"), TRACES, ids=[name_of(*trace) for trace in TRACES])
def test_objects_and_slabs_come_and_go_as_captured(capture: Path, workload: str) -> None:
    replay = replay_slab(capture, workload)
    counted = totals(replay)
    if expected := EXPECTED.get(name_of(capture, workload)):
        assert counted == expected
    assert counted[3] == counted[2]
    guest = guest_of(capture)
    if all(guest.has_memory(nid) for nid in guest.cpus):
        assert counted[1] >= 0.999 * counted[0]
        assert counted[5] >= counted[4] - 1
        assert counted[6:] == (0, 0)
    else:
        assert counted[1] >= 0.99 * counted[0]


def test_all_traces_of_slab_are_replayed() -> None:
    assert len(TRACES) >= len(EXPECTED)


def _times(captured: list[Idle], states: list[Idle], objects: int, slabs: int) -> list[int]:
    """For each captured moment the earliest round not before that of the moment before; else it fails."""
    rounds: list[int] = []
    for seen in captured:
        at = rounds[-1] if rounds else 0
        while not (
            abs(states[at].free_objects - seen.free_objects) <= objects
            and states[at].shared == seen.shared
            and abs(states[at].slabs_gone - seen.slabs_gone) <= slabs
        ):
            at += 1
            assert at < len(states), (seen, states)
        rounds.append(at)
    return rounds


@pytest.mark.parametrize(
    ("capture", "workload", "objects", "slabs", "touched", "rounds"),
    [
        # the CPU's array of 54 loses 11 objects each round, and slabs above the limit go
        ("1n1c-k61slab", "tmpfs", 0, 0, True, [0, 0, 2, 2, 4, 6, 6]),
        # other CPUs of the machine have some objects, too: fewer than an array of one
        ("2n2c-k61slab", "tmpfs", 5, 0, True, [0, 0, 0, 2, 3, 6, 6]),
        ("2n2c-k61slab", "remote", 12, 1, False, [0, 0, 0, 0, 2, 6, 6]),
    ],
)
def test_the_rounds_of_the_reaper(
    capture: str, workload: str, objects: int, slabs: int, touched: bool, rounds: list[int]
) -> None:
    """Slabinfo was read 0, 1, 2, 4, 8 and 16 s after the trace, and at its end; a round is 2 s at least."""
    folder = GROUNDTRUTH / "slab" / capture / "trace"
    captured = captured_rounds(folder, workload, "shmem_inode_cache")
    states = reaped(folder, workload, odd=False, touched=touched, rounds=8)["shmem_inode_cache"]
    assert _times(captured, states, objects, slabs) == rounds


@pytest.mark.parametrize(
    ("capture", "workload", "cache"),
    [
        ("1n1c-k61slab", "tmpfs", "shmem_inode_cache"),
        ("1n1c-k61slab", "tmpfs", "dentry"),
        ("1n1c-k61slab", "pipes", "inode_cache"),
        ("1n1c-k61slab", "pipes", "kmalloc-1k"),
        ("1n1c-k61slab", "messages", "sock_inode_cache"),
        ("1n1c-k61slab", "messages", "skbuff_head_cache"),
        ("1n1c-k61slab", "udp", "UDP"),
        ("2n2c-k61slab", "tmpfs", "shmem_inode_cache"),
        ("2n2c-k61slab", "tmpfs", "dentry"),
        ("2n2c-k61slab", "pipes", "inode_cache"),
        ("2n2c-k61slab", "messages", "sock_inode_cache"),
        ("2n2c-k61slab", "udp", "UDP"),
        ("2n2c-k61slab", "remote", "shmem_inode_cache"),
    ],
)
def test_slabinfo_at_the_end_of_a_trace(capture: str, workload: str, cache: str) -> None:
    """Free objects within one array of a CPU, and what the node's CPUs share."""
    folder = GROUNDTRUTH / "slab" / capture / "trace"
    seen = captured_rounds(folder, workload, cache)[0]
    working = replay_slab(folder, workload).slab.caches[cache]
    info = working.info()
    assert abs(info.objects - info.active_objects - seen.free_objects) <= working.cache.limit
    assert abs(info.shared_available - seen.shared) <= working.cache.limit
