"""The demo machine on the loopback, with its console, and a browser where there is one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

# before the imports of what stands there
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "rpc")]

from consoled import Consoled, served  # noqa: E402  # after the path
from playwright.async_api import Browser, async_playwright  # noqa: E402  # after the path
from skips import missing  # noqa: E402  # after the path

CHROMIUM = shutil.which("chromium-headless-shell")


@pytest.fixture
async def consoled() -> AsyncIterator[Consoled]:
    async with served("demo") as machine:
        yield machine


@pytest.fixture
async def writable() -> AsyncIterator[Consoled]:
    async with served("demo", writable=True) as machine:
        yield machine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    """One for all tests of a module, which have its event loop."""
    if CHROMIUM is None:
        pytest.skip(missing("chromium-headless-shell"))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    """A browser without pages; what a test opens is closed after it."""
    yield chromium
    for context in chromium.contexts:
        await context.close()
