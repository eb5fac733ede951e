"""MLflow's pages in a real headless Chromium: opened, waited for, photographed."""

import contextlib
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from helpers import HANG, start
from PIL import Image
from postgres import free_port

ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
SIZE = {"width": 1400, "height": 900}
PATIENCE = 120_000  # milliseconds, for a busy machine
# MLflow opens its assistant over the page on the first visit of a browser.
LATER_VISIT = 'localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true")'
CARD = '[data-testid="experiment-view-compare-runs-card"]'  # one chart


def require() -> str:
    """Return Chromium's path; without it or playwright, skip the test, or fail if CI needs it."""
    chromium = shutil.which("chromium")
    missing = "" if chromium else "Chromium is not installed (Debian: apt-get install chromium)"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        missing = "playwright is not installed (pip install playwright)"
    if missing or chromium is None:
        if "chromium" in os.environ.get("HARNESS_TESTS_REQUIRE", ""):
            pytest.fail(missing)
        pytest.skip(missing)
    return chromium


@dataclass(frozen=True)
class Dashboard:
    """The address and the views that `harness ui` printed."""

    address: str
    views: dict[str, str]


@contextlib.contextmanager
def dashboard(folder: Path) -> Iterator[Dashboard]:
    """Run `harness ui` in `folder`; yield what it printed."""
    port = free_port()
    process = start(folder, "ui", "--port", str(port))
    try:
        views: dict[str, str] = {}
        while "result of the grid" not in views:  # the last one of a grid
            line = process.stdout.readline()
            assert line, f"`harness ui` ended: {process.communicate()}"
            if match := re.match(r"  (\S.*?)  +(http\S+)$", line):
                views[match[1]] = match[2]
        yield Dashboard(f"http://127.0.0.1:{port}", views)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=HANG)


class Browser:
    """A browser whose pages reach no host but `address`; `foreign` lists the requests to others.

    `with Browser(address) as browser: page = browser.open(url)`.
    """

    def __init__(self, address: str) -> None:
        self.chromium, self.address = require(), address
        self.foreign: list[str] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Browser":
        from playwright.sync_api import expect, sync_playwright

        expect.set_options(timeout=PATIENCE)
        with contextlib.ExitStack() as stack:
            playwright = stack.enter_context(sync_playwright())
            browser = playwright.chromium.launch(
                executable_path=self.chromium, args=ARGUMENTS, timeout=PATIENCE
            )
            stack.callback(browser.close)
            # A new context is a profile of its own.
            self._context = browser.new_context(viewport=SIZE)
            self._context.set_default_timeout(PATIENCE)
            self._context.route("**/*", self._guard)
            self._context.add_init_script(LATER_VISIT)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _guard(self, route: Any) -> None:
        if route.request.url.startswith(f"{self.address}/"):
            route.continue_()
        else:
            self.foreign.append(route.request.url)
            route.abort()

    def open(self, url: str) -> Any:
        page = self._context.new_page()
        page.goto(url)
        return page


# -- waiting for pages ----------------------------------------------------------


def cells(page: Any) -> None:
    """Wait until the table of runs has its rows and columns."""
    page.locator(".ag-center-cols-container .ag-row .ag-cell").first.wait_for()
    page.get_by_text("matching runs").wait_for()


def curves(page: Any) -> None:
    """Wait until the first charts have curves. (A level one has no height: it counts as hidden.)"""
    for i in range(2):
        page.locator(CARD).nth(i).locator(".trace path.js-line").first.wait_for(state="attached")


def result(page: Any) -> None:
    """Wait for the table of the grid and unfold it."""
    page.locator("table").first.wait_for()
    more = page.get_by_role("button", name="Expand description")
    if more.is_visible():
        more.click()


def teacher(page: Any) -> None:
    """Wait for the versions of a registered model."""
    page.get_by_role("link", name=re.compile(r"Version \d")).first.wait_for()


def teacher_page(shown: Dashboard) -> str:
    """Return the address of the registered model of the printed grid's teachers."""
    from mlflow import MlflowClient

    from harness.track.saved_views import WORKFLOW

    client = MlflowClient(shown.address)
    grid = re.search(r"experiments/(\d+)/", next(iter(shown.views.values())))
    for version in client.search_model_versions():
        if client.get_run(version.run_id).info.experiment_id == grid[1]:
            return f"{shown.address.rstrip('/')}/#/models/{quote(version.name)}?{WORKFLOW}"
    raise AssertionError("no teacher of this experiment is registered")


def photograph(browser: Browser, shown: Dashboard, folder: Path) -> list[Path]:
    """Write four pictures to `folder`, which is created: cells, curves, result and teacher."""
    views = shown.views
    first_curves = next(url for title, url in views.items() if title.startswith("curves"))
    addresses = [views["cells and accuracies"], first_curves, views["result of the grid"]]
    addresses.append(teacher_page(shown))
    waits: list[Callable[[Any], None]] = [cells, curves, result, teacher]
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for address, wait in zip(addresses, waits, strict=True):
        page = browser.open(address)
        wait(page)
        banner = page.get_by_role("button", name="Hide banner")  # "you're viewing a shared view"
        if banner.is_visible():
            banner.click()
            page.mouse.move(0, 0)
        pictures.append(take(page, folder / f"{wait.__name__}.png"))
        page.close()
    return pictures


def take(page: Any, path: Path) -> Path:
    """Write a picture of what a page shows to `path`, and return it."""
    page.screenshot(path=path, animations="disabled", timeout=PATIENCE)
    with Image.open(path) as picture:  # 256 colours: half the size
        picture.convert("RGB").quantize().save(path, optimize=True)
    return path
