"""/docs and /redoc in a real browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.conftest import REPO
from tests.stack.stacks import Stack

OUTPUT = REPO / "tests/output"
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


@pytest.mark.parametrize(
    ("path", "shown"),
    [("/docs", ".opblock-summary-path"), ("/redoc", "h2:has-text('Create Note')")],
    ids=["docs", "redoc"],
)
def test_documentation_page(stack: Stack, browser: Browser, path: str, shown: str) -> None:
    """The page shows the routes, with no console error and no request to another host."""
    page = browser.new_context(ignore_https_errors=True).new_page()
    complaints: list[str] = []
    hosts: set[str] = set()
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.partition("://")[2].partition("/")[0]))
    page.goto(f"{stack.address}{path}")
    page.wait_for_selector(shown)
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
    assert complaints == []
    assert {host for host in hosts if host and not host.startswith("localhost:")} == set()
