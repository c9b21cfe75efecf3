"""Variants: how they are written, run and ranked."""

from __future__ import annotations

from pathlib import Path

import pytest
from numa_client import Access, Phase, Policy, Program, ProgramRegion

from numa_service.machine.presets import load_preset
from numa_service.machine.spec import SpecError
from numa_service.node.errors import InvalidRequest
from numa_service.sim.compare import Mean, Run, rank, replay_variant, run_variant, shares
from numa_service.sim.variant import Variant, parse_variant


def variant(text: str) -> Variant:
    return parse_variant(text, load_preset)


def program(write: float = 0.0, pages: int = 2000) -> Program:
    """Random accesses to memory that was written to before."""
    region = ProgramRegion("heap", kind="anon", pages=pages)
    fill = Phase("fill", events=pages, accesses=(Access("heap", "sequential", write=1.0),))
    use = Phase("use", events=10_000, accesses=(Access("heap", "uniform", write=write),))
    return Program((fill, use), regions=(region,))


def run(text: str, seed: int = 1, **of: float) -> Run:
    return run_variant(variant(text), program(**of), seed, None, lambda share: None)  # type: ignore[arg-type]  # pages are whole


def test_what_a_variant_says() -> None:
    text = "two-socket,vm.watermark_scale_factor=100,policy=interleave:0,1,profile=linux-6.12,slab=slub"
    found = variant(text)
    assert found.spec.profile == "linux-6.12"
    assert found.spec.sysctls["vm.watermark_scale_factor"] == "100"
    assert found.policy == Policy.interleave(0, 1)
    assert found.spec.slab == "slub"
    assert found.notes == ()
    assert variant("two-socket").spec == load_preset("two-socket")


def test_what_has_no_effect_is_told() -> None:
    (note,) = variant("two-socket,vm.zone_reclaim_mode=1").notes
    assert "node reclaim is not modelled" in note


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no-such-machine", "no preset"),
        ("two-socket,profile=linux-99", "unknown profile"),
        ("two-socket,policy=near:0", "unknown policy"),
        ("two-socket,vm.nothing=1", "vm.nothing: unknown sysctl"),
        ("two-socket,vm.swappiness=1000", "vm.swappiness: 1000 is not in"),
        ("two-socket,nodes=3", "'nodes' is no key"),
        ("two-socket,profile=linux-3.0,vm.watermark_boost_factor=1", "linux-3.0 has no such sysctl"),
    ],
)
def test_wrong_variants(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        variant(text)


def test_a_policy_takes_time() -> None:
    near, far = run("two-socket"), run("two-socket,policy=bind:1")
    assert (near.remote, far.remote) == (0.0, 1.0)
    assert far.placement == {1: near.placement[0]}
    spec = load_preset("two-socket")
    difference = spec.latency.read_latency_ns(0, 1, 16) - spec.latency.read_latency_ns(0, 0, 10)
    assert far.latency["use: heap"].mean_ns - near.latency["use: heap"].mean_ns >= 0.9 * difference


def test_a_program_gets_only_what_it_does_not_say_itself() -> None:
    bound = program()
    (region,) = bound.regions
    bound = Program(bound.phases, regions=(ProgramRegion("heap", "anon", 2000, policy=Policy.bind(0)),))
    found = run_variant(variant("two-socket,policy=bind:1"), bound, 1, None, lambda share: None)
    assert region.policy is None
    assert set(found.placement) == {0}


def test_the_same_seed_gives_the_same_numbers_and_another_one_others() -> None:
    assert run("two-socket", 7) == run("two-socket", 7)
    assert run("two-socket", 7).latency != run("two-socket", 8).latency


def test_spills_and_reclaim_are_counted() -> None:
    # more than a node of the demo machine has, and of all of it
    pages = 90_000
    found = run("demo", pages=pages)
    assert found.spills > 0
    assert sum(found.placement.values()) >= pages
    assert run("demo", pages=100).spills == 0


def test_progress_is_told_to_the_end() -> None:
    told: list[float] = []
    run_variant(variant("two-socket"), program(), 1, None, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_cpu_that_is_not_there() -> None:
    with pytest.raises(InvalidRequest, match="999 is not a CPU"):
        run_variant(variant("two-socket"), program(), 1, 999, lambda share: None)


def runs(*times: int) -> list[Run]:
    return [Run(seed, ns, {0: 1}, 0.0, 0, 0, 0) for seed, ns in enumerate(times)]


def test_variants_that_cannot_be_told_apart_share_a_place() -> None:
    found = rank(
        [variant(name) for name in ("two-socket", "demo", "uma", "two-socket")],
        [runs(110, 130, 120), runs(300, 301, 302), runs(100, 120, 110), runs(100, 121, 109)],
    )
    assert [one.rank for one in found] == [1, 1, 3, 4]
    assert [one.variant.name for one in found] == ["uma", "two-socket", "two-socket", "demo"]
    # 120 against 110 is within what seeds do, but each seed is 10 slower
    assert found[2].behind == Mean(10.0, 0.0)


def test_a_variant_that_changes_nothing_is_equal() -> None:
    pair = [variant("two-socket"), variant("two-socket,vm.swappiness=60")]
    ran = [[run_variant(one, program(), seed, None, lambda _: None) for seed in (1, 2)] for one in pair]
    found = rank(pair, ran)
    assert [one.rank for one in found] == [1, 1]
    assert found[1].behind == Mean(0.0, 0.0)


def test_the_error_of_a_mean() -> None:
    assert Mean.of([5.0]) == Mean(5.0, 0.0)
    mean = Mean.of([1.0, 2.0, 3.0])
    assert mean.mean == 2.0
    assert mean.error == pytest.approx(4.303 / 3**0.5)
    assert shares([{0: 1, 1: 2}, {0: 1}]) == {0: 0.5, 1: 0.5}


TRACE = """# tracer: nop
    a-1 [000] ..... 1.000000: mm_page_alloc: page=0x1 pfn=0x1000 order=0 migratetype=1 gfp_flags=GFP_KERNEL
    a-1 [001] ..... 1.000001: mm_page_alloc: page=0x2 pfn=0x2000 order=2 migratetype=1 gfp_flags=GFP_KERNEL
    a-1 [000] ..... 1.000002: mm_page_free: page=0x1 pfn=0x1000 order=0
"""


def test_a_trace_on_a_variant(tmp_path: Path) -> None:
    trace = tmp_path / "t.trace"
    trace.write_text(TRACE)
    found = replay_variant(variant("two-socket"), trace, None)
    assert sum(found.placement.values()) == 5
    assert found.remote == 0.0
    assert found.runtime_ns > 5 * 90
    with pytest.raises(InvalidRequest, match="a trace has policies of its own"):
        replay_variant(variant("two-socket,policy=bind:1"), trace, None)
