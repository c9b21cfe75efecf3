"""The actions of browsers on a machine: explanations, and if the console is writable, memory and sysctls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

from numa_client import Allocation, AsyncMachine, AsyncSession, NotFound, Policy
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints

from numa_service.mm.gfp import Gfp, parse_gfp
from numa_service.mm.mmzone import NR_ORDERS

ANSWER_SECONDS = 5.0
#: Most blocks in one allocation, and most allocations that the console holds at a time.
MAX_BLOCKS = 16_384
MAX_HELD = 256
#: Most characters of a policy, of gfp flags, and of a sysctl's name or value.
MAX_TEXT = 200
#: Most explanations and zone reads at a time.
MAX_AT_ONCE = 2


class Refused(Exception):
    """A request is refused; the text is shown in the browser."""


def _gfp(value: object) -> int:
    return parse_gfp(_text(value))


def _policy(value: object) -> Policy:
    return Policy.parse(_text(value))


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"at most {MAX_TEXT} characters are expected")
    return value


class Asked(BaseModel):
    """Base of the requests of browsers. Unknown fields and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AskedZone(Asked):
    """Which zone of which node to read."""

    node: int = Field(ge=0, lt=1 << 20)
    zone: str = Field(pattern=r"^[0-9A-Za-z]{1,16}$")


class Placing(Asked):
    """An allocation to explain: the CPU that asks, the order, gfp flags and policy."""

    cpu: int = Field(0, ge=0, le=1 << 20)
    order: int = Field(0, ge=0, lt=NR_ORDERS)
    gfp: Annotated[int, PlainValidator(_gfp)] = parse_gfp("")
    policy: Annotated[Policy, PlainValidator(_policy)] = Policy.default()


class Alloc(Placing):
    """An allocation of `count` blocks that the console holds."""

    count: int = Field(1, ge=1, le=MAX_BLOCKS)


class Free(Asked):
    """Free everything that the console holds."""

    all: bool = True


class Sysctl(Asked):
    """A sysctl to write, and its value."""

    key: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TEXT)]
    value: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TEXT)]


class Actions:
    """Calls to the machine over one connection, which is made when it is first needed."""

    def __init__(self, address: Callable[[], str]) -> None:
        """`address` returns the address of MachineService."""
        self._address = address
        self._machine: AsyncMachine | None = None
        #: CPU → session. Their heartbeats renew the leases until the console closes them.
        self._sessions: dict[int, AsyncSession] = {}
        self._held: list[tuple[AsyncSession, Allocation]] = []
        self._busy = asyncio.Semaphore(MAX_AT_ONCE)
        self._writing = asyncio.Lock()

    async def close(self) -> None:
        """Close the sessions, which frees what they hold, and the connection."""
        sessions, self._sessions = self._sessions, {}
        self._held.clear()
        await asyncio.gather(*(session.close() for session in sessions.values()), return_exceptions=True)
        if self._machine:
            await self._machine.close()
            self._machine = None

    async def zone(self, asked: AskedZone) -> dict[str, Any]:
        """The fields of a zone's struct zone. The node walks the zone's free lists for it."""
        async with self._busy:
            return await (await self._connected()).inspect(asked.node, zone=asked.zone)

    async def explain(self, asked: Placing, writable: bool) -> dict[str, Any]:
        """Explain where one block comes from: it is allocated, and freed at once.

        A console that is not writable leaves out the gfp flags with which a request may reclaim or wake
        kswapd, so that it changes nothing.
        """
        flags = asked.gfp
        if not writable:
            flags &= ~(Gfp.DIRECT_RECLAIM | Gfp.KSWAPD_RECLAIM)
        async with (
            self._busy,
            (await self._connected()).session(cpu=asked.cpu, name="console: explain") as session,
        ):
            found = (await session.explain(asked.order, 1, f"{flags:#x}", policy=asked.policy)).explanation
        return {
            "text": str(found),
            "placement": sorted(found.placement.items()),
            "failure": found.failure,
            "without_reclaim": not writable,
        }

    async def alloc(self, asked: Alloc) -> dict[str, Any]:
        """Allocate blocks and hold them."""
        async with self._writing:
            if len(self._held) >= MAX_HELD:
                raise Refused(f"{MAX_HELD} allocations are held: free them first")
            session = await self._session(asked.cpu)
            try:
                got = await session.alloc(asked.order, asked.count, f"{asked.gfp:#x}", policy=asked.policy)
            except NotFound:
                await self._forget(asked.cpu)
                raise Refused("its node has booted anew, what was held there is gone: try again") from None
            self._held.append((session, got))
            return {"pages_by_node": sorted(got.pages_by_node.items()), "held": self._held_pages()}

    async def free(self) -> dict[str, Any]:
        """Free everything that was allocated through the console."""
        async with self._writing:
            freed = self._held_pages()
            while self._held:
                session, blocks = self._held.pop()
                with suppress(NotFound):  # its node has booted anew, or its lease ran out
                    await session.free(blocks)
            return {"freed": freed, "held": 0}

    async def sysctl(self, asked: Sysctl) -> dict[str, Any]:
        """Write a sysctl on every node; `note` is not empty if the model does not follow it."""
        async with self._writing:
            return {"note": await (await self._connected()).write_sysctl(asked.key, asked.value)}

    async def _forget(self, cpu: int) -> None:
        """Drop a session that its node does not know any more, and the allocations of it."""
        session = self._sessions.pop(cpu)
        self._held = [(holder, blocks) for holder, blocks in self._held if holder is not session]
        await session.close()

    def _held_pages(self) -> int:
        return sum(blocks.nr_pages for _, blocks in self._held)

    async def _session(self, cpu: int) -> AsyncSession:
        if cpu not in self._sessions:
            session = (await self._connected()).session(cpu=cpu, name="console")
            await session.open()
            self._sessions[cpu] = session
        return self._sessions[cpu]

    async def _connected(self) -> AsyncMachine:
        if self._machine is None:
            self._machine = await AsyncMachine.connect(self._address(), timeout=ANSWER_SECONDS)
        else:
            await self._machine.refresh()  # a node that was restarted has another address
        return self._machine
