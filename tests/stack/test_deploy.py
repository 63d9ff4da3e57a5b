"""`./stack deploy` and `rollback` under load: nothing fails, whatever becomes of the new release."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.stack.load import Load, none_fails
from tests.stack.stacks import CLEAN, Repository, run, wait_until

# How often the two releases take turns.
ROUNDS = int(os.environ.get("DEPLOY_ROUNDS") or 1)
# A release of the same app: only its name is another.
OTHER = {"app__release.py": "# another release\n"}


@pytest.fixture
def load(repository: Repository) -> Iterator[Load]:
    """Load on the repository's stack, of which nothing may fail."""
    with none_fails(repository.address) as load:
        yield load


def serves(repository: Repository, release: str) -> bool:
    """Whether the release, and no other, answers."""
    with repository.client() as client:
        answers = {client.get("/who").json()["release"] for _ in range(6)}
    return answers == {release} and set(repository.releases().values()) == {release}


@pytest.mark.timeout(600 * ROUNDS)
def test_deploys_and_rollbacks(repository: Repository, load: Load) -> None:
    """Two releases in turn, then back and back again: each answers alone from the moment its command returned."""
    [serving] = set(repository.releases().values())
    first = repository.commit()
    second = repository.commit(**OTHER)
    for _ in range(ROUNDS):
        for release in (first, second):
            repository.checkout(release)
            done = repository.stack("deploy")
            assert done.returncode == 0, done.stderr
            assert serves(repository, release)
    for release in (first, serving)[:ROUNDS]:
        done = repository.stack("rollback")
        assert done.returncode == 0, done.stderr
        assert serves(repository, release)


def test_changed_setting(repository: Repository, load: Load) -> None:
    """A deploy of the same release applies a changed setting to both slots."""
    with (repository.folder / ".env").open("a") as env:
        env.write("LOG_LEVEL=warning\n")
    done = repository.stack("deploy")
    assert done.returncode == 0, done.stderr
    for slot in ("app-1", "app-2"):
        assert "STACK_LOG_LEVEL=warning" in repository.containers()[slot]["Config"]["Env"]


def test_compose_up_after_a_deploy_changes_nothing(repository: Repository) -> None:
    """What Compose would start is what runs."""
    before = {name: one["Id"] for name, one in repository.containers().items()}
    repository.compose("up", "--detach", "--wait")
    assert {name: one["Id"] for name, one in repository.containers().items()} == before


def test_releases_lists_what_runs(repository: Repository) -> None:
    """The newest first, since when, and which slots run it."""
    listed = json.loads(repository.stack("releases", "--json").stdout)
    [current] = [one for one in listed if one["current"]]
    assert current["slots"] == ["app-1", "app-2"]
    assert current["release"] in repository.stack("releases").stdout


def test_second_deploy_is_refused(repository: Repository) -> None:
    """While one is at work another is told who holds the lock since when, and touches nothing."""
    argv = [sys.executable, "stack", "deploy"]
    with subprocess.Popen(argv, cwd=repository.folder, env=CLEAN, stderr=subprocess.PIPE, text=True) as one:
        wait_until(lambda: f'"pid": {one.pid}' in (repository.folder / ".stack/lock").read_text())
        other = repository.stack("rollback")
        assert other.returncode == 1
        assert f"Another one is at work: `./stack deploy` of root, process {one.pid}, since 20" in other.stderr
        one.communicate()
    assert one.returncode == 0


# What is wrong with the release, the files that make it so, settings, and what the command says of it.
CRASH = {"app__extra.py": "raise RuntimeError('as planned')\n"}
# Not at import, which the check of the settings would find.
LIFESPAN = """
from contextlib import asynccontextmanager
from app.main import app
import asyncio, os, urllib.request

os.write(2, b"no UTF-8: \\xff\\n")  # whatever a release prints, the command goes on

@asynccontextmanager
async def lifespan(_app):
    {}
    yield


app.router.lifespan_context = lifespan
"""
# The first slot finds nobody there, or itself, and starts.
AFTER_APP_1 = """try:
        answer = urllib.request.urlopen("http://app-1:8000/health").read().decode()
    except OSError:
        answer = ""
    if os.environ["STACK_RELEASE"] in answer and os.uname().nodename not in answer:
        raise RuntimeError("as planned")"""
MIGRATION = """
revision = "9999"
down_revision = "0001"


def upgrade():
    {}
"""
BROKEN = {
    "import": (CRASH, {}, "RuntimeError: as planned"),
    # Without a word where words are looked for, and with the code of a wrong setting.
    "end": (
        {"app__extra.py": "import os\nos.write(1, b'no key\\n')\nos._exit(2)\n"},
        {},
        "no key\nIt ended with exit code 2.\nNothing was replaced.",
    ),
    "import hangs": (
        {"app__extra.py": "import time\ntime.sleep(600)\n"},
        {"DEPLOY_TIMEOUT": "20"},
        "The app's import did not end within DEPLOY_TIMEOUT=20 s:\nIt printed nothing.\n",
    ),
    "setting": ({}, {"WORKERS": "many"}, "WORKERS=many is wrong"),
    "size": ({}, {"WORKERS": "9"}, "9 x WORKER_MEMORY=150 MiB"),
    "migration": (
        {"migrations__versions__9999.py": MIGRATION.format('raise RuntimeError("as planned")')},
        {},
        "as planned",
    ),
    "crash": (
        {"app__crash.py": LIFESPAN.format("raise RuntimeError('as planned')")},
        {"APP": "app.crash:app"},
        "as planned",
    ),
    "hang": (
        {"app__hang.py": LIFESPAN.format("await asyncio.sleep(600)")},
        # Long enough for the check of the settings, which has as many seconds, on a busy machine.
        {"APP": "app.hang:app", "DEPLOY_TIMEOUT": "30"},
        "was not ready within DEPLOY_TIMEOUT=30 s.",
    ),
    "memory": (
        # Two workers that need 300 MB each; while one is alone, it serves.
        {"app__memory.py": LIFESPAN.format("app.state.model = bytearray(os.urandom(1 << 20)) * 300")},
        {"APP": "app.memory:app"},
        "out of memory: APP_MEMORY=512m for 2 workers",
    ),
    "second": ({"app__second.py": LIFESPAN.format(AFTER_APP_1)}, {"APP": "app.second:app"}, "as planned"),
}


@pytest.mark.parametrize(
    "kind",
    [
        "import",
        "import hangs",
        "setting",
        "size",
        "migration",
        "hang",
        "memory",
        "second",
        pytest.param("crash", marks=pytest.mark.long),
        pytest.param("end", marks=pytest.mark.long),
    ],
)
def test_broken_release(repository: Repository, load: Load, kind: str) -> None:
    """The old release serves throughout, in both slots after; the evidence is shown; the next deploy works."""
    before = repository.releases()
    [serving] = set(before.values())
    files, settings, evidence = BROKEN[kind]
    repository.checkout(repository.first)
    repository.commit(**files)
    try:
        done = repository.stack("deploy", **settings)
    finally:
        repository.checkout(repository.first)
    assert done.returncode == (2 if kind in ("end", "setting", "size") else 1), done.stderr
    assert evidence in done.stderr
    # A setting is refused before anything is begun.
    assert kind == "setting" or f"Serving now: app-1 ({serving}), app-2 ({serving})." in done.stderr
    assert repository.releases() == before
    assert f"-app:{serving}\n" in repository.compose("config", "--images", "app-1")


# The step whose line is the last that was printed, and what the next one works on.
NEXT = {"==> Check the settings": "migrate", "==> Migrate": "app-1", "==> Replace app-1": "app-2"}


def interrupted(
    repository: Repository, moment: str, number: signal.Signals, later: float = 0, verb: str = "deploy"
) -> subprocess.CompletedProcess[str]:
    """A deploy, or `verb`, that gets the signal `later` s after the step that follows `moment` made its container."""

    def containers() -> set[str]:
        return set(repository.compose("ps", "--all", "--quiet", "--no-trunc", NEXT[moment]).split())

    before = containers()

    def then() -> None:
        wait_until(lambda: bool(containers() - before))
        time.sleep(later)  # the moment is what is tested

    # Ctrl-C ends the `tee` of `2>&1 | tee`, too, and a terminal's end is its reader's.
    unread = number in (signal.SIGINT, signal.SIGHUP)
    return repository.interrupted(number, moment, verb, then=then, unread=unread)


@pytest.mark.parametrize(
    ("number", "moment", "later"),
    [
        (signal.SIGINT, "==> Migrate", 0),
        pytest.param(signal.SIGTERM, "==> Replace app-1", 0, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, "==> Migrate", 3, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, "==> Check the settings", 0, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, "==> Replace app-1", 6, marks=pytest.mark.long),
    ],
)
def test_interrupted_deploy_goes_back(
    repository: Repository, load: Load, number: signal.Signals, moment: str, later: float
) -> None:
    """Ctrl-C, SIGTERM and a lost terminal, where nobody reads on: the old release serves when the command ends."""
    [serving] = set(repository.releases().values())
    repository.commit(**OTHER)
    done = interrupted(repository, moment, number, later)
    assert done.returncode == 130
    assert serves(repository, serving)


@pytest.mark.parametrize(
    ("moment", "later", "then"),
    [
        ("==> Migrate", 0, "rollback"),
        pytest.param("==> Check the settings", 0, "deploy", marks=pytest.mark.long),
        *(pytest.param("==> Migrate", later, "deploy", marks=pytest.mark.long) for later in (3, 9)),
        pytest.param("==> Replace app-1", 0, "deploy", marks=pytest.mark.long),
        pytest.param("==> Replace app-1", 3, "rollback", marks=pytest.mark.long),
        pytest.param("==> Replace app-1", 6, "up", marks=pytest.mark.long),
    ],
)
def test_killed_deploy_is_finished_by_the_next_command(
    repository: Repository, load: Load, moment: str, later: float, then: str
) -> None:
    """kill -9 at any moment: one slot serves all the while, and the next command brings both to one release."""
    [serving] = set(repository.releases().values())
    release = repository.commit(**OTHER, **{"app__killed.py": f"# {time.time_ns()}\n"})
    interrupted(repository, moment, signal.SIGKILL, later)
    done = repository.stack(then)
    assert done.returncode == 0, done.stderr
    assert serves(repository, release if then == "deploy" else serving)


def test_killed_rollback_is_finished_by_the_next_one(repository: Repository, load: Load) -> None:
    """It goes on to the release that the first one went to, and not back to the one that was to be left."""
    [serving] = set(repository.releases().values())
    repository.commit(**OTHER, **{"app__killed.py": f"# {time.time_ns()}\n"})
    assert repository.stack("deploy").returncode == 0
    interrupted(repository, "==> Replace app-1", signal.SIGKILL, verb="rollback")
    done = repository.stack("rollback")
    assert done.returncode == 0, done.stderr
    assert f"A rollback was interrupted: on to {serving}." in done.stderr
    assert serves(repository, serving)


@pytest.mark.long
def test_same_code_on_another_base(repository: Repository, load: Load) -> None:
    """It is another release, and the one before is still there to go back to."""
    [before] = set(repository.releases().values())
    repository.checkout(before.partition("-base-")[0])
    base, other = repository.settings["PYTHON_IMAGE"], f"{repository.project}-other-base"
    run("docker", "build", "--quiet", "--tag", other, "-", input=f"FROM {base}\nLABEL other=base\n")
    try:
        done = repository.stack("deploy", PYTHON_IMAGE=other)
        assert done.returncode == 0, done.stderr
        [release] = set(repository.releases().values())
        assert re.fullmatch(rf"{before}-base-[0-9a-f]{{7}}", release)
        done = repository.stack("rollback")
        assert done.returncode == 0, done.stderr
        assert serves(repository, before)
    finally:
        run("docker", "image", "rm", "--force", other)
