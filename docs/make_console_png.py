"""Pictures of the pages for the docs, in headless Chromium: the demo machine under load, and a verdict.

Run ``python docs/make_console_png.py`` when a page has changed; it writes docs/console-*.png and why-*.png.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
# before the imports below, some of which are of the tests' folders
sys.path[:0] = [str(HERE.parent / "tests" / part) for part in ("rpc", "web")]

from consoled import Consoled  # noqa: E402
from numa_client import AsyncMachine, NumaError  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.async_api import Browser, Page, async_playwright  # noqa: E402

from numa_service.web.verdict import VerdictServer  # noqa: E402

VERDICTS = (("why-1280", 1280, "light"), ("why-390", 390, "dark"))
REPORT = HERE.parent / "tests/testdata/mem_info/bound.txt"
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
    """One screen of the machine."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]  # "light" or "dark"
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
    await save(page, name)
    await context.close()


async def verdict(browser: Browser, report: Path, name: str, width: int, scheme: str) -> None:
    """The picture of what `why` says of a report."""
    command = [str(Path(sys.executable).parent / "numa-service"), "why", str(report), "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    server = VerdictServer(json.loads(told.stdout))
    context = await browser.new_context(viewport={"width": width, "height": 700}, color_scheme=scheme)  # type: ignore[arg-type]  # "light" or "dark"
    page = await context.new_page()
    await page.goto(await server.start())
    await page.wait_for_selector("body[data-shown=yes]")
    await save(page, name)
    await context.close()
    await server.stop()


async def save(page: Page, name: str) -> None:
    """Write a screenshot, as small a file as it takes."""
    shot = await page.screenshot(full_page=True)
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    # an octree keeps the few pixels of a rare colour, which a median cut would not
    image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        HERE / f"{name}.png", optimize=True
    )


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
        for name, width, scheme in VERDICTS:
            await verdict(browser, REPORT, name, width, scheme)
        await browser.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    await machine.stop()


if __name__ == "__main__":
    asyncio.run(main())
