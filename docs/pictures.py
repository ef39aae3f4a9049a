"""Photograph a report for the documents: docs/report.png, from a network trained on the handwritten digits.

python docs/pictures.py [WORKDIR]     WORKDIR: a run on the digits; without it, trains one in about a minute
"""

import io
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parent
COLUMNS = (("Results", "Learning curves"), ("Figure 3: the kernels of conv1", "Figure 4, left: predictions"))
WIDTH, GAP = 900, 24  # pixels: of the page, and around each part
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def report(workdir: Path) -> Path:
    """Train on the digits unless `workdir` holds a finished run, and write its report."""
    alexnet = [sys.executable, "-m", "alexnet_jax"]
    train = ["train", "--config", "digits", "--workdir", str(workdir), "--simulated_devices=2"]
    for command in (train, ["evaluate", "--workdir", str(workdir)], ["report", "--workdir", str(workdir)]):
        subprocess.run([*alexnet, *command], check=True)
    return workdir / "report.html"


def section(page: Page, heading: str) -> Image.Image:
    """A picture of the section of the report with this heading."""
    found = page.locator("section").filter(has=page.get_by_role("heading", name=heading, exact=True))
    return Image.open(io.BytesIO(found.screenshot()))


def main() -> None:
    workdir = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pictures")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        page.goto(report(workdir).resolve().as_uri())
        columns = [[section(page, heading) for heading in headings] for headings in COLUMNS]
        browser.close()
    width = max(part.width for parts in columns for part in parts) + GAP
    height = max(sum(part.height + GAP for part in parts) for parts in columns) + GAP
    sheet = Image.new("RGB", (width * len(columns) + GAP, height), "white")
    for column, parts in enumerate(columns):
        top = GAP
        for part in parts:
            sheet.paste(part, (GAP + column * width, top))
            top += part.height + GAP
    sheet.thumbnail((1200, 1200))
    sheet.quantize(64).save(DOCS / "report.png", optimize=True)


if __name__ == "__main__":
    main()
