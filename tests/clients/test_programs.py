"""Workload programs: the library, TOML to dataclasses to messages, and errors in keys."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
from numa_client import (
    Access,
    Distribution,
    InvalidRequest,
    Mix,
    ObjectMix,
    Phase,
    Policy,
    Program,
    ProgramLimits,
    ProgramRegion,
    SessionInfo,
    TaskMix,
    VmallocMix,
    list_programs,
    program_text,
)
from numa_client._gen.numa.v1 import workload_service_pb2 as pb2
from numa_client._program_codec import run_request

SESSION = SessionInfo(session=9, lease_seconds=30, node=0, lineage=1, token=bytes(range(16)))

EVERY_KEY = """
name = "every"
summary = "every key there is"
seed = 3
stop_on_failure = true
keep = true

[limits]
max_live_pages = 1000
max_events = 2000
max_virtual_seconds = 3
max_real_seconds = 4.5

[[regions]]
name = "r"
kind = "file"
tlb_page_kb = 2048
pages = 10
memory = 0.5
policy = "bind:1"

[[phases]]
name = "p"
seconds = 1
events = 2
memory = 3.5
rate = 4
batch = 5
each_node = true
release = true

[[phases.mixes]]
name = "m"
order = 3
gfp = "GFP_ATOMIC"
policy = "interleave:0-1"
weight = 2
lifetime = { kind = "uniform", low = 1, high = 2, mean = 3, sigma = 4, alpha = 5, unit = "memory" }
think = { kind = "fixed", mean = 1e-6 }

[[phases.accesses]]
region = "r"
pattern = "hot-set"
name = "a"
weight = 3
write = 0.5
theta = 0.9
hot_pages = 0.1
hot_accesses = 0.9
stride = 4
think = { kind = "fixed", mean = 1e-6 }

[[phases.objects]]
name = "o"
cache = "filp"
size = 3
gfp = "GFP_ATOMIC"
node = 1
weight = 2
lifetime = { kind = "fixed", mean = 1 }
think = { kind = "fixed", mean = 1e-6 }

[[phases.vmallocs]]
name = "v"
size = 16384
node = 1
weight = 2
lifetime = { kind = "fixed", mean = 1 }
think = { kind = "fixed", mean = 1e-6 }

[[phases.tasks]]
name = "t"
pages = 100
policy = "interleave:0-1"
accesses = 50
pattern = "hot-set"
write = 0.5
theta = 0.9
hot_pages = 0.1
hot_accesses = 0.9
stride = 4
children = 2
child_accesses = 10
weight = 2
lifetime = { kind = "fixed", mean = 1 }
think = { kind = "fixed", mean = 1e-6 }
"""


def test_every_key_arrives() -> None:
    program = Program.from_toml(EVERY_KEY)
    for cls in (
        Program,
        Phase,
        Mix,
        Access,
        ObjectMix,
        VmallocMix,
        TaskMix,
        ProgramRegion,
        ProgramLimits,
        Distribution,
    ):
        missing = [f.name for f in fields(cls) if not re.search(rf"\b{f.name}\b", EVERY_KEY)]
        assert missing == []
    message = run_request(SESSION, "id", program, 2).program
    for descriptor, found in (
        (pb2.Program.DESCRIPTOR, message),
        (pb2.ProgramLimits.DESCRIPTOR, message.limits),
        (pb2.ProgramRegion.DESCRIPTOR, message.regions[0]),
        (pb2.Phase.DESCRIPTOR, message.phases[0]),
        (pb2.Mix.DESCRIPTOR, message.phases[0].mixes[0]),
        (pb2.Access.DESCRIPTOR, message.phases[0].accesses[0]),
        (pb2.ObjectMix.DESCRIPTOR, message.phases[0].objects[0]),
        (pb2.VmallocMix.DESCRIPTOR, message.phases[0].vmallocs[0]),
        (pb2.TaskMix.DESCRIPTOR, message.phases[0].tasks[0]),
        (pb2.Distribution.DESCRIPTOR, message.phases[0].mixes[0].lifetime),
    ):
        assert {f.name for f, _ in found.ListFields()} == {f.name for f in descriptor.fields}
    assert program.phases[0].mixes[0].policy == Policy.interleave(0, 1)
    assert message.phases[0].accesses[0].pattern == pb2.ACCESS_PATTERN_HOT_SET
    assert message.phases[0].mixes[0].lifetime.unit == pb2.LIFETIME_UNIT_MEMORY


PHASE = "[[phases]]\nevents = 1\n[[phases.mixes]]\n"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "phases"),
        ("name = ", "program"),
        ("a" + ".a" * 50_000 + " = 1", "program"),
        ("phases = []\nb = { a" + ".a" * 50_000 + " = 1 }", "program"),
        ("seed = " + "9" * 100_000, "program"),
        ("seed = " + "[" * 100_000, "program"),
        ("phases = 3", "phases"),
        ("phases = [3]", "phases[0]"),
        ("[[phases]]\nlength = 3", "phases[0].length"),
        ("[[phases]]\nevents = 1.5", "phases[0].events"),
        ("[[phases]]\nevents = true", "phases[0].events"),
        ("[[phases]]\nseconds = '3'", "phases[0].seconds"),
        (PHASE + "policy = 'near'", "policy"),
        (PHASE + "lifetime = 3", "phases[0].mixes[0].lifetime"),
        (PHASE + "lifetime = { mean = 3 }", "phases[0].mixes[0].lifetime.kind"),
        (PHASE + "lifetime = { kind = 'long' }", "phases[0].mixes[0].lifetime.kind"),
        (PHASE + "lifetime = { kind = 'fixed', unit = 'hours' }", "phases[0].mixes[0].lifetime.unit"),
        (PHASE + "order = -1", "phases[0].mixes[0].order"),
        ("[[phases]]\n[[phases.accesses]]\nregion = 'r'\npattern = 'all'", "phases[0].accesses[0].pattern"),
        ("[[phases]]\n[[phases.accesses]]\npattern = 'zipf'", "phases[0].accesses[0].region"),
        ("seed = -1\nphases = []", "seed"),
        ("phases = []\n[[regions]]\nname = 'r'\nkind = 'shared'", "regions[0].kind"),
    ],
)
def test_a_wrong_key_is_named(text: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        run_request(SESSION, "id", Program.from_toml(text), 0)
    assert refused.value.field == field


def test_a_program_is_a_name_a_file_or_itself(tmp_path: Path) -> None:
    program = Program.load("stream")
    file = tmp_path / "mine.toml"
    file.write_text(program_text("stream"))
    messages = [run_request(SESSION, "id", source, 0) for source in ("stream", file, str(file), program)]
    assert all(message == messages[0] for message in messages)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # as some editors save UTF-8
    assert Program.load(file) == Program.load("stream")
    with pytest.raises(InvalidRequest, match="no program of the library") as refused:
        run_request(SESSION, "id", "nonsense", 0)
    assert refused.value.field == "program"


def test_a_program_is_a_regular_file_of_some_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text("#" * (257 << 10))
    for name, reason in (
        ("pipe", "not a regular file"),
        ("large", "more than 256 KiB"),
        ("gone", "No such file"),
    ):
        with pytest.raises(InvalidRequest, match=reason):
            Program.load(tmp_path / name)


def test_the_library() -> None:
    assert list_programs() == (
        "buffer-pool",
        "fork-storm",
        "fragmentation",
        "jvm-heap",
        "key-value-cache",
        "ml-loader",
        "page-cache-churn",
        "stream",
        "web-server",
        "worker-pool",
    )


@pytest.mark.parametrize("name", list_programs())
def test_each_says_what_it_models(name: str) -> None:
    program, text = Program.load(name), program_text(name)
    assert program.name == name
    assert 20 < len(program.summary) < 90
    assert len([line for line in text.splitlines() if line.startswith("# ")]) >= 5
    assert max(map(len, text.splitlines())) <= 120
