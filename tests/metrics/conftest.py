"""The demo machine, served on the loopback."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "rpc"))

from loopback import Loopback
from numa_client import AsyncMachine


@pytest.fixture
async def demo() -> AsyncIterator[Loopback]:
    machine = Loopback("demo")
    await machine.start()
    yield machine
    await machine.stop()


@pytest.fixture
async def client(demo: Loopback) -> AsyncIterator[AsyncMachine]:
    async with await demo.client() as client:
        yield client
