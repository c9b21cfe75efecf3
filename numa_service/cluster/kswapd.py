"""Kswapd: the actor beside a node that reclaims for it, in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from numa_service.cluster.logs import configure_logs
from numa_service.node.kswapd import balance_pgdat

#: Longest single wait for the node: a call does not stay open for ever.
WAIT_SECONDS = 30.0
#: Before a node that is away is asked again.
RETRY_SECONDS = 0.2

_log = logging.getLogger(__name__)


class Kswapd:
    """Waits until its node wants it, then drives balance_pgdat step by step.

    All state is the node's: a kswapd that is restarted finds the node still wanting it, and starts over.
    """

    def __init__(self, node: ActorHandle) -> None:
        configure_logs(actor=ray.get_runtime_context().get_actor_name())
        self._node = node
        self._kswapd = asyncio.get_running_loop().create_task(self._run())

    async def pid(self) -> int:
        """Of this process, on its host."""
        return os.getpid()

    async def _run(self) -> None:
        while True:
            try:
                if await self._node.kswapd_wait.remote(WAIT_SECONDS):
                    await self._balance()
            except RayError as error:
                _log.warning("the node does not answer: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _balance(self) -> None:
        steps = balance_pgdat()
        try:
            op = next(steps)
            while True:
                op = steps.send(await self._node.kswapd_step.remote(op))
        except StopIteration:
            return
