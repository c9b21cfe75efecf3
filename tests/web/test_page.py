"""The page in a real browser: it updates, is idle when nothing changes, works by keyboard and on a phone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from consoled import Consoled, served
from playwright.async_api import Browser, Page, expect

from numa_service.machine.presets import load_preset

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE_MS = 20_000


@pytest_asyncio.fixture(loop_scope="module")
async def consoled() -> AsyncIterator[Consoled]:
    async with served("demo") as machine:
        yield machine


@pytest_asyncio.fixture(loop_scope="module")
async def writable() -> AsyncIterator[Consoled]:
    async with served("demo", writable=True) as machine:
        yield machine


async def opened(
    browser: Browser, url: str, width: int = 1280, scheme: str = "light"
) -> tuple[Page, list[str]]:
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(url)
    await expect(page.locator("#status")).to_have_text("live", timeout=PATIENCE_MS)
    # every node has been heard of
    await expect(page.locator(".node:has(.fill):not(.away)")).to_have_count(
        await page.locator(".node").count(), timeout=PATIENCE_MS
    )
    return page, complaints


async def test_an_allocation_moves_the_picture(consoled: Consoled, browser: Browser) -> None:
    page, complaints = await opened(browser, consoled.url)
    await expect(page.locator("#name")).to_have_text("demo")
    node = page.locator('.node[data-nid="0"]')
    await expect(node).to_have_attribute("aria-label", "node 0, 2 CPUs, 206 MiB free, kswapd asleep")
    wide = float(await node.locator(".fill").nth(1).get_attribute("width") or 0)
    heat = "document.querySelector('#heat-map').toDataURL()"
    blocks = await page.evaluate(heat)
    client = await consoled.client()
    async with client, client.session(cpu=0) as session:
        await session.alloc(count=25_600)  # 100 MiB
        await expect(node).to_have_attribute("aria-label", "node 0, 2 CPUs, 106 MiB free, kswapd asleep")
        assert float(await node.locator(".fill").nth(1).get_attribute("width") or 0) < wide
        await page.wait_for_function(f"(before) => {heat} !== before", arg=blocks, timeout=PATIENCE_MS)
        await expect(page.locator("#node-body")).to_contain_text("100 MiB held")
        await expect(page.locator("#events-list")).to_contain_text("sessions opened")
        await session.alloc(count=32_768)
        # more than node 0 has: an arrow to who gave
        await expect(page.locator(".flow")).not_to_have_count(0, timeout=PATIENCE_MS)
        await expect(page.locator("#events-list")).to_contain_text("pages from node 2: fallback")
    await expect(page.locator(".flow")).to_have_count(0, timeout=PATIENCE_MS)
    assert complaints == []


async def test_by_keyboard(consoled: Consoled, browser: Browser) -> None:
    page, complaints = await opened(browser, consoled.url)
    await page.keyboard.press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    for _ in range(4):
        await page.keyboard.press("Tab")
    await expect(page.locator('.node[data-nid="0"]')).to_be_focused()
    await page.keyboard.press("ArrowRight")
    await expect(page.locator('.node[data-nid="1"]')).to_be_focused()
    await expect(page.locator("#node-title")).to_have_text("Node 1")
    outline = "getComputedStyle(document.activeElement.querySelector('.body')).strokeWidth"
    assert await page.evaluate(outline) == "3.5px"
    await page.keyboard.press("ArrowLeft")
    await page.keyboard.press("ArrowDown")
    await expect(page.locator("#node-title")).to_have_text("Node 2")
    await page.keyboard.press("Enter")
    await expect(page.locator("#why-text")).to_contain_text("2:DMA32", timeout=PATIENCE_MS)
    await page.keyboard.press("]")
    await expect(page.locator("#boot-what")).to_contain_text("start_kernel()")
    await page.keyboard.press("t")
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await page.keyboard.press("p")
    await expect(page.locator("#status")).to_have_text("paused")
    await page.keyboard.press("?")
    await expect(page.locator("#keys")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#keys")).to_be_hidden()
    await page.locator("#heat-map").focus()
    await page.keyboard.press("ArrowUp")
    await expect(page.locator("#heat-cell")).to_contain_text("node 0 DMA, order 1:")
    unnamed = """[...document.querySelectorAll('button, select, input, [role=option], canvas')].filter(
        (e) => !e.closest('[hidden]') && !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).length"""
    assert await page.evaluate(unnamed) == 0
    assert complaints == []


@pytest.mark.parametrize("preset", ["demo", "nps4"])
async def test_on_a_phone_nothing_is_cut_off(preset: str, browser: Browser) -> None:
    consoled = Consoled(preset)
    await consoled.start()
    try:
        page, complaints = await opened(browser, consoled.url, 390, "dark")
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        assert await page.evaluate("document.documentElement.scrollWidth") == 390
        right = """Math.max(
            ...[...document.querySelectorAll('.node')].map((n) => n.getBoundingClientRect().right))"""
        assert await page.evaluate(right) <= 390
        assert complaints == []
    finally:
        await consoled.stop()


async def test_a_name_is_text(browser: Browser) -> None:
    name = "<img src=x onerror=alert(1)><script>document.title='x'</script>"
    consoled = Consoled(replace(load_preset("uma"), name=name))
    await consoled.start()
    try:
        page, complaints = await opened(browser, consoled.url)
        await expect(page.locator("#name")).to_have_text(name)
        assert await page.locator("#name > *").count() == 0
        assert complaints == []
    finally:
        await consoled.stop()


async def test_a_node_that_is_away_is_shown_so(consoled: Consoled, browser: Browser) -> None:
    page, _ = await opened(browser, consoled.url)
    await consoled.kill(1)
    node = page.locator('.node[data-nid="1"]')
    await expect(node).to_have_attribute("aria-label", "node 1, 2 CPUs, does not answer", timeout=PATIENCE_MS)
    await consoled.revive(1)
    await expect(node).to_have_attribute(
        "aria-label", "node 1, 2 CPUs, 251 MiB free, kswapd asleep", timeout=PATIENCE_MS
    )


async def test_buttons_of_a_writable_console(writable: Consoled, browser: Browser) -> None:
    page, complaints = await opened(browser, writable.url)
    await page.get_by_role("button", name="Allocate", exact=True).click()
    await expect(page.locator("#write-note")).to_have_text(
        "1,024 pages on node 0; 1,024 held", timeout=PATIENCE_MS
    )
    assert writable.node(0).held_pages() == 1024
    await page.get_by_role("button", name="Free all").click()
    await expect(page.locator("#write-note")).to_have_text("1,024 pages freed", timeout=PATIENCE_MS)
    assert complaints == []
