"""Headless Chromium for tests of the trace viewer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(profile: Path, width: int = 1366, height: int = 900) -> Iterator[webdriver.Chrome]:
    """A fresh browser; `.ci/install-browser` installs it.

    Args:
        profile: an empty folder.
        width, height: of the window, in pixels.
    """
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in paths.items() if path is None]
    assert not missing, f"{', '.join(missing)} not found: run .ci/install-browser"
    options = webdriver.ChromeOptions()
    options.binary_location = paths["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(paths["chromedriver"]))
    try:
        yield browser
    finally:
        browser.quit()


class Viewer:
    """A page of the trace viewer, open in the browser."""

    def __init__(self, browser: webdriver.Chrome, page: Path) -> None:
        self.browser = browser
        browser.get_log("browser")  # drops what an earlier page left
        browser.get(page.as_uri())
        self.wait_until("return performance.getEntriesByName('led-ready').length == 1")

    def script(self, code: str, *arguments: Any) -> Any:
        return self.browser.execute_script(code, *arguments)

    def wait_until(self, code: str) -> None:
        WebDriverWait(self.browser, 60).until(lambda _: self.script(code))

    def press(self, *keys: str) -> None:
        for key in keys:
            webdriver.ActionChains(self.browser).send_keys(key).perform()

    def selected(self) -> int:
        """Position of the selected token."""
        return int(self.script("return document.querySelector('.t.selected').dataset.i"))

    def cells(self, row: int | str) -> list[tuple[int, float]]:
        """(candidate id, value) of one row of the heat map: a depth, or "q"."""
        code = (
            "return [...document.querySelectorAll(`td.cell[data-row='${arguments[0]}']`)]"
            ".map(c => [Number(c.dataset.id), Number(c.dataset.value)])"
        )
        return [(int(i), float(v)) for i, v in self.script(code, str(row))]

    def entropies(self) -> list[float]:
        code = "return [...document.querySelectorAll('td.entropy')].map(c => +c.dataset.value)"
        return [float(value) for value in self.script(code)]

    def errors(self) -> list[Any]:
        """What the console has to complain about."""
        return [m for m in self.browser.get_log("browser") if m["level"] in ("SEVERE", "WARNING")]
