"""The JSON that browsers are sent: of a machine, of its nodes, and of events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from numa_client import MachineInfo, NodeInfo
from numa_client._gen.numa.v1 import observe_service_pb2 as pb2

from numa_service.mm.mmzone import PAGE_SIZE
from numa_service.web.event_feed import Event

#: Nodes with CPUs whose SLIT distance is smaller than this are drawn in one socket, as no machine description
#: says which nodes share one. Dies and sub-NUMA clusters have 11 or 12, sockets 16 and more.
SOCKET_DISTANCE = 15


def machine_view(machine: MachineInfo, writable: bool) -> dict[str, Any]:
    """The parts of a machine's description that do not change while it is up."""
    return {
        "name": machine.name,
        "profile": machine.profile,
        "page_size": PAGE_SIZE,
        "writable": writable,
        "distances": machine.distances,
        "sockets": sockets(machine),
        "nodes": [
            {"nid": n.node, "cpus": n.cpus, "managed": n.managed_pages, "fallback": n.fallback_order}
            for n in machine.nodes
        ],
    }


def sockets(machine: MachineInfo) -> list[list[int]]:
    """Nids grouped as they are drawn: nodes of one socket, and nodes without CPUs with the nearest one."""
    row = {node.node: index for index, node in enumerate(machine.nodes)}

    def distance(a: NodeInfo, b: NodeInfo) -> int:
        return machine.distances[row[a.node]][row[b.node]]

    with_cpus = [node for node in machine.nodes if node.cpus]
    groups: list[list[NodeInfo]] = []
    for node in with_cpus:
        near = [group for group in groups if any(distance(node, other) < SOCKET_DISTANCE for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([*(other for group in near for other in group), node])
    groups.sort(key=lambda group: group[0].node)
    for node in machine.nodes:
        if not node.cpus:
            home = min(with_cpus, key=lambda other: (distance(other, node), other.node), default=None)
            if home is None:
                groups.append([node])
            else:
                next(group for group in groups if home in group).append(node)
    return [[node.node for node in group] for group in groups]


def node_view(frame: pb2.ObserveResponse | None) -> str:
    """The current state of a node as JSON, with one-letter keys (``static/model.js``); null while away."""
    if frame is None:
        return "null"
    kswapd = "hopeless" if frame.kswapd_hopeless else "running" if frame.kswapd.running else "asleep"
    return compact(
        {
            "i": frame.lineage,
            "t": frame.time_ns // 1_000_000,
            "k": [kswapd, frame.kswapd.wakeups, frame.kswapd.reclaimed_pages, frame.kswapd.order],
            "s": frame.sessions,
            "h": frame.held_pages,
            "w": [frame.swap_total_pages, frame.swap_used_pages],
            "n": list(frame.numa_stat),
            "f": [[one.node, one.pages] for one in frame.fallback],
            "z": [
                [
                    zone.zone,
                    zone.free_pages,
                    zone.min_pages,
                    zone.low_pages,
                    zone.high_pages,
                    zone.boost_pages,
                    zone.managed_pages,
                    zone.present_pages,
                    zone.spanned_pages,
                    zone.pageset_pages,
                    list(zone.free_blocks),
                    list(zone.lru_pages),
                ]
                for zone in frame.zones
            ],
        }
    )


def event_view(event: Event) -> list[Any]:
    """An event as a JSON array."""
    return [event.id, round(event.time, 2), event.nid, event.kind, event.text]


def message(nodes: Sequence[tuple[int, str]], events: Sequence[Event]) -> str:
    """The text of a push: the (nid, JSON) of nodes that changed, and the new events."""
    changed = ",".join(f'"{nid}":{text}' for nid, text in nodes)
    return f'{{"n":{{{changed}}},"e":{compact([event_view(event) for event in events])}}}'


def compact(value: Any) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))
