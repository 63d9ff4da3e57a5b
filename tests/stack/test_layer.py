"""The stack's layer on images of all kinds: it works there, or one sentence says why it can't."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.stack.stacks import CLEAN, base_images, run

PYTHON = base_images()["PYTHON_IMAGE"]
DEBIAN = base_images()["POSTGRES_IMAGE"]
NAME = "stack-test-layer"


@pytest.fixture(autouse=True)
def removed() -> Iterator[None]:
    yield
    run("docker", "image", "rm", "--force", NAME, f"{NAME}-user", check=False)


def build(folder: Path, *lines: str, entrypoint: str = "keep") -> "subprocess.CompletedProcess[str]":
    """Build an image of these lines, and the layer on it."""
    (folder / "Dockerfile").write_text("\n".join([*lines, ""]))
    run("docker", "build", "--quiet", "--tag", f"{NAME}-user", str(folder))
    context = ("--build-context", f"user=docker-image://{NAME}-user", "--build-arg", f"PYTHON_IMAGE={PYTHON}")
    argv = ["docker", "buildx", "build", "--progress", "plain", *context, "--tag", NAME, "--target", entrypoint]
    return subprocess.run([*argv, str(REPO / "runtime")], env=CLEAN, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([f"FROM {DEBIAN}"], "The app's image has no Python: neither a venv that VIRTUAL_ENV names, nor .venv in "),
        (
            [
                f"FROM {PYTHON}",
                "WORKDIR /app",
                "RUN python -m pip install --no-cache-dir alembic",
                "COPY alembic.ini .",
            ],
            "The app's Alembic configuration can't be read: ",
        ),
    ],
    ids=["no Python", "broken Alembic"],
)
def test_what_it_can_not_work_with(tmp_path: Path, lines: list[str], sentence: str) -> None:
    """The build ends with that sentence."""
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = nowhere\n")
    done = build(tmp_path, *lines)
    assert done.returncode != 0
    assert sentence in done.stderr


def test_old_uvicorn(tmp_path: Path) -> None:
    """The stack's own serves in its place, and the app's own stays in the image."""
    assert build(tmp_path, f"FROM {PYTHON}", "RUN python -m pip install --no-cache-dir uvicorn==0.30.6").returncode == 0
    program = "import sys; sys.path.insert(0, '/opt/stack/code'); from stack_runtime import environment; "
    program += "environment.find_libraries(); import uvicorn.protocols.websockets.auto; print(uvicorn.__version__)"
    python = ("docker", "run", "--rm", "--network", "none", "--entrypoint", "python", NAME, "-c")
    assert run(*python, "import uvicorn; print(uvicorn.__version__)") == "0.30.6\n"
    assert int(run(*python, program).split(".")[1]) > 50


def serve(*options: str) -> "subprocess.CompletedProcess[str]":
    """What a container of the image says until it ends by itself."""
    argv = ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", *options, NAME]  # noqa: S108
    return subprocess.run(argv, env=CLEAN, capture_output=True, text=True, timeout=60)


def test_there_is_no_app(tmp_path: Path) -> None:
    """The sentence lists where it was looked."""
    assert build(tmp_path, f"FROM {PYTHON}", "WORKDIR /srv").returncode == 0
    done = serve()
    assert done.returncode == 2
    assert done.stderr == (
        "There is no app: /srv has none of main.py, app.py, api.py, app/main.py, app/app.py, app/api.py. "
        "APP names another: APP=package.module:app.\n"
    )


def test_entrypoint_that_runs_a_child(tmp_path: Path) -> None:
    """No signal would reach the app: refused, with what mends it."""
    entrypoint = '["/bin/sh", "-c", "\\"$@\\"; exit $?", "--"]'
    assert build(tmp_path, f"FROM {PYTHON}", "WORKDIR /srv", f"ENTRYPOINT {entrypoint}").returncode == 0
    done = serve()
    assert done.returncode == 2
    assert 'end it with `exec "$@"`' in done.stderr


def test_entrypoint_is_left_out(tmp_path: Path) -> None:
    """The stack's command is the container's own then."""
    lines = (f"FROM {PYTHON}", "WORKDIR /srv", 'ENTRYPOINT ["/bin/false"]')
    assert build(tmp_path, *lines, entrypoint="skip").returncode == 0
    assert serve().stderr.startswith("There is no app: /srv has none of ")


def test_uids_names_and_a_closed_home(tmp_path: Path) -> None:
    """Taken names stay, and what is below /root, or the home of a user of the image's, can be read by the app."""
    lines = (
        "RUN echo 'app:x:500:500::/:/bin/false' >> /etc/passwd",
        "RUN HOME=/root python -m pip install --no-cache-dir --user --root-user-action ignore idna && chmod 700 /root",
        "RUN mkdir -p /home/web/src && touch /home/web/src/main.py && chmod 700 /home/web",
        "WORKDIR /home/web/src",
    )
    assert build(tmp_path, f"FROM {PYTHON}", *lines).returncode == 0
    program = "import pwd, sys; sys.path += ['/root/.local/lib/python%d.%d/site-packages' % sys.version_info[:2]]; "
    program += "import idna; open('main.py').close(); print(pwd.getpwuid(10001).pw_name, pwd.getpwuid(500).pw_name)"
    done = run("docker", "run", "--rm", "--network", "none", "--entrypoint", "python", NAME, "-c", program)
    assert done == "stack-app app\n"


def test_standard_library_is_compiled(tmp_path: Path) -> None:
    """On an image that has it as source alone, or what a `RUN pip install` imported besides: no start compiles it."""
    bare = run("docker", "run", "--rm", "--network", "none", PYTHON, "python", "-vc", "import asyncio", check=False)
    assert "asyncio/__init__.py\n" in bare
    assert build(tmp_path, f"FROM {PYTHON}", "RUN python -m pip install --no-cache-dir idna").returncode == 0
    python = ("docker", "run", "--rm", "--network", "none", "--entrypoint", "python", NAME)
    # Some of which no build imports.
    modules = (
        "asyncio, json, logging, statistics, wsgiref.handlers, multiprocessing.managers, concurrent.futures.thread"
    )
    said = run(*python, "-vc", f"import {modules}", check=False)
    assert "statistics.cpython-" in said
    assert [line for line in said.splitlines() if line.startswith("# code object from") and ".pyc" not in line] == []
