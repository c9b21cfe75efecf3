"""Pictures of the console for the docs: the demo machine under load, in headless Chromium.

Run ``python docs/make_console_png.py`` when the page has changed; it writes docs/console-*.png.
"""

from __future__ import annotations

import asyncio
import io
import shutil
import sys
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests" / part) for part in ("rpc", "web")]

from consoled import Consoled  # noqa: E402
from numa_client import AsyncMachine, NumaError  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.async_api import Browser, async_playwright  # noqa: E402

PICTURES = (("console-1280", 1280, "light"), ("console-390", 390, "light"), ("console-dark", 1280, "dark"))


async def load(client: AsyncMachine) -> None:
    """Node 0 fills and spills; page cache on node 1 keeps its kswapd busy."""
    async with client.session(cpu=0) as kernel, client.session(cpu=2) as files:
        region = await files.map_region("file", 512 * 256)
        held, at = [], 0
        while True:
            with suppress(NumaError):
                held.append(await kernel.alloc(count=1500, partial=True))
            if len(held) > 74:
                for blocks in held[:6]:
                    await kernel.free(blocks)
                del held[:6]
            with suppress(NumaError):
                await region.touch(at % (510 * 256), 2048)
                at += 2048
            await asyncio.sleep(0.03)


async def kswapd(machine: Consoled, nid: int) -> None:
    """What the Kswapd actor does."""
    while True:
        if await machine.servers[nid].kswapd_wait(1.0):
            await machine.kswapd(nid)


async def picture(browser: Browser, url: str, name: str, width: int, scheme: str) -> None:
    """One screen, as small a file as it takes."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = await context.new_page()
    await page.goto(url)
    await page.wait_for_selector("#status[data-state=live]")
    for _ in range(3):
        await page.keyboard.press("]")
    await page.focus(".node[tabindex='0']")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#why-text:not(:empty)")
    await page.wait_for_timeout(4000)
    await page.wait_for_selector(".flow")
    await page.evaluate("document.activeElement.blur()")
    shot = await page.screenshot(full_page=True)
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    # an octree keeps the few pixels of a rare colour, which a median cut would not
    image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        HERE / f"{name}.png", optimize=True
    )
    await context.close()


async def main() -> None:
    """All pictures of one run."""
    machine = Consoled("demo")
    await machine.start()
    client = await machine.client()
    tasks = [asyncio.create_task(load(client))]
    tasks += [asyncio.create_task(kswapd(machine, nid)) for nid in machine.servers]
    async with async_playwright() as playwright:
        chromium = shutil.which("chromium-headless-shell")
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, width, scheme in PICTURES:
            await picture(browser, machine.url, name, width, scheme)
        await browser.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    await machine.stop()


if __name__ == "__main__":
    asyncio.run(main())
