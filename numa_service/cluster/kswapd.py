"""Kswapd: the actor that drives a node's kswapd, in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from numa_service.cluster.logs import configure_logs

#: Longest single call that waits for the node to wake its kswapd, so that no call stays open for ever.
WAIT_SECONDS = 30.0
#: Pause before a node that is away is called again.
RETRY_SECONDS = 0.2

_log = logging.getLogger(__name__)


class Kswapd:
    """Waits until its node wakes kswapd, then has the node do one bounded step of reclaim after another.

    All state is in the node: a kswapd actor that is restarted goes on where the one before stopped.
    """

    def __init__(self, node: ActorHandle) -> None:
        configure_logs(actor=ray.get_runtime_context().get_actor_name())
        self._node = node
        self._kswapd = asyncio.get_running_loop().create_task(self._run())

    async def pid(self) -> int:
        """The pid of this process on its host."""
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
