"""The picture of a verdict in a real browser: each zone in the order of the walk, on a screen and a phone."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import typer
from playwright.async_api import Browser, expect
from typer.testing import CliRunner

from numa_service.cli import why
from numa_service.web.verdict import VerdictServer

REPORTS = Path(__file__).resolve().parents[1] / "testdata"
BOUND = "mem_info/bound.txt"
#: A kill on one of four nodes, a failure for fragmentation, and one that the numbers do not explain.
PUBLIC = [f"public/reports/{name}.txt" for name in ("16", "25", "11")]


@cache
def answer(name: str) -> dict[str, Any]:
    """What the command says, without a run of what might have helped."""
    app = typer.Typer(pretty_exceptions_enable=False)
    why.register(app)
    told = CliRunner().invoke(app, [str(REPORTS / name), "--json"])
    tree: dict[str, Any] = json.loads(told.stdout)
    return tree


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", [BOUND, *PUBLIC])
async def test_every_zone_is_in_the_picture(name: str, width: int, browser: Browser) -> None:
    tree = answer(name)
    server = VerdictServer(tree)
    url = await server.start()
    try:
        context = await browser.new_context(viewport={"width": width, "height": 900})
        page = await context.new_page()
        complaints: list[str] = []
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(url)
        await expect(page.locator("body")).to_have_attribute("data-shown", "yes", timeout=20_000)
        await expect(page.locator("#first")).to_have_text(tree["verdict"][0])
        steps = page.locator(".step")
        names = [f"node {zone['node']} {zone['zone']}" for zone in tree["zones"]]
        assert await steps.locator("b").all_inner_texts() == names
        kinds = [await step.get_attribute("data-kind") for step in await steps.all()]
        assert kinds == [zone["kind"] for zone in tree["zones"]]
        # zones that the request may use are numbered, as the walk comes to them
        numbers = [text for text in await steps.locator(".stop").all_inner_texts() if text != "–"]
        assert numbers == [str(at + 1) for at in range(len(names) - kinds.count("out"))]
        # a zone that lacks pages has its free ones left of what must stay free
        for step, zone in zip(await steps.all(), tree["zones"], strict=True):
            if zone["kind"] != "out":
                free = float(await step.locator("rect.free").get_attribute("width") or 0)
                need = float(await step.locator("rect.need").get_attribute("width") or 0)
                assert (free <= need) == (zone["short"] >= 0), zone
        assert await page.locator("#claims li").count() == len(tree["claims"])
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        assert complaints == []
    finally:
        await server.stop()


async def test_a_report_is_text() -> None:
    """Names in a report come from strangers, and nobody else may read the answer."""
    server = VerdictServer({"headline": "<script>alert(1)</script>"})
    url = await server.start()
    try:
        async with aiohttp.ClientSession() as client:
            async with client.get(url) as page:
                assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            async with client.get(url, headers={"Host": "evil.example"}) as other:
                assert other.status == 403
            async with client.get(f"{url}api/verdict") as told:
                assert told.content_type == "application/json"
                assert await told.json() == {"headline": "<script>alert(1)</script>"}
    finally:
        await server.stop()
