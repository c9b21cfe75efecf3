"""Checks whether owners of pages live: a node asks their home nodes, and answers for its own owners."""

from __future__ import annotations

import asyncio

import grpc.aio
from numa_client._gen.numa.v1 import zonelist_service_pb2 as pb2

from numa_service.node.errors import InvalidRequest, PeerUnavailable
from numa_service.node.node import Node
from numa_service.node.ops.fields import owner_text
from numa_service.node.owner_checks import has_pages, lives
from numa_service.node.owners import Owner
from numa_service.node.vm_areas import areas_of
from numa_service.rpc.peers import Peers

#: Longest wait for a home's answer. It is longer than for other questions: a node that runs its own
#: self-check at the same time does not answer until it is done.
CHECK_SECONDS = 10.0


def unknown_owners(node: Node, request: pb2.CheckOwnersRequest) -> pb2.CheckOwnersResponse:
    """Of the owners in the request, which have pages on the asking node, those that should have none.

    These are owners of this node that do not live. Owners whose pages are about to be freed are left out:
    those that the asking node is being asked about now or owes an answer for, and those of an earlier lineage
    of this node, which every node is told to free. InvalidRequest for an owner of another node.
    """
    being_settled = node.outbox.unsettled(request.node)
    response = pb2.CheckOwnersResponse()
    for message in request.owners:
        owner = Owner(message.node, message.lineage, message.id)
        if owner.nid != node.nid:
            raise InvalidRequest("owners.node", f"{owner.nid} is not this node, {node.nid}")
        settled = owner.lineage >= node.lineage and owner not in being_settled
        if settled and not lives(node, owner):
            response.unknown.append(message)
    return response


async def check_homes(node: Node, peers: Peers) -> list[str]:
    """Violations: owners that have pages on this node but do not live at their homes.

    Owners whose home is away are not reported. Owners are looked up again after the homes have answered: one
    that ended meanwhile has no pages here any more.
    """
    by_home: dict[int, list[Owner]] = {}
    for owner in sorted(_owners(node)):
        if owner.nid != node.nid and not node.slots.is_dead(owner):
            by_home.setdefault(owner.nid, []).append(owner)
    answers = await asyncio.gather(*(_ask(node, peers, *asked) for asked in sorted(by_home.items())))
    left = _owners(node)
    return [
        has_pages(node, owner, node.slot_of(owner), "is unknown at its home")
        if owner in node.slots
        else f"node {node.nid}: {owner_text(owner)} has areas and is unknown at its home"
        for answer in answers
        for owner in answer
        if owner in left
    ]


def _owners(node: Node) -> set[Owner]:
    """The owners that have pages on a node, or areas of kernel addresses."""
    areas = areas_of(node.vmalloc) if node.vmalloc else []
    return {Owner(*area.owner) for area in areas if area.owner} | set(node.slots)


async def _ask(node: Node, peers: Peers, home: int, owners: list[Owner]) -> list[Owner]:
    messages = [pb2.Owner(node=o.nid, lineage=o.lineage, id=o.id) for o in owners]
    try:
        stub = peers.stub(home)
        request = pb2.CheckOwnersRequest(node=node.nid, owners=messages)
        answer = await stub.CheckOwners(request, timeout=CHECK_SECONDS)
    except (PeerUnavailable, grpc.aio.AioRpcError, grpc.aio.UsageError):
        return []
    return [Owner(o.node, o.lineage, o.id) for o in answer.unknown]
