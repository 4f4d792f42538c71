"""The page in a real browser, against the service on a loopback port."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import httpx
import pytest
import uvicorn
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from benchmarks.serving_service import free_port
from models.config import parse
from serving.config import ServingConfig
from serving.engine.engine import Answer, DehazeTask, Frame, FrameTask, Score
from serving.engine.replica import Replica
from serving.engine.slots import ModelState
from serving.errors import Problem
from serving.http.routes import make_api
from tests.serving.conftest import COUNT
from tests.waiting import wait_for

Jpeg = Callable[..., bytes]
PATIENCE_S = 60  # on a machine that is busy with something else
SETTINGS: dict[str, Any] = {
    "model": "dcp", "models": {"compact": "corun-compact"}, "scorer": None, "threads": 1,
    "limits": {"max_bytes": 400_000, "max_pixels": 200_000},
}  # fmt: skip
FRAMES_BEFORE = 2  # of a video, which a backend that is not free gives all the same
TOKEN = "a-token-of-some-length"
COUNT_URLS = """
    window.liveUrls = new Set();
    const [make, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
    URL.createObjectURL = (blob) => { const url = make.call(URL, blob); liveUrls.add(url); return url; };
    URL.revokeObjectURL = (url) => { liveUrls.delete(url); revoke.call(URL, url); };
"""
DIFFERENCE = """
    const pixels = ["before", "after"].map((id) => {
        const image = document.getElementById(id), canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    });
    const [before, after] = pixels.map((each) => each.data);
    const off = before.reduce((sum, value, at) => sum + Math.abs(value - after[at]), 0) / before.length;
    return [pixels[0].width, pixels[0].height, pixels[1].width, pixels[1].height, off];
"""


class Watched:
    """A backend that notes what it is asked, tells scores, and waits or refuses when told to."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.tasks: list[DehazeTask] = []
        self.frames: list[FrameTask] = []
        self.problems: deque[Problem] = deque()
        self.free = threading.Event()
        self.free.set()

    async def dehaze(self, task: DehazeTask) -> Answer | Problem:
        self.tasks.append(task)
        while not self.free.is_set():  # noqa: ASYNC110 - it is set in another thread
            await asyncio.sleep(0.01)
        if self.problems:
            return self.problems.popleft()
        answer = await self._replica.dehaze(task)
        return replace(answer, clearness_before=0.31, clearness_after=0.72) if isinstance(answer, Answer) else answer

    async def frame(self, task: FrameTask) -> Frame | Problem:
        self.frames.append(task)
        while len(self.frames) > FRAMES_BEFORE and not self.free.is_set():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        return await self._replica.frame(task)

    async def score(self, data: bytes) -> Score | Problem:
        return await self._replica.score(data)

    async def models(self) -> list[ModelState] | Problem:
        return await self._replica.models()

    async def there(self) -> bool:
        return True


class Running:
    """The service in a thread of this process; it can go and come back on the same port."""

    def __init__(self, replica: Replica, settings: dict[str, Any]) -> None:
        self.backend = Watched(replica)
        self._config = parse(ServingConfig, settings)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        app = make_api(self._config, self.backend)
        config = uvicorn.Config(
            app, "127.0.0.1", self.port, log_level="critical", lifespan="auto", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started, PATIENCE_S)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)


@pytest.fixture(scope="module")
def replica() -> Replica:
    return Replica(parse(ServingConfig, SETTINGS))


@pytest.fixture(scope="module")
def running(replica: Replica) -> Iterator[Running]:
    service = Running(replica, SETTINGS)
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def chrome(downloads: Path) -> Iterator[webdriver.Chrome]:
    """One browser for all tests. Both programs come from Debian: nothing is downloaded here."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        remedy = "chromium and chromedriver are missing: apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("DEHAZE_BROWSER") == "required" else pytest.skip)(remedy)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,1000"):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, Driver(driver))
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": COUNT_URLS})
    yield browser
    browser.quit()


class Page:
    """What a person does and sees."""

    def __init__(self, chrome: webdriver.Chrome, service: Running) -> None:
        self.chrome, self.service = chrome, service
        self._traffic: list[dict[str, Any]] = []

    def open(self, path: str = "/") -> None:
        self.chrome.get(self.service.url + path)

    def __getitem__(self, name: str) -> WebElement:
        return self.chrome.find_element(By.ID, name)

    def script(self, code: str, *args: object) -> Any:
        return self.chrome.execute_script(code, *args)

    def until(self, condition: Callable[[], Any], what: str = "") -> Any:
        return WebDriverWait(self.chrome, PATIENCE_S, 0.05).until(lambda _: condition(), what)

    def says(self, name: str, text: str) -> None:
        self.until(lambda: text in self[name].text, f"#{name} never says '{text}'")

    def choose(self, *paths: Path) -> None:
        field = "more" if self["gallery"].is_displayed() else "files"
        self[field].send_keys("\n".join(map(str, paths)))

    def show(self, *paths: Path) -> None:
        """Choose photographs, and wait for the first."""
        self.choose(*paths)
        self.finished()

    def finished(self) -> None:
        """The photograph in view is done, and shown."""
        self.says("state", "Done")
        self.until(lambda: self["after"].is_displayed() and self["after"].get_property("naturalWidth"))

    def set_strength(self, presses: int) -> None:
        """To 0, and then up by so many steps of 5 %."""
        self["strength"].send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * (20 + presses))  # from -100 %

    def entries(self) -> list[str]:
        return [entry.text for entry in self.chrome.find_elements(By.CSS_SELECTOR, "#list .entry .words")]

    def downloaded(self, folder: Path, name: str) -> bytes:
        self.until((folder / name).exists, f"{name} is not among {sorted(folder.iterdir())}")
        return (folder / name).read_bytes()

    def complaints(self) -> list[str]:
        """Errors in the console, such as what the policy forbade, but for answers that are no success."""
        return [entry["message"] for entry in self.chrome.get_log("browser") if entry["source"] != "network"]

    def traffic(self) -> list[dict[str, Any]]:
        """What the browser's network did since the page was opened."""
        self._traffic += [json.loads(entry["message"])["message"] for entry in self.chrome.get_log("performance")]
        return self._traffic

    def forget_traffic(self) -> None:
        self._traffic = []

    def cancelled(self) -> int:
        """Requests that the page has cancelled."""
        ended = [event["params"] for event in self.traffic() if event["method"] == "Network.loadingFailed"]
        return sum(params["type"] == "XHR" and params.get("canceled", False) for params in ended)

    def hosts(self) -> set[str]:
        """Whom the browser asked for anything."""
        asked = [event["params"] for event in self.traffic() if event["method"] == "Network.requestWillBeSent"]
        urls = [urlsplit(params["request"]["url"]) for params in asked]
        return {url.netloc for url in urls if url.scheme not in ("blob", "data")}


@pytest.fixture
def page(chrome: webdriver.Chrome, running: Running) -> Iterator[Page]:
    yield from visit(chrome, running)


def visit(chrome: webdriver.Chrome, running: Running) -> Iterator[Page]:
    """The page, just opened. In the end: no error in the console, and no request to another host."""
    found = Page(chrome, running)
    for log in ("browser", "performance"):
        chrome.get_log(log)
    running.backend.tasks.clear()
    running.backend.frames.clear()
    running.backend.problems.clear()
    chrome.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": running.url, "storageTypes": "all"})
    found.open()
    found.says("limits", "up to")
    yield found
    running.backend.free.set()
    assert found.complaints() == []
    assert found.hosts() == {urlsplit(running.url).netloc}


@pytest.fixture
def save(tmp_path: Path, jpeg: Jpeg) -> Callable[..., Path]:
    """``save(name="hazy.jpg", seed=1, data=None, **options)``: a file to choose."""

    def make(name: str = "hazy.jpg", seed: int = 1, data: bytes | None = None, **options: Any) -> Path:
        path = tmp_path / name
        path.write_bytes(jpeg(seed, **options) if data is None else data)
        return path

    return make


Save = Callable[..., Path]


def asked(service: Running, content: bytes, params: dict[str, Any] | None = None) -> bytes:
    """What a program gets from the service."""
    answer = httpx.post(f"{service.url}/v1/dehaze", params=params, content=content, timeout=PATIENCE_S, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.content


class TestOne:
    def test_a_result_is_shown_with_its_scores(self, page: Page, save: Save) -> None:
        page.show(save())
        assert page["scores"].text == "Clearness: 31 % (hazy) before, 72 % (mostly clear) after."
        assert "128 × 96" in page["facts"].text
        assert "dcp" in page["facts"].text
        assert page.script("return document.getElementById('live').textContent").startswith("hazy.jpg is done.")
        assert not page["empty"].is_displayed()

    def test_the_divide_moves_with_the_keyboard(self, page: Page, save: Save) -> None:
        page.show(save())
        where = "return getComputedStyle(document.getElementById('after')).clipPath"
        assert page.script(where) == "inset(0px 0px 0px 50%)"
        page["split"].send_keys(Keys.ARROW_LEFT * 3)
        assert page.script(where) == "inset(0px 0px 0px 47%)"
        assert page["split"].get_attribute("aria-valuetext") == "47 % before, 53 % after"
        page["split"].send_keys(Keys.END)
        assert page.script(where) == "inset(0px 0px 0px 100%)"

    def test_the_divide_follows_the_pointer(self, page: Page, save: Save) -> None:
        page.show(save())
        frame = page["frame"].rect
        x, y = frame["x"] + 0.2 * frame["width"], frame["y"] + 0.5 * frame["height"]
        for kind in ("mousePressed", "mouseReleased"):
            event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            page.chrome.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        assert abs(int(page["split"].get_property("value")) - 20) <= 1

    @pytest.mark.parametrize("turn", [3, 6])
    def test_before_and_after_lie_on_each_other(self, page: Page, save: Save, jpeg: Jpeg, turn: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = turn
        buffer = io.BytesIO()
        Image.open(io.BytesIO(jpeg(2))).save(buffer, "JPEG", quality=95, exif=exif)
        page.show(save("turned.jpg", data=buffer.getvalue()))
        page.set_strength(0)
        page.until(lambda: page.script(DIFFERENCE)[4] < 3)  # what is left are two encodings
        assert page.script(DIFFERENCE)[:4] == ([96, 128] * 2 if turn == 6 else [128, 96] * 2)
        assert page["split"].is_displayed()

    def test_strength(self, page: Page, save: Save, running: Running) -> None:
        page.show(save())
        shown = page["after"].get_property("src")
        page.set_strength(8)
        assert page["strength-value"].text == "40 %"
        page.until(lambda: page["after"].get_property("src") != shown)
        page.finished()
        assert [task.options.strength for task in running.backend.tasks] == [1.0, 0.4]  # not one for every step

    def test_the_other_controls(self, page: Page, save: Save, running: Running) -> None:
        page.show(save())
        assert page["haze"].text.endswith(" %.")
        page["more-summary"].send_keys(Keys.ENTER)
        page["distance"].send_keys(*[Keys.ARROW_RIGHT] * 6)
        page.until(lambda: len(running.backend.tasks) == 2)
        assert page["distance-value"].text == "30 %"
        page["keep-exposure"].send_keys(Keys.SPACE)
        page.until(lambda: len(running.backend.tasks) == 3)
        page["protect"].send_keys(Keys.SPACE)
        page.until(lambda: len(running.backend.tasks) == 4)
        page["strength"].send_keys(Keys.HOME)
        page.until(lambda: len(running.backend.tasks) == 5)
        page.finished()
        options = running.backend.tasks[-1].options
        assert (options.strength, options.distance, options.keep_exposure, options.protect) == (-1.0, 0.3, True, True)

    def test_a_new_strength_cancels_the_last(self, page: Page, save: Save, running: Running) -> None:
        page.show(save())
        running.backend.free.clear()
        page.set_strength(4)
        page.until(lambda: len(running.backend.tasks) == 2)
        page.set_strength(10)
        page.until(lambda: len(running.backend.tasks) == 3)
        assert page["after"].is_displayed()  # the last result stays while the next is made
        page.until(lambda: page.cancelled() == 1, "the request for 20 % was not cancelled")
        running.backend.free.set()
        page.finished()
        assert [task.options.strength for task in running.backend.tasks] == [1.0, 0.2, 0.5]

    def test_transmission(self, page: Page, save: Save, running: Running) -> None:
        page.show(save())
        page["view-map"].send_keys(Keys.SPACE)
        page.until(lambda: page["after-tag"].text == "Transmission" and page["after"].is_displayed())
        page.finished()
        assert [task.options.output for task in running.backend.tasks] == ["image", "transmission"]
        assert page["map-help"].is_displayed()
        page["view-image"].send_keys(Keys.SPACE)
        page.finished()
        assert len(running.backend.tasks) == 2  # both are kept

    def test_models(self, page: Page, save: Save, running: Running) -> None:
        page.show(save())
        page["model"].send_keys("compact")
        page.until(lambda: "corun-compact" in page["facts"].text)
        assert running.backend.tasks[-1].model == "compact"

    def test_download(self, page: Page, save: Save, running: Running, downloads: Path) -> None:
        path = save("My trip (1).jpeg")
        page.show(path)
        page.set_strength(10)
        page.until(lambda: len(running.backend.tasks) == 2)
        page.finished()
        page["download"].send_keys(Keys.ENTER)
        expected = asked(running, path.read_bytes(), {"strength": 0.5})
        assert page.downloaded(downloads, "My trip (1)-dehazed.jpeg") == expected
        page["format"].send_keys("PNG")
        page["download"].send_keys(Keys.ENTER)
        expected = asked(running, path.read_bytes(), {"strength": 0.5, "format": "png"})
        assert page.downloaded(downloads, "My trip (1)-dehazed.png") == expected

    def test_the_settings_as_a_command(self, page: Page, save: Save, running: Running, tmp_path: Path) -> None:
        """It makes, in a shell, what the page shows."""
        path = save("It's hazy $(here).jpg")
        page.show(path)
        page.set_strength(10)
        page.until(lambda: len(running.backend.tasks) == 2)
        page.finished()
        page["command-summary"].send_keys(Keys.ENTER)
        assert page["copy"].is_displayed()
        assert page.script("const { scrollWidth, clientWidth } = document.body; return scrollWidth <= clientWidth")
        command = page["command"].text
        assert "strength=0.50" in command
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        shell = shutil.which("bash") or "bash"
        subprocess.run([shell, "-c", command], cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE_S)
        made = (tmp_path / "It's hazy $(here)-dehazed.jpg").read_bytes()
        assert made == asked(running, path.read_bytes(), {"strength": 0.5})

    def test_a_format_that_browsers_do_not_show(
        self, page: Page, save: Save, running: Running, downloads: Path
    ) -> None:
        path = save("scan.tif", format="TIFF")
        page.show(path)
        assert page["note"].text == "This browser cannot show the original. The result is shown as PNG."
        assert page["after"].get_property("naturalWidth") == 128
        assert not page["split"].is_displayed()
        page["download"].send_keys(Keys.ENTER)
        assert page.downloaded(downloads, "scan-dehazed.tif") == asked(running, path.read_bytes())


class TestClose:
    """A look at 100 %: a pixel of the photograph is one of the screen."""

    SEEN = """
        const { left, width, height } = document.getElementById("after").getBoundingClientRect();
        const frame = document.getElementById("frame").getBoundingClientRect();
        const pan = document.getElementById("pan");
        const cut = parseFloat(getComputedStyle(document.getElementById("after")).clipPath.split(" ")[3]);
        return { width, height, cut: left + cut - frame.left, x: pan.scrollLeft, y: pan.scrollTop, frame: frame.width };
    """

    @pytest.fixture(params=[1, 2])
    def density(self, request: pytest.FixtureRequest) -> int:
        """Pixels of the screen for one of CSS."""
        return int(request.param)

    @pytest.fixture
    def narrow(self, page: Page, save: Save, density: int) -> Iterator[Page]:
        """A phone with a photograph that is larger than its screen."""
        metrics = {"width": 390 // density, "height": 500 // density, "deviceScaleFactor": density, "mobile": True}
        page.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        page.chrome.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        page.show(save(height=390, width=500))
        page.script("document.getElementById('work').scrollIntoView({ block: 'end' })")
        page.script("document.getElementById('frame').scrollIntoView({ block: 'start' })")
        yield page
        page.chrome.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        page.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    @staticmethod
    def at(page: Page, x: float, y: float) -> dict[str, float]:
        """A place in the window, of shares of the frame's width and height."""
        box = page.script("return document.getElementById('frame').getBoundingClientRect().toJSON()")
        return {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}

    def drag(self, page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
        for kind, place in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            event = {"type": kind, "button": "left", "buttons": 1, "clickCount": 1} | self.at(page, *place)
            page.chrome.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def test_by_button_and_keyboard(self, narrow: Page, density: int) -> None:
        assert narrow["zoom"].text == "View at 100 %"
        fit = narrow.script(self.SEEN)
        assert fit["width"] == fit["frame"] < 500 / density
        narrow["zoom"].send_keys(Keys.ENTER)
        seen = narrow.script(self.SEEN)
        assert (seen["width"] * density, seen["height"] * density) == (500, 390)
        assert narrow["zoom"].text == "Fit to the page"
        assert narrow["pan"].accessible_name == "Photograph at 100 %, to be moved"
        assert narrow.script("const { scrollWidth } = document.documentElement; return scrollWidth <= innerWidth")
        narrow["pan"].send_keys(Keys.ARROW_RIGHT)
        narrow.until(lambda: narrow.script(self.SEEN)["x"] > seen["x"], "an arrow does not move the photograph")
        narrow["split"].send_keys(Keys.ARROW_LEFT * 10)
        narrow.until(lambda: abs(narrow.script(self.SEEN)["cut"] - 0.4 * seen["frame"]) < 1)
        narrow["split"].send_keys(Keys.ENTER)
        assert narrow.script(self.SEEN) | {"cut": 0} == fit | {"cut": 0}

    def test_by_mouse(self, narrow: Page) -> None:
        spot = self.at(narrow, 0.9, 0.1)
        for count in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                event = {"type": kind, "button": "left", "clickCount": count} | spot
                narrow.chrome.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        narrow.until(lambda: narrow["zoom"].text == "Fit to the page")
        seen = narrow.script(self.SEEN)
        assert (seen["x"], seen["y"]) == (pytest.approx(seen["width"] - seen["frame"], abs=1), 0)  # that corner
        narrow["split"].send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 50)
        self.drag(narrow, (0.2, 0.2), (0.3, 0.2))
        moved = narrow.script(self.SEEN)
        assert moved["x"] == pytest.approx(seen["x"] - 0.1 * seen["frame"], abs=1.5)
        narrow.until(lambda: abs(narrow.script(self.SEEN)["cut"] - 0.5 * seen["frame"]) < 1, "the divide moves along")
        self.drag(narrow, (0.5, 0.5), (0.7, 0.5))
        narrow.until(lambda: abs(narrow.script(self.SEEN)["cut"] - 0.7 * seen["frame"]) < 3)
        assert narrow.script(self.SEEN)["x"] == moved["x"]

    def test_by_touch(self, narrow: Page) -> None:
        tap = {"tapCount": 2, "gestureSourceType": "touch"} | self.at(narrow, 0.5, 0.3)
        narrow.chrome.execute_cdp_cmd("Input.synthesizeTapGesture", tap)
        narrow.until(lambda: narrow["zoom"].text == "Fit to the page")
        seen = narrow.script(self.SEEN)
        finger = self.at(narrow, 0.8, 0.3)
        moves = [("touchStart", 0), *(("touchMove", way) for way in range(5, 80, 5)), ("touchEnd", None)]
        for kind, way in moves:
            points = [] if way is None else [finger | {"x": finger["x"] - way}]
            narrow.chrome.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        narrow.until(lambda: narrow.script(self.SEEN)["x"] > seen["x"], "a finger does not move the photograph")
        assert narrow["split"].get_property("value") == "50"

    def test_it_tries_nothing_again(self, page: Page, save: Save, running: Running) -> None:
        running.backend.problems.append(Problem(504, "timeout", "not done within 60 s"))
        page.choose(save())
        page.says("item-problem-text", "took too long")
        page["zoom"].send_keys(Keys.ENTER)
        page.until(lambda: page["zoom"].text == "Fit to the page")
        page["zoom"].send_keys(Keys.ENTER)
        page.says("item-problem-text", "took too long")
        assert len(running.backend.tasks) == 1

    def test_another_photograph_fits_again(self, page: Page, save: Save) -> None:
        page.show(save("a.jpg", 1), save("b.jpg", 2))
        page["zoom"].send_keys(Keys.ENTER)
        page.until(lambda: page.script(self.SEEN)["frame"] == 128)
        page.chrome.find_elements(By.CSS_SELECTOR, "#list .pick")[1].send_keys(Keys.ENTER)
        page.finished()
        assert page["zoom"].text == "View at 100 %"
        assert page.script(self.SEEN)["frame"] > 128


class TestLarge:
    """From 12 megapixels on, a preview is shown and dehazed; downloads are of the photograph itself."""

    @pytest.fixture
    def large(self, chrome: webdriver.Chrome) -> Iterator[Page]:
        settings = SETTINGS | {"limits": {"max_bytes": 4_000_000, "max_pixels": 13_000_000}}
        service = Running(Replica(parse(ServingConfig, settings)), settings)
        service.start()
        yield from visit(chrome, service)
        service.stop()

    @pytest.fixture
    def photograph(self, tmp_path: Path) -> Path:
        """It lies on its side, and its EXIF says so."""
        exif = Image.Exif()
        exif[0x0112] = 6
        path = tmp_path / "large.jpg"
        small = Image.effect_noise((40, 30), 60).convert("RGB")
        small.resize((4000, 3000), Image.Resampling.BICUBIC).save(path, "JPEG", quality=70, exif=exif)
        return path

    def test_a_preview_first_and_the_download_in_full(
        self, large: Page, photograph: Path, save: Save, downloads: Path
    ) -> None:
        tasks = large.service.backend.tasks
        large.show(photograph, save("small.jpg"))
        large.says("note", "preview")
        assert "3000 × 4000 pixels" in large["facts"].text
        large.set_strength(0)
        large.until(lambda: large.script(DIFFERENCE)[4] < 3)
        assert large.script(DIFFERENCE)[:4] == [1200, 1600] * 2
        assert large["split"].is_displayed()
        large.until(lambda: large.entries() == ["Done"] * 2)
        sent = [Image.open(io.BytesIO(task.data)).size for task in tasks]
        assert set(sent) == {(1200, 1600), (128, 96)}
        tasks.clear()
        large["download"].send_keys(Keys.ENTER)
        content = large.downloaded(downloads, "large-dehazed.jpg")
        assert [task.data for task in tasks] == [photograph.read_bytes()]
        assert tasks[0].options.strength == 0.0
        assert Image.open(io.BytesIO(content)).size in ((4000, 3000), (3000, 4000))
        (downloads / "dehazed.zip").unlink(missing_ok=True)
        large["download-all"].send_keys(Keys.ENTER)
        with zipfile.ZipFile(io.BytesIO(large.downloaded(downloads, "dehazed.zip"))) as archive:
            assert archive.read("large-dehazed.jpg") == content
            assert Image.open(io.BytesIO(archive.read("small-dehazed.jpg"))).size == (128, 96)
        assert not large["saving"].is_displayed()

    def test_at_100_percent_it_is_dehazed_in_full(self, large: Page, photograph: Path) -> None:
        tasks = large.service.backend.tasks
        large.show(photograph)
        assert large.script(DIFFERENCE)[:4] == [1200, 1600] * 2
        large["zoom"].send_keys(Keys.ENTER)
        assert large.script("return document.getElementById('after').offsetWidth") == 3000  # the preview, until then
        large.until(lambda: large.script(DIFFERENCE)[:4] == [3000, 4000] * 2)
        large.finished()
        assert [task.data == photograph.read_bytes() for task in tasks] == [False, True]
        assert not large["note"].is_displayed()
        large["zoom"].send_keys(Keys.ENTER)
        large.finished()
        assert len(tasks) == 2  # what is there is more than enough
        large.service.backend.free.clear()
        large.set_strength(0)
        large.until(lambda: len(tasks) == 3)
        assert len(tasks[2].data) < len(tasks[1].data)  # a preview is quicker
        large["zoom"].send_keys(Keys.ENTER)
        large["cancel"].send_keys(Keys.ENTER)
        large.finished()
        assert large["zoom"].text == "View at 100 %"
        large.service.backend.free.set()

    def test_the_download_tells_how_far_it_is_and_can_be_cancelled(
        self, large: Page, photograph: Path, downloads: Path
    ) -> None:
        large.show(photograph.rename(photograph.with_stem("slow")))
        large.service.backend.problems.append(Problem(503, "overloaded", "full", retry_after=1))
        large["download"].send_keys(Keys.ENTER)
        large.says("saving-text", "busy")
        large.service.backend.free.clear()
        large.says("saving-text", "Dehazing")
        assert large.script("return document.documentElement.scrollWidth") <= large.script("return innerWidth")
        assert not large["download"].is_enabled()
        large["stop-saving"].send_keys(Keys.ENTER)
        large.until(lambda: not large["saving"].is_displayed() and large.cancelled() == 1)
        assert large["download-problem"].text == ""
        assert large["after"].is_displayed()
        large.service.backend.free.set()
        large["download"].send_keys(Keys.ENTER)
        large.downloaded(downloads, "slow-dehazed.jpg")


class TestVideo:
    @pytest.fixture
    def films(self, chrome: webdriver.Chrome, replica: Replica, tmp_path: Path) -> Iterator[Page]:
        jobs = {"folder": str(tmp_path / "jobs"), "max_bytes": 300_000, "max_frames": COUNT}
        service = Running(replica, SETTINGS | {"jobs": jobs})
        service.start()
        yield from visit(chrome, service)
        service.stop()

    @staticmethod
    def finished(films: Page) -> None:
        """The result of the video in view is there, and played."""
        films.says("state", "Done")
        films.until(lambda: films["clip"].is_displayed() and films["after-tag"].is_displayed())

    @staticmethod
    def forgotten(tmp_path: Path) -> bool:
        """The service has no video any more, of one or more."""
        jobs = list((tmp_path / "jobs").iterdir())
        return bool(jobs) and not any((job / name).exists() for job in jobs for name in ("input", "result"))

    def test_progress_and_the_result(
        self, films: Page, clip: Path, save: Save, downloads: Path, tmp_path: Path
    ) -> None:
        backend = films.service.backend
        assert "Videos up to 293 KB" in films["limits"].text
        assert films["title"].text == "Take the haze out of photographs and videos"
        backend.free.clear()
        films.script(
            """
            const carried = new DataTransfer();
            carried.items.add(new File([new Uint8Array(arguments[0])], "My clip.MP4"));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true }));
            """,
            list(clip.read_bytes()),
        )
        films.says("state", f"Frame {FRAMES_BEFORE} of {COUNT}")
        assert films["name"].text == "My clip.MP4"
        assert films["busy"].get_property("value") == pytest.approx(FRAMES_BEFORE / COUNT)
        films.until(lambda: films["clip"].is_displayed() and films["before-tag"].is_displayed())
        assert not films["strength"].is_enabled()
        assert not films["download"].is_enabled()
        assert not films["view"].is_displayed()
        films.choose(save())
        films.until(lambda: len(backend.tasks) == 1)  # photographs do not wait for it
        backend.free.set()
        self.finished(films)
        films.until(lambda: films.entries() == ["Done", "Done"])
        assert films["facts"].text.startswith("96 × 64 pixels")
        assert films.script("return document.getElementById('clip').duration") == pytest.approx(COUNT / 25, abs=0.02)
        films["download"].send_keys(Keys.ENTER)
        (tmp_path / "got.mp4").write_bytes(films.downloaded(downloads, "My clip-dehazed.MP4"))
        with av.open(str(tmp_path / "got.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == COUNT
        films.until(lambda: self.forgotten(tmp_path))
        films["clear"].send_keys(Keys.ENTER)
        films.until(lambda: films.script("return liveUrls.size") == 0)

    def test_before_and_after_at_the_same_moment(self, films: Page, clip: Path) -> None:
        films.choose(clip)
        self.finished(films)
        after = films.script("const clip = document.getElementById('clip'); clip.currentTime = 0.12; return clip.src")
        films["cut-after"].send_keys(Keys.ARROW_LEFT)
        films.until(lambda: films["before-tag"].is_displayed() and not films["after-tag"].is_displayed())
        shown = "const clip = document.getElementById('clip'); return [clip.src, clip.currentTime, clip.readyState]"
        films.until(lambda: films.script(shown)[2] > 1)
        assert films.script(shown)[0] != after
        assert films.script(shown)[1] == pytest.approx(0.12)
        films["cut-before"].send_keys(Keys.ARROW_RIGHT)
        self.finished(films)
        assert not films["zoom"].is_displayed()

    def test_it_begins_again_only_when_told(self, films: Page, clip: Path, tmp_path: Path) -> None:
        backend = films.service.backend
        backend.free.clear()
        films.choose(clip)
        films.says("state", "Frame")
        films["cancel"].send_keys(Keys.ENTER)
        films.says("item-problem-text", "Cancelled.")
        films.until(lambda: self.forgotten(tmp_path))
        backend.free.set()
        backend.frames.clear()
        films.set_strength(8)
        films["more-summary"].send_keys(Keys.ENTER)
        films["protect"].send_keys(Keys.SPACE)  # and what the slider says is wanted too
        time.sleep(0.5)
        assert films["state"].text == "Cancelled"
        films["retry"].send_keys(Keys.ENTER)
        self.finished(films)
        assert len(backend.frames) == COUNT
        films.set_strength(9)
        films.says("item-problem-text", "The result has other settings.")
        assert films["download"].is_enabled()
        films.set_strength(8)
        films.until(lambda: films["state"].text == "Done")
        films.set_strength(10)
        films.says("state", "Done with other settings")
        films["retry"].send_keys(Keys.ENTER)
        films.until(lambda: len(backend.frames) == 2 * COUNT)
        self.finished(films)
        options = [frame.dehazer._options for frame in backend.frames[::COUNT]]
        assert [(each.strength, each.protect) for each in options] == [(0.4, True), (0.5, True)]

    def test_smoothing_and_the_archive(self, films: Page, clip: Path, save: Save, downloads: Path) -> None:
        backend = films.service.backend
        films.choose(clip)
        self.finished(films)
        assert backend.frames[0].dehazer._options.smoothing == 0.5
        films["more-summary"].send_keys(Keys.ENTER)
        films["smoothing"].send_keys(Keys.HOME, Keys.ARROW_RIGHT)
        assert films["smoothing-value"].text == "0.1 s"
        films.says("state", "Done with other settings")
        films["retry"].send_keys(Keys.ENTER)
        films.until(lambda: len(backend.frames) == 2 * COUNT)
        self.finished(films)
        assert backend.frames[-1].dehazer._options.smoothing == 0.1
        films.choose(save())
        films.until(lambda: films.entries() == ["Done", "Done"])
        assert len(films.chrome.find_elements(By.CSS_SELECTOR, "#list .clip canvas")) == 1
        assert not films["for-all"].is_displayed()
        films.chrome.find_elements(By.CSS_SELECTOR, "#list .pick")[1].send_keys(Keys.ENTER)
        films.finished()
        assert not films["smoothing"].is_displayed()
        films["strength"].send_keys(Keys.ARROW_LEFT)
        films.until(films["for-all"].is_displayed)
        films["for-all"].send_keys(Keys.ENTER)
        films.until(lambda: films.entries() == ["Done with other settings", "Done"])  # what it was made with stays
        (downloads / "dehazed.zip").unlink(missing_ok=True)
        films["download-all"].send_keys(Keys.ENTER)
        with zipfile.ZipFile(io.BytesIO(films.downloaded(downloads, "dehazed.zip"))) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["clip-dehazed.mp4", "hazy-dehazed.jpg"]
            with av.open(io.BytesIO(archive.read("clip-dehazed.mp4"))) as container:
                assert sum(1 for _ in container.decode(video=0)) == COUNT

    def test_a_service_that_goes_and_comes_back_has_it_still(self, films: Page, clip: Path, tmp_path: Path) -> None:
        films.service.backend.free.clear()
        films.choose(clip)
        films.says("state", "Frame")
        films.service.stop()
        try:
            films.says("notice-text", "The service is not reachable.")
        finally:
            films.service.start()
        films.service.backend.free.set()
        films["notice-retry"].send_keys(Keys.ENTER)
        self.finished(films)
        assert len(list((tmp_path / "jobs").iterdir())) == 1

    def test_whoever_leaves_the_page_ends_it(self, films: Page, clip: Path, tmp_path: Path) -> None:
        films.service.backend.free.clear()
        films.choose(clip)
        films.says("state", "Frame")
        films.open("/docs")
        films.until(lambda: self.forgotten(tmp_path))

    def test_each_has_its_own_message(self, films: Page, clip: Path, save: Save) -> None:
        head = b"\0\0\0\x18ftypmp42"
        films.choose(
            save("damaged.mp4", data=head + bytes(99)),
            save("heavy.mov", data=head + bytes(300_000)),
            save("raw.cr3", data=b"\0\0\0\x18ftypcrx " + bytes(99)),
        )
        films.until(lambda: len(films.entries()) == 3 and not {"Waiting", "Reading", "Dehazing"} & set(films.entries()))
        damaged, heavy, raw = films.entries()
        assert damaged.startswith("This video cannot be dehazed.")
        assert heavy.startswith("This video is too large for the service. It has 293 KB; at most 293 KB")
        assert raw.startswith("This is not a photograph that the service can read.")

    @pytest.mark.parametrize(("service", "missing"), [("page", "jobs.folder"), ("films", "PyAV")])
    def test_a_service_that_takes_none(
        self, request: pytest.FixtureRequest, clip: Path, service: str, missing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if missing == "PyAV":
            monkeypatch.setattr("serving.http.jobs.find_spec", lambda name: None)
        none: Page = request.getfixturevalue(service)
        assert none["title"].text == "Take the haze out of photographs"
        none.choose(clip)
        none.says("item-problem-text", "This service takes no videos.")
        assert missing in none["item-problem-text"].text
        assert not none["retry"].is_displayed()


class TestSeveral:
    def test_one_after_the_other(self, page: Page, save: Save, running: Running) -> None:
        running.backend.free.clear()
        page.choose(*(save(f"{seed}.jpg", seed) for seed in range(3)))
        page.until(lambda: page.entries() == ["Dehazing", "Waiting", "Waiting"])
        assert len(running.backend.tasks) == 1
        running.backend.free.set()
        page.until(lambda: page.entries() == ["Done"] * 3)
        assert page["name"].text == "0.jpg"
        page.chrome.find_elements(By.CSS_SELECTOR, "#list .pick")[2].send_keys(Keys.ENTER)
        assert page["name"].text == "2.jpg"
        page.finished()

    def test_all_results_as_one_archive(
        self, page: Page, save: Save, running: Running, downloads: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "other").mkdir()
        paths = [save("a.jpg", 1), save("other/A.jpg", 2), save("notes.jpg", data=b"this is no photograph")]
        page.show(paths[0])
        assert not page["download-all"].is_displayed()
        page.choose(*paths[1:])
        page.until(lambda: page.entries()[:2] == ["Done"] * 2 and "Reading" not in page.entries())
        (downloads / "dehazed.zip").unlink(missing_ok=True)
        page["download-all"].send_keys(Keys.ENTER)
        with zipfile.ZipFile(io.BytesIO(page.downloaded(downloads, "dehazed.zip"))) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["a-dehazed.jpg", "A-dehazed (2).jpg"]
            assert [archive.read(name) for name in archive.namelist()] == [
                asked(running, path.read_bytes()) for path in paths[:2]
            ]

    def test_settings_for_all(self, page: Page, save: Save, running: Running) -> None:
        page.choose(*(save(f"{seed}.jpg", seed) for seed in range(3)), save("notes.jpg", data=b"this is no photograph"))
        page.until(lambda: page.entries()[:3] == ["Done"] * 3 and "Reading" not in page.entries())
        assert not page["for-all"].is_displayed()
        assert page["download-all"].text == "Download all"
        running.backend.tasks.clear()
        running.backend.free.clear()
        page.set_strength(8)
        page.until(lambda: page["download-all"].text == "Download 2 of 3")
        running.backend.free.set()
        page.until(lambda: page["for-all"].is_displayed() and page["state"].text == "Done")
        page["for-all"].send_keys(Keys.ENTER)
        page.until(lambda: len(running.backend.tasks) == 3 and page.entries()[:3] == ["Done"] * 3)
        assert [task.options.strength for task in running.backend.tasks] == [0.4] * 3
        assert not page["for-all"].is_displayed()
        assert page.script("return document.activeElement.id") == "strength"

    def test_what_one_archive_cannot_hold(self, page: Page) -> None:
        code = page.chrome.execute_async_script(
            """
            const done = arguments[0];
            const file = { name: "a.mp4", blob: { size: 3 * 2 ** 30 } };
            import("./web/zip.js").then(({ zipped }) => zipped([file, file])).catch((problem) => done(problem.code));
            """
        )
        assert code == "archive_full"

    def test_each_has_its_own_message(self, page: Page, save: Save, jpeg: Jpeg) -> None:
        whole = jpeg(1)
        page.choose(
            save("good.jpg"),
            save("notes.jpg", data=b"this is no photograph"),
            save("cut.jpg", data=whole[: len(whole) // 2]),
            save("heavy.jpg", data=whole + bytes(400_000)),
            save("wide.jpg", height=401, width=500),
            save("empty.jpg", data=b""),
            save("broken.jpg", data=b"\xff\xd8\xff" + bytes(500)),
        )
        page.until(lambda: len(page.entries()) == 7 and not {"Waiting", "Reading", "Dehazing"} & set(page.entries()))
        good, notes, cut, heavy, wide, empty, broken = page.entries()
        assert good == "Done"
        assert notes.startswith("This is not a photograph")
        assert cut.startswith("The file is incomplete")
        assert heavy.startswith("This photograph is too large")
        assert "pixels" in page.script("return document.querySelectorAll('#list .words')[4].textContent")
        assert wide.startswith("This photograph is too large")
        assert empty == "The file is empty."
        page.chrome.find_elements(By.CSS_SELECTOR, ".pick")[6].click()
        page.says("item-problem-text", broken)
        assert not page["note"].is_displayed(), "there is no result that could be shown"

    def test_what_is_refused_is_not_sent(self, page: Page, save: Save, running: Running) -> None:
        page.choose(save("heavy.jpg", data=b"\xff\xd8\xff" + bytes(400_000)))
        page.says("item-problem-text", "at most 391 KB")
        assert page["state"].text == "Not accepted"
        assert not page["retry"].is_displayed()
        assert running.backend.tasks == []

    def test_cancel(self, page: Page, save: Save, running: Running) -> None:
        running.backend.free.clear()
        page.choose(save("a.jpg", 1), save("b.jpg", 2), save("c.jpg", 3))
        page.until(lambda: len(running.backend.tasks) == 1)
        page["cancel"].send_keys(Keys.ENTER)
        page.until(lambda: page.entries() == ["Cancelled", "Dehazing", "Waiting"])
        page.until(lambda: page.cancelled() == 1)
        page["cancel-all"].send_keys(Keys.ENTER)
        page.until(lambda: page.entries() == ["Cancelled"] * 3 and page.cancelled() == 2)
        running.backend.free.set()
        page["retry"].send_keys(Keys.ENTER)
        page.until(lambda: page.entries() == ["Done", "Cancelled", "Cancelled"])

    def test_nothing_is_kept_of_what_was_removed(self, page: Page, save: Save) -> None:
        page.choose(*(save(f"{seed}.jpg", seed) for seed in range(3)))
        page.until(lambda: page.entries() == ["Done"] * 3)
        page.finished()
        assert page.script("return liveUrls.size") == 2  # before and after of the one in view
        page.chrome.find_element(By.CSS_SELECTOR, "#list .remove").send_keys(Keys.ENTER)
        assert page["name"].text == "1.jpg"
        assert page.script("return document.activeElement.textContent").startswith("1.jpg")
        page["clear"].send_keys(Keys.ENTER)
        page.until(lambda: page.script("return liveUrls.size") == 0)
        assert page["empty"].is_displayed()
        assert page.script("return document.activeElement.id") == "files"

    def test_drop_and_paste(self, page: Page, jpeg: Jpeg) -> None:
        page.script(
            """
            for (const [kind, field, name] of [["drop", "dataTransfer", "dropped.jpg"], ["paste", "clipboardData", "pasted.jpg"]]) {
                const carried = new DataTransfer();
                carried.items.add(new File([new Uint8Array(arguments[0])], name, { type: "image/jpeg" }));
                const make = kind === "drop" ? DragEvent : ClipboardEvent;
                document.body.dispatchEvent(new make(kind, { [field]: carried, bubbles: true, cancelable: true }));
            }
            """,  # noqa: E501
            list(jpeg()),
        )
        page.until(lambda: page.entries() == ["Done", "Done"])
        names = [each.text for each in page.chrome.find_elements(By.CSS_SELECTOR, "#list .name")]
        assert names == ["dropped.jpg", "pasted.jpg"]

    def test_results_beyond_the_memory_are_made_again_when_asked_for(self, page: Page, jpeg: Jpeg) -> None:
        page.chrome.set_script_timeout(PATIENCE_S)
        states = page.chrome.execute_async_script(
            """
            const [bytes, done] = arguments;
            import("./web/gallery.js").then(async ({ Gallery }) => {
                let ended = () => {};
                const gallery = new Gallery(() => {}, () => ended());
                const next = () => new Promise((resolve) => { ended = resolve; });
                const held = () => gallery.items.map((item) => item.results.image !== null);
                const states = [];
                gallery.mostBytes = 1;
                gallery.add([1, 2].map((id) => new File([new Uint8Array(bytes)], `${id}.jpg`)));
                gallery.resume({ max_bytes: 1e6, max_pixels: 1e6, formats: ["JPEG"] });
                for (const last of [1, 2]) await next();
                states.push(held());
                const again = next();
                gallery.select(gallery.items[1]);
                await again;
                states.push(held());
                done(states);
            });
            """,
            list(jpeg()),
        )
        assert states == [[True, False], [False, True]]  # the one in view stays


class TestTrouble:
    def test_a_busy_service_is_asked_again(self, page: Page, save: Save, running: Running) -> None:
        running.backend.problems.append(Problem(503, "overloaded", "full", retry_after=1))
        page.choose(save())
        page.says("state", "busy")
        page.finished()
        assert len(running.backend.tasks) == 2

    def test_a_failure_can_be_tried_again(self, page: Page, save: Save, running: Running) -> None:
        running.backend.problems.append(Problem(504, "timeout", "not done within 60 s"))
        page.choose(save())
        page.says("item-problem-text", "took too long")
        page["retry"].send_keys(Keys.ENTER)
        page.finished()
        assert not page["item-problem"].is_displayed()

    def test_a_service_that_goes_and_comes_back(self, page: Page, save: Save, running: Running) -> None:
        page.show(save("a.jpg", 1))
        running.stop()
        try:
            page.choose(save("b.jpg", 2))
            page.says("notice-text", "The service is not reachable.")
            assert page.entries() == ["Done", "Waiting for the service"]
            page["notice-retry"].send_keys(Keys.ENTER)
            page.says("notice-text", "The service is not reachable.")
        finally:
            running.start()
        page["notice-retry"].send_keys(Keys.ENTER)
        page.until(lambda: page.entries() == ["Done", "Done"])
        assert not page["notice"].is_displayed()

    def test_tokens(self, page: Page, save: Save, replica: Replica, tmp_path: Path) -> None:
        file = tmp_path / "tokens"
        file.write_text(TOKEN)
        guarded = Running(replica, SETTINGS | {"auth": {"token_file": str(file)}})
        guarded.start()
        try:
            inside = Page(page.chrome, guarded)
            inside.open()
            inside.says("token-form", "asks for a token")
            inside.choose(save())
            inside.until(lambda: inside.entries() == ["Waiting for the service"])
            inside["token"].send_keys("a-wrong-token-of-some-length", Keys.ENTER)
            inside.says("token-problem", "does not accept")
            inside["token"].send_keys(TOKEN, Keys.ENTER)
            inside.finished()
            assert not inside["token-form"].is_displayed()
            assert inside.script("return [localStorage.length, document.cookie]") == [0, ""]
            inside.open("/docs")
            inside.until(lambda: "/v1/dehaze" in inside.chrome.page_source)
            inside.open()
            inside.says("limits", "up to")  # the tab still has the token
            inside["forget"].send_keys(Keys.ENTER)
            inside.says("token-form", "asks for a token")
            assert inside.script("return sessionStorage.length") == 0
            inside.open("/docs")
            inside.says("problem", "asks for a token")
        finally:
            guarded.stop()
        hosts = {urlsplit(service.url).netloc for service in (page.service, guarded)}
        assert page.hosts() == hosts
        page.forget_traffic()
        page.open()


class TestShape:
    @pytest.mark.parametrize("width", [390, 1280])
    def test_nothing_is_wider_than_the_screen(self, page: Page, save: Save, width: int) -> None:
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        page.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        try:
            widest = "return document.documentElement.scrollWidth"
            assert page.script(widest) <= width
            page.show(*(save(f"a-rather-long-name-of-a-photograph-{seed}.jpg", seed) for seed in range(5)))
            assert page.script(widest) <= width
            small = [
                element.get_attribute("id")
                for element in page.chrome.find_elements(By.CSS_SELECTOR, "button, select, .segments label")
                if element.is_displayed() and element.rect["height"] < 32
            ]
            assert small == []  # fingers are wide
        finally:
            page.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_light_and_dark(self, page: Page) -> None:
        grounds = []
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            page.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            grounds.append(page.script("return getComputedStyle(document.body).backgroundColor"))
        page.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        light, dark = (sum(map(int, ground[4:-1].split(","))) for ground in grounds)
        assert light > 650
        assert dark < 100

    def test_all_can_be_reached_with_the_tab_key(self, page: Page, save: Save) -> None:
        page.show(save())
        reached = []
        for _ in range(16):
            ActionChains(page.chrome).send_keys(Keys.TAB).perform()
            reached.append(page.script("return document.activeElement.id || document.activeElement.className"))
        expected = [
            "split",
            "view-image",
            "strength",
            "more-summary",
            "model",
            "format",
            "download",
            "clear",
            "pick",
            "remove quiet",
            "more",
        ]
        assert [name for name in reached if name in expected][: len(expected)] == expected  # then from the top again

    def test_what_the_policy_forbids_is_noticed(self, page: Page) -> None:
        page.script("document.head.append(Object.assign(document.createElement('style'), {textContent: 'p {}'}))")
        assert any("Content Security Policy" in text for text in page.complaints())

    def test_everything_has_a_name(self, page: Page, save: Save) -> None:
        page.show(save())
        fields = page.chrome.find_elements(By.CSS_SELECTOR, "button, input, select, a, progress, img:not([alt=''])")
        nameless = [
            field.get_attribute("outerHTML") for field in fields if field.is_displayed() and not field.accessible_name
        ]
        assert nameless == []

    def test_the_api_is_described(self, page: Page) -> None:
        page.open("/docs")
        page.until(lambda: page.chrome.find_elements(By.CSS_SELECTOR, ".opblock"))
        paths = {each.text for each in page.chrome.find_elements(By.CSS_SELECTOR, ".opblock-summary-path")}
        assert any("dehaze" in path for path in paths)
