"""Plays the demo for some seconds and saves a moment of its screen as docs/demo.svg (make picture)."""

from __future__ import annotations

import asyncio
import io
import os
import re
import tempfile
from pathlib import Path

from numa_client import AsyncMachine
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, RenderableType

from numa_service.cli.demo import _phases, _screen, _Story
from numa_service.cluster import lifecycle
from numa_service.machine.source import load

PICTURE = Path(__file__).with_name("demo.svg")
WIDTH = 104
SECONDS = 10.0
LOOK_SECONDS = 0.05
#: Rich's own, without the web font that it would load.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.S)


async def play(address: str) -> RenderableType:
    """The last screen on which a kswapd runs; the last of all if none was seen running."""
    async with await AsyncMachine.connect(address) as machine:
        story = _Story(machine)
        acts = asyncio.create_task(_phases(story, SECONDS, address))
        moment = None
        while not acts.done():
            await story.look()
            if any(node.kswapd.running for node in story.nodes.values()):
                moment = _screen(story)
            await asyncio.sleep(LOOK_SECONDS)
        await acts
        await story.look()
        return moment or _screen(story)


def main() -> None:
    """Boot the demo's machine, play, save, take the machine down."""
    with tempfile.TemporaryDirectory(prefix="numa-demo-") as folder:
        os.environ["NUMA_SERVICE_STATE_DIR"] = folder
        running = lifecycle.up(load("demo"), "demo", progress=lambda text, _=None: print(text))
        try:
            moment = asyncio.run(play(running.address))
        finally:
            lifecycle.down("demo")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(moment)
    console.save_svg(str(PICTURE), title="make demo", code_format=FORMAT, unique_id="demo")
    print(f"saved {PICTURE.name}")


if __name__ == "__main__":
    main()
