"""A machine on the loopback and its console, in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from loopback import Loopback

from numa_service.machine.boot import start_kernel
from numa_service.machine.spec import MachineSpec
from numa_service.web.console import ConsoleServer
from numa_service.web.options import ConsoleOptions


class Consoled(Loopback):
    """The machine and its console, and what tests do with them."""

    def __init__(self, preset: str | MachineSpec, *, writable: bool = False) -> None:
        super().__init__(preset)
        self.console = ConsoleServer(
            self.info,
            lambda: self.address,
            lambda: start_kernel(self.spec, []).dmesg,
            ConsoleOptions(writable=writable),
        )
        self.url = ""

    async def start(self) -> None:
        await super().start()
        self.url = await self.console.start()

    async def stop(self) -> None:
        await self.console.stop()
        await super().stop()


@asynccontextmanager
async def served(preset: str | MachineSpec, *, writable: bool = False) -> AsyncIterator[Consoled]:
    """A machine and its console, until a test has seen enough."""
    machine = Consoled(preset, writable=writable)
    await machine.start()
    try:
        yield machine
    finally:
        await machine.stop()
