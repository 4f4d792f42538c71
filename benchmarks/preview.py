"""How much sooner than the result in full size the page shows that of a preview, in a headless Chromium.

``dehaze serve --model corun-compact --port 9000`` in another terminal, then
``python -m benchmarks.preview http://127.0.0.1:9000 photo.jpg --megapixels 12 24 --rounds 3``
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S, EVERY_S = 600.0, 0.02
SHOWN = """
    const [after, state] = ["after", "state"].map((id) => document.getElementById(id));
    return after.checkVisibility() && after.naturalWidth > 0 && state.innerText.includes("Done");
"""


def enlarged(photo: Path, megapixels: float, folder: Path) -> Path:
    """Write the photograph with so many pixels, 4:3, as a JPEG of quality 90."""
    high = round((megapixels * 0.75e6) ** 0.5)
    path = folder / f"{megapixels:g}.jpg"
    with Image.open(photo) as image:
        image.convert("RGB").resize((-(-high * 4 // 3), high), Image.Resampling.LANCZOS).save(path, quality=90)
    return path


def waits(browser: webdriver.Chrome, url: str, photo: Path, downloads: Path) -> tuple[float, float]:
    """Return the seconds from choosing to the preview's result, and from asking for the full size to the file."""

    def until(condition: Callable[[], object]) -> float:
        began = time.perf_counter()
        WebDriverWait(browser, PATIENCE_S, EVERY_S).until(lambda _: condition())
        return time.perf_counter() - began

    browser.get(url)
    until(lambda: "up to" in browser.find_element(By.ID, "limits").text)
    field, result = browser.find_element(By.ID, "files"), downloads / f"{photo.stem}-dehazed.jpg"
    result.unlink(missing_ok=True)
    began = time.perf_counter()
    field.send_keys(str(photo))
    sent = time.perf_counter() - began
    preview = sent + until(lambda: browser.execute_script(SHOWN))
    browser.find_element(By.ID, "download").send_keys(Keys.ENTER)
    return preview, until(result.exists)


def main() -> None:
    """Print both waits and their ratio for each size: medians over the rounds, sizes in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("url", help="of a running service without tokens")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[12.0, 24.0], help="12 and more")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options.add_experimental_option("prefs", {"download.default_directory": name})
        browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        try:
            photos = {size: enlarged(args.photo, size, folder) for size in args.megapixels}
            waits(browser, args.url, photos[args.megapixels[0]], folder)  # the first use of browser and service
            found = [(size, *waits(browser, args.url, photos[size], folder)) for size in args.megapixels * args.rounds]
        finally:
            browser.quit()
    for size in args.megapixels:
        rows = [(preview, full) for each, preview, full in found if each == size]
        preview, full = (statistics.median(column) for column in zip(*rows, strict=True))
        ratio = statistics.median(full / preview for preview, full in rows)
        print(f"{size:g} megapixels: preview {preview:.2f} s, full size {full:.2f} s; {ratio:.1f} times as long")


if __name__ == "__main__":
    main()
