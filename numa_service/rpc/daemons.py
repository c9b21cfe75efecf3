"""Runs a node's daemons (``node/daemons.py``) on the event loop, each in a task of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from numa_service.node.daemons import Daemon, daemons_of
from numa_service.node.inbox import Inbox
from numa_service.node.node import Node
from numa_service.rpc.peers import Peers

#: Pause of a daemon after a round that raised an exception, which only a bug does.
FAILED_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Daemons:
    """Runs every daemon of a node but kswapd, which has an actor of its own."""

    def __init__(self, node: Node, inbox: Inbox, peers: Peers, lease_expired: Callable[[], None]) -> None:
        self._node = node
        self._peers = peers
        self._lease_expired = lease_expired
        self._daemons = daemons_of(node, inbox, self._lease_ended)
        self._changed = [asyncio.Event() for _ in self._daemons]
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start a task for each daemon. Call it on the event loop."""
        for daemon, changed in zip(self._daemons, self._changed, strict=True):
            self._spawn(self._run(daemon, changed), f"{daemon.name}-node-{self._node.nid}")

    def wake(self, name: str) -> None:
        """Tell the daemons of this name that they may have something to do."""
        for daemon, changed in zip(self._daemons, self._changed, strict=True):
            if daemon.name == name:
                changed.set()

    async def stop(self) -> None:
        """Cancel every daemon, also one in the middle of a round, and wait for the tasks to end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, daemon: Daemon, changed: asyncio.Event) -> None:
        while True:
            changed.clear()
            if daemon.wanted():
                if daemon.overlaps:
                    self._spawn(self._round(daemon), f"{daemon.name}-round-node-{self._node.nid}")
                    # the round must run up to its first wait, where it has marked what it works on: else
                    # wanted() would start a second round for the same work
                    await asyncio.sleep(0)
                else:
                    await self._round(daemon)
            else:
                delay_ns = daemon.delay()
                timeout = None if delay_ns is None else delay_ns / 1e9
                try:
                    await asyncio.wait_for(changed.wait(), timeout)
                except TimeoutError:
                    continue

    async def _round(self, daemon: Daemon) -> None:
        try:
            took_ns = await self._peers.run(daemon.steps())
        except Exception:
            _log.exception("node %d: a round of %s failed", self._node.nid, daemon.name)
            await asyncio.sleep(FAILED_SECONDS)
        else:
            await asyncio.sleep(took_ns / 1e9)

    def _lease_ended(self, session: int, freed: int) -> None:
        self._lease_expired()
        _log.info("node %d: session %d ended with its lease, %d pages freed", self._node.nid, session, freed)
