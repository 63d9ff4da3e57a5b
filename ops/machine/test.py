"""`./stack test`: creates what the tests need, then becomes pytest."""

from __future__ import annotations

import os
import shutil
import sys

from offline import engine
from ops.machine.checks import configuration
from ops.machine.images import base_images
from ops.machine.install import ensure_docker
from ops.run import HERE, Stop, step


def test(arguments: list[str]) -> None:
    """The stack's tests, and those in tests/app. Raises Stop."""
    in_ci = bool(os.environ.get("CI"))
    quick = "--quick" in arguments
    left_out: list[str] = []
    python = ensure_venv()
    try:
        ensure_docker()
        base_images(configuration())
    except Stop as stop:
        if in_ci:
            raise
        left_out = ["-m", "not docker"]
        print(f"Left out: the tests on a Docker engine. {stop}", file=sys.stderr)
    if not left_out and not quick and not shutil.which("chromium"):
        with step("Install Chromium"):
            try:
                engine.apt("update")
                engine.apt("install", "--yes", "--no-install-recommends", "chromium")
            except OSError as error:
                if in_ci:
                    raise Stop(f"Chromium can't be installed: {error}") from None
                print("Left out: the tests in a browser. Chromium can't be installed.", file=sys.stderr)
    sys.stderr.flush()
    os.chdir(HERE)
    # Three workers for two CPUs, shared out by tests/conftest.py: most of the time they wait for containers.
    os.execv(python, [python, "-m", "pytest", "-n", "3", *left_out, *arguments])


def ensure_venv() -> str:
    """A .venv with the pinned packages of tests/requirements.txt; return its Python."""
    if sys.version_info < (3, 11):
        raise Stop(f"The tests need Python 3.11 or newer, and this is {sys.version.split()[0]}.")
    venv, wanted = HERE / ".venv", (HERE / "tests/requirements.txt").read_text()
    python, stamp = str(venv / "bin/python"), venv / "requirements.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    with step("Install the tests' packages into .venv"):
        try:
            try:
                import ensurepip  # noqa: F401 - Debian has it in a package of its own
            except ImportError:
                engine.apt("update")
                engine.apt("install", "--yes", "--no-install-recommends", "python3-venv")
            engine.run(sys.executable, "-m", "venv", "--clear", str(venv))
            engine.run(
                python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", "tests/requirements.txt", cwd=HERE
            )
        except OSError as error:
            raise Stop(f"The tests' packages can't be installed: {error}") from None
    stamp.write_text(wanted)
    return python
