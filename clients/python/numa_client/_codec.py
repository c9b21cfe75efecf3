"""Requests made and responses read: pure functions, shared by the sync and the asyncio client."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Iterator

import numpy as np

from numa_client import _explanation_codec
from numa_client import _types as t
from numa_client._errors import InvalidRequest
from numa_client._explanation import Explained, Explanation
from numa_client._files import DirEntry, TreeFile
from numa_client._gen.numa.v1 import (
    explanation_pb2,
    files_service_pb2,
    machine_service_pb2,
    memory_service_pb2,
    node_service_pb2,
    types_pb2,
)
from numa_client._policy import Policy, PolicyMode

#: Words and their numbers on the wire.
POLICY_MODES: dict[PolicyMode, types_pb2.PolicyMode] = {
    PolicyMode.DEFAULT: types_pb2.POLICY_MODE_UNSPECIFIED,
    PolicyMode.BIND: types_pb2.POLICY_MODE_BIND,
    PolicyMode.PREFERRED: types_pb2.POLICY_MODE_PREFERRED,
    PolicyMode.INTERLEAVE: types_pb2.POLICY_MODE_INTERLEAVE,
    PolicyMode.PREFERRED_MANY: types_pb2.POLICY_MODE_PREFERRED_MANY,
}
REGION_KINDS: dict[t.RegionKind, memory_service_pb2.RegionKind] = {
    "anon": memory_service_pb2.REGION_KIND_ANON,
    "file": memory_service_pb2.REGION_KIND_FILE,
}


class RequestIds:
    """Ids that no other client uses: a random prefix and a counter. A retry sends the same one again."""

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex
        self._counter = itertools.count(1)

    def __next__(self) -> str:
        return f"{self._prefix}-{next(self._counter)}"


def inspect_request(zone: str | None, pfn: int | None) -> node_service_pb2.InspectRequest:
    """What to look at; InvalidRequest for two things at once."""
    if zone is not None and pfn is not None:
        raise InvalidRequest("a zone or a page, not both", field="pfn")
    return node_service_pb2.InspectRequest(zone=zone, pfn=pfn)


def home(info: t.MachineInfo, cpu: int | None, node: int | None) -> tuple[t.NodeInfo, int]:
    """Node that serves a session, and the CPU that it plays: the one asked for, or the node's first.

    With neither, the machine's first CPU. A node without CPUs is left for the service to refuse.
    InvalidRequest for a CPU or node that the machine does not have, or a CPU of another node.
    """
    try:
        found = None if node is None else info.node(node)
    except KeyError:
        known = ", ".join(str(n.node) for n in info.nodes)
        raise InvalidRequest(
            f"no node {node} in machine {info.name!r}: it has {known}", field="node"
        ) from None
    if cpu is None:
        if found is None:
            cpu = info.cpus[0]
            return info.node_of_cpu(cpu), cpu
        return found, found.cpus[0] if found.cpus else 0
    try:
        owner = info.node_of_cpu(cpu)
    except KeyError:
        raise InvalidRequest(
            f"no CPU {cpu} in machine {info.name!r}: it has {len(info.cpus)}", field="cpu"
        ) from None
    if found is not None and owner != found:
        raise InvalidRequest(f"CPU {cpu} is on node {owner.node}, not on node {node}", field="cpu")
    return owner, cpu


def _number(field: str, value: int) -> int:
    """The value, if a protobuf unsigned field can carry it: what is in range is for the service to judge."""
    if not 0 <= value < 1 << 32:
        raise InvalidRequest(f"{field} {value} is out of range", field=field)
    return value


def policy_message(policy: Policy | None) -> types_pb2.Policy | None:
    """None stays unset: MPOL_DEFAULT."""
    if policy is None:
        return None
    return types_pb2.Policy(
        mode=POLICY_MODES[policy.mode], nodes=[_number("policy", nid) for nid in policy.nodes]
    )


def alloc_request(
    session: t.SessionInfo,
    request_id: str,
    *,
    order: int,
    count: int,
    gfp: str,
    cpu: int,
    policy: Policy | None,
    partial: bool = False,
    explain: bool = False,
) -> memory_service_pb2.AllocPagesRequest:
    """AllocPages for `count` blocks of 2^order pages."""
    return memory_service_pb2.AllocPagesRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        gfp_flags=gfp,
        order=_number("order", order),
        count=_number("count", count),
        cpu=_number("cpu", cpu),
        policy=policy_message(policy),
        partial=partial,
        explain=explain,
    )


def free_request(
    session: t.SessionInfo, request_id: str, blocks: t.Blocks, cpu: int
) -> memory_service_pb2.FreePagesRequest:
    """FreePages for all these blocks; their array is packed as it is."""
    return memory_service_pb2.FreePagesRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        order=_number("order", blocks.order),
        pages=[
            types_pb2.NodePages(node=_number("node", nid), pfns=pfns.astype("<u8", copy=False).tobytes())
            for nid, pfns in blocks.pages.items()
        ],
        cpu=_number("cpu", cpu),
    )


def map_request(
    session: t.SessionInfo, request_id: str, *, kind: t.RegionKind, nr_pages: int, policy: Policy | None
) -> memory_service_pb2.MapRegionRequest:
    """MapRegion of `nr_pages` pages. InvalidRequest for a kind that is neither anon nor file."""
    if kind not in REGION_KINDS:
        raise InvalidRequest(f"unknown region kind {kind!r}: choose from anon, file", field="kind")
    return memory_service_pb2.MapRegionRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        kind=REGION_KINDS[kind],
        nr_pages=_number("nr_pages", nr_pages),
        policy=policy_message(policy),
    )


def touch_request(
    session: t.SessionInfo, request_id: str, region: int, *, first: int, count: int, write: bool, cpu: int
) -> memory_service_pb2.TouchRegionRequest:
    """TouchRegion of `count` pages from page `first` of the region."""
    return memory_service_pb2.TouchRegionRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        region=region,
        first_page=_number("first", first),
        count=_number("count", count),
        write=write,
        cpu=_number("cpu", cpu),
    )


def machine_info(response: machine_service_pb2.GetMachineResponse) -> t.MachineInfo:
    """Topology, its row-major distances made a matrix."""
    width = len(response.nodes)
    return t.MachineInfo(
        name=response.name,
        profile=response.profile,
        nodes=tuple(
            t.NodeInfo(
                node=node.node,
                cpus=tuple(node.cpus),
                managed_pages=node.managed_pages,
                address=node.address,
                metrics_url=node.metrics_url,
                incarnation=node.incarnation,
                fallback_order=tuple(node.fallback_order),
            )
            for node in response.nodes
        ),
        distances=tuple(tuple(response.distances[i * width : (i + 1) * width]) for i in range(width)),
    )


def session_info(response: memory_service_pb2.OpenSessionResponse) -> t.SessionInfo:
    """What was granted."""
    return t.SessionInfo(
        session=response.session,
        lease_seconds=response.lease_seconds,
        node=response.node,
        incarnation=response.incarnation,
        token=response.session_token,
    )


def cost(message: types_pb2.Cost) -> t.Cost:
    """The cost account of a request."""
    return t.Cost(
        latency_ns=message.latency_ns,
        access_ns=message.access_ns,
        pageset_ns=message.pageset_ns,
        buddy_ns=message.buddy_ns,
        fallback_ns=message.fallback_ns,
        reclaim_ns=message.reclaim_ns,
        zeroing_ns=message.zeroing_ns,
        queueing_ns=message.queueing_ns,
    )


def pages_by_node(messages: Iterable[types_pb2.NodePages]) -> dict[int, t.Pfns]:
    """PFN arrays by node. Views of the message; only a node that was visited twice costs a copy."""
    pages: dict[int, t.Pfns] = {}
    for message in messages:
        pfns = np.frombuffer(message.pfns, "<u8")
        pages[message.node] = np.concatenate([pages[message.node], pfns]) if message.node in pages else pfns
    return pages


def allocation(response: memory_service_pb2.AllocPagesResponse, order: int) -> t.Allocation:
    """Blocks given out; `order` is the request's."""
    return t.Allocation(
        order=order,
        pages=pages_by_node(response.pages),
        cost=cost(response.cost),
        remote_lookups=response.remote_lookups,
        direct_reclaimed_pages=response.direct_reclaimed_pages,
    )


def explanation(message: explanation_pb2.Explanation) -> Explanation:
    """The kernel path of one request."""
    modes = {int(number): mode for mode, number in POLICY_MODES.items()}
    return _explanation_codec.explanation(message, cost(message.cost), modes)


def explained(response: memory_service_pb2.AllocPagesResponse, order: int) -> Explained:
    """What an explained request got, and why there."""
    return Explained(t.Blocks(order, pages_by_node(response.pages)), explanation(response.explanation))


def freed(response: memory_service_pb2.FreePagesResponse) -> t.Freed:
    """Answer to a free."""
    return t.Freed(response.freed_pages, cost(response.cost))


def touch(response: memory_service_pb2.TouchRegionResponse) -> t.Touch:
    """Answer to an access."""
    return t.Touch(
        hit_pages=response.hit_pages,
        fault_pages=response.fault_pages,
        major_fault_pages=response.major_fault_pages,
        placement={count.node: count.pages for count in response.placement},
        cost=cost(response.cost),
        remote_lookups=response.remote_lookups,
        direct_reclaimed_pages=response.direct_reclaimed_pages,
    )


def _zone_state(zone: types_pb2.ZoneSummary) -> t.ZoneState:
    return t.ZoneState(
        zone=zone.zone,
        free_pages=zone.free_pages,
        managed_pages=zone.managed_pages,
        present_pages=zone.present_pages,
        spanned_pages=zone.spanned_pages,
        start_pfn=zone.start_pfn,
        min_pages=zone.min_pages,
        low_pages=zone.low_pages,
        high_pages=zone.high_pages,
        protection_pages=tuple(zone.protection_pages),
        free_blocks=tuple(zone.free_blocks),
        pageset_pages=zone.pageset_pages,
        inactive_anon_pages=zone.inactive_anon_pages,
        active_anon_pages=zone.active_anon_pages,
        inactive_file_pages=zone.inactive_file_pages,
        active_file_pages=zone.active_file_pages,
    )


def node_state(response: node_service_pb2.GetNodeResponse) -> t.NodeState:
    """State of a node; vm_events in name order."""
    stat, kswapd = response.numa_stat, response.kswapd
    return t.NodeState(
        node=response.node,
        incarnation=response.incarnation,
        zones=tuple(_zone_state(zone) for zone in response.zones),
        numa_stat=t.NumaStat(
            numa_hit=stat.numa_hit,
            numa_miss=stat.numa_miss,
            numa_foreign=stat.numa_foreign,
            interleave_hit=stat.interleave_hit,
            local_node=stat.local_node,
            other_node=stat.other_node,
        ),
        vm_events=dict(sorted(response.vm_events.items())),
        kswapd=t.KswapdState(
            running=kswapd.running,
            wakeups=kswapd.wakeups,
            reclaimed_pages=kswapd.reclaimed_pages,
            order=kswapd.order,
            failures=kswapd.failures,
        ),
        sessions=response.sessions,
        held_pages=response.held_pages,
        swap_total_pages=response.swap_total_pages,
        swap_used_pages=response.swap_used_pages,
        digest=response.digest,
        log_length=response.log_length,
    )


def write_request(path: str, text: str) -> files_service_pb2.WriteFileRequest:
    """What ``echo text > path`` sends."""
    return files_service_pb2.WriteFileRequest(path=path, data=text.encode())


def dir_entries(response: files_service_pb2.ListDirResponse) -> tuple[DirEntry, ...]:
    """A directory, by name."""
    return tuple(DirEntry(entry.name, entry.mode, entry.target) for entry in response.entries)


def tree_files(response: files_service_pb2.ReadTreeResponse) -> Iterator[TreeFile]:
    """One message of a tree."""
    for file in response.files:
        yield TreeFile(file.path, file.mode, file.target, file.data.decode())
