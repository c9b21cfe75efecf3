"""Hypothesis strategies for machines, for the tests of formats."""

from __future__ import annotations

from hypothesis import strategies as st

from numa_service.machine.formats.draft import Draft, DraftNode
from numa_service.machine.formats.machine_toml import to_spec
from numa_service.machine.latency import LatencyModel
from numa_service.machine.spec import MachineSpec

MIB = 1 << 20


@st.composite
def drafts(draw: st.DrawFn, *, gaps: bool = True, latency: bool = True) -> Draft:
    """Drafts of nodes with and without CPUs and memory; with `gaps`, nids and CPU numbers have gaps."""
    count = draw(st.integers(1, 6))
    top = 1024 if gaps else count
    nids = sorted(draw(st.sets(st.integers(0, top - 1), min_size=count, max_size=count)))
    cpu_count = draw(st.integers(1, 24))
    numbers = st.sets(st.integers(0, 8191 if gaps else cpu_count - 1), min_size=cpu_count, max_size=cpu_count)
    cpus = sorted(draw(numbers))
    homes = draw(st.lists(st.sampled_from(nids), min_size=len(cpus), max_size=len(cpus)))
    sizes = draw(
        st.lists(
            st.sampled_from([0, 4, 5, 100, 1024, 4097]) | st.integers(4, 4096), min_size=count, max_size=count
        ).filter(any)
    )
    nodes = [
        DraftNode(nid, tuple(cpu for cpu, home in zip(cpus, homes, strict=True) if home == nid), size * MIB)
        for nid, size in zip(nids, sizes, strict=True)
    ]
    pairs = [(a, b) for a in nids for b in nids]
    distances = {pair: 10 if pair[0] == pair[1] else draw(st.integers(11, 255)) for pair in pairs}
    model = LatencyModel()
    if latency and draw(st.booleans()):
        model = LatencyModel(
            read_ns={pair: draw(st.integers(1, 5000)) for pair in pairs},
            write_ns={pair: draw(st.integers(1, 5000)) for pair in pairs} if draw(st.booleans()) else {},
        )
    draft = Draft("random", nodes, distances, model)
    draft.check()
    return draft


def specs(**options: bool) -> st.SearchStrategy[MachineSpec]:
    """The machines of such drafts; `options` are those of :func:`drafts`."""
    return drafts(**options).map(lambda draft: to_spec(draft, "random"))


def shape(spec: MachineSpec) -> object:
    """Nodes, CPUs, RAM and distances: what every lossless format keeps."""
    return (spec.nodes, spec.distances, spec.arch)


def times(spec: MachineSpec) -> dict[tuple[int, int], tuple[int, int]]:
    """(read, write) latencies in ns by pair of nodes, from every node with CPUs."""
    model = spec.latency
    return {
        (a.nid, b.nid): (
            model.read_latency_ns(a.nid, b.nid, spec.distance(a.nid, b.nid)),
            model.write_latency_ns(a.nid, b.nid, spec.distance(a.nid, b.nid)),
        )
        for a in spec.nodes
        if a.cpus
        for b in spec.nodes
        if b.zones
    }
