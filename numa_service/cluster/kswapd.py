"""Kswapd: the actor beside a node that reclaims for it, in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from numa_service.cluster.logs import configure_logs

#: Longest single wait for the node: a call does not stay open for ever.
WAIT_SECONDS = 30.0
#: Before a node that is away is asked again.
RETRY_SECONDS = 0.2

_log = logging.getLogger(__name__)


class Kswapd:
    """Waits until its node wants it, then lets it go on step by step.

    All state is the node's: a kswapd that is restarted goes on where its predecessor stopped.
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
                    while await self._node.kswapd_step.remote():
                        pass
            except RayError as error:
                _log.warning("the node does not answer: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
