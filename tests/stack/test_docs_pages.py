"""/docs and /redoc, as FastAPI makes them, in a real browser."""

import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fastapi_offline
import pytest
from playwright.sync_api import Browser, Error, Route, sync_playwright

from tests.conftest import REPO
from tests.stack.stacks import PATIENCE, Stack, wait_until

# What a CDN would give, for this machine may not reach one: PyPI has it too.
SCRIPTS = Path(fastapi_offline.__file__).parent / "static"
CDN = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
}
OUTPUT = REPO / "tests/output"
# Chromium says so, and gives up what it fetches, while other tests make networks on this machine.
CHANGED = "ERR_NETWORK_CHANGED"
# Chromium asks for its own makers' hosts at every start, which is not what is looked at here.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("needs Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield browser
        browser.close()


def give(body: bytes, content_type: str, route: Route) -> None:
    route.fulfill(body=body, content_type=content_type)


@pytest.mark.parametrize(
    ("path", "shown"),
    [("/docs", ".opblock-summary-path"), ("/redoc", "h2:has-text('Create Note')")],
    ids=["docs", "redoc"],
)
def test_documentation_page(stack: Stack, browser: Browser, path: str, shown: str) -> None:
    """The page shows the routes, with no console error: nothing that FastAPI has in it is refused."""
    page = browser.new_context(ignore_https_errors=True).new_page()
    page.set_default_timeout(PATIENCE * 1000)
    complaints: list[str] = []
    hosts: set[str] = set()
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.partition("://")[2].partition("/")[0]))
    for name, kind in CDN.items():
        page.route(f"**/*jsdelivr*/**/{name}", partial(give, (SCRIPTS / name).read_bytes(), kind))
    # What no page needs: pictures and fonts.
    page.route(re.compile("fastapi.tiangolo.com|redoc.ly"), partial(give, b"", "image/png"))
    page.route("https://fonts.*/**", partial(give, b"", "text/css"))

    def is_shown() -> bool:
        """Once more where something was given up: the page stays blank then."""
        complaints.clear()
        try:
            page.goto(f"{stack.address}{path}")
            page.wait_for_selector(shown, timeout=PATIENCE * 1000 / 4)
        except Error as error:
            if any(CHANGED in one for one in (*complaints, str(error))):
                return False
            raise AssertionError(complaints) from error
        return True

    wait_until(is_shown)
    if path == "/docs":
        # The page asks the app itself, too.
        page.click("#operations-default-read_item_items__item_id__get .opblock-summary-control")
        page.click("button.try-out__btn")
        page.fill("input[placeholder=item_id]", "5")
        page.click("button.execute")
        page.wait_for_selector("td.response-col_status:has-text('200')")
    page.wait_for_load_state("networkidle")
    OUTPUT.mkdir(exist_ok=True)
    page.screenshot(path=OUTPUT / f"{Path(path).name}.png", full_page=True)
    assert [one for one in complaints if CHANGED not in one] == []
    assert "cdn.jsdelivr.net" in hosts
