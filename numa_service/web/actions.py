"""What a browser may ask of a machine: explanations; memory and sysctls if the console is writable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from numa_client import Allocation, AsyncMachine, AsyncSession, NotFound, Policy

from numa_service.mm.gfp import Gfp, parse_gfp
from numa_service.mm.mmzone import NR_ORDERS

ANSWER_SECONDS = 5.0
#: Blocks of one allocation, and allocations held at one time.
MAX_BLOCKS = 16_384
MAX_HELD = 256
#: Explanations at one time.
MAX_AT_ONCE = 2


class ActionError(ValueError):
    """What was asked for is not possible; the text is for the browser."""


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

    async def zone(self, nid: int, zone: str) -> dict[str, Any]:
        """struct zone of a node's zone; its free lists are walked for it."""
        async with self._busy:
            return await (await self._connected()).inspect(nid, zone=zone)

    async def explain(self, asked: Mapping[str, Any], writable: bool) -> dict[str, Any]:
        """Why one block would come from where it would: it is taken, and given back at once.

        A console that is not writable asks without the flags that let a request reclaim or wake kswapd.
        """
        order, cpu, policy = (
            _number(asked, "order", NR_ORDERS - 1),
            _number(asked, "cpu", 1 << 20),
            _policy(asked),
        )
        flags = _gfp(asked)
        if not writable:
            flags &= ~(Gfp.DIRECT_RECLAIM | Gfp.KSWAPD_RECLAIM)
        async with (
            self._busy,
            (await self._connected()).session(cpu=cpu, name="console: explain") as session,
        ):
            found = (await session.explain(order, 1, f"{flags:#x}", policy=policy)).explanation
        return {
            "text": str(found),
            "placement": sorted(found.placement.items()),
            "failure": found.failure,
            "without_reclaim": not writable,
        }

    async def alloc(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Take blocks and hold them."""
        order, cpu, policy = (
            _number(asked, "order", NR_ORDERS - 1),
            _number(asked, "cpu", 1 << 20),
            _policy(asked),
        )
        count = max(1, _number(asked, "count", MAX_BLOCKS))
        async with self._writing:
            if len(self._held) >= MAX_HELD:
                raise ActionError(f"{MAX_HELD} allocations are held: free them first")
            session = await self._session(cpu)
            try:
                got = await session.alloc(order, count, f"{_gfp(asked):#x}", policy=policy)
            except NotFound:
                await self._forget(cpu)
                raise ActionError(
                    "its node has booted anew, what was held there is gone: try again"
                ) from None
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

    async def sysctl(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Write a sysctl on every node."""
        key, value = (_text(asked, name) for name in ("key", "value"))
        async with self._writing:
            await (await self._connected()).write_sysctl(key, value)
        return {}

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


def _number(asked: Mapping[str, Any], key: str, most: int) -> int:
    value = asked.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ActionError(f"{key}: a whole number from 0 to {most} is expected")
    return value


def _text(asked: Mapping[str, Any], key: str) -> str:
    value = asked.get(key, "")
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise ActionError(f"{key}: 1 to 200 characters are expected")
    return value.strip()


def _gfp(asked: Mapping[str, Any]) -> int:
    try:
        return parse_gfp(str(asked.get("gfp", ""))[:200])
    except ValueError as error:
        raise ActionError(f"gfp: {error}") from None


def _policy(asked: Mapping[str, Any]) -> Policy:
    return Policy.parse(str(asked.get("policy") or "default")[:200])
