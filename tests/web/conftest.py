"""The demo machine on the loopback, with its console, and a browser where there is one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "rpc")]

from consoled import Consoled  # noqa: E402
from playwright.async_api import Browser, async_playwright  # noqa: E402
from skips import missing  # noqa: E402

CHROMIUM = shutil.which("chromium-headless-shell")


@pytest.fixture
async def consoled() -> AsyncIterator[Consoled]:
    machine = Consoled("demo")
    await machine.start()
    yield machine
    await machine.stop()


@pytest.fixture
async def writable() -> AsyncIterator[Consoled]:
    machine = Consoled("demo", writable=True)
    await machine.start()
    yield machine
    await machine.stop()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(missing("chromium-headless-shell"))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()
