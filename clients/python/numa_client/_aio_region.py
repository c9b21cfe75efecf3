"""Regions of the asyncio client. Those of the blocking one, ``_sync_region.py``, are generated from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc
import grpc.aio

from numa_client import _codec as codec
from numa_client import _types as t
from numa_client._gen.numa.v1 import memory_service_pb2, memory_service_pb2_grpc
from numa_client._policy import Policy

if TYPE_CHECKING:
    Method = grpc.aio.UnaryUnaryMultiCallable

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncRegionHome(Protocol):
    """What a region needs of its session."""

    cpu: int
    _ids: codec.RequestIds

    @property
    def info(self) -> t.SessionInfo:
        """The session's number, lease and node."""

    async def _ask(
        self,
        method: Callable[[memory_service_pb2_grpc.MemoryServiceAsyncStub], Method[_Request, _Response]],
        request: _Request,
    ) -> _Response:
        """Calls a method of the home node."""


class AsyncRegion:
    """Pageable memory of a session. Made by :meth:`AsyncSession.map_region`."""

    def __init__(self, session: AsyncRegionHome, region: int, nr_pages: int) -> None:
        self._session = session
        #: Number of the region in its session.
        self.region = region
        self.nr_pages = nr_pages

    async def touch(
        self, first: int, count: int = 1, write: bool = False, *, cpu: int | None = None
    ) -> t.Touch:
        """Accesses `count` pages from page `first` on. OutOfMemory when a page fault finds no free page."""
        session = self._session
        request = codec.touch_request(
            session.info,
            next(session._ids),
            self.region,
            first=first,
            count=count,
            write=write,
            cpu=session.cpu if cpu is None else cpu,
        )
        return codec.touch(await session._ask(lambda memory: memory.TouchRegion, request))

    async def mbind(
        self,
        policy: Policy | None,
        first: int = 0,
        count: int | None = None,
        *,
        move: bool = False,
        strict: bool = False,
        cpu: int | None = None,
    ) -> t.MovedPages:
        """Gives pages a memory policy, by default all, as mbind(2); None is the default policy.

        With `move` pages on none of the policy's nodes are moved. With `strict` and without `move` such a
        page is FailedPrecondition (EIO), and nothing changes.
        """
        session = self._session
        request = codec.bind_request(
            session.info,
            next(session._ids),
            self.region,
            first=first,
            count=self.nr_pages - first if count is None else count,
            policy=policy,
            move=move,
            strict=strict,
            cpu=session.cpu if cpu is None else cpu,
        )
        response = await session._ask(lambda memory: memory.BindRegion, request)
        return t.MovedPages(response.moved_pages, response.failed_pages)

    async def move_pages(
        self, pages: Sequence[int], nodes: Sequence[int] = (), *, cpu: int | None = None
    ) -> t.PageStatus:
        """Moves each page to its node, or without nodes says where the pages are, as move_pages(2)."""
        session = self._session
        request = codec.move_request(
            session.info,
            next(session._ids),
            self.region,
            pages=pages,
            nodes=nodes,
            cpu=session.cpu if cpu is None else cpu,
        )
        response = await session._ask(lambda memory: memory.MovePages, request)
        return t.PageStatus(tuple(response.status), response.errno)

    async def unmap(self) -> int:
        """Unmaps the region; returns how many pages this freed."""
        session = self._session
        request = memory_service_pb2.UnmapRegionRequest(
            session=session.info.session,
            session_token=session.info.token,
            request_id=next(session._ids),
            region=self.region,
        )
        response = await session._ask(lambda memory: memory.UnmapRegion, request)
        return response.freed_pages
