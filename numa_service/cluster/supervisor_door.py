"""What a node asks its supervisor, and tells it, from a process of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray
from ray.exceptions import RayError

from numa_service.cluster.names import NAMESPACE, supervisor_name
from numa_service.machine.record import MemoryState
from numa_service.machine.sysctl import sysctl_name
from numa_service.node.errors import InvalidRequest, MachineUnavailable

#: For an answer: a write waits for the nodes that are up.
ANSWER_SECONDS = 5.0
#: Before a supervisor that is away is told again.
RETRY_SECONDS = 0.5

_log = logging.getLogger(__name__)


class SupervisorDoor:
    """The keeper of the machine's record (``rpc.record_keeper.MachineDoor``), where the supervisor has it."""

    def __init__(self, machine: str) -> None:
        self._name = supervisor_name(machine)
        self._handle: Any = None
        #: News of this node's memory that the supervisor has not got yet; the last of them is what counts.
        self._news: MemoryState | None = None
        self._telling: asyncio.Task[None] | None = None

    async def _supervisor(self) -> Any:
        # found once: a handle stays good when its actor is restarted
        if self._handle is None:
            self._handle = await asyncio.to_thread(ray.get_actor, self._name, NAMESPACE)
        return self._handle

    async def write_sysctl(self, key: str, value: str) -> str:
        """Write a sysctl for all nodes; a note if it has no effect. InvalidRequest, MachineUnavailable."""
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
        """Tell news of this node's memory; a supervisor that is away has them when it is back."""
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
