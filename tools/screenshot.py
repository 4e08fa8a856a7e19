"""Takes a picture of a page of the running console: `python tools/screenshot.py URL OUT.png`.

For the documentation: `vitrina demo` in one terminal, then
`python tools/screenshot.py "http://127.0.0.1:8000/?user=12347" docs/img/console.png`.
Needs Chromium and the development dependencies. With Pillow installed the picture is reduced to 256 colours.
"""

import argparse
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def main() -> int:
    """Open the page, press what was asked for, save the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--scale", type=float, default=1.5, help="device pixels per CSS pixel")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--full", action="store_true", help="the whole page, not the first screen")
    parser.add_argument("--type", default="", help="text to type into the search box")
    parser.add_argument("--click", default=[], action="append", help="CSS selector to click, in order")
    asked = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"no browser found; install one of: {', '.join(BROWSERS)}", file=sys.stderr)
        return 1
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=FLAGS)
        page = chromium.new_page(
            viewport={"width": asked.width, "height": asked.height},
            device_scale_factor=asked.scale,
            color_scheme="dark" if asked.dark else "light",
        )
        page.goto(asked.url)
        for selector in asked.click:
            page.click(selector)
            page.wait_for_timeout(900)
        if asked.type:
            page.fill("input[name=q]", asked.type)
        page.wait_for_timeout(900)
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=asked.out, full_page=asked.full)
        chromium.close()
    if find_spec("PIL"):
        from PIL import Image

        Image.open(asked.out).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            asked.out, optimize=True
        )
    print(f"{asked.out}: {asked.out.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
