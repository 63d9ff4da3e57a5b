"""Apps of other kinds, unchanged, each in a folder beside a fresh clone: tests/apps/."""

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from tests.conftest import REPO
from tests.stack.backups import ok
from tests.stack.beside import Beside
from tests.stack.load import Load
from tests.stack.stacks import Clone, run, wait_until

APPS = REPO / "tests/apps"


@dataclass
class Kind:
    """An app's folder in tests/apps, and the lines that its user writes."""

    folder: str
    # .env and app.env.
    settings: dict[str, str] = field(default_factory=dict)
    own: str = ""
    # Whether it has a database.
    stores: bool = True


# One without pytest.
TESTS = "python -m unittest"
FEED = {"APP": "feed.app:app", "MIGRATE": "python -m feed.schema"}
KINDS = {
    "shop": Kind("shop", {"APP_DIR": "../shop/backend", "MIGRATE": "bash scripts/prestart.sh"}),
    "feed": Kind("feed", {"APP_DIR": "../feed", **FEED}, 'MAIL_HOST=a server\nSECRET=a $mall "one"\n'),
    "pages": Kind("pages", {"APP_DIR": "../pages"}, "UPLOADS=/tmp/uploads\n", stores=False),
    "single": Kind("single", {"APP_DIR": "../single"}, stores=False),
    "factory": Kind("factory", {"APP_DIR": "../factory", "APP": "service.app:create_app"}, "GREETING=hello there\n"),
    "elsewhere": Kind("feed", FEED),
}


class OfKind(Beside):
    """One of KINDS."""

    def __init__(self, folder: Path, name: str) -> None:
        self.kind = KINDS[name]
        super().__init__(folder, f"app-{name}", self.kind.folder, self.kind.own, **self.kind.settings)


@pytest.fixture(
    scope="module",
    params=[
        "shop",
        "feed",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("pages", "single", "factory", "elsewhere")),
    ],
)
def beside(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OfKind]:
    """The app, served."""
    made = OfKind(tmp_path_factory.mktemp(request.param) / "stack", request.param)
    made.remove()
    image = f"{made.project}-built:1"
    try:
        if request.param == "elsewhere":
            run("docker", "build", "--quiet", "--build-arg", python_image(made), "--tag", image, str(made.app))
            with made.env_file.open("a") as dotenv:
                dotenv.write(f"APP_IMAGE={image}\n")
        ok(made.stack("up"))
        yield made
    finally:
        made.remove()
        run("docker", "image", "rm", "--force", image, check=False)


def python_image(clone: Clone) -> str:
    return f"PYTHON_IMAGE={clone.settings['PYTHON_IMAGE']}"


def test_serves(beside: OfKind) -> None:
    """It came up with those lines in .env and app.env alone, and has its database, migrated."""
    with beside.client() as client:
        assert client.get("/").status_code == 200
        before = client.get("/things").json()
        assert client.post("/things", json={"name": "a thing"}).status_code == 201
        assert client.get("/health").json()["database"] == "ok"
        if beside.kind.folder == "shop":
            assert [thing["name"] for thing in before] == ["the first thing"]
            assert client.get("/health").json()["at_head"] is True
    if beside.kind.own:
        assert set(beside.kind.own.splitlines()) <= set(beside.containers()["app-1"]["Config"]["Env"])
    if beside.kind.stores and beside.kind.folder != "factory":
        assert beside.psql("SELECT count(*) > 0 FROM thing" + "s" * (beside.kind.folder == "feed")) == "t"


def test_deploy_drops_no_request(beside: OfKind) -> None:
    """A release of the app alone, under load; it is named after the app's own revision."""
    beside.commit()
    with Load(beside.address, paths=("/", "/things")) as load:
        ok(beside.stack("deploy"))
        wait_until(lambda: len(load.samples) > 100)
    assert not load.failed, load.failed
    if "APP_DIR" in beside.kind.settings:
        revision = run("git", "rev-parse", "--short=12", "HEAD", cwd=beside.app).strip()
        assert revision in beside.stack("releases").stdout


def test_killed_worker(beside: OfKind) -> None:
    """Another takes its place; nobody else notices."""
    before = beside.workers("app-1")
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: len(beside.workers("app-1")) == len(before) and before[0] not in beside.workers("app-1"))
    wait_until(beside.both_slots_answer)


def test_pages(beside: OfKind) -> None:
    """HTML keeps the policy that the app sends with it, what it loads is there, and an upload lands in its folder."""
    if beside.kind.folder != "pages":
        pytest.skip("it has none")
    with beside.client() as client:
        page = client.get("/")
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert page.headers.get_list("Content-Security-Policy")[0].startswith("default-src 'self'; script-src 'nonce-")
        assert page.headers.get_list("X-Frame-Options") == ["SAMEORIGIN"]
        [style] = re.findall(r'href="([^"]+)"', page.text)
        assert style == f"{beside.address}/static/things.css"
        assert client.get(style).headers["Content-Type"].startswith("text/css")
        sent = client.post("/pictures", files={"picture": ("cat.png", b"x" * 3_000_000)})
        assert sent.json() == {"name": "cat.png", "size": 3_000_000}


def test_its_own_tests(beside: OfKind) -> None:
    """They run in its image, on an empty, migrated database of their own; the exit code is theirs."""
    if (beside.kind.folder, "APP_DIR" in beside.kind.settings) != ("feed", True):
        pytest.skip("it has none")
    (beside.folder / "app.test.env").write_text("# In tests:\nMAIL_HOST=nowhere\n")
    before = beside.psql("SELECT count(*) FROM things")
    done = beside.stack("test", "--app")
    assert done.returncode == 1
    assert "Your image can't run its tests: set APP_TEST to a command that can." in done.stderr
    for chosen, code, said in (((), 0, "Ran 4 tests"), (("-k", "nosuch"), 1, "Ran 0 tests")):
        done = beside.stack("test", "--app", *chosen, APP_TEST=TESTS)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
    done = beside.stack("test", "--app", APP_TEST="pip install --quiet pytest && python -m pytest")
    assert done.returncode == 0, done.stderr
    assert "4 passed" in done.stdout
    assert beside.psql("SELECT count(*) FROM things") == before
    assert (
        run("docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={beside.project}-throwaway-test")
        == ""
    )


def test_database_away(beside: OfKind) -> None:
    """503 and when to ask again, without a line in the app for it; well again without a restart of it."""
    if not beside.kind.stores:
        pytest.skip("it has none")
    beside.compose("stop", "postgres")
    try:
        with beside.client() as client:
            for method in ("GET", "POST"):
                answer = client.request(method, "/things", json={"name": "another"})
                assert (answer.status_code, answer.headers.get("Retry-After")) == (503, "1"), answer.text
            assert client.get("/").status_code == 200
    finally:
        beside.compose("start", "postgres")
    wait_until(lambda: things(beside) == 200)


def things(beside: OfKind) -> int:
    try:
        with beside.client() as client:
            return client.get("/things").status_code
    except httpx2.HTTPError:
        return 0
