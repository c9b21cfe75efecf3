"""A node's calls to its supervisor, which is an actor in another process."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray
from ray.exceptions import RayError

from numa_service.cluster.actor_names import NAMESPACE, supervisor_name
from numa_service.machine.record import MemoryState
from numa_service.machine.sysctl import sysctl_name
from numa_service.node.errors import InvalidRequest, MachineUnavailable

#: Longest wait for an answer. A write of a sysctl in turn waits for the nodes that are up.
ANSWER_SECONDS = 5.0
#: Pause before a supervisor that is away is called again.
RETRY_SECONDS = 0.5

_log = logging.getLogger(__name__)


class SupervisorDoor:
    """The way to the keeper of the machine's record, which the supervisor has (``rpc.record_keeper``)."""

    def __init__(self, machine: str) -> None:
        self._name = supervisor_name(machine)
        self._handle: Any = None
        #: This node's memory, if the supervisor has not confirmed it yet. A newer state replaces an older
        #: one.
        self._news: MemoryState | None = None
        self._telling: asyncio.Task[None] | None = None

    async def _supervisor(self) -> Any:
        # looked up once: a handle stays valid when Ray restarts its actor
        if self._handle is None:
            self._handle = await asyncio.to_thread(ray.get_actor, self._name, NAMESPACE)
        return self._handle

    async def write_sysctl(self, key: str, value: str) -> str:
        """Write a sysctl for all nodes; returns a note if it has no effect.

        InvalidRequest for a wrong value, MachineUnavailable when the supervisor does not answer.
        """
        try:
            supervisor = await self._supervisor()
            async with asyncio.timeout(ANSWER_SECONDS):
                note, refusal = await supervisor.write_sysctl.remote(key, value)
        except (RayError, ValueError, TimeoutError) as error:
            raise MachineUnavailable(f"{self._name} does not answer: {type(error).__name__}") from None
        if refusal:
            raise InvalidRequest(sysctl_name(key), refusal)
        return str(note)

    async def remember_memory(self, state: MemoryState) -> None:
        """Tell the supervisor this node's memory; one that is away is told when it is back."""
        self._news = state
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell(), name="memory-news")
        await asyncio.wait([self._telling], timeout=ANSWER_SECONDS)

    async def _tell(self) -> None:
        while (news := self._news) is not None:
            try:
                supervisor = await self._supervisor()
                async with asyncio.timeout(ANSWER_SECONDS):
                    await supervisor.remember_memory.remote(news)
            except (RayError, ValueError, TimeoutError) as error:
                _log.warning("%s has not got news of memory: %s", self._name, type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._news = None if self._news is news else self._news
        self._telling = None
