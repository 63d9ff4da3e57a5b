"""What a slot starts with, and what it refuses to start with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

# As runtime/install.py makes it.
PROGRAM = """
import sys
sys.path[0] = sys.argv[1]
from runtime import environment
environment.IN_IMAGE = True
from runtime.serve import {function}
sys.exit({function}())
"""
APP = "from fastapi import FastAPI\napp = FastAPI()\n"


def run(function: str, folder: Path, app: str | None = APP, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program of that function, in the folder of an app."""
    if app is not None:
        (folder / "main.py").write_text(app)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(function=function), str(REPO)],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_app_and_settings_that_are_right(tmp_path: Path) -> None:
    """The check succeeds, and says which app it is."""
    done = run("check", tmp_path)
    assert (done.returncode, done.stderr) == (0, "The app is main.\n")
    assert done.stdout == "Looking for the app.\n"


@pytest.mark.parametrize(
    ("app", "environment", "said"),
    [
        (APP, {"STACK_WORKERS": "many"}, "WORKERS=many is wrong: it must be a whole number from 1 to 64."),
        (APP, {"STACK_APP": "nosuch:app"}, "APP=nosuch:app is wrong: there is no module nosuch in "),
        (None, {}, "There is no app: "),
        (
            APP,
            {"STACK_WORKERS": "8", "STACK_POOL_SIZE": "10"},
            "The pools don't fit into Postgres: 2 slots x 8 workers x POOL_SIZE=10 are 160 connections",
        ),
    ],
    ids=["setting", "app", "none", "sizes"],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, app: str | None, environment: dict[str, str], said: str) -> None:
    """A setting, the app's place, sizes that are right alone and wrong together: 2, and nothing has started."""
    done = run("check", tmp_path, app, **environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(said)


def test_app_that_cannot_be_imported(tmp_path: Path) -> None:
    """The check fails with the app's own traceback."""
    done = run("check", tmp_path, "raise RuntimeError('as planned')")
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: as planned\n")


@pytest.mark.parametrize("code", [0, 2, "'no key'"])
def test_app_that_ends_the_process(tmp_path: Path, code: int | str) -> None:
    """Whatever its code, the check fails, with what the app said before."""
    done = run("check", tmp_path, f"import sys\nprint('SECRET_KEY missing')\nsys.exit({code})")
    assert done.returncode == 1
    assert done.stderr == f"SECRET_KEY missing\nThe app's import ended the process: sys.exit({code}).\n"


THREAD = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"


@pytest.mark.parametrize(("app", "code"), [(APP, 0), ("raise RuntimeError('as planned')", 1)])
def test_app_with_a_thread_of_its_own(tmp_path: Path, app: str, code: int) -> None:
    """One that goes on for ever, started at import: the check ends all the same."""
    done = run("check", tmp_path, THREAD + app)
    assert (done.returncode, done.stdout) == (code, "Looking for the app.\n")
    assert done.stderr.endswith("RuntimeError: as planned\n" if code else "The app is main.\n")


# As a scheduler or a client of HTTP does that an app starts at import.
LOOP = """
import asyncio
asyncio.get_running_loop().run_in_executor(None, __import__("time").sleep, 600)
asyncio.create_task(asyncio.sleep(600))
"""


def test_app_that_wants_a_loop(tmp_path: Path) -> None:
    """A worker imports it within one, and so does the check, which waits for nothing that has begun there."""
    done = run("check", tmp_path, LOOP + APP)
    assert (done.returncode, done.stderr) == (0, "The app is main.\n")
    done = run("check", tmp_path, "import asyncio\nasyncio.run(asyncio.sleep(0))\n" + APP)
    assert done.returncode == 1
    assert "asyncio.run() cannot be called from a running event loop" in done.stderr


def test_app_has_its_environment_when_it_is_checked(tmp_path: Path) -> None:
    """One that reads DATABASE_URL at import is no exception."""
    done = run("check", tmp_path, f"{APP}import os\nprint(os.environ['DATABASE_URL'], os.environ['PGUSER'])")
    assert done.stderr.splitlines()[0] == "postgresql://app@localhost/app?host=/var/run/postgresql app"


def test_entrypoint_that_is_in_the_way(tmp_path: Path) -> None:
    """Signals go to PID 1 alone: a slot that isn't PID 1 says how to become it."""
    done = run("main", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("The image's ENTRYPOINT runs its command as a child")
    assert 'exec "$@"' in done.stderr
    assert "APP_ENTRYPOINT=skip" in done.stderr
    assert "`init: true`" in done.stderr
