"""`./stack up`, in a clone of this checkout, as a new user runs it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.configs import config
from tests.stack.stacks import CLEAN, Clone, base_images

SINGLE_FILE = """
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
def read_root():
    return "a single-file app"
"""


def test_up_twice_then_another_app(clone: Clone) -> None:
    """It answers when the command returns; again, nothing changes; another app replaces the first without a failure."""
    first = clone.stack("up")
    assert first.returncode == 0, first.stderr
    assert clone.address in first.stdout
    assert "==> Build the images: " in first.stderr
    assert "\nBackups: the first backup has not been made yet, not verified yet (./stack verify). " in first.stdout
    with clone.client() as client:
        assert client.get("/").json() == {"Hello": "World"}

    before = clone.compose("ps", "--quiet")
    again = clone.stack("up")
    assert again.returncode == 0, again.stderr
    assert "Nothing changed" in again.stdout
    assert clone.compose("ps", "--quiet") == before

    (clone.folder / "main.py").write_text(SINGLE_FILE)
    argv = [sys.executable, "stack", "deploy"]
    update = subprocess.Popen(
        argv, cwd=clone.folder, env={**CLEAN, "APP": "main:app"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    answers = []
    with clone.client() as client:
        while update.poll() is None:
            answers.append(client.get("/").status_code)
        assert update.returncode == 0
        assert client.get("/").json() == "a single-file app"
    assert set(answers) == {200}


def test_another_app_in_place_of_one_that_is_gone(clone: Clone) -> None:
    """Who tried the sample and removed it with its data gets their app from the next `./stack up`."""
    if not (clone.folder / ".stack/serving.json").exists():
        assert clone.stack("up").returncode == 0
    clone.compose("down", "--volumes")
    (clone.folder / "main.py").write_text(SINGLE_FILE.replace("a single-file app", "another one"))
    done = clone.stack("up", APP="main:app")
    assert done.returncode == 0, done.stderr
    with clone.client() as client:
        assert client.get("/").json() == "another one"


def test_app_that_can_not_be_imported(serving: Clone) -> None:
    """A mistake in the app: its place and its name are shown, and what runs goes on."""
    main = serving.folder / "app/main.py"
    right = main.read_text()
    main.write_text(right + "\nimport nosuchpackage\n")
    try:
        done = serving.stack("deploy")
    finally:
        main.write_text(right)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'nosuchpackage'" in done.stderr
    assert "Nothing was replaced. Serving now: app-1 (" in done.stderr
    with serving.client() as client:
        assert client.get("/").status_code == 200


def test_change_of_the_app_installs_nothing_again(clone: Clone) -> None:
    """Dependencies come before the code in the image: a change in app/ leaves their layers as they are."""
    clone.compose("build", "--quiet", "migrate")
    with (clone.folder / "app/main.py").open("a") as main:
        # Another change each time, or the build cache would know it from the last run.
        main.write(f"\n# changed {time.time_ns()}\n")
    built = clone.compose("--progress", "plain", "build", "migrate", check=False)
    steps = {line.split(" ", 1)[0]: line for line in built.splitlines() if "pip" in line and "requirements.txt" in line}
    assert steps
    for number in steps:
        assert f"{number} CACHED" in built
    layer = [line.split(" ", 1)[0] for line in built.splitlines() if "install.sh" in line]
    assert layer
    assert f"{layer[0]} CACHED" not in built


def test_stand_ins_are_under_names_of_their_own() -> None:
    """What offline/ builds never takes an official image's name."""
    from offline.images import STAND_INS

    assert all(image.startswith("stack-offline/") for image, _ in STAND_INS.values())
    assert set(base_images()) <= set(STAND_INS)


@pytest.fixture
def user_env(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def test_choice_of_stand_ins_is_added_to_dotenv(user_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice goes below what the user wrote, which stays as it was; what the user chose is not replaced."""
    if not base_images()["PYTHON_IMAGE"].startswith("stack-offline/"):
        pytest.skip("a registry can be reached")
    from ops import dotenv
    from ops.config import Service
    from ops.machine import images

    user_env.write_text("DOMAIN=localhost")
    monkeypatch.setattr(dotenv, "FILE", user_env)
    migrate = Service("", {}, {"PYTHON_IMAGE": "python:3.14-slim"}, 0, 0, {}, 1)
    images.base_images(config(services={"migrate": migrate}))
    assert user_env.read_text().startswith("DOMAIN=localhost\n")
    assert "\nPYTHON_IMAGE=stack-offline/python:3.14-slim\n" in user_env.read_text()
