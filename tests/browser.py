"""A real browser for tests of pages: headless Chromium that notes every request and every console message."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = """--headless=new --no-sandbox --disable-dev-shm-usage --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-quic --use-gl=angle --use-angle=swiftshader
--enable-unsafe-swiftshader --window-size=800,850""".split()
WAIT = 60  # s; the graphics are computed on the CPU


class Browser:
    """One browser. ``open`` forgets what was noted before."""

    def __init__(self):
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        driver = shutil.which("chromedriver")
        if program is None or driver is None:
            pytest.skip("no Chromium with ChromeDriver on this machine (Debian: apt-get install chromium-driver)")
        options = webdriver.ChromeOptions()
        options.binary_location = program
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        for flag in FLAGS:
            options.add_argument(flag)
        self.driver = webdriver.Chrome(options, Service(driver))

    def open(self, page: Path) -> None:
        self.requests, self.console()
        self.address = page.resolve().as_uri()
        self.driver.get(self.address)

    @property
    def requests(self) -> list[str]:
        """Addresses asked for since the last look; what stands inside the page (data:, blob:) is none."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [address for address in sent if not address.startswith(("data:", "blob:"))]

    def console(self, level: str = "SEVERE") -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == level]

    def assert_quiet(self) -> None:
        """No error so far, and no request but the page itself."""
        assert self.console() == []
        assert self.requests == [self.address]

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, selector: str) -> WebElement:
        return WebDriverWait(self.driver, WAIT).until(lambda _: self.find(selector))

    def wait_until(self, condition) -> None:
        WebDriverWait(self.driver, WAIT).until(lambda _: condition())

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def hover(self, element: WebElement, x: float, y: float) -> None:
        """Puts the mouse on a point of an element, px from its upper left corner."""
        size = element.size
        actions = ActionChains(self.driver)
        actions.move_to_element_with_offset(element, round(x - size["width"] / 2) - 3, round(y - size["height"] / 2))
        actions.move_by_offset(3, 0).perform()

    def pixels(self, element: WebElement) -> np.ndarray:
        """(height, width, 3) red, green, blue, as painted."""
        image = cv2.imdecode(np.frombuffer(element.screenshot_as_png, np.uint8), cv2.IMREAD_COLOR)
        return image[:, :, ::-1].astype(int)


def count(pixels: np.ndarray, colour: str) -> int:
    """Pixels of about a colour "#rrggbb"."""
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return int((np.abs(pixels - wanted).max(axis=2) < 12).sum())
