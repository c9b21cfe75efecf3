"""The console: frames per second of a page of 64 nodes in headless Chromium, and what a frame costs a node.

It needs a browser and is no part of ``make bench``: run ``python benchmarks/console.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / part) for part in ("rpc", "web")]

from consoled import Consoled
from numa_client import AsyncMachine, NumaError
from playwright.async_api import Browser, async_playwright
from table import Row, show

from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import MachineSpec
from numa_service.rpc.observe import frame

NODES = 64
SECONDS = 6.0

#: Measures for so many ms the frames drawn per second, the longest frame, and the number of arrows.
_MEASURE = """(ms) => new Promise((done) => {
  let frames = 0, longest = 0, before = performance.now(), start = before;
  const step = (now) => {
    frames += 1; longest = Math.max(longest, now - before); before = now;
    if (now - start < ms) requestAnimationFrame(step);
    else done({
      fps: frames * 1000 / (now - start), longest, arrows: document.querySelectorAll(".flow").length,
    });
  };
  requestAnimationFrame(step);
})"""


def machine(nodes: int) -> MachineSpec:
    """A machine of so many nodes with 64 MiB each, four dies in a socket; node 0 has 192 MiB."""
    text = ['name = "bench"']
    rows = [[10 if a == b else 12 if a // 4 == b // 4 else 32 for b in range(nodes)] for a in range(nodes)]
    text.append(f"distances = {rows}")
    text += [f'[[node]]\ncpus = "{nid}"\nmemory = "{192 if nid == 0 else 64}MiB"' for nid in range(nodes)]
    return parse_machine("\n".join(text), "bench", "bench")


async def load(client: AsyncMachine, nid: int) -> None:
    """Allocate and free again and again, on even nodes more than the node has.

    So every frame of a node differs from the one before, and half of the nodes fall back to others.
    """
    async with client.session(node=nid) as session:
        share = max(1, client.info.node(nid).managed_pages // 4)
        while True:
            held = []
            for _ in range(2 if nid % 2 else 5):
                with suppress(NumaError):
                    held.append(await session.alloc(count=share, partial=True))
                await asyncio.sleep(0.1)
            for blocks in held:
                with suppress(NumaError):
                    await session.free(blocks)


async def measure(browser: Browser, nodes: int, width: int) -> dict[str, float]:
    consoled = Consoled(machine(nodes))
    await consoled.start()
    client = await consoled.client()
    tasks = [asyncio.create_task(load(client, nid)) for nid in range(nodes)]
    try:
        page = await browser.new_page(viewport={"width": width, "height": 900})
        await page.goto(consoled.url)
        await page.wait_for_selector(f'.node[data-nid="{nodes - 1}"]:not(.away) .fill', timeout=60_000)
        await page.wait_for_timeout(1500)
        found: dict[str, float] = await page.evaluate(_MEASURE, SECONDS * 1000)
        before = consoled.console.feed.version
        await page.wait_for_timeout(2000)
        found["changes"] = (consoled.console.feed.version - before) / 2
        node, rounds = consoled.node(0), 500
        start = time.perf_counter()
        for sequence in range(rounds):
            frame(node, {}, sequence).SerializeToString()
        found["frame_us"] = (time.perf_counter() - start) / rounds * 1e6
        await page.close()
        return found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
        await consoled.stop()


async def measured() -> list[Row]:
    chromium = shutil.which("chromium-headless-shell")
    if chromium is None:
        raise SystemExit("chromium-headless-shell is needed (Debian package of that name)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        small = await measure(browser, 4, 1280)
        large = await measure(browser, NODES, 1280)
        phone = await measure(browser, NODES, 390)
        await browser.close()
    against = "4 nodes"
    return [
        Row("console 64 nodes", large["fps"], "frames/s", against, small["fps"], 30, goal_of_ratio=False),
        Row(
            "console 64 nodes, phone",
            phone["fps"],
            "frames/s",
            against,
            small["fps"],
            30,
            goal_of_ratio=False,
        ),
        Row("console longest frame", large["longest"], "ms", against, small["longest"]),
        Row("console arrows drawn", large["arrows"], "", against, small["arrows"]),
        Row("console changes shown", large["changes"], "/s", against, small["changes"]),
        Row("observe one frame", large["frame_us"], "us", against, small["frame_us"]),
    ]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    show(asyncio.run(measured()))
