"""Whether owners of pages live: a node asks their homes, and answers for those that are at home here."""

from __future__ import annotations

import asyncio

import grpc.aio
from numa_client._gen.numa.v1 import zonelist_service_pb2 as pb2

from numa_service.node.errors import InvalidRequest, PeerUnavailable
from numa_service.node.node import Node
from numa_service.node.owner_checks import has_pages, lives
from numa_service.node.owners import Owner
from numa_service.rpc.peers import Peers

#: Longest wait for an answer: a node that checks itself answers nobody meanwhile.
CHECK_SECONDS = 10.0


def unknown(node: Node, request: pb2.CheckOwnersRequest) -> pb2.CheckOwnersResponse:
    """Owners of this node, with pages on another one, that neither live nor are being settled there.

    That is being settled of which the other one is asked something now, or owes an answer; and what is of an
    earlier lineage of this node: every node is told to free that.
    """
    being_settled = node.outbox.unsettled(request.node)
    response = pb2.CheckOwnersResponse()
    for message in request.owners:
        owner = Owner(message.node, message.incarnation, message.id)
        if owner.nid != node.nid:
            raise InvalidRequest("owners.node", f"{owner.nid} is not this node, {node.nid}")
        settled = owner.lineage >= node.lineage and owner not in being_settled
        if settled and not lives(node, owner):
            response.unknown.append(message)
    return response


async def check_homes(node: Node, peers: Peers) -> list[str]:
    """Violations: owners that have pages here, and are no more at their homes.

    Of a home that is away nothing is said. Looked at again after the homes' answers: who has ended meanwhile
    has no pages here then.
    """
    by_home: dict[int, list[Owner]] = {}
    for owner in node.slots:
        if owner.nid != node.nid and not node.slots.is_dead(owner):
            by_home.setdefault(owner.nid, []).append(owner)
    answers = await asyncio.gather(*(_ask(node, peers, *asked) for asked in sorted(by_home.items())))
    slots = node.slots
    return [
        has_pages(node, owner, slots[owner], "is unknown at its home")
        for answer in answers
        for owner in answer
        if owner in slots
    ]


async def _ask(node: Node, peers: Peers, home: int, owners: list[Owner]) -> list[Owner]:
    messages = [pb2.Owner(node=o.nid, incarnation=o.lineage, id=o.id) for o in owners]
    try:
        stub = peers.stub(home)
        request = pb2.CheckOwnersRequest(node=node.nid, owners=messages)
        answer = await stub.CheckOwners(request, timeout=CHECK_SECONDS)
    except (PeerUnavailable, grpc.aio.AioRpcError, grpc.aio.UsageError):
        return []
    return [Owner(o.node, o.incarnation, o.id) for o in answer.unknown]
