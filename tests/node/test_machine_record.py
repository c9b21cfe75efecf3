"""Nodes that follow the record agree on the machine, in whatever order and how often they are told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numa_service.machine.presets import load_preset
from numa_service.machine.record import MachineRecord, MemoryState
from numa_service.node import ops
from numa_service.node.machine_record import follow, own_memory
from numa_service.node.memory_hotplug import memory_blocks
from numa_service.node.node import Node
from numa_service.sim.simulation import Simulation

SPEC = load_preset("demo")
#: A whole value of vm.lowmem_reserve_ratio, as the record keeper completes a shorter one.
RATIOS = "256\t256\t32\t0\t0"
NIDS = [node.nid for node in SPEC.nodes]
SCALE = "vm.watermark_scale_factor"

STATES = st.builds(
    MemoryState,
    st.integers(0, 1023),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1 << 40), st.integers(0, 1 << 40))).map(tuple),
    st.booleans(),
    st.integers(0, 1 << 60),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
)
RECORDS = st.lists(st.tuples(st.text(), st.text()) | STATES, max_size=12).map(
    lambda changes: made_of(MachineRecord(), changes)
)


def made_of(record: MachineRecord, changes: list[tuple[str, str] | MemoryState]) -> MachineRecord:
    for change in changes:
        record = (
            record.with_memory(change) if isinstance(change, MemoryState) else record.with_sysctl(*change)
        )
    return record


@given(RECORDS)
def test_what_is_kept_is_read_back(record: MachineRecord) -> None:
    assert MachineRecord.unpack(record.pack()) == record
    versions = [version for version, _ in record.news()]
    assert versions == sorted(set(versions))
    assert all(0 < version <= record.version for version in versions)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x92\x01\x91\x92\x01\x91\x00", b"\x92\x01\x02"])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a machine's record"):
        MachineRecord.unpack(data)


def test_old_news_of_memory_are_none() -> None:
    now = MemoryState(2, ((1, 100, 90),), True, (2 << 32) + 1)
    record = MachineRecord().with_memory(now)
    assert record.with_memory(now) is record
    # news of an earlier lineage that arrive late
    assert record.with_memory(MemoryState(2, (), False, (1 << 32) + 7)) is record
    assert record.with_memory(now._replace(sequence=now.sequence + 1)).version == 2


def test_a_node_applies_what_it_has_not_seen_in_order() -> None:
    node = Node.boot(SPEC, 0)
    whole = made_of(MachineRecord(), [(SCALE, "20"), ("vm.swappiness", "9"), (SCALE, "30")])
    follow(node, whole)
    assert list(node.log) == [ops.WriteSysctl("vm.swappiness", "9", 2), ops.WriteSysctl(SCALE, "30", 3)]
    digest, late = node.digest(), MachineRecord().with_sysctl(SCALE, "20")
    for record in (whole, late, MachineRecord()):
        follow(node, record)
    assert node.digest() == digest
    assert node.record_version == 3
    assert Node.replay(SPEC, 0, list(node.log)).digest() == digest
    follow(node, whole.with_sysctl("vm.swappiness", "10"))
    assert list(node.log)[2:] == [ops.WriteSysctl("vm.swappiness", "10", 4)]


def test_that_a_node_booted_whole_is_news_from_its_second_lineage_on() -> None:
    assert own_memory(Node.boot(SPEC, 2)) is None
    state = own_memory(Node.boot(SPEC, 2, lineage=3))
    assert state is not None
    assert (state.nid, state.sequence) == (2, 3 << 32)


def test_a_node_knows_its_own_memory_better() -> None:
    sim = Simulation(SPEC)
    sim.change_memory_block(memory_blocks(sim.nodes[2])[1], "offline")
    gone = own_memory(sim.nodes[2])
    assert gone is not None
    record = MachineRecord().with_memory(gone)
    again = Node.boot(SPEC, 2, lineage=2)
    follow(again, record)
    assert not again.log
    back = own_memory(again)
    assert back is not None
    assert record.with_memory(back).memory[2] == (2, back)


def seen_by(node: Node) -> tuple[object, ...]:
    """Return everything that a node derives from the whole machine."""
    machine = node.machine
    return machine.sysctls.as_dict(), machine.managed, machine.watermarks, machine.populated


class Story:
    """A machine whose nodes crash and reboot, and read the record late, or read an old one."""

    def __init__(self) -> None:
        self.sim = Simulation(SPEC)
        self.records = [MachineRecord()]

    def keep(self, record: MachineRecord) -> None:
        self.records.append(record)

    def write(self, key: str, value: str) -> None:
        self.keep(self.records[-1].with_sysctl(key, value))

    def memory(self, block: int, state: str) -> None:
        """Change a memory block while node 2 cannot reach the others: only the record is told."""
        node = self.sim.nodes[2]
        if block == 2:
            self.tell(2)
        start = memory_blocks(node)[block] << 15
        if state == "offline":
            node.apply(ops.IsolateMemory(start, start + (1 << 15)))
            node.apply(ops.OfflinePages(start, start + (1 << 15)))
        else:
            node.apply(ops.OnlinePages(start, start + (1 << 15), state))
        self.hear(2)

    def hear(self, nid: int) -> None:
        memory = own_memory(self.sim.nodes[nid])
        if memory is not None:
            self.keep(self.records[-1].with_memory(memory))

    def tell(self, nid: int, age: int = 0) -> None:
        follow(self.sim.nodes[nid], self.records[max(0, len(self.records) - 1 - age)])

    def restart(self, nid: int, age: int = 0) -> None:
        """Reboot a node, which reads the record and reports its memory."""
        self.sim.host(Node.boot(SPEC, nid, lineage=self.sim.nodes[nid].lineage + 1))
        self.tell(nid, age)
        self.hear(nid)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.just(SCALE), st.sampled_from(["10", "50", "300"])),
        st.tuples(
            st.just("write"),
            st.just("vm.lowmem_reserve_ratio"),
            st.sampled_from([RATIOS, RATIOS.replace("256", "64")]),
        ),
        # above and below the kernel's own value, which goes by what was before
        st.tuples(st.just("write"), st.just("vm.min_free_kbytes"), st.sampled_from(["70000", "900", "2000"])),
        st.tuples(st.just("block"), st.integers(1, 2)),
        st.tuples(st.just("tell"), st.sampled_from(NIDS), st.integers(0, 4)),
        st.tuples(st.just("restart"), st.sampled_from(NIDS), st.integers(0, 4)),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(ACTIONS)
def test_in_the_end_every_node_has_the_same_machine(actions: list[tuple[object, ...]]) -> None:
    story, offline = Story(), set[int]()
    for name, *about in actions:
        if name == "restart" and about[0] == 2:
            offline.clear()
        if name == "block":
            [block] = about
            assert isinstance(block, int)
            story.memory(block, "online" if block in offline else "offline")
            offline ^= {block}
        else:
            getattr(story, str(name))(*about)
    for nid in NIDS:
        story.hear(nid)
    for nid in NIDS:
        story.tell(nid)
    machines = [seen_by(story.sim.nodes[nid]) for nid in NIDS]
    assert machines[0] == machines[1] == machines[2]
    for key, value in story.records[-1].values().items():
        now = story.sim.nodes[0].machine.sysctls.get(key)
        if key == "vm.min_free_kbytes":
            assert int(now) >= int(value)  # memory that came or went may have raised it
        else:
            assert now == value
    assert story.sim.check() == []
