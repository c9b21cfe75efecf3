"""Makes requests of arguments, and results of responses: pure functions that both clients share."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Iterator, Sequence

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
from numa_client._policy import Policy, PolicyFlag, PolicyMode

#: Policy modes and kinds of regions → their numbers on the wire.
POLICY_MODES: dict[PolicyMode, types_pb2.PolicyMode] = {
    PolicyMode.DEFAULT: types_pb2.POLICY_MODE_UNSPECIFIED,
    PolicyMode.BIND: types_pb2.POLICY_MODE_BIND,
    PolicyMode.PREFERRED: types_pb2.POLICY_MODE_PREFERRED,
    PolicyMode.INTERLEAVE: types_pb2.POLICY_MODE_INTERLEAVE,
    PolicyMode.PREFERRED_MANY: types_pb2.POLICY_MODE_PREFERRED_MANY,
    PolicyMode.LOCAL: types_pb2.POLICY_MODE_LOCAL,
    PolicyMode.WEIGHTED_INTERLEAVE: types_pb2.POLICY_MODE_WEIGHTED_INTERLEAVE,
}

POLICY_FLAGS: dict[PolicyFlag, types_pb2.PolicyFlag] = {
    PolicyFlag.STATIC: types_pb2.POLICY_FLAG_STATIC_NODES,
    PolicyFlag.RELATIVE: types_pb2.POLICY_FLAG_RELATIVE_NODES,
}
REGION_KINDS: dict[t.RegionKind, memory_service_pb2.RegionKind] = {
    "anon": memory_service_pb2.REGION_KIND_ANON,
    "file": memory_service_pb2.REGION_KIND_FILE,
}


class RequestIds:
    """Request ids that no other client has: a random prefix and a counter. A retry repeats its id."""

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex
        self._counter = itertools.count(1)

    def __next__(self) -> str:
        return f"{self._prefix}-{next(self._counter)}"


def inspect_request(
    zone: str | None, pfn: int | None, section: int | None, highmem: bool
) -> node_service_pb2.InspectRequest:
    """The request for one of these, or with none of them for the node. InvalidRequest for several."""
    given = {"zone": zone, "pfn": pfn, "section": section, "highmem": highmem or None}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise InvalidRequest(f"only one of {', '.join(given)}", field=named[-1])
    return node_service_pb2.InspectRequest(zone=zone, pfn=pfn, section=section, highmem=highmem or None)


def home(info: t.MachineInfo, cpu: int | None, node: int | None) -> tuple[t.NodeInfo, int]:
    """The home node and the CPU of a session: those asked for, or the first CPU of the node or the machine.

    A node without CPUs is not refused here, but by the service.
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


def number(field: str, value: int) -> int:
    """Check that an unsigned protobuf field can carry the value; the service checks its range."""
    if not 0 <= value < 1 << 32:
        raise InvalidRequest(f"{field} {value} is out of range", field=field)
    return value


def policy_message(policy: Policy | None) -> types_pb2.Policy | None:
    """A policy as message; None stays unset, which means MPOL_DEFAULT."""
    if policy is None:
        return None
    return types_pb2.Policy(
        mode=POLICY_MODES[policy.mode],
        nodes=[number("policy", nid) for nid in policy.nodes],
        home_node=None if policy.home_node is None else number("policy", policy.home_node),
        flag=POLICY_FLAGS[policy.flag] if policy.flag else types_pb2.POLICY_FLAG_UNSPECIFIED,
    )


def policy(message: types_pb2.Policy) -> Policy:
    """The policy of a message of the service."""
    modes = {number: mode for mode, number in POLICY_MODES.items()}
    flags = {number: flag for flag, number in POLICY_FLAGS.items()}
    return Policy(
        modes[message.mode],
        tuple(message.nodes),
        message.home_node if message.HasField("home_node") else None,
        flags.get(message.flag),
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
    """The AllocPages request for `count` blocks of 2^order pages."""
    return memory_service_pb2.AllocPagesRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        gfp_flags=gfp,
        order=number("order", order),
        count=number("count", count),
        cpu=number("cpu", cpu),
        policy=policy_message(policy),
        partial=partial,
        explain=explain,
    )


def free_request(
    session: t.SessionInfo, request_id: str, blocks: t.Blocks, cpu: int
) -> memory_service_pb2.FreePagesRequest:
    """The FreePages request for all these blocks; their PFN arrays are sent as they are."""
    return memory_service_pb2.FreePagesRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        order=number("order", blocks.order),
        pages=[
            types_pb2.NodePages(node=number("node", nid), pfns=pfns.astype("<u8", copy=False).tobytes())
            for nid, pfns in blocks.pages.items()
        ],
        cpu=number("cpu", cpu),
    )


def map_request(
    session: t.SessionInfo, request_id: str, *, kind: t.RegionKind, nr_pages: int, policy: Policy | None
) -> memory_service_pb2.MapRegionRequest:
    """The MapRegion request for `nr_pages` pages. InvalidRequest for a kind other than anon and file."""
    if kind not in REGION_KINDS:
        raise InvalidRequest(f"unknown region kind {kind!r}: choose from anon, file", field="kind")
    return memory_service_pb2.MapRegionRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        kind=REGION_KINDS[kind],
        nr_pages=number("nr_pages", nr_pages),
        policy=policy_message(policy),
    )


def touch_request(
    session: t.SessionInfo, request_id: str, region: int, *, first: int, count: int, write: bool, cpu: int
) -> memory_service_pb2.TouchRegionRequest:
    """The TouchRegion request for `count` pages from page `first` of the region on."""
    return memory_service_pb2.TouchRegionRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        region=region,
        first_page=number("first", first),
        count=number("count", count),
        write=write,
        cpu=number("cpu", cpu),
    )


def bind_request(
    session: t.SessionInfo,
    request_id: str,
    region: int,
    *,
    first: int,
    count: int,
    policy: Policy | None,
    move: bool,
    strict: bool,
    cpu: int,
) -> memory_service_pb2.BindRegionRequest:
    """The BindRegion request for `count` pages from page `first` of the region on."""
    return memory_service_pb2.BindRegionRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        region=region,
        first_page=number("first", first),
        nr_pages=number("count", count),
        policy=policy_message(policy),
        move=move,
        strict=strict,
        cpu=number("cpu", cpu),
    )


def migrate_request(
    session: t.SessionInfo, request_id: str, old: Sequence[int], new: Sequence[int], cpu: int
) -> memory_service_pb2.MigratePagesRequest:
    """The MigratePages request from some nodes to others."""
    return memory_service_pb2.MigratePagesRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        old_nodes=[number("old", nid) for nid in old],
        new_nodes=[number("new", nid) for nid in new],
        cpu=number("cpu", cpu),
    )


def move_request(
    session: t.SessionInfo,
    request_id: str,
    region: int,
    *,
    pages: Sequence[int],
    nodes: Sequence[int],
    cpu: int,
) -> memory_service_pb2.MovePagesRequest:
    """The MovePages request for pages of a region; without nodes it asks where they are."""
    return memory_service_pb2.MovePagesRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        region=region,
        pages=[number("pages", page) for page in pages],
        nodes=nodes,
        cpu=number("cpu", cpu),
    )


def machine_info(response: machine_service_pb2.GetMachineResponse) -> t.MachineInfo:
    """The topology of a response; its row-major distances become a matrix."""
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
                lineage=node.lineage,
                fallback_order=tuple(node.fallback_order),
            )
            for node in response.nodes
        ),
        distances=tuple(tuple(response.distances[i * width : (i + 1) * width]) for i in range(width)),
    )


def session_info(response: memory_service_pb2.OpenSessionResponse) -> t.SessionInfo:
    """The session of a response."""
    return t.SessionInfo(
        session=response.session,
        lease_seconds=response.lease_seconds,
        node=response.node,
        lineage=response.lineage,
        token=response.session_token,
    )


def cost(message: types_pb2.Cost) -> t.Cost:
    """The cost of a request."""
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
    """nid → PFNs. The arrays are views of the message, and copies only for a node that was visited twice."""
    pages: dict[int, t.Pfns] = {}
    for message in messages:
        pfns = np.frombuffer(message.pfns, "<u8")
        pages[message.node] = np.concatenate([pages[message.node], pfns]) if message.node in pages else pfns
    return pages


def allocation(response: memory_service_pb2.AllocPagesResponse, order: int) -> t.Allocation:
    """The allocation of a response; `order` is that of the request."""
    return t.Allocation(
        order=order,
        pages=pages_by_node(response.pages),
        cost=cost(response.cost),
        remote_lookups=response.remote_lookups,
        direct_reclaimed_pages=response.direct_reclaimed_pages,
    )


def explanation(message: explanation_pb2.Explanation) -> Explanation:
    """The explanation of one request."""
    return _explanation_codec.explanation(message, cost(message.cost), policy(message.policy))


def explained(response: memory_service_pb2.AllocPagesResponse, order: int) -> Explained:
    """The blocks of an explained request, and the explanation."""
    return Explained(t.Blocks(order, pages_by_node(response.pages)), explanation(response.explanation))


def freed(response: memory_service_pb2.FreePagesResponse) -> t.Freed:
    """The result of a FreePages response."""
    return t.Freed(response.freed_pages, cost(response.cost))


def touch(response: memory_service_pb2.TouchRegionResponse) -> t.Touch:
    """The result of a TouchRegion response."""
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
    """The state of a node; vm_events are sorted by name."""
    stat, kswapd = response.numa_stat, response.kswapd
    return t.NodeState(
        node=response.node,
        lineage=response.lineage,
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
    """The WriteFile request for what ``echo text > path`` writes."""
    return files_service_pb2.WriteFileRequest(path=path, data=text.encode())


def dir_entries(response: files_service_pb2.ListDirResponse) -> tuple[DirEntry, ...]:
    """The entries of a directory, sorted by name."""
    return tuple(DirEntry(entry.name, entry.mode, entry.target) for entry in response.entries)


def tree_files(response: files_service_pb2.ReadTreeResponse) -> Iterator[TreeFile]:
    """The files of one message of ReadTree."""
    for file in response.files:
        yield TreeFile(file.path, file.mode, file.target, file.data.decode(), file.size)
