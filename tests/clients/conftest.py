"""Two reference nodes behind real gRPC servers: 0 with two CPUs, 1 with memory only."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from reference_peer import ReferenceMachine


@pytest.fixture
async def peer() -> AsyncIterator[ReferenceMachine]:
    machine = ReferenceMachine(pages_per_node=1024)
    await machine.start()
    yield machine
    await machine.stop()
