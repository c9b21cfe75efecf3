"""Leases: the end of sessions whose clients are gone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from numa_client._gen.numa.v1 import memory_service_pb2 as pb2

from numa_service.node.errors import NodeError
from numa_service.node.node import Node
from numa_service.node.region import close_session
from numa_service.rpc.peers import Peers, drive
from numa_service.rpc.requests import Requests

_log = logging.getLogger(__name__)


class Leases:
    """Wakes when the next lease runs out, and closes its session as the client would have."""

    def __init__(
        self,
        node: Node,
        requests: Requests,
        peers: Peers,
        expired: Callable[[], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`expired` is told of every session that ended so; `clock` gives ns."""
        self._node = node
        self._requests = requests
        self._peers = peers
        self._expired = expired
        self._clock = clock
        self._changed = asyncio.Event()
        self._ends: set[asyncio.Task[None]] = set()
        #: Sessions whose end failed: a bug, logged once, and not tried again and again.
        self._failed: set[int] = set()

    def changed(self) -> None:
        """A lease may end earlier than any known one, or the clock was set."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._changed.clear()
                for session in self._node.expired(self._clock()):
                    if not self._left_alone(session):
                        end = asyncio.create_task(self._end(session), name=f"lease-{session}")
                        self._ends.add(end)
                        end.add_done_callback(self._ends.discard)
                # the tasks just made mark their sessions before the next look
                await asyncio.sleep(0)
                timeout = self._until_next()
                try:
                    await asyncio.wait_for(self._changed.wait(), timeout)
                except TimeoutError:
                    continue
        finally:
            await asyncio.gather(*self._ends, return_exceptions=True)

    def _until_next(self) -> float | None:
        """Seconds until the next lease runs out; None when there is none."""
        ends = [s.expires_ns for s in self._node.sessions.values() if not self._left_alone(s.id)]
        return max(0, min(ends) - self._clock()) / 1e9 if ends else None

    def _left_alone(self, session: int) -> bool:
        return self._requests.is_ending(session) or session in self._failed

    async def _end(self, session: int) -> None:
        async def close() -> pb2.CloseSessionResponse:
            freed = await drive(close_session(self._node, session), self._peers)
            return pb2.CloseSessionResponse(freed_pages=freed)

        try:
            reply = await self._requests.end_session(session, close)
        except NodeError:
            return  # the client closed it in the meantime
        except Exception:
            self._failed.add(session)
            _log.exception("node %d: session %d could not be ended", self._node.nid, session)
            return
        self._expired()
        _log.info(
            "node %d: session %d ended with its lease, %d pages freed",
            self._node.nid,
            session,
            reply.freed_pages,
        )
