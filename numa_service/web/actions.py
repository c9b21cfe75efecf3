"""What a browser may ask of a machine: explanations; memory and sysctls if the console is writable."""

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
#: Blocks of one allocation, and allocations held at one time.
MAX_BLOCKS = 16_384
MAX_HELD = 256
#: Of a policy, of gfp flags, of a sysctl.
MAX_TEXT = 200
#: Explanations at one time.
MAX_AT_ONCE = 2


class Refused(Exception):
    """What was asked for is not possible; the text is for the browser."""


def _gfp(value: object) -> int:
    return parse_gfp(_text(value))


def _policy(value: object) -> Policy:
    return Policy.parse(_text(value))


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"at most {MAX_TEXT} characters are expected")
    return value


class Asked(BaseModel):
    """What a browser asks for: these fields and no others, of these types and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AskedZone(Asked):
    """A zone of a node."""

    node: int = Field(ge=0, lt=1 << 20)
    zone: str = Field(pattern=r"^[0-9A-Za-z]{1,16}$")


class Placing(Asked):
    """Who asks for memory, of which kind, and from where."""

    cpu: int = Field(0, ge=0, le=1 << 20)
    order: int = Field(0, ge=0, lt=NR_ORDERS)
    gfp: Annotated[int, PlainValidator(_gfp)] = parse_gfp("")
    policy: Annotated[Policy, PlainValidator(_policy)] = Policy.default()


class Alloc(Placing):
    """Blocks to take and hold."""

    count: int = Field(1, ge=1, le=MAX_BLOCKS)


class Free(Asked):
    """Everything that is held."""

    all: bool = True


class Sysctl(Asked):
    """A sysctl and what to write there."""

    key: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TEXT)]
    value: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TEXT)]


class Actions:
    """Calls to the machine, on one connection that is made when it is first needed."""

    def __init__(self, address: Callable[[], str]) -> None:
        """`address` is where MachineService answers."""
        self._address = address
        self._machine: AsyncMachine | None = None
        #: By CPU; their heartbeats keep what is held here until `free` or the end.
        self._sessions: dict[int, AsyncSession] = {}
        self._held: list[tuple[AsyncSession, Allocation]] = []
        self._busy = asyncio.Semaphore(MAX_AT_ONCE)
        self._writing = asyncio.Lock()

    async def close(self) -> None:
        """End the sessions, which frees what they hold, and the connection."""
        sessions, self._sessions = self._sessions, {}
        self._held.clear()
        await asyncio.gather(*(session.close() for session in sessions.values()), return_exceptions=True)
        if self._machine:
            await self._machine.close()
            self._machine = None

    async def zone(self, asked: AskedZone) -> dict[str, Any]:
        """struct zone of a node's zone; its free lists are walked for it."""
        async with self._busy:
            return await (await self._connected()).inspect(asked.node, zone=asked.zone)

    async def explain(self, asked: Placing, writable: bool) -> dict[str, Any]:
        """Why one block would come from where it would: it is taken, and given back at once.

        A console that is not writable asks without the flags that let a request reclaim or wake kswapd.
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
        """Take blocks and hold them."""
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
        """Give back everything that was taken from here."""
        async with self._writing:
            freed = self._held_pages()
            while self._held:
                session, blocks = self._held.pop()
                with suppress(NotFound):  # its node has booted anew, or its lease ran out
                    await session.free(blocks)
            return {"freed": freed, "held": 0}

    async def sysctl(self, asked: Sysctl) -> dict[str, Any]:
        """Write a sysctl on every node; `note` says so if nothing here acts on it."""
        async with self._writing:
            return {"note": await (await self._connected()).write_sysctl(asked.key, asked.value)}

    async def _forget(self, cpu: int) -> None:
        """A session that its node does not know any more."""
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
            await self._machine.refresh()  # nodes move when they are restarted
        return self._machine
