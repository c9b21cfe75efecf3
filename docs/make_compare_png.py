"""The picture of a comparison's report for the docs: the commands of docs/compare.md, in headless Chromium.

Run ``python docs/make_compare_png.py`` when the report has changed; it writes docs/compare.png.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# before the imports below, some of which are of the tests' folders
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "tests" / "docs")]

from doc_blocks import blocks  # noqa: E402
from doc_shell import DocShell  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402


def main() -> None:
    """Run the page's first command, and take a picture of the top of what it writes."""
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        DocShell(Path(scratch)).play(blocks("docs/compare.md")[:2])
        chromium = shutil.which("chromium-headless-shell")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 860}, color_scheme="light")
        page.goto((Path(scratch) / "lookups.html").as_uri())
        image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        browser.close()
    image.quantize(64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        HERE / "compare.png", optimize=True
    )


if __name__ == "__main__":
    main()
