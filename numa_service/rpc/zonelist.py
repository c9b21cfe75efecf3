"""ZonelistService: what this node answers when another one walks its zonelist."""

from __future__ import annotations

from typing import Any

import grpc.aio
from google.protobuf.message import Message
from numa_client._gen.numa.v1 import zonelist_service_pb2 as pb2
from numa_client._gen.numa.v1 import zonelist_service_pb2_grpc as pb2_grpc

from numa_service.node.ask import Steps, check_asked
from numa_service.node.node import Node
from numa_service.node.ops.op import Op
from numa_service.node.requests import Request
from numa_service.rpc.convert import WIRE, op_of
from numa_service.rpc.owners import unknown
from numa_service.rpc.requests import Requests

Context = grpc.aio.ServicerContext[Any, Any]


class ZonelistServicer(pb2_grpc.ZonelistServiceServicer):
    """Every question but one is an op, carried out at once: a lookup is never forwarded."""

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
        return await self._answer(request)  # type: ignore[no-any-return]

    async def Release(self, request: pb2.ReleaseRequest, context: Context) -> pb2.ReleaseResponse:
        """Free blocks held by hand, or pages of a region that are still its own."""
        return await self._answer(request)  # type: ignore[no-any-return]

    async def ReleaseOwner(
        self, request: pb2.ReleaseOwnerRequest, context: Context
    ) -> pb2.ReleaseOwnerResponse:
        """Free everything that an owner has here."""
        return await self._answer(request)  # type: ignore[no-any-return]

    async def Touch(self, request: pb2.TouchRequest, context: Context) -> pb2.TouchResponse:
        """Access pages of a region."""
        return await self._answer(request)  # type: ignore[no-any-return]

    async def WakeKswapd(self, request: pb2.WakeKswapdRequest, context: Context) -> pb2.WakeKswapdResponse:
        """wakeup_kswapd()."""
        return await self._answer(request)  # type: ignore[no-any-return]

    async def Reclaim(self, request: pb2.ReclaimRequest, context: Context) -> pb2.ReclaimResponse:
        """One pass of direct reclaim."""
        return await self._answer(request)  # type: ignore[no-any-return]

    async def Drain(self, request: pb2.DrainRequest, context: Context) -> pb2.DrainResponse:
        """drain_all_pages()."""
        return await self._answer(request)  # type: ignore[no-any-return]

    async def Remap(self, request: pb2.RemapRequest, context: Context) -> pb2.RemapResponse:
        """Migrated pages of a region at home here."""
        return await self._answer(request)  # type: ignore[no-any-return]

    async def MemoryNotify(
        self, request: pb2.MemoryNotifyRequest, context: Context
    ) -> pb2.MemoryNotifyResponse:
        """Memory of another node came or went."""
        return await self._answer(request)  # type: ignore[no-any-return]

    async def CountForeign(
        self, request: pb2.CountForeignRequest, context: Context
    ) -> pb2.CountForeignResponse:
        """numa_foreign."""
        return await self._answer(request)  # type: ignore[no-any-return]

    async def Run(self, request: pb2.RunRequest, context: Context) -> pb2.RunResponse:
        """A request that this node carries out by steps of its own."""
        return await self._answer(request)  # type: ignore[no-any-return]

    async def CheckOwners(self, request: pb2.CheckOwnersRequest, context: Context) -> pb2.CheckOwnersResponse:
        """Which owners of this node are no more; no op, as nothing changes."""
        return unknown(self._node, request)
