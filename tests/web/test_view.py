"""The JSON that browsers are sent, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from numa_client import MachineInfo, NodeInfo
from numa_client._gen.numa.v1 import observe_service_pb2 as pb2

from numa_service.machine.boot import start_kernel
from numa_service.machine.presets import list_presets, load_preset
from numa_service.machine.spec import MachineSpec
from numa_service.mm.profile import profile_named
from numa_service.web.boot_steps import boot_steps
from numa_service.web.event_feed import EVENTS_KEPT, TOLD_EVERY_NS, Events
from numa_service.web.view import message, node_view, sockets


def info(spec: MachineSpec) -> MachineInfo:
    nodes = tuple(NodeInfo(n.nid, n.cpus, 0, "", "", 1, ()) for n in spec.nodes)
    return MachineInfo(spec.name, spec.profile, nodes, spec.distances)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("uma", [[0]]),
        ("two-socket", [[0], [1]]),
        ("demo", [[0, 2], [1]]),
        ("cxl-tier", [[0, 2], [1, 3]]),
        ("nps4", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("four-ring", [[0], [1], [2], [3]]),
    ],
)
def test_nodes_are_drawn_in_their_sockets(preset: str, expected: list[list[int]]) -> None:
    assert sockets(info(load_preset(preset))) == expected


@pytest.mark.parametrize("name", [preset.name for preset in list_presets()])
@pytest.mark.parametrize("profile", ["linux-6.1", "linux-3.0"])
def test_boot_is_cut_into_steps_without_losing_a_line(name: str, profile: str) -> None:
    spec = load_preset(name).with_profile(profile)
    dmesg = start_kernel(spec, []).dmesg
    steps = boot_steps(dmesg)
    assert [text for step in steps for text in step.lines] == [f"[{t:12.6f}] {text}" for t, text in dmesg]
    functions = [step.function for step in steps]
    assert functions[0] == "start_kernel"
    assert functions[-1] == "kswapd_init"
    assert {"e820__memory_setup", "acpi_numa_init", "free_area_init", "build_all_zonelists"} <= set(functions)
    assert len(functions) == len(set(functions))
    mm_init = profile_named(profile).mm_init
    whole = [step.function for step in boot_steps(dmesg, mm_init)]
    at = whole.index(mm_init[0])
    assert tuple(whole[at : at + len(mm_init)]) == mm_init
    assert [function for function in whole if function in functions] == functions
    (zonelists,) = [step for step in steps if step.function == "build_all_zonelists"]
    if len(spec.nodes) > 1 and profile == "linux-6.1":
        assert zonelists.nodes == {node.nid for node in spec.nodes}


def frame(**fields: Any) -> pb2.ObserveResponse:
    zone = pb2.ObservedZone(
        zone="Normal",
        free_pages=1000,
        min_pages=100,
        low_pages=200,
        high_pages=300,
        managed_pages=4000,
        present_pages=4000,
        free_blocks=[0] * 11,
        lru_pages=[0] * 4,
    )
    return pb2.ObserveResponse(node=3, lineage=1, zones=[zone], numa_stat=[0] * 6, **fields)


def test_a_push_is_json_and_names_are_data() -> None:
    odd = frame(time_ns=5_000_000)
    odd.zones[0].zone = '</script><img src=x onerror="alert(1)">'
    sent = json.loads(message([(3, node_view(odd)), (4, node_view(None))], []))
    assert sent["n"]["4"] is None
    assert sent["n"]["3"]["z"][0][:2] == [odd.zones[0].zone, 1000]
    assert sent["n"]["3"]["t"] == 5


def test_events_tell_crossings_once_and_sums_now_and_then() -> None:
    events = Events()
    old = frame(time_ns=0)
    for tick in range(1, 31):
        new = frame(time_ns=tick * TOLD_EVERY_NS // 10, fallback=[pb2.FallbackPages(node=1, pages=10 * tick)])
        new.zones[0].free_pages = 150 if 5 <= tick < 20 else 1000
        events.compare(old, new, ())
        old = new
    told = [(event.kind, event.text) for event in events.since(0)]
    assert [text for kind, text in told if kind == "watermark"] == [
        "Normal: 150 free, below low: requests go elsewhere, or wake kswapd",
        "Normal: 1,000 free, above high again",
    ]
    fallback = [text for kind, text in told if kind == "fallback"]
    assert len(fallback) == 3
    assert sum(int(text.split()[0]) for text in fallback) == 300
    for _ in range(2 * EVENTS_KEPT):
        events.tell(0, "node", "again")
    assert len(events.since(0)) == EVENTS_KEPT
    assert events.since(events.last_id) == []


def test_a_new_lineage_is_one_event_and_no_arithmetic() -> None:
    events = Events()
    after = frame()
    after.lineage = 2
    events.compare(frame(sessions=5, held_pages=9), after, ())
    assert [event.text for event in events.since(0)] == ["booted anew: lineage 2, its memory is empty"]
