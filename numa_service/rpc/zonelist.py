"""ZonelistService: answers the questions of other nodes, for example when their zonelist walks come here."""

from __future__ import annotations

from typing import Any

import grpc.aio
from google.protobuf.message import Message
from numa_client._gen.numa.v1 import zonelist_service_pb2 as pb2
from numa_client._gen.numa.v1 import zonelist_service_pb2_grpc as pb2_grpc

from numa_service.node.ask import Steps, check_asked
from numa_service.node.node import Node
from numa_service.node.ops.op import Op
from numa_service.node.request import Request
from numa_service.rpc.owner_checks import unknown_owners
from numa_service.rpc.questions import WIRE, op_of
from numa_service.rpc.requests import Requests

Context = grpc.aio.ServicerContext[Any, Any]


class ZonelistServicer(pb2_grpc.ZonelistServiceServicer):
    """Decodes each question into an op and applies it at once; a lookup is never forwarded.

    Two methods differ: Run runs a request, and CheckOwners changes nothing.
    """

    def __init__(self, node: Node, requests: Requests) -> None:
        self._node = node
        self._requests = requests

    async def _answer(self, request: Message) -> Any:
        reply = self._requests.once_between_nodes(request, self._begin)
        return reply if isinstance(reply, Message) else await reply

    def _begin(self, request: Message) -> Message | Steps[Message]:
        asked = op_of(request)
        check_asked(self._node, asked)
        if isinstance(asked, Request):
            return self._run(asked)
        assert isinstance(asked, Op)
        return WIRE[type(asked)].response(self._node.apply(asked))

    def _run(self, request: Request[Any]) -> Steps[Message]:
        return WIRE[type(request)].response((yield from request.run(self._requests.inbox)))

    async def Lookup(self, request: pb2.LookupRequest, context: Context) -> pb2.LookupResponse:
        """Take blocks for an owner of the calling node."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def Release(self, request: pb2.ReleaseRequest, context: Context) -> pb2.ReleaseResponse:
        """Free blocks that a session holds, or those pages of a region that were not reclaimed."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def ReleaseOwner(
        self, request: pb2.ReleaseOwnerRequest, context: Context
    ) -> pb2.ReleaseOwnerResponse:
        """Free every page that an owner has on this node."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def Touch(self, request: pb2.TouchRequest, context: Context) -> pb2.TouchResponse:
        """Access a region's pages on this node."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def WakeKswapd(self, request: pb2.WakeKswapdRequest, context: Context) -> pb2.WakeKswapdResponse:
        """Wake this node's kswapd, like wakeup_kswapd()."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def Reclaim(self, request: pb2.ReclaimRequest, context: Context) -> pb2.ReclaimResponse:
        """One pass of direct reclaim."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def Drain(self, request: pb2.DrainRequest, context: Context) -> pb2.DrainResponse:
        """Drain this node's per-CPU lists, like drain_all_pages()."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def Remap(self, request: pb2.RemapRequest, context: Context) -> pb2.RemapResponse:
        """Note that pages of a region whose home is this node were migrated to another node."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def CountForeign(
        self, request: pb2.CountForeignRequest, context: Context
    ) -> pb2.CountForeignResponse:
        """Count numa_foreign: allocations meant for this node that another one served."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def Kmem(self, request: pb2.KmemRequest, context: Context) -> pb2.KmemResponse:
        """Take or give back slabs and objects of a slab cache in this node's memory."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def VmArea(self, request: pb2.VmAreaRequest, context: Context) -> pb2.VmAreaResponse:
        """Make, find or end an area of kernel addresses, if this node keeps them."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def Hugetlb(self, request: pb2.HugetlbRequest, context: Context) -> pb2.HugetlbResponse:
        """Read or change this node's pool of huge pages of one size."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def Run(self, request: pb2.RunRequest, context: Context) -> pb2.RunResponse:
        """Run a request here that may itself ask other nodes, such as closing a session."""
        return await self._answer(request)  # type: ignore[no-any-return]  # the method's own response

    async def CheckOwners(self, request: pb2.CheckOwnersRequest, context: Context) -> pb2.CheckOwnersResponse:
        """Which of the given owners of this node do not live. It changes nothing, so it is no op."""
        return unknown_owners(self._node, request)
